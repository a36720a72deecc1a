"""The Frechet distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

m and S are the mean and the covariance of features (N, F) [heusel2017]. With the features of an Inception network that
was trained on ImageNet this is the "FID"; with those of another classifier it is another scale, whose numbers mean
something only beside each other and beside the floor, the distance of two sets of real data.
"""

import torch
from torch import Tensor

from inference.adversarial.rows import check_rows
from inference.errors import ShapeError

__all__ = ["frechet", "frechet_distance"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to features a (N, F) and b (N', F) [heusel2017].

    Finite samples make it too large, by tr(S) (F + 5) / 2N for two sets of N from one Gaussian with S = s^2 I: compare
    only figures of equal numbers of rows, and with a floor, the distance between as many rows of real data.

    Returns:
        d^2 >= 0, in units of a feature squared.

    Raises:
        ShapeError: fewer than two rows, or different F.
        NonFiniteError: a feature that is NaN or infinite.
    """
    check_rows({"a": a, "b": b}, least=2)
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(x.double()) for x in (a, b))
    return frechet(mean_a, cov_a, mean_b, cov_b)


def frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet distance between N(mean_a, cov_a) and N(mean_b, cov_b), computed in float64.

    Means are (F,), covariances (F, F): symmetric, no eigenvalue below 0; singular ones are fine.

    Raises:
        ShapeError: sizes that do not fit.
    """
    f = len(mean_a)
    if not (mean_a.shape == mean_b.shape == (f,) and cov_a.shape == cov_b.shape == (f, f)):
        shapes = [tuple(part.shape) for part in (mean_a, cov_a, mean_b, cov_b)]
        raise ShapeError(f"two means (F,) and two covariances (F, F) of one F are needed, got {shapes}")
    mean_a, cov_a, mean_b, cov_b = (part.double() for part in (mean_a, cov_a, mean_b, cov_b))
    # tr((S_a S_b)^(1/2)) is the sum of the singular values of S_a^(1/2) S_b^(1/2): no root of a small eigenvalue of
    # their product is taken, which would lose half of the digits
    cross = torch.linalg.svdvals(_root(cov_a).T @ _root(cov_b)).sum()
    squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2.0 * cross
    return max(0.0, float(squared))  # rounding may leave -1e-15 where both are equal


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) of rows (N, F), the latter with 1 / (N - 1)."""
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _root(cov: Tensor) -> Tensor:
    """A matrix R (F, F) with R R^T = cov."""
    values, vectors = torch.linalg.eigh(cov)
    # an eigenvalue of 0 comes out as 1e-16 of the largest, and its root would be 1e-8 of it: below rounding it is 0
    rounding = len(cov) * torch.finfo(cov.dtype).eps * values[-1]
    return vectors * torch.where(values > rounding, values, 0.0).sqrt()
