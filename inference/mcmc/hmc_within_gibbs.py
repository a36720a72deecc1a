"""HMC within Gibbs: posteriors of models with discrete and continuous latents, each kind by the sampler that fits it.

A step moves all continuous latents u given the discrete ones by Hamiltonian Monte Carlo [neal2011], then draws every
discrete latent given the continuous ones from its exact conditional (`gibbs.step`). Both leave the posterior as it is.
HMC's step size and scales are learned in the warm-up and fixed after it.

    p ~ N(0, I);   leapfrog steps of   du/dt = s^2 p',  dp'/dt = d log p(x, T(u), d) |det dT/du| / du,   p' = p / s
    accept with probability min(1, exp(H(old) - H(new))),   H = -log p + |p|^2 / 2
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from inference.errors import RunError, ShapeError
from inference.mcmc import gibbs
from inference.mcmc.adaptation import Warmup
from inference.mcmc.gibbs import GibbsInfo, GibbsState
from inference.mcmc.start import start
from inference.mcmc.stuck import check_moves
from inference.mcmc.unconstrained import Unconstrained, best, unconstrain
from inference.types import Draws

__all__ = ["HMCInfo", "HMCState", "HMCWithinGibbs", "init", "step"]

DIVERGED = 1000.0  # nats that H may rise by: above, the leapfrog has left the level set for good

_SCOUTS = 3  # times as many chains start, for the first tenth of the warm-up

_LONGEST = 64  # leapfrog steps of a trajectory, while the step size is still being found


class HMCState(NamedTuple):
    """What the next step needs."""

    sweep: GibbsState  # the values of all latents, the state of the random number generator, the plan of the sweep
    target: Unconstrained
    q: Tensor  # (C, N, D) the continuous latents, unconstrained: rounded less than their values are
    step_size: Tensor  # (N,) of independent units, or (1,)
    scale: Tensor  # (N, D) s, that of each unconstrained number


class HMCInfo(NamedTuple):
    """What a step shows; of HMC over N independent units, or (C, 1)."""

    sweep: GibbsInfo
    acceptance: Tensor  # (C, N) probability that the trajectory is accepted
    diverging: Tensor  # (C, N) whether H rose by more than 1000 nats
    energy: Tensor  # (C, N) H where the trajectory began, nats
    slope: Tensor  # (C, N, D) the gradient of the log density where the trajectory began
    num_steps: int  # leapfrog steps


class Trajectory(NamedTuple):
    """Where a trajectory ends, and what it did to H."""

    q: Tensor  # (C, N, D)
    p: Tensor  # (C, N, D)
    slope: Tensor  # (C, N, D) the gradient at the start
    begin: Tensor  # (C, N) H at the start, nats
    end: Tensor  # (C, N)


def init(
    model: object, *data: object, chains: int = 1, seed: int = 0, blocks: Sequence[Sequence[str]] = (),
    step_size: float = 0.1, values: dict[str, Tensor] | None = None,
) -> HMCState:  # fmt: skip
    """Find a state of positive probability as `gibbs.init` does, and the density that HMC moves in.

    Raises:
        ShapeError: chains < 1.
        UnsupportedModelError: as `gibbs.init`; no continuous latent; a support without a bijector from the reals; a
            log-joint whose gradient is not finite.
    """
    sweep = gibbs.init(model, *data, chains=chains, seed=seed, blocks=blocks, values=values)
    joint = sweep.target.joint
    with torch.random.fork_rng(), joint.running():
        torch.manual_seed(seed)
        target = unconstrain(joint, sweep.values, lambda: start(joint, chains))
        q = target.flatten(sweep.values)
        if values is None:  # a wide prior's draws lie far from everything: u from (-2, 2), as Stan does
            near = 4 * torch.rand_like(q) - 2
            q = torch.where(torch.isfinite(target.log_density(near, sweep.values))[..., None], near, q)
            sweep = sweep._replace(values=sweep.values | target.values(q, sweep.values))
    if values is None:
        sweep, _ = gibbs.step(sweep)  # discrete values that go with them
    scale = torch.ones_like(q[0])
    return HMCState(sweep, target, q, torch.full_like(scale[:, 0], step_size), scale)


def step(state: HMCState, length: float = math.pi / 2) -> tuple[HMCState, HMCInfo]:
    """One trajectory of the continuous latents, of a random length up to twice `length`, and one sweep of the others.

    Raises:
        UnsupportedModelError: as `gibbs.step`.
    """
    sweep, target, q, eps, scale = state
    given = sweep.values
    generator = torch.Generator(eps.device)
    generator.set_state(sweep.random)
    num_steps = _num_steps(eps, length, generator)
    with target.joint.running():
        q = target.flatten(given) if target.moving else q
        p = torch.empty_like(q).normal_(generator=generator)
        path = leapfrog(target, given, q, p, eps, scale, num_steps)
        rise = (path.end - path.begin).nan_to_num(nan=math.inf)
        uniform = torch.rand(rise.shape, generator=generator, dtype=rise.dtype, device=rise.device)
        q = torch.where((uniform.log() < -rise)[..., None], path.q, q)
        values = given | target.values(q, given)
    sweep = sweep._replace(values=values, random=generator.get_state())
    sweep, swept = gibbs.step(sweep)
    acceptance = (-rise).exp().clamp(max=1.0)
    info = HMCInfo(swept, acceptance, rise > DIVERGED, path.begin, path.slope, num_steps)
    return HMCState(sweep, target, q, eps, scale), info


def leapfrog(
    target: Unconstrained, given: dict[str, Tensor], q: Tensor, p: Tensor, eps: Tensor, scale: Tensor, num_steps: int
) -> Trajectory:
    """Follow the motion from q with momentum p (C, N, D), to be called inside `running`; in u / s the mass is one."""
    log_p, slope = target.gradient(q, given)
    first = slope
    begin = 0.5 * (p**2).sum(-1) - log_p
    stride = eps[:, None] * scale
    for _ in range(num_steps):
        p = p + 0.5 * stride * slope
        q = q + stride * p
        log_p, slope = target.gradient(q, given)
        p = p + 0.5 * stride * slope
    return Trajectory(q, p, first, begin, 0.5 * (p**2).sum(-1) - log_p)


def _num_steps(eps: Tensor, length: float, generator: torch.Generator) -> int:
    """Leapfrog steps of a random length, so that no period of the motion is met exactly [neal2011]."""
    share = 2 * float(torch.rand((), generator=generator, device=generator.device))
    return min(_LONGEST, max(1, math.ceil(share * length / float(eps.mean()))))


@dataclass(frozen=True)
class HMCWithinGibbs:
    """HMC on the continuous and Gibbs on the discrete latents: `HMCWithinGibbs(chains=4)(model, x, seed=0) -> Draws`.

    Chains run side by side, through the program at once. Where one plate holds every site, its elements are accepted
    each for itself.

    Args:
        chains: C.
        warmup_steps: steps that are thrown away, in which step size and scales are learned; in the first tenth three
            times as many chains run, of which the best stay.
        num_samples: S, draws kept of each chain.
        thin: steps for each draw that is kept.
        trajectory_length: on average, in the posterior's own standard deviations.
        target_accept: mean acceptance probability that the step size is adapted to; closer to 1, smaller steps.
        blocks: names of discrete sites that are drawn jointly.
        progress: show a bar when it takes longer than two seconds.

    Raises:
        ShapeError: chains, num_samples or thin below 1, warmup_steps below 0.
        RunError: a trajectory_length that is not positive, a target_accept outside (0, 1).
        UnsupportedModelError (when called): as `init` and `step`; discrete sites that single updates cannot move.
    """

    chains: int = 4
    warmup_steps: int = 500
    num_samples: int = 1000
    thin: int = 1
    trajectory_length: float = math.pi / 2
    target_accept: float = 0.8
    blocks: Sequence[Sequence[str]] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("warmup_steps", 0), ("num_samples", 1), ("thin", 1)):
            if getattr(self, name) < least:
                raise ShapeError(
                    f"{name} is at least {least}, got {name}={getattr(self, name)}: HMCWithinGibbs({name}={least})"
                )
        if not 0 < self.trajectory_length < math.inf:
            raise RunError(
                f"trajectory_length is above 0, got {self.trajectory_length}: HMCWithinGibbs(trajectory_length=1.57)"
            )
        if not 0 < self.target_accept < 1:
            raise RunError(
                f"target_accept is between 0 and 1, got {self.target_accept}: HMCWithinGibbs(target_accept=0.8)"
            )

    def __call__(self, pair: object, *data: object, seed: int = 0) -> Draws:
        """Draw from the posterior of a model, or of a pair's model, given data."""
        scouting = self.warmup_steps // 10
        state = init(pair, *data, chains=self.chains * (_SCOUTS if scouting else 1), seed=seed, blocks=self.blocks)
        total = self.warmup_steps + self.num_samples * self.thin
        learning = Warmup(state.step_size, state.scale, self.warmup_steps, self.target_accept)
        kept: list[dict[str, Tensor]] = []
        infos: list[HMCInfo] = []
        ever: dict[str, Tensor] = {}
        evaluations = 0
        warm = began = time.perf_counter()
        bar = {"desc": "HMC within Gibbs", "delay": 2.0, "disable": None if self.progress else True, "leave": False}
        for i in tqdm(range(total), **bar):
            if i == self.warmup_steps:
                state = state._replace(step_size=learning.over())
                warm = time.perf_counter()
            state, info = step(state, self.trajectory_length)
            evaluations += info.sweep.evaluations + len(info.energy) * (1 + info.num_steps)
            ever = {name: free | ever.get(name, free) for name, free in info.sweep.free.items()}
            if i + 1 == scouting:
                q, values = best(state.target, state.q, state.sweep.values, self.chains)
                state, ever = state._replace(q=q, sweep=state.sweep._replace(values=values)), {}
            if i < self.warmup_steps:
                eps, scale = learning.learn(state.q, info.slope, info.acceptance)
                state = state._replace(step_size=eps, scale=scale)
            elif (i + 1 - self.warmup_steps) % self.thin == 0:
                kept.append(state.sweep.values)
                infos.append(info)
        ended = time.perf_counter()
        check_moves(*state.sweep.target, state.sweep.values, ever, total)
        return Draws(
            values={name: torch.stack([values[name] for values in kept], 1) for name in kept[0]},
            log_p=torch.stack([info.sweep.log_p for info in infos], 1),
            seconds=ended - warm,
            warmup_seconds=warm - began,
            evaluations=evaluations,
            stats=_stats(infos, float(state.step_size.mean())),
        )


def _stats(infos: list[HMCInfo], step_size: float) -> dict[str, Tensor]:
    """(C, S) each, over units: the mean acceptance, whether any diverged, the total energy."""

    def each(of: list[Tensor]) -> Tensor:
        return torch.stack(of, 1)

    moved = each([info.sweep.moved for info in infos])
    return {
        "acceptance": each([info.acceptance.mean(1) for info in infos]),
        "diverging": each([info.diverging.any(1) for info in infos]),
        "energy": each([info.energy.sum(1) for info in infos]),
        "step_size": torch.full_like(moved, step_size),
        "steps": each([torch.full_like(info.sweep.moved, info.num_steps) for info in infos]),
        "moved": moved,
    }
