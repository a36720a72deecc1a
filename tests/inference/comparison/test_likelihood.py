"""log p(x_n | h) of draws: against the models' own formulas, enumerated sites summed out, and ArviZ's loo on it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference.comparison.compare import compare
from inference.comparison.diagnostics import read_netcdf
from inference.comparison.likelihood import log_likelihood
from inference.types import Draws
from ppl_models.classic import EXAMPLES, forward_algorithm, gaussian_mixture_enumerated
from ppl_models.classic.regression import logistic_regression

C, S = 2, 6


def drawn(**values):
    return Draws({name: value.unflatten(0, (C, S)) for name, value in values.items()}, torch.zeros(C, S, 1))


def test_a_regressions_rows():
    x, y = EXAMPLES["logistic_regression"].data()
    alpha, beta = torch.randn(C * S), torch.randn(C * S, 3)
    found = log_likelihood(logistic_regression, drawn(alpha=alpha, beta=beta), x, y)
    logits = alpha[:, None] + beta @ x.T
    wanted = torch.where(y == 1, logits, -logits).sigmoid().log()
    assert list(found) == ["y"] and found["y"].shape == (C, S, 100)
    assert torch.allclose(found["y"].flatten(0, 1), wanted, atol=1e-4)


def test_a_mixtures_assignments_are_summed_out():
    (y,) = EXAMPLES["gmm"].data()
    w = torch.rand(C * S, 1)
    values = {"w": torch.cat([w, 1 - w], 1), "mu": torch.randn(C * S, 2), "sigma": torch.rand(C * S, 2) + 0.5}
    found = log_likelihood(gaussian_mixture_enumerated, drawn(**values), y)["y"]
    each = dist.Normal(values["mu"][:, None], values["sigma"][:, None]).log_prob(y[:, None])  # (C * S, N, 2)
    wanted = (each + values["w"].log()[:, None]).logsumexp(-1)
    assert found.shape == (C, S, 200) and torch.allclose(found.flatten(0, 1), wanted, atol=1e-4)


def test_a_hidden_chain_is_summed_out_of_its_sequence():
    (y,) = EXAMPLES["hmm"].data()
    a = torch.distributions.Dirichlet(torch.ones(2)).sample((C * S, 2))
    mu, sigma = torch.randn(C * S, 2).sort(-1).values, torch.rand(C * S) + 0.5
    found = log_likelihood(EXAMPLES["hmm"].model, drawn(a=a, mu=mu, sigma=sigma), y)
    wanted = torch.stack([forward_algorithm(y, a[i], mu[i], sigma[i]) for i in range(C * S)])
    assert list(found) == ["y_0..y_9"]
    assert torch.allclose(found["y_0..y_9"].flatten(0, 1), wanted, atol=1e-3)


def test_programs_of_one_draw_at_a_time_latents_of_the_data_and_factors():
    def model(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        shift = float(a > 0)  # a Python number: many draws at once do not go through
        pyro.factor("tilt", -(a**2).sum())
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(h + shift, 1.0), obs=x)

    x, a, h = torch.randn(3), torch.randn(C * S), torch.randn(C * S, 3)
    found = log_likelihood(model, drawn(a=a, h=h), x)
    wanted = dist.Normal(h + (a > 0).float()[:, None], 1.0).log_prob(x)
    assert list(found) == ["x"] and torch.allclose(found["x"].flatten(0, 1), wanted, atol=1e-5)


def normal(y):
    """A mean with a flat enough prior, known width: leave-one-out in closed form."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()).double(), 100.0))
    with pyro.plate("data", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def exactly(y):
    """An engine: draws of the posterior itself."""

    def engine(model, y, seed=0):
        mu = y.mean() + torch.randn(4, 1000, dtype=y.dtype) / math.sqrt(len(y))
        log_p = dist.Normal(mu[..., None], 1.0).log_prob(y).sum(-1) + dist.Normal(0.0, 100.0).log_prob(mu)
        return Draws({"mu": mu}, log_p.unsqueeze(-1))

    return engine


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_loo_of_a_saved_comparison(tmp_path):
    import arviz

    y = torch.randn(20, dtype=torch.float64)
    result = compare(normal, y, {"exact draws": exactly(y)}, reference="exact draws")
    result.save(tmp_path / "out")
    loo = arviz.loo(read_netcdf(tmp_path / "out" / "comparison.nc", "exact draws"), pointwise=True)
    others = (y.sum() - y) / 19
    wanted = dist.Normal(others, math.sqrt(1 + 1 / 19)).log_prob(y)
    assert float(loo.elpd_loo) == pytest.approx(float(wanted.sum()), abs=0.1)
    assert (torch.as_tensor(loo.loo_i.values) - wanted).abs().max() < 0.05
