"""Gaussian pieces of deep models: deviations that are learned as they are, products, and linear models collapsed."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.nn import mlp

__all__ = ["FixedNoise", "collapse_linear", "product"]


class FixedNoise(nn.Module):
    """A linear map to the mean, and one learned deviation a unit: T(h) + G xi of [rezende2014] with a diagonal G.

    Shapes: (..., H) -> two of (..., Z), as `GaussianHead`.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.linear = mlp((n_in, n_out))[0]
        self.log_scale = nn.Parameter(torch.zeros(n_out))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        mean = self.linear(h)
        return mean, self.log_scale.exp().expand(mean.shape)


def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the Gaussian proportional to the product of two: precisions add, means weighted by them."""
    pa, pb = a[1] ** -2, b[1] ** -2
    return (a[0] * pa + b[0] * pb) / (pa + pb), (pa + pb).rsqrt()


def collapse_linear(layers: Sequence[tuple[nn.Linear, Tensor]]) -> dist.MultivariateNormal:
    """The distribution of x where z_L ~ N(0, I) and each layer is N(W z + b, diag s^2) of the one above.

    Its covariance is diag s_0^2 + W_0 (diag s_1^2 + W_1 (...) W_1^T) W_0^T; differentiable.

    Args:
        layers: W and b as a linear map, and log s (of its output), from x upwards.
    """
    size = layers[-1][0].in_features
    mean = layers[-1][1].new_zeros(size)
    covariance = torch.eye(size, dtype=mean.dtype, device=mean.device)
    for linear, log_scale in reversed(layers):
        mean = linear(mean)
        covariance = linear.weight @ covariance @ linear.weight.T + (2 * log_scale).exp().diag()
    return dist.MultivariateNormal(mean, covariance)
