"""Eight schools [rubin1981]: how much coaching helped in each of eight schools, and how much the schools differ.

    mu ~ N(0, 5),  tau ~ half-Cauchy(5),  theta_j ~ N(mu, tau),  y_j ~ N(theta_j, sigma_j)

The centred form samples theta itself, and its posterior is a funnel, narrow where tau is small. The non-centred form
samples e_j ~ N(0, 1) and takes theta_j = mu + tau e_j: the same model, and chains that move. Given tau all else is
Gaussian, so that one integral over tau gives the exact posterior.
"""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = [
    "SchoolsPosterior", "eight_schools", "eight_schools_centred", "eight_schools_data", "eight_schools_posterior",
]  # fmt: skip

MU_SD, TAU_SCALE = 5.0, 5.0


def eight_schools_data() -> tuple[Tensor, Tensor]:
    """Effects y (8,) in points of the test and their standard errors sigma (8,) [rubin1981]."""
    return torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools(y: Tensor, sigma: Tensor) -> None:  # y, sigma: (N,)
    """The non-centred form; `theta` is a deterministic site."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), MU_SD))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_full((), TAU_SCALE)))
    with pyro.plate("data", len(y), dim=-1):
        e = pyro.sample("e", dist.Normal(y.new_zeros(()), 1.0))
        theta = pyro.deterministic("theta", mu + tau * e)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_centred(y: Tensor, sigma: Tensor) -> None:  # y, sigma: (N,)
    """The centred form: hard for every engine, each in its own way."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), MU_SD))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_full((), TAU_SCALE)))
    with pyro.plate("data", len(y), dim=-1):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


class SchoolsPosterior(NamedTuple):
    """The exact posterior by quadrature over tau: float64, error far below 1e-6."""

    log_evidence: float  # log p(y), nats
    mean: dict[str, Tensor]  # of mu (), tau (), e (N,), theta (N,)
    sd: dict[str, Tensor]
    tau: Tensor  # (G,) nodes
    weight: Tensor  # (G,) their posterior probabilities
    y: Tensor  # (N,)
    sigma: Tensor

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw n independent times: tau by its weights, mu given tau, theta given both; (n, *site shape)."""
        cdf = self.weight.cumsum(0)
        # between nodes the distribution function is a straight line
        u = torch.rand(n, generator=generator, dtype=cdf.dtype) * cdf[-1]
        at = torch.searchsorted(cdf, u).clamp(1, len(cdf) - 1)
        share = ((u - cdf[at - 1]) / (cdf[at] - cdf[at - 1])).clamp(0, 1)
        tau = self.tau[at - 1] + share * (self.tau[at] - self.tau[at - 1])
        mean, sd = _mu_given(tau, self.y, self.sigma)
        mu = mean + sd * torch.randn(n, generator=generator, dtype=cdf.dtype)
        e_mean, e_sd = _e_given(tau, mu, self.y, self.sigma)
        e = e_mean + e_sd * torch.randn(e_mean.shape, generator=generator, dtype=cdf.dtype)
        return {"mu": mu, "tau": tau, "e": e, "theta": mu[:, None] + tau[:, None] * e}


def eight_schools_posterior(y: Tensor, sigma: Tensor, nodes: int = 20_000) -> SchoolsPosterior:  # y, sigma: (N,)
    """Moments and evidence of the posterior, exactly but for a sum over tau.

        p(y | tau) = N(y; 0, diag(sigma^2 + tau^2) + 25 1 1^T)

    With tau = 5 tan(pi u / 2) the prior of u is uniform on (0, 1), and the sum is over the midpoints of equal cells.
    """
    y, sigma = y.double(), sigma.double()
    u = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    tau = TAU_SCALE * torch.tan(torch.pi / 2 * u)
    variance = sigma**2 + tau[:, None] ** 2  # (G, N)
    shared = 1 / MU_SD**2 + (1 / variance).sum(1)
    # the determinant and the inverse of a diagonal plus a rank of one
    square = (y**2 / variance).sum(1) - (y / variance).sum(1) ** 2 / shared
    log_det = variance.log().sum(1) + (MU_SD**2 * shared).log()
    log_p = -0.5 * (square + log_det + len(y) * torch.log(torch.tensor(2 * torch.pi)))
    log_evidence = log_p.logsumexp(0) - torch.log(torch.tensor(float(nodes)))
    weight = (log_p - log_p.logsumexp(0)).exp()

    mu, mu_sd = _mu_given(tau, y, sigma)
    gain = tau[:, None] ** 2 / variance  # theta_j = mu + gain (y_j - mu) + noise
    theta = mu[:, None] + gain * (y - mu[:, None])
    theta_var = gain * sigma**2 + ((1 - gain) * mu_sd[:, None]) ** 2
    lift = tau[:, None] / variance
    e = lift * (y - mu[:, None])
    e_var = sigma**2 / variance + (lift * mu_sd[:, None]) ** 2
    means, sds = {}, {}
    pieces = {"mu": (mu, mu_sd**2), "tau": (tau, torch.zeros_like(tau)), "e": (e, e_var), "theta": (theta, theta_var)}
    for name, (mean, var) in pieces.items():
        w = weight if mean.dim() == 1 else weight[:, None]
        means[name] = (w * mean).sum(0)
        sds[name] = (w * (var + (mean - means[name]) ** 2)).sum(0).sqrt()
    return SchoolsPosterior(float(log_evidence), means, sds, tau, weight, y, sigma)


def _mu_given(tau: Tensor, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of mu given tau and y, (G,) each."""
    precision = 1 / (sigma**2 + tau[:, None] ** 2)
    total = 1 / MU_SD**2 + precision.sum(1)
    return (precision * y).sum(1) / total, total.rsqrt()


def _e_given(tau: Tensor, mu: Tensor, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of e given tau, mu and y, (G, N) each."""
    variance = sigma**2 + tau[:, None] ** 2
    return tau[:, None] / variance * (y - mu[:, None]), sigma / variance.sqrt()
