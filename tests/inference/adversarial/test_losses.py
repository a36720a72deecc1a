"""Losses of both players against quadrature on known densities (oracle O13)."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from inference import Hinge, LeastSquares, Minimax, NonSaturating, Wasserstein
from inference.adversarial.losses import Targets

U = (np.arange(200_000) + 0.5) / 200_000  # midpoints: a mean over quantiles at them is an integral over the density
P = norm(0.0, 1.0)


def kl(p, q) -> float:
    return quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), *_bulk(p), limit=400)[0]


def jsd(p, q) -> float:
    def half(a, b):
        return quad(lambda x: a.pdf(x) * (a.logpdf(x) - np.logaddexp(a.logpdf(x), b.logpdf(x)) + math.log(2)),
                    *_bulk(a), limit=400)[0]  # fmt: skip

    return 0.5 * half(p, q) + 0.5 * half(q, p)


def _bulk(p):
    return p.mean() - 12 * p.std(), p.mean() + 12 * p.std()


def best_logit(x: torch.Tensor, p, g) -> torch.Tensor:
    """Log p(x) - log g(x), differentiable in x: D* = sigmoid of it."""

    def log(d):
        return -0.5 * ((x - d.mean()) / d.std()).square() - math.log(d.std())

    return log(p) - log(g)


def quantiles(p) -> torch.Tensor:
    return torch.as_tensor(p.ppf(U))


@pytest.mark.parametrize("g", [norm(1.5, 1.0), norm(-0.5, 0.6), norm(0.2, 1.7)])
def test_the_value_at_the_best_discriminator_is_that_of_the_divergence(g):
    value = -Minimax().discriminator(best_logit(quantiles(P), P, g), best_logit(quantiles(g), P, g))
    assert abs(float(value) - (-math.log(4) + 2 * jsd(P, g))) < 1e-5


def test_the_value_at_equilibrium_is_minus_log_4_and_d_one_half():
    logits = best_logit(quantiles(P), P, P)
    assert torch.equal(Minimax().score(logits), torch.full_like(logits, 0.5))
    assert math.isclose(-float(Minimax().discriminator(logits, logits)), -1.3862943611198906, abs_tol=1e-12)


def moved(g, theta: torch.Tensor) -> torch.Tensor:
    """G(z) = theta + sd z at quantiles of z."""
    return theta + float(g.std()) * quantiles(norm())


def gradient(loss, g) -> float:
    theta = torch.tensor(float(g.mean()), dtype=torch.float64, requires_grad=True)
    loss.generator(best_logit(moved(g, theta), P, g)).backward()  # D* stays where it is
    return float(theta.grad)


def slope(value, g, step: float = 1e-4) -> float:
    return (value(norm(g.mean() + step, g.std())) - value(norm(g.mean() - step, g.std()))) / (2 * step)


@pytest.mark.parametrize("g", [norm(1.5, 1.0), norm(-0.5, 0.6), norm(0.7, 1.4)])
def test_the_minimax_gradient_at_the_best_discriminator_is_that_of_twice_the_jsd(g):
    assert abs(gradient(Minimax(), g) - slope(lambda q: 2 * jsd(P, q), g)) < 1e-4


@pytest.mark.parametrize("g", [norm(1.5, 1.0), norm(-0.5, 0.6), norm(0.7, 1.4)])
def test_the_non_saturating_gradient_is_that_of_kl_less_twice_the_jsd(g):
    assert abs(gradient(NonSaturating(), g) - slope(lambda q: kl(q, P) - 2 * jsd(P, q), g)) < 1e-4


def test_the_non_saturating_gradient_survives_a_sure_discriminator():
    a = torch.full((1,), -20.0, dtype=torch.float64, requires_grad=True)
    sizes = {}
    for loss in (Minimax(), NonSaturating()):
        sizes[type(loss)] = abs(float(torch.autograd.grad(loss.generator(a), a)[0]))
    assert sizes[Minimax] < 1e-8 and sizes[NonSaturating] > 0.999


@pytest.mark.parametrize("targets", [Targets(), Targets(0.9), Targets(0.9, 0.1), Targets(0.8, 0.3)])
def test_cross_entropy_is_torchs_own(targets):
    torch.manual_seed(0)
    real, fake = 30 * torch.randn(2, 50, dtype=torch.float64)
    expected = sum(cross_entropy(a, torch.full_like(a, t)) for a, t in zip((real, fake), targets, strict=True))
    for loss in (Minimax(), NonSaturating()):
        torch.testing.assert_close(loss.discriminator(real, fake, targets), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("targets", [Targets(), Targets(0.9), Targets(0.9, 0.1)])
def test_smoothing_moves_the_best_discriminator(targets):
    # three places, with p = (1/2, 1/2, 0) and g = (0, 1/2, 1/2): a logit for each place
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss():
        optimizer.zero_grad()
        value = NonSaturating().discriminator(logits[[0, 1]], logits[[1, 2]], targets)
        value.backward()
        return value

    optimizer.step(loss)
    d = NonSaturating().score(logits.detach())
    # (real p + fake g) / (p + g); without smoothing the ends run off to 1 and 0
    best = [targets.real, (targets.real + targets.fake) / 2, targets.fake]
    torch.testing.assert_close(d, torch.tensor(best, dtype=torch.float64), atol=1e-4, rtol=0)


def test_least_squares_at_its_best_is_p_over_p_plus_g():
    g = norm(1.0, 0.8)
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    p_x, g_x = torch.as_tensor(P.pdf(x)), torch.as_tensor(g.pdf(x))
    a = (p_x / (p_x + g_x)).requires_grad_()
    # the loss as an integral over x: its derivative at every place is 0
    total = sum(p * LeastSquares().discriminator(v[None], v[None] * 0) + q * LeastSquares().discriminator(
        v[None] * 0 + 1, v[None]) for v, p, q in zip(a, p_x, g_x, strict=True))  # fmt: skip
    assert torch.autograd.grad(total, a)[0].abs().max() < 1e-12
    assert float(LeastSquares().generator(torch.zeros(4))) == 0.5


def test_the_critics_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(Wasserstein().discriminator(real, fake)) == pytest.approx(-2 / 3 - 1.25)
    assert float(Wasserstein().generator(fake)) == pytest.approx(2 / 3)
    assert float(Hinge().discriminator(real, fake)) == pytest.approx(0.25 + 1.0)
    assert float(Hinge().generator(fake)) == pytest.approx(2 / 3)
    assert float(Wasserstein().undecided(real, fake)) == pytest.approx((1.25 - 2 / 3) / 2)


@pytest.mark.parametrize("loss", [Minimax(), NonSaturating(), LeastSquares()])
@pytest.mark.parametrize("targets", [Targets(), Targets(0.9), Targets(0.9, 0.1)])
def test_the_equilibrium_is_a_minimum_of_the_discriminators_loss_at_g_equal_p(loss, targets):
    found = loss.equilibrium(targets)
    a = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([a], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def value():
        optimizer.zero_grad()
        out = loss.discriminator(a, a, targets)
        out.backward()
        return out

    optimizer.step(value)
    seen = (loss.discriminator(a, a, targets), loss.generator(a), loss.score(a))
    assert [float(s.detach().squeeze()) for s in seen] == pytest.approx(list(found), abs=1e-5)


def test_equilibria_in_numbers():
    assert NonSaturating().equilibrium() == pytest.approx((math.log(4), math.log(2), 0.5))
    assert Minimax().equilibrium() == pytest.approx((math.log(4), -math.log(2), 0.5))
    assert Wasserstein().equilibrium().d_loss == 0 and Hinge().equilibrium().d_loss == 2
