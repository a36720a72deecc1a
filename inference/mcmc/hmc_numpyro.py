"""HMC and NUTS on a recorded potential: NumPyro's trajectories, all chains side by side in one compiled program.

    u = u_0 + L w,   w' = trajectory from 0 with the unit mass matrix,   L learned in the warm-up

The potential of a Pyro program is recorded once, turned into JAX, and followed by NumPyro's trees [phan2019numpyro].
Every trajectory starts at w = 0 in coordinates whose scale is 1, so that a leapfrog step needs no mass matrix; u is one
vector, so that it is a handful of vector operations.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from numpyro.infer.hmc_util import IntegratorState, build_tree, euclidean_kinetic_energy, velocity_verlet
from torch import Tensor
from tqdm import tqdm

from inference.capture.potential import Potential
from inference.capture.record import record
from inference.capture.to_jax import to_jax
from inference.errors import UnsupportedModelError
from inference.mcmc.hmc_warmup import Tuning, begin, first_window, learn, move
from inference.mcmc.trajectory import Settings, Trajectory

__all__ = ["sample"]

CHUNK = 100  # steps between two looks at the progress bar
MAX_STEPS = 1023  # of a trajectory of HMC, as many as a tree of depth 10 holds
MAX_ENERGY = 1000.0  # nats; a trajectory whose energy rises by more diverges

Array = Any


class Chains(NamedTuple):
    """Where C chains are, and what their last step showed."""

    u: Array  # (C, D)
    u_energy: Array  # (C,) U(u)
    gradient: Array  # (C, D) in w
    key: Array  # (C,)
    energy: Array  # (C,) of the trajectory
    steps: Array  # (C,)
    acceptance: Array  # (C,)
    diverging: Array  # (C,)


QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 2}
EARLY_DEPTH = 6  # of trees before the first window has closed: on the wrong scale long ones are wasted
KEPT = ("u", "u_energy", "energy", "steps", "acceptance", "diverging")


def sample(potential: Potential, starts: Tensor, settings: Settings, seed: int) -> Trajectory:
    """C chains from `starts` (C, D), advanced together."""
    began = time.perf_counter()
    with torch.no_grad():
        recorded = record(potential, starts[0])
    with jax.enable_x64(True):  # in this thread, and only within
        function = to_jax(recorded, starts[0], dtype=torch.float64)
        first = jnp.asarray(starts.detach().cpu().double().numpy())
        prepare, advance = _programs(lambda u: function(u)[0], settings)
        state = prepare(first, jax.random.split(jax.random.key(seed), len(starts)))
        _check(potential, starts, np.asarray(state[0].gradient))
        program = _compiled(jax.jit(advance).lower(state, 0, 0))
        compiled = time.perf_counter()
        state, warming = _run(program, state, 0, settings.warmup_steps, "warm-up", settings.progress)
        warm = time.perf_counter()
        _, stats = _run(program, state, settings.warmup_steps, settings.num_samples, "draws", settings.progress)
        ended = time.perf_counter()
    evaluations = int(stats["steps"].sum()) + (int(warming["steps"].sum()) if warming else 0)
    return Trajectory(
        u=stats.pop("u"), energy=stats.pop("u_energy"), stats=stats, seconds=ended - warm,
        warmup_seconds=warm - compiled, compile_seconds=compiled - began, evaluations=evaluations,
    )  # fmt: skip


def _compiled(lowered: Any) -> Any:
    """Machine code; on the CPU by the compiler's quick ways where it has them: a third less to wait for."""
    try:
        return lowered.compile(QUICK if jax.default_backend() == "cpu" else None)
    except jax.errors.JaxRuntimeError:  # another release of XLA, with other options
        return lowered.compile()


def _programs(potential: Any, settings: Settings) -> tuple[Any, Any]:
    """Two functions of all chains: the first state, and up to CHUNK steps from a state with what they showed."""
    transition = jax.vmap(partial(_transition, potential, settings), in_axes=(0, None, None, None))
    update = learn(settings.warmup_steps, settings.target_accept)

    def prepare(u: Array, key: Array) -> tuple[Chains, Tuning]:
        zero = jnp.zeros(len(u))
        energy, gradient = jax.vmap(jax.value_and_grad(potential))(u)
        chains = Chains(u, energy, gradient, key, zero, zero.astype(int), zero, zero.astype(bool))
        return chains, begin(u.shape[0], u.shape[1], settings.dense_mass)

    def advance(state: tuple[Chains, Tuning], t: Array, count: Array) -> Any:
        def one(i: Array, carry: Any) -> Any:
            (chains, tuning), kept = carry
            shown = {"step_size": jnp.broadcast_to(tuning.step_size, len(chains.u))}
            chains = transition(chains, tuning.step_size, tuning.scale, t + i)
            gradient, tuning = lax.cond(
                t + i < settings.warmup_steps, update, lambda *same: same[-2:],
                t + i, chains.acceptance, chains.u, chains.gradient, tuning,
            )  # fmt: skip
            shown |= {name: getattr(chains, name) for name in KEPT}
            kept = {name: lax.dynamic_update_index_in_dim(kept[name], shown[name], i, 0) for name in kept}
            return (chains._replace(gradient=gradient), tuning), kept

        chains = state[0]
        kept = {name: jnp.zeros((CHUNK, *getattr(chains, name).shape), getattr(chains, name).dtype) for name in KEPT}
        return lax.fori_loop(0, count, one, (state, kept | {"step_size": jnp.zeros((CHUNK, len(chains.u)))}))

    return jax.jit(prepare), advance


def _transition(potential: Any, settings: Settings, chain: Chains, step_size: Array, scale: Array, t: Array) -> Chains:
    """One step of one chain."""
    key, key_momentum, key_path = jax.random.split(chain.key, 3)
    unit = jnp.ones_like(chain.u)
    kinetic = euclidean_kinetic_energy
    _, leapfrog = velocity_verlet(lambda w: potential(move(scale, chain.u, w)), kinetic)
    momentum = jax.random.normal(key_momentum, unit.shape)
    start = IntegratorState(jnp.zeros_like(unit), momentum, chain.u_energy, chain.gradient)
    if settings.algorithm == "NUTS":
        depth = settings.shape["max_tree_depth"]
        early = jnp.where(t < first_window(settings.warmup_steps), min(EARLY_DEPTH, depth), depth)
        depths: Any = (early, depth)
        tree = build_tree(leapfrog, kinetic, start, unit, step_size, key_path, MAX_ENERGY, depths)
        acceptance = tree.sum_accept_probs / tree.num_proposals
        w, energy, gradient = tree.z_proposal, tree.z_proposal_pe, tree.z_proposal_grad
        shown = (tree.z_proposal_energy, tree.num_proposals, acceptance, tree.diverging)
    else:
        w, energy, gradient, shown = _metropolis(leapfrog, start, step_size, key_path, settings)
    return Chains(move(scale, chain.u, w), energy, gradient, key, *shown)


def _metropolis(leapfrog: Any, start: Any, step_size: Array, key: Array, settings: Settings) -> Any:
    """A trajectory of one length, its end taken with probability min(1, exp(-change of energy))."""
    unit = jnp.ones_like(start.r)
    count = jnp.ceil(settings.shape["trajectory_length"] / step_size).astype(int)
    count = jnp.clip(count, 1, MAX_STEPS)
    end = lax.fori_loop(0, count, lambda _, state: leapfrog(step_size, unit, state), start)
    before, after = (state.potential_energy + 0.5 * state.r @ state.r for state in (start, end))
    change = jnp.where(jnp.isnan(after - before), jnp.inf, after - before)
    acceptance = jnp.minimum(1.0, jnp.exp(-change))
    taken = jax.random.uniform(key) < acceptance
    w, energy, gradient = (
        jnp.where(taken, getattr(end, name), getattr(start, name)) for name in ("z", "potential_energy", "z_grad")
    )
    return w, energy, gradient, (jnp.where(taken, after, before), count, acceptance, change > MAX_ENERGY)


def _check(potential: Potential, starts: Tensor, gradients: np.ndarray) -> None:
    """Refuse a recording that is not the program: a choice by value, or a gradient of the user's own."""
    for start, found in zip(starts, gradients, strict=True):
        gradient = potential.gradient(start)[1].double().cpu().numpy()
        if not np.abs(found - gradient).max() <= 0.05 * np.abs(gradient).max() + 1e-3:
            raise UnsupportedModelError(
                "the recorded potential has another gradient than the program (a choice by value, or a custom "
                'backward), so it would draw from another posterior: take backend="pyro"'
            )


def _run(program: Any, state: Any, t: int, total: int, name: str, progress: bool) -> tuple[Any, dict[str, Tensor]]:
    """`total` steps in chunks from step t, and what they showed, (C, total, ...) each."""
    parts: list[dict[str, np.ndarray]] = []
    with tqdm(total=total, desc=name, delay=2.0, disable=None if progress else True, leave=False) as bar:
        for begin in range(0, total, CHUNK):
            count = min(CHUNK, total - begin)
            state, shown = program(state, t + begin, count)
            parts.append({name: np.asarray(value)[:count] for name, value in shown.items()})
            bar.update(count)
    names = parts[0] if parts else {}
    joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in names}
    return state, {name: value.transpose(0, 1).contiguous() for name, value in joined.items()}
