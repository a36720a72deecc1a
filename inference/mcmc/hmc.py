"""Hamiltonian Monte Carlo and the No-U-Turn sampler on any Pyro model with continuous latents, one call for both hosts.

    NUTS(chains=4)(model, *data, seed=0) -> Draws

The model becomes a potential on unconstrained space (`inference.capture.potential`). With `backend="numpyro"` it is
recorded, compiled by JAX and run by NumPyro's kernels, all chains at once; with `backend="pyro"` Pyro's own kernels run
it as it is, one chain after the other, some hundred times slower.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from inference.capture.potential import Potential, read_potential
from inference.errors import RunError, ShapeError
from inference.mcmc.trajectory import Settings, Trajectory
from inference.types import Draws

__all__ = ["HMC", "NUTS"]

DENSE = 50  # dimensions; beyond, a warm-up of 1000 steps is short for a full covariance
BACKENDS = {"numpyro": "inference.mcmc.hmc_numpyro", "pyro": "inference.mcmc.hmc_pyro"}


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler [hoffman2014]: trajectories grow by doubling until they turn back.

    The draws' `stats` are (C, S) each: `diverging`, `energy` (nats), `tree_depth`, `step_size`, `acceptance`, `steps`
    (leapfrog steps). `log_p` (C, S, 1) is log p(x, z) of the model, in its own space; enumerated sites summed out.

    Args:
        chains: C.
        warmup_steps: steps of each chain that adapt step size and mass matrix, and are thrown away.
        num_samples: S, draws kept of each chain.
        backend: "numpyro", or "pyro".
        target_accept: mean acceptance probability that the step size is adapted to; closer to 1, smaller steps.
        dense_mass: adapt a full mass matrix, not its diagonal alone; None: up to 50 dimensions.
        max_tree_depth: at most 2^depth - 1 leapfrog steps.
        progress: show a bar when it takes longer than two seconds.

    Raises:
        ShapeError: chains or num_samples below 1, warmup_steps below 0.
        RunError: an unknown backend, a target_accept outside (0, 1).
        UnsupportedModelError (when called): as `read_potential`; a model that cannot be recorded, or whose operation
            has no JAX twin ("numpyro"); no state to start from with a finite log joint.
    """

    chains: int = 4
    warmup_steps: int = 1000
    num_samples: int = 1000
    backend: str = "numpyro"
    target_accept: float = 0.8
    dense_mass: bool | None = None
    max_tree_depth: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        _check(self, ("max_tree_depth",))

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw from the posterior of a model, or of a pair's model, given data."""
        return _draw(self, "NUTS", {"max_tree_depth": self.max_tree_depth}, pair, data, seed)


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo [neal2011]: trajectories of one length.

    As `NUTS`, but for `trajectory_length`: integration time of each trajectory, in units of the adapted scale.

    Raises:
        ShapeError, RunError: as `NUTS`; a trajectory_length that is not positive.
        UnsupportedModelError (when called): as `NUTS`.
    """

    chains: int = 4
    warmup_steps: int = 1000
    num_samples: int = 1000
    backend: str = "numpyro"
    target_accept: float = 0.8
    dense_mass: bool | None = None
    trajectory_length: float = math.pi / 2
    progress: bool = True

    def __post_init__(self) -> None:
        _check(self, ())
        if not 0 < self.trajectory_length < math.inf:
            raise RunError(f"trajectory_length is above 0, got {self.trajectory_length}: HMC(trajectory_length=1.57)")

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw from the posterior of a model, or of a pair's model, given data."""
        return _draw(self, "HMC", {"trajectory_length": self.trajectory_length}, pair, data, seed)


def _check(engine: NUTS | HMC, counts: tuple[str, ...]) -> None:
    name = type(engine).__name__
    for field, least in (("chains", 1), ("warmup_steps", 0), ("num_samples", 1), *((count, 1) for count in counts)):
        if getattr(engine, field) < least:
            raise ShapeError(
                f"{field} is at least {least}, got {field}={getattr(engine, field)}: {name}({field}={least})"
            )
    if engine.backend not in BACKENDS:
        raise RunError(f"backend is {' or '.join(BACKENDS)}, got '{engine.backend}': {name}(backend=\"numpyro\")")
    if not 0 < engine.target_accept < 1:
        raise RunError(f"target_accept is between 0 and 1, got {engine.target_accept}: {name}(target_accept=0.8)")


def _draw(engine: NUTS | HMC, algorithm: str, shape: dict[str, Any], pair: Any, data: Any, seed: int) -> Draws:
    potential = read_potential(pair, data)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.stack([potential.start(generator) for _ in range(engine.chains)])
    dense = potential.size <= DENSE if engine.dense_mass is None else engine.dense_mass
    settings = Settings(
        algorithm, engine.warmup_steps, engine.num_samples, engine.target_accept, dense, shape, engine.progress
    )
    backend = import_module(BACKENDS[engine.backend])  # JAX is imported where it is asked for
    return _as_draws(potential, backend.sample(potential, starts, settings, seed))


def _as_draws(potential: Potential, run: Trajectory) -> Draws:
    values, log_det = potential.constrain(run.u)
    steps = run.stats.pop("steps")
    stats = {name: value.to(run.u) for name, value in run.stats.items()}
    stats |= {"steps": steps, "tree_depth": steps.double().log2().floor() + 1}
    return Draws(
        values={site.name: values[site.name].to(site.like) for site in potential.latents},
        log_p=(-run.energy - log_det).unsqueeze(-1),
        seconds=run.seconds,
        warmup_seconds=run.warmup_seconds,
        compile_seconds=run.compile_seconds,
        evaluations=run.evaluations,
        stats=stats,
    )
