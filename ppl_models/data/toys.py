"""Points whose density is known: a ring of Gaussians, a grid of them, and a few on a line.

    toy = data.ring()
    fit(Adversarial(...), data.Batches(toy.sample(100_000, seed=0), 500), epochs=30)
    toy.log_prob(x)                                  # nats, exactly

What a game has learnt is judged here without a classifier, by `inference.adversarial.modes.mode_coverage`. They are
points of any size, not images in [0, 1], and so no `Dataset`.
"""

import math

import torch
from torch import Tensor

from ppl_models.data.dataset import DataError

__all__ = ["Mixture", "grid", "line", "ring"]


class Mixture:
    """Spherical Gaussians of equal weight and width: p(x) = 1/M sum_m N(x; mu_m, sd^2 I).

    Raises DataError: means that are not rows of finite numbers, a standard deviation that is not above 0.
    """

    def __init__(self, means: Tensor, sd: float, name: str = "mixture") -> None:  # means: (M, D)
        """Keep the means in float32."""
        if means.ndim != 2 or 0 in means.shape or not bool(torch.isfinite(means).all()):
            raise DataError(
                f"a mixture needs finite means (M, D), a row each, got shape {tuple(means.shape)}: "
                "pass for example torch.tensor([[-1.0], [1.0]])"
            )
        if not (sd > 0 and math.isfinite(sd)):
            raise DataError(f"the standard deviation of a mixture is finite and above 0, got {sd}: pass sd=0.02")
        self.means = means.to(torch.float32)
        self.sd = float(sd)
        self.name = name

    def __repr__(self) -> str:
        """Name, modes and width in a line."""
        modes, dims = self.means.shape
        return f"{self.name}: {modes} Gaussians of sd {self.sd:g} in {dims} dimension{'s' if dims > 1 else ''}"

    def sample(self, n: int, seed: int = 0) -> Tensor:  # -> (N, D)
        """Draw n points, a function of (n, seed); the caller's RNG is left as it was."""
        if n < 1:
            raise DataError(f"sample at least 1 point, got n={n}: pass n=1000")
        rng = torch.Generator().manual_seed(seed)
        mode = torch.randint(len(self.means), (n,), generator=rng)
        return self.means[mode] + self.sd * torch.randn(n, self.means.shape[1], generator=rng)

    def log_prob(self, x: Tensor) -> Tensor:  # x: (N, D) -> (N,)
        """Log-density of each point, nats: logsumexp_m log N(x; mu_m, sd^2 I) - log M. Raises DataError."""
        modes, dims = self.means.shape
        if x.ndim != 2 or x.shape[1] != dims:
            raise DataError(f"{self.name} takes points (N, {dims}), got shape {tuple(x.shape)}: give each point a row")
        means = self.means.to(x)
        squared = (x.unsqueeze(1) - means).div(self.sd).square().sum(-1)  # (N, M), exact where cdist's is not
        log_norm = dims * (math.log(self.sd) + 0.5 * math.log(2 * math.pi)) + math.log(modes)
        return torch.logsumexp(-0.5 * squared, 1) - log_norm


def ring(modes: int = 8, radius: float = 1.0, sd: float = 0.02) -> Mixture:
    """Place `modes` Gaussians evenly on a circle, the first at angle 0 [metz2017]."""
    _at_least(modes, "modes of a ring")
    angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], 1), sd, "ring")


def grid(side: int = 5, spacing: float = 2.0, sd: float = 0.05) -> Mixture:
    """Place side * side Gaussians on a square grid around 0 [lin2018]."""
    _at_least(side, "side of a grid")
    place = spacing * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    return Mixture(torch.cartesian_prod(place, place), sd, "grid")


def line(means: tuple[float, ...] = (-2.0, 0.5, 2.0), sd: float = 0.4) -> Mixture:
    """Place Gaussians on the real line, by default three at unequal distances."""
    return Mixture(torch.tensor(means, dtype=torch.float64).reshape(-1, 1), sd, "line")


def _at_least(count: int, what: str) -> None:
    if count < 1:
        raise DataError(f"the {what} is a count of at least 1, got {count}")
