"""HMC and NUTS on both hosts, against exact values."""

import math

import jax
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor, nn

from inference import HMC, NUTS
from inference.comparison.diagnostics import ess, r_hat
from ppl_models import classic

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
STATS = ("diverging", "energy", "tree_depth", "step_size", "acceptance", "steps")


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    """Non-centred; by quadrature: mu 4.39682 (sd 3.31770), tau 3.59771 (3.21996)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y), dim=-1):
        e = pyro.sample("e", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, sigma), obs=y)


def close(found: Tensor, mean: float, sd: float) -> None:  # (C, S)
    """The mean and the variance within four of their Monte Carlo standard errors."""
    for draws, exact in ((found.double(), mean), ((found.double() - mean) ** 2, sd**2)):
        error = float(draws.std()) / math.sqrt(float(ess(draws.unsqueeze(-1).numpy(), "mean")[0]))
        assert abs(float(draws.mean()) - exact) < 4 * error, f"{float(draws.mean())} and not {exact}, MCSE {error}"


@pytest.mark.parametrize(("backend", "chains", "warmup", "steps"), [("numpyro", 4, 1000, 1000), ("pyro", 1, 150, 350)])
def test_eight_schools_against_quadrature(backend, chains, warmup, steps):
    engine = NUTS(chains=chains, warmup_steps=warmup, num_samples=steps, backend=backend, target_accept=0.9)
    draws = engine(eight_schools, Y, SIGMA, seed=3)
    for name, mean, sd in (("mu", 4.39682, 3.31770), ("tau", 3.59771, 3.21996)):
        close(draws.values[name], mean, sd)
    if backend == "numpyro":
        assert all(float(r_hat(draws.values[name].unsqueeze(-1).numpy())[0]) < 1.02 for name in ("mu", "tau"))
    one = {name: value[0, 7] for name, value in draws.values.items()}
    trace = poutine.trace(poutine.condition(eight_schools, one)).get_trace(Y, SIGMA)
    assert torch.allclose(draws.log_p[0, 7, 0].float(), trace.log_prob_sum(), rtol=1e-5)
    assert draws.values["e"].shape == (chains, steps, 8) and draws.log_p.shape == (chains, steps, 1)
    assert {name: draws.stats[name].shape for name in STATS} == dict.fromkeys(STATS, (chains, steps))
    assert draws.values["mu"].dtype == torch.float32
    assert draws.evaluations >= draws.stats["steps"].sum() and draws.log_q is None
    assert abs(float(draws.stats["acceptance"].mean()) - 0.9) < 0.1
    assert (draws.compile_seconds > 0) == (backend == "numpyro")


def correlated(scale: Tensor) -> None:
    """Two Gaussians of correlation 0.99 whose units differ by 1000, and a gamma variable beside them."""
    covariance = torch.tensor([[1.0, 0.99], [0.99, 1.0]]) * scale.unsqueeze(1) * scale
    pyro.sample("x", dist.MultivariateNormal(torch.tensor([1.0, 2.0]), covariance))
    pyro.sample("g", dist.Gamma(3.0, 2.0))


@pytest.mark.parametrize("engine", [HMC(trajectory_length=1.2), NUTS(dense_mass=False)], ids=["hmc", "diagonal"])
def test_known_moments(engine):
    scale = torch.tensor([1.0, 0.001])
    draws = engine(correlated, scale, seed=1)
    for i in range(2):
        close(draws.values["x"][..., i], float(i + 1), float(scale[i]))
    close(draws.values["g"], 1.5, math.sqrt(0.75))
    both = draws.values["x"].double().flatten(0, 1).T
    assert abs(float(both.corrcoef()[0, 1]) - 0.99) < 0.005


def test_hmc_on_pyro():
    draws = HMC(chains=1, warmup_steps=150, num_samples=500, backend="pyro")(gamma, seed=2)
    close(draws.values["g"], 1.5, math.sqrt(0.75))


def gamma() -> None:
    pyro.sample("g", dist.Gamma(3.0, 2.0))


def test_enumerated_sites_are_summed_out():
    def model(x):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(4 * z, 1.0), obs=x)

    x = torch.tensor([0.0, 4.0, 4.2, 3.7, 2.2])
    draws = NUTS(num_samples=500)(model, x, seed=0)
    grid = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.float64).unsqueeze(1)
    parts = [dist.Normal(4.0 * z, 1.0).log_prob(x).exp() for z in (0, 1)]
    weight = (grid * parts[1] + (1 - grid) * parts[0]).prod(1)
    mean = float((grid[:, 0] * weight).sum() / weight.sum())
    sd = math.sqrt(float(((grid[:, 0] - mean) ** 2 * weight).sum() / weight.sum()))
    assert set(draws.values) == {"p"}
    close(draws.values["p"], mean, sd)


class Linear(nn.Module):
    """A decoder that is linear: the posterior of z is Gaussian, known in closed form."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        pass


def test_latents_of_a_network_of_a_few_rows():
    program, x = Linear(), torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.3]])
    draws = NUTS(num_samples=500)(program, x, seed=0)
    weight, bias = program.net.weight.detach(), program.net.bias.detach()
    precision = torch.eye(2) + weight.T @ weight / 0.25
    mean = torch.linalg.solve(precision, weight.T @ (x - bias).T / 0.25).T
    sd = torch.linalg.inv(precision).diagonal().sqrt()
    for n in range(2):
        for i in range(2):
            close(draws.values["z"][:, :, n, i], float(mean[n, i]), float(sd[i]))


def test_a_seed_is_a_run_and_the_callers_state_stays():
    before, wide = torch.get_rng_state(), jax.config.jax_enable_x64  # type: ignore[attr-defined]
    engine = NUTS(chains=2, warmup_steps=30, num_samples=20)
    runs = [engine(gamma, seed=seed).values["g"] for seed in (0, 0)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0][0], runs[0][1])
    assert torch.equal(before, torch.get_rng_state())
    assert jax.config.jax_enable_x64 == wide  # type: ignore[attr-defined]


def test_a_model_in_float64():
    y = torch.tensor([-2.0, -1.5, 1.4, 1.7, 2.0]).double()
    engine = HMC(chains=1, warmup_steps=3, num_samples=2, backend="pyro", trajectory_length=0.1)
    draws = engine(classic.gaussian_mixture_enumerated, y)
    assert {name: value.dtype for name, value in draws.values.items()} == dict.fromkeys(("w", "mu", "sigma"), y.dtype)
    assert bool(torch.isfinite(draws.log_p).all())


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_no_warm_up_at_all(backend):
    draws = NUTS(chains=1, warmup_steps=0, num_samples=5, backend=backend)(gamma)
    assert draws.values["g"].shape == (1, 5) and len(draws.stats["step_size"].unique()) == 1


@pytest.mark.parametrize(
    ("engine", "settings", "words"),
    [
        (NUTS, {"chains": 0}, "chains is at least 1, got chains=0"),
        (NUTS, {"max_tree_depth": 0}, "max_tree_depth is at least 1"),
        (HMC, {"warmup_steps": -1}, "warmup_steps is at least 0"),
        (HMC, {"trajectory_length": 0.0}, "trajectory_length is above 0"),
        (NUTS, {"backend": "stan"}, "backend is numpyro or pyro, got 'stan'"),
        (NUTS, {"target_accept": 1.0}, "target_accept is between 0 and 1"),
    ],
)
def test_settings_that_cannot_be(engine, settings, words):
    with pytest.raises(ValueError, match=words):
        engine(**settings)


def test_a_gradient_of_the_users_own_is_found_out():
    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 1.0

        @staticmethod
        def backward(ctx, grad):  # type: ignore[override]
            return 3 * grad

    def model():
        a = pyro.sample("a", dist.Normal(2.0, 1.0))
        pyro.factor("odd", -(Odd.apply(a) ** 2))

    with pytest.raises(ValueError, match="another gradient than the program"):
        NUTS(chains=2, warmup_steps=5, num_samples=5)(model)
