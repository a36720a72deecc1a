"""The traditional models against closed forms, quadrature and enumeration."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import OrderedTransform
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Dirichlet, Gamma, HalfCauchy, HalfNormal, MultivariateNormal, Normal

from inference.pair import is_latent
from ppl_models import classic
from tests.conftest import z_scores

# the published values, by another quadrature
MEAN = {"mu": 4.39682, "tau": 3.59771, "theta": [6.2119, 4.9402, 3.9270, 4.7571, 3.6155, 4.0426, 6.2967, 4.8543]}
SD = {"mu": 3.31770, "tau": 3.21996, "theta": [5.593, 4.674, 5.263, 4.780, 4.658, 4.827, 5.078, 5.291]}


def log_joint(model, data, values):
    """Log p(data, values) of a model, one run."""
    return poutine.trace(poutine.condition(model, values)).get_trace(*data).log_prob_sum()


def summed(model, data, values):
    """Log p(data, values) with marked sites summed out by Pyro."""
    conditioned = poutine.condition(model, values)
    return -TraceEnum_ELBO(max_plate_nesting=1).loss(conditioned, lambda *args: None, *data)


def test_the_schools_posterior_is_the_one_of_the_references():
    posterior = classic.eight_schools_posterior(*classic.eight_schools_data())
    assert posterior.log_evidence == pytest.approx(-31.311347, abs=1e-6)
    for name in ("mu", "tau"):
        assert float(posterior.mean[name]) == pytest.approx(MEAN[name], abs=1e-5)
        assert float(posterior.sd[name]) == pytest.approx(SD[name], abs=3e-5)
    torch.testing.assert_close(posterior.mean["theta"].float(), torch.tensor(MEAN["theta"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(posterior.sd["theta"].float(), torch.tensor(SD["theta"]), atol=1e-3, rtol=0)


def test_its_draws_have_its_moments():
    posterior = classic.eight_schools_posterior(*classic.eight_schools_data())
    draws = posterior.draw(100_000, torch.Generator().manual_seed(1))
    for name, values in draws.items():
        assert float(z_scores(values, posterior.mean[name]).abs().max()) < 4
        assert float(z_scores((values - posterior.mean[name]) ** 2, posterior.sd[name] ** 2).abs().max()) < 4


def test_both_forms_of_the_schools_are_one_model():
    y, sigma = classic.eight_schools_data()
    mu, tau, e = torch.tensor(3.0), torch.tensor(2.0), torch.randn(8)
    theta = mu + tau * e
    prior = Normal(0.0, 5.0).log_prob(mu) + HalfCauchy(5.0).log_prob(tau)
    rest = Normal(theta, sigma).log_prob(y).sum()
    centred = log_joint(classic.eight_schools_centred, (y, sigma), {"mu": mu, "tau": tau, "theta": theta})
    torch.testing.assert_close(centred, prior + Normal(mu, tau).log_prob(theta).sum() + rest)
    other = log_joint(classic.eight_schools, (y, sigma), {"mu": mu, "tau": tau, "e": e})
    torch.testing.assert_close(other, prior + Normal(0.0, 1.0).log_prob(e).sum() + rest)


def test_regressions_are_their_formulas():
    x, y = classic.EXAMPLES["linear_regression"].data()
    alpha, beta, sigma = torch.tensor(0.4), torch.tensor([1.0, -2.0, 0.3]), torch.tensor(1.3)
    prior = Normal(0.0, 10.0).log_prob(alpha) + Normal(0.0, 10.0).log_prob(beta).sum()
    wanted = prior + HalfNormal(10.0).log_prob(sigma) + Normal(alpha + x @ beta, sigma).log_prob(y).sum()
    values = {"alpha": alpha, "beta": beta, "sigma": sigma}
    torch.testing.assert_close(log_joint(classic.linear_regression, (x, y), values), wanted)

    x, y = classic.EXAMPLES["logistic_regression"].data()
    p = torch.sigmoid(alpha + x @ beta)
    prior = Normal(0.0, 2.5).log_prob(alpha) + Normal(0.0, 2.5).log_prob(beta).sum()
    wanted = prior + (y * p.log() + (1 - y) * (1 - p).log()).sum()
    torch.testing.assert_close(log_joint(classic.logistic_regression, (x, y), {"alpha": alpha, "beta": beta}), wanted)

    (y,) = classic.EXAMPLES["ar"].data()
    beta = torch.tensor([0.6, 0.2])
    mean = torch.stack([alpha + 0.6 * y[t - 1] + 0.2 * y[t - 2] for t in range(2, len(y))])
    prior = Normal(0.0, 10.0).log_prob(alpha) + Normal(0.0, 10.0).log_prob(beta).sum()
    wanted = prior + HalfCauchy(2.5).log_prob(sigma) + Normal(mean, sigma).log_prob(y[2:]).sum()
    values = {"alpha": alpha, "beta": beta, "sigma": sigma}
    torch.testing.assert_close(log_joint(classic.autoregression, (y,), values), wanted)


def test_a_gaussian_process_is_one_normal():
    x, y = classic.EXAMPLES["gp"].data()
    values = {"rho": torch.tensor(1.5), "alpha": torch.tensor(2.0), "sigma": torch.tensor(0.4)}
    cov = torch.stack([4.0 * torch.exp(-((a - x) ** 2) / (2 * 1.5**2)) for a in x]) + 0.16 * torch.eye(len(x))
    wanted = MultivariateNormal(torch.zeros(len(x)), cov + 1e-6 * torch.eye(len(x))).log_prob(y)
    wanted = wanted + Gamma(4.0, 1.0).log_prob(values["rho"])
    wanted = wanted + HalfNormal(2.0).log_prob(values["alpha"]) + HalfNormal(1.0).log_prob(values["sigma"])
    torch.testing.assert_close(log_joint(classic.gaussian_process, (x, y), values), wanted, rtol=1e-5, atol=1e-3)


def test_ordered_normals_are_sorted_normals():
    three = classic.OrderedNormal(torch.tensor(1.0), torch.tensor(2.0), 3)
    draws = three.sample((100_000,))
    assert bool((draws.diff(dim=-1) > 0).all())
    assert float(z_scores(draws.sum(-1), torch.tensor(3.0)).abs()) < 4
    # the density's integral over the ordered numbers, by importance sampling on the unconstrained ones
    free = 2.5 * torch.randn(200_000, 3)
    to = OrderedTransform()
    log_w = three.log_prob(to(free)) + to.log_abs_det_jacobian(free, to(free)) - Normal(0.0, 2.5).log_prob(free).sum(-1)
    assert float(z_scores(log_w.exp(), torch.tensor(1.0)).abs()) < 4
    assert three.expand((4, 2)).sample().shape == (4, 2, 3)


def test_a_mixture_sums_its_assignments():
    y = torch.tensor([-1.0, 0.2, 3.0])
    values = {"w": torch.tensor([0.3, 0.7]), "mu": torch.tensor([-0.5, 2.0]), "sigma": torch.tensor([1.0, 0.5])}
    prior = Dirichlet(torch.tensor([5.0, 5.0])).log_prob(values["w"]) + HalfNormal(2.0).log_prob(values["sigma"]).sum()
    prior = prior + Normal(0.0, 5.0).log_prob(values["mu"]).sum() + math.log(2)
    each = Normal(values["mu"], values["sigma"]).log_prob(y[:, None]) + values["w"].log()
    assert summed(classic.gaussian_mixture_enumerated, (y,), values) == pytest.approx(
        float(prior + each.logsumexp(1).sum()), abs=1e-4
    )
    z = torch.tensor([0, 0, 1])
    explicit = log_joint(classic.gaussian_mixture, (y,), values | {"z": z})
    torch.testing.assert_close(explicit, prior + each[torch.arange(3), z].sum())


def test_a_hidden_markov_model_is_the_forward_algorithm_and_the_sum_over_paths(double):
    y = torch.tensor([[0.1, -1.0, 2.0, 1.4], [1.0, 1.0, -2.0, 0.0]])
    a, mu, sigma = torch.tensor([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([-1.0, 1.5]), torch.tensor(0.8)
    forward = classic.forward_algorithm(y, a, mu, sigma)
    paths = torch.cartesian_prod(*[torch.arange(2)] * 4)  # (16, T)
    log_p = math.log(0.5) + a[paths[:, :-1], paths[:, 1:]].log().sum(1)
    by_paths = (log_p + Normal(mu[paths], sigma).log_prob(y[:, None]).sum(-1)).logsumexp(1)
    torch.testing.assert_close(forward, by_paths, rtol=0, atol=1e-10)
    prior = Dirichlet(torch.ones(2)).log_prob(a).sum() + HalfNormal(2.0).log_prob(sigma)
    prior = prior + Normal(0.0, 5.0).log_prob(mu).sum() + math.log(2)
    total = summed(classic.hidden_markov, (y,), {"a": a, "mu": mu, "sigma": sigma})
    assert total == pytest.approx(float(prior + forward.sum()), abs=1e-10)


@pytest.mark.parametrize("name", classic.EXAMPLES)
def test_examples_run_with_particles_in_front(name):
    """K draws at once give what each gives alone."""
    example = classic.EXAMPLES[name]
    data = example.data()
    model = example.model
    once = poutine.trace(model).get_trace(*data)
    nesting = 1 if any(s["type"] == "sample" and s["cond_indep_stack"] for s in once.nodes.values()) else 0
    with pyro.plate("particles", 3, dim=-1 - nesting):
        drawn = poutine.trace(model).get_trace(*data)
    total = 0.0
    for site in drawn.nodes.values():
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
            total = total + site["fn"].log_prob(site["value"]).reshape(3, -1).sum(1)
    for k in range(3):
        values = {n: s["value"][k].reshape(once.nodes[n]["value"].shape)
                  for n, s in drawn.nodes.items() if s["type"] == "sample" and is_latent(s)}  # fmt: skip
        torch.testing.assert_close(total[k], log_joint(model, data, values), rtol=1e-4, atol=1e-2)


def test_an_order_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="AR\\(k\\) needs 1 <= k < T, got order=3 and 3 values"):
        classic.autoregression(torch.ones(3), 3)
