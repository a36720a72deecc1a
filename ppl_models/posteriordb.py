"""Eight posteriors of posteriordb [magnusson2024] as Pyro programs, with their data and reference draws.

    posterior = load("arK")
    draws = NUTS()(posterior.model, *posterior.data)
    posterior.quantities(draws.values)     # name of posteriordb -> (C, S), beside posterior.reference

The reference draws are ten chains of Stan's NUTS, thinned to 1000 draws each. N(m, s) has the standard deviation s; a
flat prior is a density of 1, its distribution only a place to start from.
"""

import json
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor

from ppl_models.data.sources import fetch

__all__ = ["NAMES", "Posterior", "load"]


class Posterior(NamedTuple):
    """A model with its data, and what Stan drew."""

    name: str
    model: Callable[..., None]
    data: tuple[Tensor, ...]
    reference: dict[str, Tensor]  # name of posteriordb -> (10, 1000), float64

    def quantities(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draws (C, S, *site shape) under the reference's names, in its order: (C, S) each."""
        if "e" in values:
            values = {**values, "theta": values["mu"].unsqueeze(-1) + values["tau"].unsqueeze(-1) * values["e"]}
        found = {}
        for name in self.reference:
            site, _, rest = name.partition("[")
            found[name] = values[site][..., int(rest[:-1]) - 1] if rest else values[site]
        return found


def load(name: str) -> Posterior:
    """One of `NAMES`, from PPL_DATA, the cache or the network.

    Raises:
        ValueError: an unknown name.
        DataError: its files are not here and cannot be downloaded, or are not the expected ones.
    """
    if name not in _ENTRIES:
        raise ValueError(f"unknown posterior '{name}': the names are {', '.join(NAMES)}")
    model, arrange, data, draws = _ENTRIES[name]
    arrays = arrange({key: torch.as_tensor(value) for key, value in _read(f"posteriordb/data/{data}").items()})
    chains: list[dict[str, list[float]]] = _read(f"posteriordb/draws/{draws}")
    reference = {key: torch.tensor([chain[key] for chain in chains], dtype=torch.float64) for key in chains[0]}
    return Posterior(name, model, tuple(array.to(torch.get_default_dtype()) for array in arrays), reference)


def eight_schools_noncentered(y: Tensor, sigma: Tensor) -> None:  # (N,), (N,)
    """y_j ~ N(theta_j, sigma_j), theta_j = mu + tau e_j [rubin1981]."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y), dim=-1):
        e = pyro.sample("e", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, sigma), obs=y)


def ark(y: Tensor, past: Tensor) -> None:  # (N,), (N, 5): the five values before each
    """An autoregression of order 5: y_t ~ N(alpha + sum_k beta_k y_{t-k}, sigma)."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(past.new_zeros(5), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(y), dim=-1):
        pyro.sample("y", dist.Normal(alpha + past @ beta, sigma), obs=y)


def kidscore_momiq(kid_score: Tensor, mom_iq: Tensor) -> None:  # (N,), (N,)
    """A child's test score on its mother's: flat coefficients."""
    beta = pyro.sample("beta", _flat(2))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(kid_score), dim=-1):
        pyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


def logearn_height_male(log_earn: Tensor, height: Tensor, male: Tensor) -> None:  # (N,) each
    """Log earnings on height and sex: everything flat."""
    beta = pyro.sample("beta", _flat(3))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0).mask(False))
    with pyro.plate("data", len(log_earn), dim=-1):
        mean = beta[0] + beta[1] * height + beta[2] * male
        pyro.sample("log_earn", dist.Normal(mean, sigma), obs=log_earn)


def logmesquite_logvolume(log_weight: Tensor, log_volume: Tensor) -> None:  # (N,), (N,)
    """Log weight of a mesquite bush on the log volume of its canopy: everything flat."""
    beta = pyro.sample("beta", _flat(2))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0).mask(False))
    with pyro.plate("data", len(log_weight), dim=-1):
        pyro.sample("log_weight", dist.Normal(beta[0] + beta[1] * log_volume, sigma), obs=log_weight)


def blr(y: Tensor, x: Tensor) -> None:  # (N,), (N, 5)
    """Bayesian linear regression."""
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[-1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("data", len(y), dim=-1):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def gp_regr(y: Tensor, x: Tensor) -> None:  # (N,), (N,)
    """A Gaussian process: K = alpha^2 exp(-(x - x')^2 / 2 rho^2) + sigma I, sigma a variance here."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    apart = (x.unsqueeze(-1) - x) / rho
    covariance = alpha**2 * torch.exp(-0.5 * apart**2) + sigma * torch.eye(len(x), dtype=x.dtype)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), covariance_matrix=covariance), obs=y)


def low_dim_gauss_mix(y: Tensor) -> None:  # (N,)
    """A mixture of two normals, their means in order; the assignments are summed out."""
    ordered = dist.TransformedDistribution(dist.Normal(y.new_zeros(2), 1.0).to_event(1), [OrderedTransform()])
    mu = pyro.sample("mu", ordered.mask(False))
    pyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("data", len(y), dim=-1):
        shares = torch.stack([theta, 1 - theta], -1)
        of = pyro.sample("of", dist.Categorical(shares), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mu[of], sigma[of]), obs=y)


def _flat(n: int) -> Any:
    return dist.Normal(torch.zeros(n), 1.0).to_event(1).mask(False)


def _past(d: dict[str, Tensor]) -> tuple[Tensor, ...]:
    k = int(d["K"])
    return d["y"][k:], torch.stack([d["y"][k - i : -i] for i in range(1, k + 1)], -1)


# name -> model, its data of those in the file, the files
_ENTRIES: dict[str, tuple[Callable[..., None], Callable[[dict[str, Tensor]], tuple[Tensor, ...]], str, str]] = {
    "eight_schools_noncentered": (
        eight_schools_noncentered, lambda d: (d["y"], d["sigma"]), "eight_schools",
        "eight_schools-eight_schools_noncentered",
    ),
    "arK": (ark, _past, "arK", "arK-arK"),
    "kidscore_momiq": (kidscore_momiq, lambda d: (d["kid_score"], d["mom_iq"]), "kidiq", "kidiq-kidscore_momiq"),
    "logearn_height_male": (
        logearn_height_male, lambda d: (d["earn"].double().log(), d["height"], d["male"]), "earnings",
        "earnings-logearn_height_male",
    ),
    "logmesquite_logvolume": (
        logmesquite_logvolume,
        lambda d: (d["weight"].double().log(), (d["diam1"] * d["diam2"] * d["canopy_height"]).double().log()),
        "mesquite", "mesquite-logmesquite_logvolume",
    ),
    "blr": (blr, lambda d: (d["y"], d["X"]), "sblrc", "sblrc-blr"),
    "gp_regr": (gp_regr, lambda d: (d["y"], d["x"]), "gp_pois_regr", "gp_pois_regr-gp_regr"),
    "low_dim_gauss_mix": (
        low_dim_gauss_mix, lambda d: (d["y"],), "low_dim_gauss_mix", "low_dim_gauss_mix-low_dim_gauss_mix",
    ),
}  # fmt: skip
NAMES = tuple(_ENTRIES)


def _read(file: str) -> Any:
    with zipfile.ZipFile(fetch(f"{file}.json.zip")) as archive:
        return json.loads(archive.read(archive.namelist()[0]))
