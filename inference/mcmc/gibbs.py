"""Gibbs sampling of the discrete latents of any Pyro model [geman1984]: exact conditionals, parallel over plates.

A sweep draws every discrete latent given all else, one site and one event coordinate after the other, all elements of
independent plates and all chains at once. `init` finds a state and plans the sweep, `step` makes one:

    state = init(model, x, chains=4, seed=0)
    state, info = step(state)

Continuous latents keep their values: a step is one half of HMC within Gibbs (`inference.mcmc.hmc_within_gibbs`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from inference.errors import ShapeError, UnsupportedModelError
from inference.mcmc.conditionals import Group, assign, draw, log_conditional, num_candidates, term_sum
from inference.mcmc.groups import group_sites
from inference.mcmc.joint import LogJoint, read
from inference.mcmc.layered_program import is_layered
from inference.mcmc.plates import plan
from inference.mcmc.start import start
from inference.mcmc.stuck import check_moves
from inference.types import Draws

__all__ = ["Gibbs", "GibbsInfo", "GibbsState", "Target", "init", "refuse_continuous", "step"]


class Target(NamedTuple):
    """What a chain samples from, and the plan of its sweep; the same at every step."""

    joint: LogJoint
    groups: tuple[Group, ...]


class GibbsState(NamedTuple):
    """What the next sweep needs."""

    values: dict[str, Tensor]  # every latent, (C, *site shape)
    random: Tensor  # state of the random number generator
    target: Target


class GibbsInfo(NamedTuple):
    """What a sweep shows."""

    log_p: Tensor  # (C, N) log p(x, h) of the new state, nats; (C, 1) where a latent is outside the data plate
    moved: Tensor  # (C,) the fraction of discrete elements that changed
    free: dict[str, Tensor]  # (C, *site shape): whether the conditional left more than one value possible
    evaluations: int  # states at which log p was computed, in whole or the terms that an update changes


def init(
    model: Any,
    *data: Any,
    chains: int = 1,
    seed: int = 0,
    blocks: Sequence[Sequence[str]] = (),
    values: dict[str, Tensor] | None = None,
) -> GibbsState:
    """Find a state of positive probability by draws from the prior, and plan the sweep.

    Args:
        model: a Pyro program of the data, or a pair, whose model is taken.
        data: its arguments.
        chains: C.
        seed: of the first draws, the probes, and every later step; the caller's RNG is left as it was.
        blocks: names of sites that are drawn jointly, e.g. [("tub", "lung", "either")].
        values: where to start, (C, *site shape) for every latent, instead of a draw from the prior.

    Raises:
        ShapeError: chains < 1.
        UnsupportedModelError: no discrete latent; one with an infinite support; a subsampled plate; blocks that do not
            fit the model; no state of positive probability among the draws.
    """
    if chains < 1:
        raise ShapeError(f"the number of chains is at least 1, got chains={chains}: pass chains=4")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        joint = read(model, data)
        members = group_sites(joint, blocks)
        with joint.running():
            values = start(joint, chains, values)
            generator = torch.Generator(next(iter(values.values())).device).manual_seed(seed)
            joint, groups = plan(joint, values, members, generator)
    return GibbsState(values, generator.get_state(), Target(joint, groups))


def step(state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
    """One sweep: each update in turn draws its cells from their exact conditional.

    Raises:
        UnsupportedModelError: the log-joint moved by other than its conditionals say, so that the model is not what
            probing found it to be (a plate whose elements mix in rare states, or random numbers outside its sites).
    """
    joint, groups = state.target
    generator = torch.Generator(next(iter(state.values.values())).device)
    generator.set_state(state.random)
    old = state.values
    values = old | {name: old[name].clone() for group in groups for name in group.names}
    free = {name: torch.zeros_like(old[name], dtype=torch.bool) for group in groups for name in group.names}
    with joint.running():
        terms = joint.terms(values)
        before, size = joint.log_p(terms), _size(terms)
        c, evaluations = len(before), 2
        expected: Any = before.sum(1)
        for i, group in enumerate(groups):
            current = term_sum(joint, group, terms if i == 0 else joint.terms(values, group.affected))[0]
            current = current.expand(c, *current.shape[1:])
            evaluations += i > 0
            for update in group.updates:
                logits = log_conditional(joint, group, update, values, current)
                choice = draw(logits, generator)
                assign(joint, update, values, choice)
                chosen = logits.gather(0, choice.unsqueeze(0))[0]
                expected = expected + (chosen - current).reshape(c, -1).sum(1)
                current = chosen
                evaluations += num_candidates(joint, update) - 1
                several = (logits - logits.amax(0)).exp().sum(0) > 1 + _CERTAIN
                for cell in update:
                    at = several.unsqueeze(-1) if joint.sites[cell.site].unit else several
                    free[cell.site][(slice(None), *cell.index)] = at
        terms = joint.terms(values)
        after, size = joint.log_p(terms), max(size, _size(terms))
    _check_books(after.sum(1), expected, size * max(torch.finfo(term.dtype).eps for term in terms.values()))
    changed = [(values[name] != old[name]).reshape(c, -1).double().mean(1) for name in free]
    sizes = [float(old[name][0].numel()) for name in free]
    moved = sum(change * size for change, size in zip(changed, sizes, strict=True)) / sum(sizes)
    info = GibbsInfo(after, torch.as_tensor(moved), free, evaluations * c)
    return GibbsState(values, generator.get_state(), state.target), info


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampling as an engine: `Gibbs(chains=4)(model, x, seed=0)` returns Draws.

    `Gibbs(model)`, a model first, is its kernel for pyro.infer.MCMC: a `GibbsKernel`.

    Args:
        chains: C, run side by side.
        warmup_steps: sweeps that are thrown away.
        num_samples: S, draws kept of each chain.
        thin: sweeps for each draw that is kept.
        blocks: names of sites that are drawn jointly; any block takes the general path.
        progress: show a bar when it takes longer than two seconds.

    Raises (when called):
        ShapeError: chains, num_samples or thin below 1, warmup_steps below 0.
        UnsupportedModelError: as `init` and `step`; a continuous latent; sites that single updates cannot move.
    """

    chains: int = 4
    warmup_steps: int = 100
    num_samples: int = 1000
    thin: int = 1
    blocks: Sequence[Sequence[str]] = ()
    progress: bool = True

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """The engine of these settings, or the kernel of a model."""
        if args and callable(args[0]):
            from inference.mcmc.kernel import GibbsKernel  # which imports this file

            return GibbsKernel(*args, **settings)
        return super().__new__(cls)

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw from the posterior of a model, or of a pair's model, given data."""
        for name, least in (("chains", 1), ("warmup_steps", 0), ("num_samples", 1), ("thin", 1)):
            if getattr(self, name) < least:
                raise ShapeError(f"{name} is at least {least}, got {name}={getattr(self, name)}: Gibbs({name}={least})")
        if not self.blocks and is_layered(pair, data):  # the same draws, in distribution, much faster
            from inference.mcmc import layered  # numba, which nothing else needs

            options = (self.chains, self.warmup_steps, self.num_samples, self.thin, seed, self.progress)
            return layered.sample(pair, data[0], *options)
        state = init(pair, *data, chains=self.chains, seed=seed, blocks=self.blocks)
        refuse_continuous(state.target.joint)
        return self._run(state)

    def _run(self, state: GibbsState) -> Draws:
        total = self.warmup_steps + self.num_samples * self.thin
        kept: list[dict[str, Tensor]] = []
        infos: list[GibbsInfo] = []
        ever: dict[str, Tensor] = {}
        evaluations = 0
        began = time.perf_counter()
        warm = began
        for i in tqdm(range(total), desc="Gibbs", delay=2.0, disable=None if self.progress else True, leave=False):
            if i == self.warmup_steps:
                warm = time.perf_counter()
            state, info = step(state)
            evaluations += info.evaluations
            ever = {name: free | ever.get(name, free) for name, free in info.free.items()}
            if i >= self.warmup_steps and (i + 1 - self.warmup_steps) % self.thin == 0:
                kept.append(state.values)
                infos.append(info)
        ended = time.perf_counter()
        check_moves(state.target.joint, state.target.groups, state.values, ever, total)
        return Draws(
            values={name: torch.stack([values[name] for values in kept], 1) for name in state.values},
            log_p=torch.stack([info.log_p for info in infos], 1),
            seconds=ended - warm,
            warmup_seconds=warm - began,
            evaluations=evaluations,
            stats={"moved": torch.stack([info.moved for info in infos], 1)},
        )


# Probability of all other values below which a conditional leaves no choice: above torch's 1e-7 for a probability of 0
_CERTAIN = 1e-6


def _size(terms: dict[str, Tensor]) -> float:
    """What the rounding of a chain's log-joint is measured by."""
    return 1 + sum(float(term.abs().sum()) / term.shape[1] for term in terms.values())


def _check_books(after: Tensor, expected: Tensor, rounding: float) -> None:
    """The log-joint has changed by what the conditionals say: else elements or sites depend in ways not seen before."""
    off = float((after - expected).abs().max())
    if not off <= 100 * rounding:
        value = f"is {float(after.sum())}" if not math.isfinite(off) else f"is off by {off:.3g} nats"
        raise UnsupportedModelError(
            f"the log-joint after a sweep {value} from what the conditionals say, so the model draws random numbers "
            "outside its sites, or elements of a plate depend on one another in some states: make that plate's dim an "
            "event dim (.to_event(1)), so that its elements are updated one at a time"
        )


def refuse_continuous(joint: LogJoint) -> None:
    """Refuse a model whose continuous latents nobody would draw."""
    continuous = [f"'{site.name}'" for site in joint.latents if site.support is None]
    if continuous:
        raise UnsupportedModelError(
            f"Gibbs draws discrete latents, and {', '.join(continuous)} is continuous: use HMCWithinGibbs, or "
            "condition the model on it (pyro.condition)"
        )
