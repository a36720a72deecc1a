"""A Gaussian whose precision is a diagonal plus one direction: the posterior of Rezende et al. 2014.

    z ~ N(m, C),   C^-1 = diag(d) + u u^T,   eta = 1 / (1 + u^T diag(d)^-1 u)
    C = diag(d)^-1 - eta diag(d)^-1 u u^T diag(d)^-1,   log |C| = log eta - sum_i log d_i

Everything costs O(Z), as of a diagonal Gaussian. No matrix is formed: z = m + R e with e ~ N(0, I), and R R^T = C.
"""

import math
from functools import cached_property

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.kl import register_kl

from ppl_models.nn import Linear

__all__ = ["RankOneHead", "RankOneNormal"]


class RankOneNormal(dist.TorchDistribution):
    """N(m, C) with C^-1 = diag(d) + u u^T [rezende2014]; u = 0 is the diagonal Gaussian of deviations d^-1/2.

    Densities in nats. Its divergence from a diagonal Normal is known in closed form to `torch`'s `kl_divergence`.

    Args:
        loc: m, the mean (..., Z).
        d: diagonal of the precision (..., Z), positive.
        u: the direction (..., Z); leading dims of the three broadcast.
        validate_args: check parameters and values.
    """

    arg_constraints = {  # pyright: ignore[reportAssignmentType]
        "loc": constraints.real_vector, "d": constraints.independent(constraints.positive, 1),
        "u": constraints.real_vector,
    }  # fmt: skip
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, loc: Tensor, d: Tensor, u: Tensor, validate_args: bool | None = None):
        self.loc, self.d, self.u = torch.broadcast_tensors(loc, d, u)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "RankOneNormal":  # noqa: ANN001
        """The same Gaussian over a larger batch."""
        shape = torch.Size(batch_shape) + self.event_shape
        return RankOneNormal(*(part.expand(shape) for part in (self.loc, self.d, self.u)), validate_args=False)

    @cached_property
    def _root(self) -> Tensor:
        return self.d.rsqrt()  # (..., Z)

    @cached_property
    def _v(self) -> Tensor:
        return self.u * self._root  # (..., Z)

    @cached_property
    def _eta(self) -> Tensor:
        return 1 / (1 + self._v.square().sum(-1, keepdim=True))  # (..., 1)

    @cached_property
    def log_det(self) -> Tensor:
        """The logarithm of |C|, the determinant of the covariance (...)."""
        return self._eta.squeeze(-1).log() - self.d.log().sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean m (..., Z)."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mean, where the density is largest (..., Z)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of C (..., Z)."""
        return self._root.square() * (1 - self._eta * self._v.square())

    def rsample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: ANN001, B008
        """Draws m + R e, with R = diag(d)^-1/2 (I - a v v^T), v = diag(d)^-1/2 u, a = eta / (1 + eta^1/2).

        The paper's (1 - eta^1/2) / u^T diag(d)^-1 u is the same a, and 0/0 where u = 0.
        """
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        a = self._eta / (1 + self._eta.sqrt())
        along = (self._v * noise).sum(-1, keepdim=True)
        return self.loc + self._root * (noise - a * along * self._v)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density (...) of values z, nats: -1/2 (Z log 2 pi + log |C| + sum_i d_i e_i^2 + (u^T e)^2), e = z - m."""
        if self._validate_args:
            self._validate_sample(value)
        error = value - self.loc
        square = (self.d * error.square()).sum(-1) + (self.u * error).sum(-1).square()
        return -0.5 * (self.event_shape[0] * math.log(2 * math.pi) + self.log_det + square)

    def entropy(self) -> Tensor:
        """1/2 (Z log 2 pi e + log |C|) (...), nats."""
        return 0.5 * (self.event_shape[0] * (1 + math.log(2 * math.pi)) + self.log_det)


@register_kl(RankOneNormal, torch.distributions.Independent)
def _kl_from_diagonal(q: RankOneNormal, p: torch.distributions.Independent) -> Tensor:
    """KL(q || N(m', diag s^2)) = 1/2 sum_i (C_ii / s_i^2 + (m_i - m'_i)^2 / s_i^2 - 1 + log s_i^2) - 1/2 log |C|."""
    base = p.base_dist
    if not isinstance(base, torch.distributions.Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    square = (q.variance + (q.loc - base.loc).square()) / base.scale.square()
    return 0.5 * ((square - 1).sum(-1) - q.log_det) + base.scale.log().sum(-1)


class RankOneHead(nn.Module):
    """A linear map to mean, diagonal and direction of a `RankOneNormal`: (..., H) -> three of (..., Z).

    u comes from random weights as the mean does: at u = 0, a symmetry of the density, its gradient is 0.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.linear = Linear(n_in, 3 * n_out)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, diagonal exp(-s) with s the log variance where u = 0, and direction."""
        mean, log_variance, u = self.linear(h).chunk(3, -1)
        return mean, (-log_variance).exp(), u
