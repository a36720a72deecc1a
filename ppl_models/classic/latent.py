"""Discrete causes behind continuous data: a Gaussian mixture, and a hidden Markov model.

Both can keep their assignments as latent sites, for Gibbs and HMC within Gibbs, or mark them to be summed out, for NUTS
and variational inference: `pyro.infer.config_enumerate` makes the second of the first. Means are in rising order,
so that components have names, and chains cannot exchange them.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from torch import Tensor

__all__ = ["OrderedNormal", "forward_algorithm", "gaussian_mixture", "gaussian_mixture_enumerated", "hidden_markov"]


class OrderedNormal(dist.TorchDistribution):
    """K independent normals in rising order: log p(v) = sum_k log N(v_k; loc, scale) + log K!  for v_1 < ... < v_K.

    Args:
        loc: (...) the mean of each.
        scale: (...) their standard deviation.
        size: K.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # pyright: ignore[reportAssignmentType]
    support = constraints.ordered_vector  # pyright: ignore[reportAssignmentType]

    def __init__(self, loc: Tensor, scale: Tensor, size: int, validate_args: bool | None = None):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, torch.Size((size,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OrderedNormal":
        """The same in more dims."""
        shape = torch.Size(batch_shape)
        return OrderedNormal(self.loc.expand(shape), self.scale.expand(shape), self.event_shape[0], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw K numbers and sort them."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return (self.loc.unsqueeze(-1) + self.scale.unsqueeze(-1) * noise).sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """The density on ordered vectors, nats; what is not in order is for the support to refuse."""
        each = dist.Normal(self.loc.unsqueeze(-1), self.scale.unsqueeze(-1)).log_prob(value)
        orders = torch.lgamma(torch.tensor(float(self.event_shape[0] + 1)))
        return each.sum(-1) + orders.to(each)


def gaussian_mixture(y: Tensor, components: int = 2) -> None:  # y: (N,)
    """A mixture of K normals with an assignment z_n for each datum.

    w ~ Dirichlet(5, ..., 5),  mu_1 < ... < mu_K, each N(0, 5),  sigma_k ~ half-N(2)
    z_n ~ Categorical(w),  y_n ~ N(mu_(z_n), sigma_(z_n))
    """
    w = pyro.sample("w", dist.Dirichlet(y.new_full((components,), 5.0)))
    mu = pyro.sample("mu", OrderedNormal(y.new_zeros(()), y.new_full((), 5.0), components))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((components,), 2.0)).to_event(1))
    with pyro.plate("data", len(y), dim=-1):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("y", dist.Normal(Vindex(mu)[..., z], Vindex(sigma)[..., z]), obs=y)


gaussian_mixture_enumerated = config_enumerate(gaussian_mixture)
"""The same mixture with its assignments marked to be summed out: p(y_n) = sum_k w_k N(y_n; mu_k, sigma_k)."""


@config_enumerate
def hidden_markov(y: Tensor, states: int = 2) -> None:  # y: (N, T), N sequences of T steps
    """A hidden Markov model with normal emissions, its states marked to be summed out [rabiner1989].

    z_0 ~ uniform,  z_t ~ Categorical(A[z_(t-1)]),  y_t ~ N(mu[z_t], sigma)
    rows of A ~ Dirichlet(1, ..., 1),  mu_1 < ... < mu_K, each N(0, 5),  sigma ~ half-N(2)
    """
    a = pyro.sample("a", dist.Dirichlet(y.new_ones(states, states)).to_event(1))
    mu = pyro.sample("mu", OrderedNormal(y.new_zeros(()), y.new_full((), 5.0), states))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((), 2.0)))
    with pyro.plate("data", len(y), dim=-1):
        z: Any = None
        for t in pyro.markov(range(y.shape[-1])):
            p = y.new_full((states,), 1.0 / states) if t == 0 else Vindex(a)[..., z, :]
            z = pyro.sample(f"z_{t}", dist.Categorical(p))
            pyro.sample(f"y_{t}", dist.Normal(Vindex(mu)[..., z], sigma), obs=y[:, t])


def forward_algorithm(y: Tensor, a: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:  # y: (N, T) -> (N,)
    """Log p(y) of each sequence under a hidden Markov model's parameters, nats [rabiner1989].

        alpha_t(j) = p(y_t | j) sum_i alpha_(t-1)(i) A_ij,   p(y) = sum_j alpha_T(j)

    a: (K, K) rows summing to 1; mu: (K,); sigma: (). The first state is uniform.
    """
    log_emission = dist.Normal(mu, sigma).log_prob(y.unsqueeze(-1))  # (N, T, K)
    alpha = log_emission[:, 0] - torch.log(torch.tensor(float(len(mu))))
    for t in range(1, y.shape[-1]):
        alpha = (alpha.unsqueeze(-1) + a.log()).logsumexp(-2) + log_emission[:, t]
    return alpha.logsumexp(-1)
