"""Regressions: linear, logistic, on a series' own past, and on a function drawn from a Gaussian process.

Coefficients have wide normal priors and scales half-normal ones, meant for inputs and outputs of size about 1 to 10.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["autoregression", "gaussian_process", "linear_regression", "logistic_regression"]


def linear_regression(x: Tensor, y: Tensor) -> None:  # x: (N, D), y: (N,)
    """y_n ~ N(alpha + x_n . beta, sigma),  alpha, beta ~ N(0, 10),  sigma ~ half-N(10)."""
    alpha = pyro.sample("alpha", dist.Normal(x.new_zeros(()), 10.0))
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[-1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(x.new_full((), 10.0)))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("y", dist.Normal(alpha + (x * beta).sum(-1), sigma), obs=y)


def logistic_regression(x: Tensor, y: Tensor) -> None:  # x: (N, D), y: (N,) of 0 and 1
    """P(y_n = 1) = 1 / (1 + exp(-alpha - x_n . beta)),  alpha, beta ~ N(0, 2.5)."""
    alpha = pyro.sample("alpha", dist.Normal(x.new_zeros(()), 2.5))
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[-1]), 2.5).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("y", dist.Bernoulli(logits=alpha + (x * beta).sum(-1)), obs=y)


def autoregression(y: Tensor, order: int = 2) -> None:  # y: (T,)
    """AR(k): y_t ~ N(alpha + sum_i beta_i y_(t-i), sigma) for t > k, the first k values given.

    alpha and beta ~ N(0, 10), sigma ~ half-Cauchy(2.5).

    Raises:
        ValueError: the series is not longer than the order.
    """
    if not 1 <= order < len(y):
        raise ValueError(f"AR(k) needs 1 <= k < T, got order={order} and {len(y)} values: lower the order")
    past = torch.stack([y[order - i - 1 : len(y) - i - 1] for i in range(order)], -1)  # (T - k, k), the latest first
    alpha = pyro.sample("alpha", dist.Normal(y.new_zeros(()), 10.0))
    beta = pyro.sample("beta", dist.Normal(y.new_zeros(order), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(y.new_full((), 2.5)))
    with pyro.plate("data", len(past), dim=-1):
        pyro.sample("y", dist.Normal(alpha + (past * beta).sum(-1), sigma), obs=y[order:])


def gaussian_process(x: Tensor, y: Tensor) -> None:  # x, y: (N,)
    """A function drawn from a Gaussian process, seen with noise, itself integrated out [rasmussen2006].

        y ~ N(0, K + sigma^2 I),  K_ij = alpha^2 exp(-(x_i - x_j)^2 / (2 rho^2))
        rho ~ Gamma(4, 1),  alpha ~ half-N(2),  sigma ~ half-N(1)

    All data are one observation, so that there is no data plate.
    """
    rho = pyro.sample("rho", dist.Gamma(x.new_full((), 4.0), 1.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(x.new_full((), 2.0)))
    sigma = pyro.sample("sigma", dist.HalfNormal(x.new_ones(())))
    square = (x[:, None] - x) ** 2  # (N, N)
    rho, alpha, sigma = (each[..., None, None] for each in (rho, alpha, sigma))
    noise = (sigma**2 + 1e-6) * torch.eye(len(x), dtype=x.dtype, device=x.device)
    cov = alpha**2 * torch.exp(-square / (2 * rho**2)) + noise
    pyro.sample("y", dist.MultivariateNormal(x.new_zeros(len(x)), cov), obs=y)
