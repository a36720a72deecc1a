"""Posterior draws of many data at once by HMC: chains annealed from the guide, then run on at b = 1.

Each datum has a posterior and a step size of its own, so that the chains of one never wait for those of another; a
joint sampler of all latents would take the smallest step that any asks for. Annealing finds modes that the guide lacks.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.errors import ShapeError
from inference.evidence.ais import AIS, GUIDE_DRAWS
from inference.evidence.ais_density import Density, read_density
from inference.evidence.ais_hmc import State, anneal, init, pilot, step
from inference.types import Draws

__all__ = ["AnnealedHMC"]


@dataclass(frozen=True)
class AnnealedHMC:
    """An engine for pairs whose latents are continuous and lie in the data plate: a deep model's posteriors.

    Args:
        chains: C for each datum.
        warmup_steps: T of the annealing from the guide; its weights are not used.
        num_samples: S draws of each chain.
        thin: transitions between two draws.
        leapfrog: steps of Hamilton's equations in a transition.

    Raises:
        ShapeError: a number below 1; when called, a latent outside the data plate.
        UnsupportedModelError (when called): a discrete latent, or a support without a bijection.
    """

    chains: int = 4
    warmup_steps: int = 200
    num_samples: int = 1000
    thin: int = 2
    leapfrog: int = 5

    def __post_init__(self) -> None:
        AIS(self.warmup_steps, self.chains, self.leapfrog)  # refuses what cannot be
        for name in ("num_samples", "thin"):
            if getattr(self, name) < 1:
                raise ShapeError(
                    f"{name} is at least 1, got {name}={getattr(self, name)}: AnnealedHMC(num_samples=1000)"
                )

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw given the data; the caller's RNG is left as it was."""
        density = read_density(pair, data)
        began = time.perf_counter()
        with torch.random.fork_rng(), density.running():
            torch.manual_seed(seed)
            density.whiten("guide", GUIDE_DRAWS)
            betas = torch.linspace(0, 1, self.warmup_steps + 1, dtype=torch.float64)
            sizes = pilot(density, betas, self.leapfrog)
            y = torch.randn(self.chains, *density.mean.shape).to(density.mean)
            _, state, _ = anneal(density, init(density, y), betas, sizes, self.leapfrog)
            warm = time.perf_counter()
            drawn, accepted = [], []
            for _ in range(self.num_samples):
                for _ in range(self.thin):
                    state, accept = step(density, state, 1.0, sizes[-1], self.leapfrog)
                drawn.append(state)
                accepted.append(accept.mean(-1))
            values, log_p = _told(density, drawn)
        return Draws(
            values=values,
            log_p=log_p,
            seconds=time.perf_counter() - warm,
            warmup_seconds=warm - began,
            evaluations=self.chains * self.leapfrog * (self.warmup_steps + self.num_samples * self.thin),
            stats={"acceptance": torch.stack(accepted, 1).cpu(), "step_size": sizes[-1].mean().expand(
                self.chains, self.num_samples).cpu()},
        )  # fmt: skip


@torch.no_grad()
def _told(density: Density, drawn: list[State]) -> tuple[dict[str, Tensor], Tensor]:
    """The draws in the model's own coordinates, (C, S, *site shape), and log p(x, z) there (C, S, N)."""
    found, log_p = [], []
    for state in drawn:
        values, log_det = density.sites(state.y)
        found.append(density.plain(values))
        log_p.append(state.g - log_det)
    return {name: torch.stack([each[name] for each in found], 1).cpu() for name in found[0]}, torch.stack(
        log_p, 1
    ).cpu()
