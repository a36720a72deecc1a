"""HMC and NUTS by NumPyro's kernels on a recorded potential: chains side by side in one compiled program.

The potential of a Pyro program is recorded once, turned into JAX, and run by NumPyro's transitions [phan2019numpyro].
All chains advance together; u is one vector, so that a leapfrog step is a handful of vector operations. Step counters
are shared by the chains, so that the warm-up's bookkeeping is skipped after it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.hmc_util import HMCAdaptState
from torch import Tensor
from tqdm import tqdm

from inference.capture.potential import Potential
from inference.capture.record import record
from inference.capture.to_jax import to_jax
from inference.mcmc.trajectory import Settings, Trajectory

__all__ = ["sample"]

CHUNK = 100  # steps between two looks at the progress bar


def sample(potential: Potential, starts: Tensor, settings: Settings, seed: int) -> Trajectory:
    """C chains from `starts` (C, D), advanced together."""
    began = time.perf_counter()
    with torch.no_grad():
        recorded = record(potential, starts[0])
    with _double():
        function = to_jax(recorded, starts[0], dtype=torch.float64)
        energy = lambda u: function(u)[0]  # noqa: E731
        first = jnp.asarray(starts.detach().cpu().double().numpy())
        keys = jax.random.split(jax.random.key(seed), len(starts))
        init, transition = hmc(energy, algo=settings.algorithm)
        prepare, advance = _programs(init, transition, settings)
        state = prepare(first, keys)
        advance = jax.jit(advance).lower(state, 0).compile()
        compiled = time.perf_counter()
        state, warming = _run(advance, state, settings.warmup_steps, settings, "warm-up")
        warm = time.perf_counter()
        _, stats = _run(advance, state, settings.num_samples, settings, "draws")
        ended = time.perf_counter()
    evaluations = int(stats["steps"].sum()) + (int(warming["steps"].sum()) if warming else 0)
    return Trajectory(
        u=stats.pop("u"), energy=stats.pop("u_energy"), stats=stats, seconds=ended - warm,
        warmup_seconds=warm - compiled, compile_seconds=compiled - began, evaluations=evaluations,
    )  # fmt: skip


def _programs(init: Any, transition: Any, settings: Settings) -> tuple[Any, Any]:
    """Two functions of all chains: the first state, and up to CHUNK steps from a state with what they showed."""
    shared = HMCState(*[0] * len(HMCState._fields))._replace(i=None, trajectory_length=None)
    shared = shared._replace(
        r=None, adapt_state=HMCAdaptState(*[0] * len(HMCAdaptState._fields))._replace(window_idx=None)
    )

    def first(u: Any, key: Any) -> Any:
        return init(
            u, settings.warmup_steps, rng_key=key, target_accept_prob=settings.target_accept,
            dense_mass=settings.dense_mass, **settings.shape,
        )  # fmt: skip

    step = jax.vmap(transition, in_axes=(shared,), out_axes=shared)

    def advance(state: Any, count: Any) -> Any:
        def one(i: Any, carry: Any) -> Any:
            state, kept = carry
            state = step(state)
            shown = _show(state)
            return state, {name: lax.dynamic_update_index_in_dim(kept[name], shown[name], i, 0) for name in kept}

        kept = {name: jnp.zeros((CHUNK, *value.shape), value.dtype) for name, value in _show(state).items()}
        return lax.fori_loop(0, count, one, (state, kept))

    return jax.jit(jax.vmap(first, out_axes=shared)), advance


def _show(state: Any) -> dict[str, Any]:
    """What is kept of a state, (C, ...) each."""
    return {
        "u": state.z, "u_energy": state.potential_energy, "energy": state.energy, "steps": state.num_steps,
        "acceptance": state.accept_prob, "diverging": state.diverging, "step_size": state.adapt_state.step_size,
    }  # fmt: skip


def _run(advance: Any, state: Any, total: int, settings: Settings, name: str) -> tuple[Any, dict[str, Tensor]]:
    """`total` steps in chunks, and what they showed, (C, total, ...) each."""
    parts: list[dict[str, np.ndarray]] = []
    with tqdm(total=total, desc=name, delay=2.0, disable=None if settings.progress else True, leave=False) as bar:
        for begin in range(0, total, CHUNK):
            count = min(CHUNK, total - begin)
            state, shown = advance(state, count)
            parts.append({name: np.asarray(value)[:count] for name, value in shown.items()})
            bar.update(count)
    names = parts[0] if parts else {}
    joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in names}
    return state, {name: value.transpose(0, 1).contiguous() for name, value in joined.items()}


@contextmanager
def _double() -> Iterator[None]:
    """Within it, and in this thread alone, JAX counts in float64."""
    with jax.enable_x64(True):
        yield
