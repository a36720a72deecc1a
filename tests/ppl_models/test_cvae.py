"""ppl_models.ConditionalVAE: a linear-Gaussian one against its closed form; densities, draws, refusals."""

import math
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from inference import AIS, IWAE, SVI, TraceELBO, importance_weights, log_marginal, log_weights
from ppl_models import ConditionalVAE
from ppl_models.nn import ACTIVATIONS

D, C, NOISE = 3, 2, 0.6  # values of x and of c; the deviation of x given z and c


# ---- oracle: without its activations the model is linear and Gaussian, and p(x | c) is a Gaussian


@pytest.fixture
def linear(monkeypatch, double) -> ConditionalVAE:
    """X | z, c ~ N(J z + B c + b, NOISE^2), z | c ~ N(A c + a, S^2) with one latent; the guide is the posterior."""
    monkeypatch.setitem(ACTIVATIONS, "identity", nn.Identity)
    cvae = ConditionalVAE(D, C, z_dim=1, hidden=(4,), activation="identity", likelihood="gaussian").double()
    with torch.no_grad():
        for parameter in cvae.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
        cvae.prior_head.linear.weight[1] = 0.0  # one deviation of the prior for every c, so that the posterior has one
        cvae.log_scale.fill_(math.log(NOISE))
    jacobian, offset, prior = pieces(cvae)
    precision = 1 / prior.variance[0, 0] + jacobian.square().sum() / NOISE**2
    cvae.encoder, cvae.head.linear = nn.Identity(), nn.Linear(D + C, 2).double()
    with torch.no_grad():
        # m(x, c) = (m(c) / S^2 + J (x - B c - b) / NOISE^2) / precision, read off at the unit vectors
        basis = torch.cat([torch.zeros(1, D + C), torch.eye(D + C)])
        x, c = basis.split((D, C), -1)
        mean = cvae.p_z(c).mean[:, 0] / prior.variance[0, 0] + (x - offset(c)) @ jacobian / NOISE**2
        mean = mean / precision
        cvae.head.linear.weight[0], cvae.head.linear.bias[0] = mean[1:] - mean[0], mean[0]
        cvae.head.linear.weight[1], cvae.head.linear.bias[1] = 0.0, -precision.log()
    return cvae


def pieces(cvae: ConditionalVAE):
    """J (D,), the mean of x at z = 0 as a function of c, and the prior at a few c."""
    with torch.no_grad():
        zero = torch.zeros(1, C)
        jacobian = (cvae.p_x(torch.ones(1, 1), zero).mean - cvae.p_x(torch.zeros(1, 1), zero).mean)[0]
        prior = cvae.p_z(torch.randn(3, C))
    return jacobian, lambda c: cvae.p_x(torch.zeros(len(c), 1), c).mean, prior


def evidence(cvae: ConditionalVAE, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Log N(x; J m(c) + B c + b, J S^2 J^T + NOISE^2 I) of each row, nats."""
    with torch.no_grad():
        jacobian, offset, _ = pieces(cvae)
        prior = cvae.p_z(c)
        covariance = prior.variance.unsqueeze(-1) * torch.outer(jacobian, jacobian) + NOISE**2 * torch.eye(D)
        return MultivariateNormal(offset(c) + prior.mean * jacobian, covariance).log_prob(x)


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, D), torch.randn(n, C)


def test_with_the_exact_posterior_every_bound_is_log_p_of_x_given_c(linear):
    x, c = rows(7)
    exact = evidence(linear, x, c)
    for k in (1, 4):
        torch.testing.assert_close(log_weights(linear, x, c, k=k), exact.expand(k, 7), rtol=1e-10, atol=1e-10)
    for objective in (TraceELBO(closed_form_kl=False), IWAE(5)):
        assert objective(linear, x, c).bound.item() == pytest.approx(exact.mean().item(), abs=1e-10)
    nats = log_marginal(linear, (x, c), k=3)
    assert nats.mean == pytest.approx(exact.mean().item(), abs=1e-6)  # the weights are kept in float32
    assert (nats.num_data, nats.k) == (7, 3)


def test_with_another_guide_the_bounds_rise_to_log_p_from_below(linear):
    with torch.no_grad():
        linear.head.linear.bias.add_(torch.tensor([0.3, 0.4]))
    x, c = rows(200)
    exact = evidence(linear, x, c)
    # KL(N(m + 0.3, v e^0.4) || N(m, v)) of every row: the ELBO's gap
    variance = (linear.head.linear.bias[1] - 0.4).exp().item()
    gap = 0.5 * (math.exp(0.4) + 0.09 / variance - 1 - 0.4)
    log_w = importance_weights(linear, (x, c), 2000).double()
    se = log_w.std() / math.sqrt(log_w.numel())
    assert abs((exact - log_w.mean(0)).mean() - gap) < 4 * se
    ratio = (log_w - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(ratio.numel())
    bounds = [log_marginal(linear, (x, c), k=k).mean for k in (1, 10, 1000)]
    assert bounds == sorted(bounds) and bounds[-1] == pytest.approx(exact.mean().item(), abs=0.01)


def test_the_closed_form_divergence_is_from_the_learned_prior(linear):
    with torch.no_grad():
        linear.head.linear.bias.add_(torch.tensor([0.3, 0.4]))
    x, c = rows(50)
    q, p = linear.q_z(x, c), linear.p_z(c)
    exact = torch.distributions.kl_divergence(q, p).mean().item()
    assert TraceELBO()(linear, x, c).reg.item() == pytest.approx(-exact, abs=1e-12)


def test_annealing_from_a_conditional_prior_finds_log_p(linear):
    with torch.no_grad():
        linear.head.linear.bias.add_(torch.tensor([0.3, 0.4]))
    x, c = rows(20)
    found = AIS(steps=40, chains=50)(linear, x, c, seed=1)
    assert abs((found.log_p - evidence(linear, x, c)).mean()) < 4 * found.mcse.square().sum().sqrt() / 20 + 0.01


def test_training_finds_the_regression_of_x_on_c(double):
    """With z of no use, the best p(x | c) is the regression; the bound reaches its log-likelihood."""
    g = torch.Generator().manual_seed(3)
    c = torch.randn(200, C, generator=g)
    x = c @ torch.randn(C, D, generator=g) + 1.0 + 0.5 * torch.randn(200, D, generator=g)
    torch.manual_seed(0)
    cvae = ConditionalVAE(D, C, z_dim=1, hidden=(16,), likelihood="gaussian", mean=x.mean(0)).double()
    svi = SVI(cvae, TraceELBO(), torch.optim.Adam(cvae.parameters(), 3e-2))
    for _ in range(150):
        svi.step(x, c)
    design = torch.cat([c, torch.ones(200, 1)], 1)
    residual = x - design @ torch.linalg.lstsq(design, x).solution
    best = Normal(0.0, residual.square().mean(0).sqrt()).log_prob(residual).sum(-1).mean().item()
    assert log_marginal(cvae, (x, c), k=100).mean == pytest.approx(best, abs=0.1)


# ---- densities and shapes


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_log_weight_is_the_sum_of_its_densities(likelihood):
    cvae = ConditionalVAE(6, 4, z_dim=3, hidden=(5, 7), likelihood=likelihood).double()
    x, c = torch.rand(4, 6).double().round(), torch.rand(4, 4).double().round()
    torch.manual_seed(1)
    log_w = log_weights(cvae, x, c)[0]
    torch.manual_seed(1)
    z = poutine.trace(cvae.guide).get_trace(x, c).nodes["z"]["value"]
    q = Normal(*cvae.head(cvae.encoder(torch.cat([x, c], 1))))
    p = Normal(*cvae.prior_head(cvae.prior(c)))
    out = cvae.decoder(cvae.from_z(z) + cvae.from_c(c))
    by = Bernoulli(logits=out) if likelihood == "bernoulli" else Normal(out, cvae.log_scale.exp())
    by_hand = p.log_prob(z).sum(-1) + Independent(by, 1).log_prob(x) - q.log_prob(z).sum(-1)
    torch.testing.assert_close(log_w, by_hand, rtol=1e-10, atol=1e-10)


def test_prior_guide_and_decoder_all_see_the_condition():
    cvae = ConditionalVAE(6, 4, z_dim=3, hidden=(5,))
    x, z = torch.rand(2, 6).round(), torch.randn(2, 3)
    c = torch.stack([torch.zeros(4), torch.ones(4)])
    x[1], z[1] = x[0], z[0]
    for out in (cvae.p_z(c).mean, cvae.q_z(x, c).mean, cvae.p_x(z, c).mean):
        assert not torch.allclose(out[0], out[1])


def test_the_output_bias_starts_at_the_mean():
    mean = torch.tensor([0.0, 0.1, 0.5])
    bias = ConditionalVAE(3, 2, 2, (4,), mean=mean).decoder[-1].bias
    torch.testing.assert_close(bias.detach().sigmoid(), torch.tensor([0.001, 0.1, 0.5]))
    bias = ConditionalVAE(3, 2, 2, (4,), mean=mean + 5, likelihood="gaussian").decoder[-1].bias
    torch.testing.assert_close(bias.detach(), mean + 5)


# ---- draws


def test_predictions_are_draws_of_the_prior_seeded_apart():
    cvae = ConditionalVAE(6, 4, z_dim=2, hidden=(5,))
    c = torch.rand(3, 4)
    state = torch.get_rng_state()
    drawn = cvae.predict(c, draws=4000, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert drawn.shape == (4000, 3, 6) and 0 <= drawn.min() and drawn.max() <= 1 and not drawn.requires_grad
    assert torch.equal(cvae.predict(c, 2, seed=5), cvae.predict(c, 2, seed=5))
    assert not torch.equal(cvae.predict(c, 2, seed=5), cvae.predict(c, 2, seed=6))
    with torch.no_grad():
        ours = cvae.p_x(cvae.p_z(c).sample(torch.Size((4000,))), c).mean
    se = ((drawn.var(0) + ours.var(0)) / 4000).sqrt()
    assert bool(((drawn.mean(0) - ours.mean(0)).abs() < 4.5 * se).all())


def test_the_code_counts_from_the_prior_in_its_deviations(linear):
    x, c = rows(5)
    code = linear.encode(x, c)
    assert code.shape == (5, 1)
    prior = linear.p_z(c)
    torch.testing.assert_close(code * prior.stddev + prior.mean, linear.q_z(x, c).mean)
    linear.encoder, linear.head = linear.prior, linear.prior_head  # a guide that only follows c
    linear.q_z = lambda x, c: linear.p_z(c)
    assert linear.encode(x, c).abs().max() == 0


def test_reconstruct_decodes_the_guides_mean():
    cvae = ConditionalVAE(6, 4, z_dim=2, hidden=(5,))
    x, c = torch.rand(3, 6), torch.rand(3, 4)
    torch.testing.assert_close(cvae.reconstruct(x, c), cvae.p_x(cvae.q_z(x, c).mean, c).mean)


# ---- refusals


EXAMPLE = "ConditionalVAE(392, 392, z_dim=50, hidden=(200, 200))"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x_dim": 0}, f"x_dim is at least 1, got 0: {EXAMPLE}"),
        ({"c_dim": 0}, f"c_dim is at least 1, got 0: {EXAMPLE}"),
        ({"z_dim": 0}, f"z_dim is at least 1, got 0: {EXAMPLE}"),
        ({"hidden": (5, 0)}, f"hidden is at least 1, got 0: {EXAMPLE}"),
        ({"hidden": ()}, f"hidden needs at least one layer, got (): {EXAMPLE}"),
        ({"activation": "swish"}, "unknown activation 'swish': choose one of tanh, relu, softplus, elu, gelu"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': choose bernoulli or gaussian"),
        ({"mean": torch.rand(7)}, "mean holds 7 values, not x_dim=12: pass the mean of the training rows, x.mean(0)"),
        ({"image_shape": (1, 4, 3)}, "image_shape (1, 4, 3) does not hold x_dim + c_dim = 16 values"),
    ],
)
def test_refusals_say_the_rule_and_the_remedy(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        ConditionalVAE(**({"x_dim": 12, "c_dim": 4, "z_dim": 2, "hidden": (5,)} | arguments))
    assert str(error.value) == sentence
