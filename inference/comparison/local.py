"""The best Gaussian for each datum: what a guide of the same family could reach if it were not amortised.

    maximise E_q[g(y)] + H(q),   q = N(mu, L L^T),   L diagonal (mean field) or lower triangular (full rank)

in the whitened coordinates of `ais_density`, by reparameterised gradients from the moments of the pair's own guide
[cremer2018]. The family is that of Gaussian guides of sites on the real line, and of their images elsewhere.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.errors import RunError, ShapeError
from inference.evidence.ais import GUIDE_DRAWS
from inference.evidence.ais_density import Density, read_density
from inference.types import Draws

__all__ = ["LocalGaussian"]

_CHUNK = 20  # draws at a time


@dataclass(frozen=True)
class LocalGaussian:
    """An engine: a Gaussian fitted to each datum's posterior, and its draws with log p and log q.

    Args:
        full: full rank; else mean field.
        steps: of Adam; its rate falls from `lr` to 0 on a straight line.
        particles: draws of each datum in a step.
        lr: in units of the guide's standard deviation.
        num_samples: S draws at the end.

    Raises:
        ShapeError: a number below 1; when called, a latent outside the data plate.
        RunError: lr that is not positive.
        UnsupportedModelError (when called): a discrete latent, or a support without a bijection.
    """

    full: bool = False
    steps: int = 800
    particles: int = 10
    lr: float = 0.02
    num_samples: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "particles", "num_samples"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} is at least 1, got {name}={getattr(self, name)}: LocalGaussian(steps=800)")
        if not self.lr > 0:
            raise RunError(f"lr is above 0, got lr={self.lr}: LocalGaussian(lr=0.02)")

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Fit and draw; the caller's RNG is left as it was."""
        density = read_density(pair, data)
        began = time.perf_counter()
        with torch.random.fork_rng(), torch.no_grad(), density.running():
            torch.manual_seed(seed)
            density.whiten("guide", GUIDE_DRAWS)
            mean, scale = self._fit(density)
            fitted = time.perf_counter()
            values, log_p, log_q = _draw(density, mean, scale, self.num_samples)
        return Draws(
            values=values,
            log_p=log_p,
            log_q=log_q,
            seconds=time.perf_counter() - fitted,
            warmup_seconds=fitted - began,
            evaluations=self.steps * self.particles + self.num_samples,
        )

    def _fit(self, density: Density) -> tuple[Tensor, Tensor]:
        """The mean (N, F) and L (N, F, F) of each datum's Gaussian."""
        n, f = density.mean.shape
        mean = torch.zeros_like(density.mean)
        log_diagonal = torch.zeros_like(mean)
        lower = density.mean.new_zeros(n, f, f)
        free = [mean, log_diagonal, lower] if self.full else [mean, log_diagonal]
        optimizer = torch.optim.Adam(free, self.lr, betas=(0.9, 0.99))
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            noise = torch.randn(self.particles, n, f).to(mean)
            _, grad = density.value_and_grad(mean + _times(log_diagonal, lower if self.full else None, noise))
            mean.grad = -grad.mean(0)
            log_diagonal.grad = -(grad * noise).mean(0) * log_diagonal.exp() - 1  # the entropy's is 1
            if self.full:
                lower.grad = -torch.einsum("kni,knj->nij", grad, noise).tril(-1) / self.particles
            optimizer.step()
        return mean, torch.diag_embed(log_diagonal.exp()) + lower


def _times(log_diagonal: Tensor, lower: Tensor | None, noise: Tensor) -> Tensor:
    """L noise (K, N, F)."""
    out = log_diagonal.exp() * noise
    return out if lower is None else out + torch.einsum("nij,knj->kni", lower, noise)


def _draw(
    density: Density, mean: Tensor, scale: Tensor, count: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:  # site -> (1, S, *its shape), log p and log q (1, S, N)
    """Draw, and tell log p and log q in the model's own coordinates."""
    log_det_scale = scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    found, log_p, log_q = [], [], []
    for begin in range(0, count, _CHUNK):
        noise = torch.randn(min(_CHUNK, count - begin), *mean.shape).to(mean)
        y = mean + torch.einsum("nij,knj->kni", scale, noise)
        values, log_det = density.sites(y)
        normal = -0.5 * (noise**2).sum(-1) - 0.5 * math.log(2 * math.pi) * noise.shape[-1]
        found.append(density.plain(values))
        log_p.append(density(y) - log_det)
        log_q.append(normal - log_det_scale - log_det)
    values = {name: torch.cat([each[name] for each in found]).unsqueeze(0).cpu() for name in found[0]}
    return values, torch.cat(log_p).unsqueeze(0).cpu(), torch.cat(log_q).unsqueeze(0).cpu()
