"""inference.mcmc.hmc_within_gibbs: draws against closed forms and enumeration, warm-up, and every refusal."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.mcmc import hmc_within_gibbs, unconstrained
from inference.mcmc.hmc_within_gibbs import HMCWithinGibbs, init, step
from ppl_models.classic import gaussian_mixture
from tests.conftest import z_scores

MANY = {"chains": 200, "warmup_steps": 50, "num_samples": 20, "progress": False}
SHORT = {"chains": 2, "warmup_steps": 12, "num_samples": 5, "progress": False}
COUNTS = torch.tensor([0.0, 2.0, 7.0]).double()
POINTS = torch.tensor([-1.2, 0.4, 2.0]).double()


def f64(*values):
    return torch.tensor(values if len(values) > 1 else values[0]).double()


def rates(x=COUNTS):
    """Rows of their own: a rate on the positive half-line, doubled by a switch."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(f64(0.4)))
        a = pyro.sample("a", dist.Gamma(f64(2.0), f64(1.0)))
        pyro.sample("x", dist.Poisson(a * (1 + z)), obs=x)


def exact_rates():
    """p(x | z) = (1 + z)^x / (2 + z)^(2 + x) but for what z does not enter; a | z, x ~ Gamma(2 + x, 2 + z)."""
    z = f64(0.0, 1.0)[:, None]
    log_w = torch.stack([f64(0.6).log(), f64(0.4).log()])[:, None] + COUNTS * (1 + z).log()
    p = (log_w - (2 + COUNTS) * (2 + z).log()).softmax(0)
    mean = (2 + COUNTS) / (2 + z)
    square = mean * (3 + COUNTS) / (2 + z)
    return {"z": p[1], "a": (p * mean).sum(0), "a^2": (p * square).sum(0)}


def shifted(x=POINTS):
    """A common shift outside the plate, and an assignment for each point."""
    shift = pyro.sample("shift", dist.Normal(f64(0.0), f64(2.0)))
    with pyro.plate("points", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(f64(0.3, 0.5, 0.2)))
        pyro.sample("x", dist.Normal(shift + 1.5 * z.double(), f64(0.8)), obs=x)


def exact_shifted():
    """Given the assignments everything is Gaussian; there are 27 of them."""
    z = torch.cartesian_prod(*[torch.arange(3)] * 3)
    r, log_w = POINTS - 1.5 * z, f64(0.3, 0.5, 0.2).log()[z].sum(1)
    cov = 0.64 * torch.eye(3).double() + 4.0
    log_w = log_w + dist.MultivariateNormal(torch.zeros(3).double(), cov).log_prob(r)
    precision = 1 / 4 + 3 / 0.64
    mean, w = r.sum(1) / 0.64 / precision, log_w.softmax(0)
    return {
        "shift": (w * mean).sum(),
        "shift^2": (w * (mean**2 + 1 / precision)).sum(),
        "z": (w[:, None] * z).sum(0),
    }


def close(draws, exact):
    """The chains are independent, so the spread of their means is the Monte Carlo error."""
    for name, value in exact.items():
        v = draws.values[name.removesuffix("^2")].double()
        means = (v**2 if name.endswith("^2") else v).mean(1)
        assert (z_scores(means, torch.as_tensor(value)).abs() <= 4).all(), name


@pytest.mark.parametrize(("model", "exact"), [(rates, exact_rates), (shifted, exact_shifted)])
def test_posteriors_are_those_of_the_closed_form(model, exact):
    draws = HMCWithinGibbs(**MANY)(model)
    close(draws, exact())
    assert draws.stats["diverging"].double().mean() < 0.002
    assert 0.7 < draws.stats["acceptance"].mean() < 0.99


def test_a_missing_stretch_is_seen(monkeypatch):
    """Without log |det dT/du| the rates are drawn from another posterior: the check above has teeth."""
    right = unconstrained._once

    def forgetful(*args):
        ran = right(*args)
        return ran._replace(terms={name: term for name, term in ran.terms.items() if "stretch" not in name})

    monkeypatch.setattr(unconstrained, "_once", forgetful)
    with pytest.raises(AssertionError):
        close(HMCWithinGibbs(**MANY)(rates), exact_rates())


def test_simplex_and_order_come_back_as_their_prior_has_them():
    def model():
        w = pyro.sample("w", dist.Dirichlet(f64(2.0, 1.0, 3.0)))
        cuts = dist.TransformedDistribution(
            dist.Normal(torch.zeros(2).double(), 1.0).to_event(1), dist.transforms.OrderedTransform()
        )
        pyro.sample("cuts", cuts)
        pyro.sample("z", dist.Categorical(w))

    draws = HMCWithinGibbs(**MANY)(model)
    assert draws.values["w"].shape == (200, 20, 3) and draws.values["cuts"].shape == (200, 20, 2)
    gap = math.exp(0.5)  # of a log-normal
    close(draws, {"w": f64(2.0, 1.0, 3.0) / 6, "cuts": f64(0.0, gap), "z": f64((1 + 2 * 3) / 6)})
    assert torch.allclose(draws.values["w"].sum(-1), f64(1.0)) and (draws.values["cuts"].diff() > 0).all()


def test_a_support_that_moves_with_a_discrete_latent():
    def model():
        z = pyro.sample("z", dist.Bernoulli(f64(0.3)))
        a = pyro.sample("a", dist.Uniform(f64(0.0), 1 + z))
        pyro.sample("x", dist.Normal(a, f64(0.5)), obs=f64(1.1))

    state = init(model, chains=2)
    assert state.target.moving and not init(shifted).target.moving
    grid = torch.linspace(0, 2, 40001).double()
    like = dist.Normal(f64(1.1), f64(0.5)).log_prob(grid).exp()
    p0, p1 = 0.7 * like * (grid < 1), 0.3 * like / 2
    total = (p0 + p1).sum()
    close(HMCWithinGibbs(**MANY)(model), {"z": p1.sum() / total, "a": (grid * (p0 + p1)).sum() / total})


def test_rows_that_lean_on_one_another_are_accepted_together():
    def model(x=POINTS):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(f64(0.4)))
            a = pyro.sample("a", dist.Normal(f64(0.0), f64(1.0)))
            pyro.sample("x", dist.Normal(a + a.sum(-1, keepdim=True) + z, f64(1.0)), obs=x)

    assert init(model).target.units == 1 and init(rates).target.units == 3
    z = torch.cartesian_prod(*[f64(0.0, 1.0)] * 3)
    m = torch.eye(3).double() + 1
    cov = m @ m.T + torch.eye(3).double()
    w = dist.MultivariateNormal(z, cov).log_prob(POINTS) + torch.where(z == 1, f64(0.4), f64(0.6)).log().sum(1)
    w = w.softmax(0)[:, None]
    a = (POINTS - z) @ torch.linalg.solve(cov, m)
    close(HMCWithinGibbs(**MANY)(model), {"z": (w * z).sum(0), "a": (w * a).sum(0)})


def test_a_program_of_one_state_at_a_time():
    def model(x=POINTS):
        a = pyro.sample("a", dist.Normal(f64(0.0), f64(2.0)))
        z = pyro.sample("z", dist.Bernoulli(f64(0.4)))
        if a.dim() > 0 or z.dim() > 0:
            raise RuntimeError("one state")
        pyro.sample("x", dist.Normal(a + z, f64(1.0)), obs=f64(0.7))

    with pytest.warns(UserWarning, match="each runs by itself"):
        state = init(model, chains=3, seed=1)
    assert state.target.joint.mode == "loop"
    with state.target.joint.running():
        log_p = state.target.log_density(state.q, state.sweep.values)
    one = {name: v[1] for name, v in state.sweep.values.items()}
    assert torch.allclose(log_p[1, 0], poutine.trace(pyro.condition(model, one)).get_trace().log_prob_sum())
    state, _ = step(state)
    assert state.sweep.values["a"].shape == (3,)


def test_what_it_returns():
    draws = HMCWithinGibbs(chains=3, warmup_steps=12, num_samples=5, thin=2, progress=False)(rates, seed=1)
    assert draws.values["a"].shape == draws.values["z"].shape == draws.log_p.shape == (3, 5, 3)
    assert draws.log_q is None and draws.seconds > 0 and draws.warmup_seconds > 0
    assert {name: value.shape for name, value in draws.stats.items()} == dict.fromkeys(draws.stats, (3, 5))
    one = {name: v[2, 4] for name, v in draws.values.items()}
    trace = poutine.trace(pyro.condition(rates, one)).get_trace()
    assert torch.allclose(draws.log_p[2, 4].sum(), trace.log_prob_sum(), rtol=1e-12)  # no Jacobian
    assert draws.evaluations > 22 * 3 * 4  # a sweep's, and the gradients of a trajectory
    assert (draws.stats["step_size"] == draws.stats["step_size"][0, 0]).all()
    assert HMCWithinGibbs(**SHORT)(shifted).log_p.shape == (2, 5, 1)


def test_a_seed_fixes_a_run_and_the_callers_generator_stays():
    before = torch.get_rng_state()
    runs = [HMCWithinGibbs(**SHORT)(rates, seed=s).values["a"] for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    state = init(shifted, chains=2)
    once, again = step(state)[0], step(state)[0]
    assert torch.equal(once.q, again.q) and not torch.equal(once.q, state.q)  # a step leaves its state as it was


def test_nothing_is_learned_after_the_warm_up(monkeypatch):
    seen = []
    right = hmc_within_gibbs.step
    monkeypatch.setattr(hmc_within_gibbs, "step", lambda state, length: seen.append(state) or right(state, length))
    HMCWithinGibbs(chains=4, warmup_steps=100, num_samples=20, progress=False)(rates)
    sizes = torch.stack([state.step_size for state in seen])
    widths = torch.stack([state.scale for state in seen])
    assert (sizes[1:100] != sizes[:99]).all() and (sizes[100:] == sizes[100]).all()
    assert (widths[100:] == widths[99]).all() and len(torch.unique(widths, dim=0)) == 4  # and three windows
    # log a is a little narrower where the count is high
    assert 0.2 < float(widths[-1, 2]) < float(widths[-1, 0]) < 1.5


def test_a_leapfrog_goes_back_where_it_came_from():
    """Time runs backwards: from the end, with the momentum turned, the path leads to the start."""
    state = init(rates, chains=2)
    target, given = state.target, state.sweep.values
    with target.joint.running():
        q, p = state.q, torch.randn_like(state.q)
        there = hmc_within_gibbs.leapfrog(target, given, q, p, state.step_size, state.scale, 5)
        back = hmc_within_gibbs.leapfrog(target, given, there.q, -there.p, state.step_size, state.scale, 5)
    assert torch.allclose(back.q, q, atol=1e-10) and torch.allclose(back.p, -p, atol=1e-10)


def test_chains_that_start_badly_are_left_behind():
    """Two clusters far apart: one start in twenty ends with both components on all the points."""
    y = torch.cat([torch.linspace(-5, -3, 20), torch.linspace(3, 5, 30)])
    draws = HMCWithinGibbs(chains=20, warmup_steps=60, num_samples=5, progress=False)(gaussian_mixture, y)
    assert (draws.values["mu"] - torch.tensor([-4.0, 4.0])).abs().max() < 1.0


@pytest.mark.parametrize("model", [rates, shifted])
def test_the_best_chains_are_kept(model):
    state = init(model, chains=6)
    q, values = unconstrained.best(state.target, state.q, state.sweep.values, 2)
    with state.target.joint.running():
        all_of_them = state.target.log_density(state.q, state.sweep.values)
        found = state.target.log_density(q, values)
        again = state.target.values(q, values)
    assert torch.allclose(found, all_of_them.sort(0, descending=True).values[:2])  # each row its own
    assert all(torch.equal(values[name], value) for name, value in again.items())


class Sphere(dist.TorchDistribution):
    """A support that torch has no bijector to."""

    support = constraints.square
    arg_constraints = {}
    has_rsample = True

    def __init__(self):
        super().__init__(torch.Size(), torch.Size((2, 2)))

    def rsample(self, sample_shape=()):
        return torch.randn(*sample_shape, 2, 2).double()

    def log_prob(self, value):
        return -(value**2).sum((-1, -2))


def no_bijector():
    pyro.sample("m", Sphere())
    pyro.sample("z", dist.Bernoulli(f64(0.3)))


def continuous_only():
    pyro.sample("a", dist.Normal(0.0, 1.0))


def discrete_only():
    pyro.sample("z", dist.Bernoulli(0.3))


def kinked():
    a = pyro.sample("a", dist.Normal(f64(0.0), f64(1.0)))
    z = pyro.sample("z", dist.Bernoulli(f64(0.3)))
    pyro.factor("f", (a - a.detach()).sqrt() * (1 + z))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (continuous_only, "no discrete latent site.*use HMC or NUTS"),
        (discrete_only, "no continuous latent site.*use Gibbs"),
        (no_bijector, "'m' has the support .*no bijector"),
        (kinked, "gradient is not finite.*'a'"),
    ],
)
def test_models_it_refuses(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        HMCWithinGibbs(**SHORT)(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains is at least 1, got chains=0"),
        ({"warmup_steps": -1}, "warmup_steps is at least 0, got warmup_steps=-1"),
        ({"num_samples": 0}, "num_samples is at least 1"),
        ({"thin": 0}, "thin is at least 1"),
        ({"trajectory_length": 0.0}, "trajectory_length is above 0, got 0.0"),
        ({"trajectory_length": math.nan}, "trajectory_length is above 0, got nan"),
        ({"target_accept": 1.0}, "between 0 and 1, got 1.0"),
    ],
)
def test_settings_it_refuses(settings, message):
    with pytest.raises((ShapeError, RunError), match=message):
        HMCWithinGibbs(**settings)
