"""Mean gradients of every estimator for discrete latents against enumeration of all states (oracle O4).

A test draws 60,000 gradients of model and guide at once and asks |z| <= 4 of each coordinate. In all there are some
400 coordinates here: an unbiased estimator would fail one of them in 400 * 6.3e-5, one run of seeds in forty, and the
seed is fixed; the biased ones at the end miss by tens of standard errors.
"""

import pytest
import torch
from torch.nn.functional import logsigmoid, softplus

from inference import IWAE, NVIL, DisARM, ReweightedWakeSleep, TraceELBO
from inference.evidence.exact import exact_log_marginal
from tests.conftest import z_scores
from tests.inference.oracles import DeepSBN

pytestmark = pytest.mark.usefixtures("double")

X = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
N = 60_000


def rows(n: int = N) -> torch.Tensor:
    return X.expand(n, 3).contiguous()


def gradients(objective, pair: DeepSBN, beta: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """As many draws of the bound's gradient as the pair has rows: theta's (N, P) and phi's (N, Q)."""
    n = len(pair.phi)
    pair.zero_grad()
    (-objective(pair, rows(n), beta=beta).loss * n).backward()
    assert pair.theta.grad is not None and pair.phi.grad is not None
    return pair.theta.grad, pair.phi.grad


def agree(got: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> bool:
    return all(z_scores(g, e).abs().max() <= 4 for g, e in zip(got, exact, strict=True))


def frozen_nvil(pair: DeepSBN, **options) -> NVIL:
    """NVIL with a baseline that says something, and moments that stay."""
    baseline = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(baseline.bias, -1.0)
    objective = NVIL(baseline, **options)
    objective.init(pair, rows(len(pair.phi)))
    return objective.eval()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_enumeration_here_is_the_engines_own(layers):
    """Two programs, written apart, agree on log p(x) and on its gradient."""
    pair = DeepSBN(3, layers)
    theta, _ = pair.row()
    here, there = pair.log_joint(X, theta).logsumexp(0), exact_log_marginal(pair, rows(3))
    torch.testing.assert_close(there, here.expand(3), rtol=1e-12, atol=0)
    there.sum().backward()
    (exact,) = torch.autograd.grad(here, theta)
    torch.testing.assert_close(pair.theta.grad, exact.expand(3, -1), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("objective", "k"),
    [
        (TraceELBO(), 1),
        (TraceELBO(2), 1),
        (TraceELBO(4), 1),
        (NVIL(normalise=False), 1),
        (NVIL(hidden=0, normalise=False, num_particles=2), 1),
        (DisARM(), 1),
        (DisARM(3), 1),
        (IWAE(2), 2),
        (IWAE(3), 3),
    ],
    ids=[
        "score",
        "leave-one-out-2",
        "leave-one-out-4",
        "nvil",
        "nvil-centre",
        "disarm",
        "disarm-3",
        "vimco-2",
        "vimco-3",
    ],
)
def test_the_mean_gradient_is_the_exact_one(objective, k, layers):
    pair = DeepSBN(N, layers)
    theta, phi = pair.row()
    exact = torch.autograd.grad(pair.bound(X, k, theta, phi), (theta, phi))
    assert agree(gradients(objective, pair), exact)


@pytest.mark.parametrize("layers", [1, 2])
def test_normalised_nvil_is_the_exact_gradient_over_a_known_number(layers):
    pair = DeepSBN(N, layers)
    objective = frozen_nvil(pair)
    objective.variance.fill_(9.0)
    theta, phi = pair.row()
    exact_theta, exact_phi = torch.autograd.grad(pair.bound(X, 1, theta, phi), (theta, phi))
    assert agree(gradients(objective, pair), (exact_theta, exact_phi / 3.0))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("k", "phi"), [(2, "wake"), (3, "wake"), (3, "both"), (2, "sleep"), (1, "sleep")])
def test_reweighted_wake_sleep_against_all_draws(k, phi, layers):
    """Wake is a ratio of averages, so its mean is enumerated for this k; sleep-phi's over all (x, h)."""
    pair = DeepSBN(N, layers)
    theta_row, phi_row = pair.row()
    probability, log_p, log_q = pair.draws(X, k, theta_row, phi_row)
    v = (log_p - log_q).softmax(-1).detach()
    wake = [(probability.detach() * (v * part).sum(-1)).sum() for part in (log_p, log_q)]
    (exact_theta,) = torch.autograd.grad(wake[0], theta_row)
    (wake_phi,) = torch.autograd.grad(wake[1], phi_row)
    dreams = 0.0
    for x in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3):
        dreams = dreams + (pair.log_joint(x, theta_row).exp().detach() * pair.log_guide(phi_row)).sum()
    (sleep_phi,) = torch.autograd.grad(dreams, phi_row)
    exact_phi = {"wake": wake_phi, "sleep": sleep_phi, "both": 0.5 * (wake_phi + sleep_phi)}[phi]
    assert agree(gradients(ReweightedWakeSleep(k, phi), pair), (exact_theta, exact_phi))


@pytest.mark.parametrize("objective", [NVIL(normalise=False), DisARM()], ids=["nvil", "disarm"])
def test_a_weight_of_the_regulariser_is_in_value_and_gradient(objective):
    pair = DeepSBN(N, 2)
    theta, phi = pair.row()
    log_q = pair.log_guide(phi)
    elbo = (log_q.exp() * (0.3 * (pair.log_prior(theta) - log_q) + pair.log_likelihood(X, theta))).sum()
    assert agree(gradients(objective, pair, beta=0.3), torch.autograd.grad(elbo, (theta, phi)))
    e = objective(pair, rows(), beta=0.3)
    assert e.bound.item() == pytest.approx((e.reg + e.rec).item(), abs=1e-12)
    assert e.bound.item() == pytest.approx(pair.bound(X, 1, theta, phi).item(), abs=0.05)


def test_a_weight_of_the_regulariser_tempers_the_weights_of_wake_sleep():
    pair = DeepSBN(N, 2)
    theta, phi = pair.row()
    probability, _, log_q = pair.draws(X, 2, theta, phi)
    index = torch.cartesian_prod(*[torch.arange(16)] * 2)
    prior, rec = pair.log_prior(theta)[index], pair.log_likelihood(X, theta)[index]
    v = (0.3 * (prior - log_q) + rec).softmax(-1).detach()
    wake = probability.detach() @ (v * (0.3 * prior + rec)).sum(-1), probability.detach() @ (v * log_q).sum(-1)
    exact = torch.autograd.grad(wake[0], theta) + torch.autograd.grad(wake[1], phi)
    assert agree(gradients(ReweightedWakeSleep(2), pair, beta=0.3), exact)


def relaxed(pair: DeepSBN, h: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The integrand of the one-layer ELBO at h in [0, 1], log q at `value`, summed over rows."""
    top, w, b = pair.theta[:, :2], pair.theta[:, 2:8].unflatten(-1, (2, 3)), pair.theta[:, 8:]
    logits = (h.unsqueeze(-2) @ w).squeeze(-2) + b

    def log_bernoulli(logits, value):
        return (value * logsigmoid(logits) + (1 - value) * logsigmoid(-logits)).sum()

    return log_bernoulli(top, h) + log_bernoulli(logits, X) - log_bernoulli(pair.phi, value)


@pytest.mark.parametrize("kind", ["straight-through", "concrete"])
def test_the_check_sees_a_biased_estimator(kind):
    """Gradients through a relaxed draw fail the same check, so that passing it means something."""
    pair = DeepSBN(N)
    if kind == "straight-through":
        p = torch.sigmoid(pair.phi)
        h = (torch.bernoulli(p) - p).detach() + p
        value = h.detach()
    else:
        h = torch.distributions.RelaxedBernoulli(torch.tensor(0.5), logits=pair.phi).rsample()
        value = h
    relaxed(pair, h, value).backward()
    theta, phi = pair.row()
    (exact,) = torch.autograd.grad(pair.bound(X, 1, theta, phi), phi)
    assert z_scores(pair.phi.grad, exact).abs().max() > 10
    assert not agree((pair.phi.grad,), (exact,))


def test_less_variance_than_the_plain_score_function():
    """Two evaluations each: leave-one-out and DisARM against the mean of two plain draws."""
    pair = DeepSBN(N)
    plain = gradients(TraceELBO(), pair)[1].var(0).mean() / 2
    for objective in (TraceELBO(2), DisARM(), frozen_nvil(pair, normalise=False, num_particles=2)):
        assert gradients(objective, pair)[1].var(0).mean() < plain


@pytest.mark.parametrize("objective", [TraceELBO(2), DisARM(), NVIL(hidden=0)], ids=["leave-one-out", "disarm", "nvil"])
def test_with_the_exact_posterior_as_guide_no_noise_is_left(objective):
    """The signal is log p(x) whatever is drawn, and each baseline that number: every draw of the gradient is 0."""
    pair = DeepSBN(100)
    with torch.no_grad():
        top, w, b = pair.theta[0, :2], pair.theta[0, 2:8].reshape(2, 3), pair.theta[0, 8:]
        w *= torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])  # no pixel has two causes, so the posterior factorises
        pair.theta[:, 2:8] = w.flatten()
        pair.phi[:] = top + (X * w - softplus(w + b) + softplus(b)).sum(-1)
    _, phi = gradients(objective, pair)
    assert phi.abs().max() < 1e-6  # NVIL's mean is a float32
