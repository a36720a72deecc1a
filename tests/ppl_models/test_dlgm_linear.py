"""Linear DLGMs: everything about them is Gaussian algebra, so evidence and exact guides are known in closed form."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from inference import log_marginal, log_weights
from ppl_models import DLGM
from ppl_models.gaussian import product
from tests.conftest import z_scores


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def linear(x_dim: int, z_dims: tuple[int, ...], **options: Any) -> DLGM:
    """A linear Gaussian model with random weights in float64."""
    options = {"likelihood": "gaussian", "noise": "learned", **options}
    model = DLGM(x_dim, z_dims, ((),) * len(z_dims), **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * normal(*parameter.shape))
    return model


def layers(model: DLGM) -> list[tuple[Tensor, Tensor, Tensor]]:
    """W, b and the variances of each layer, from x upwards."""
    every: Any = [(model.decoder[0], model.log_scale), *((p.linear, p.log_scale) for p in model.prior)]  # pyright: ignore
    return [(m.weight.detach(), m.bias.detach(), (2 * log_scale).exp().detach()) for m, log_scale in every]


class ByBayes:
    """A model under its exact posterior: z1 given x, z2 given z1, ..., dense Gaussians by Bayes' rule."""

    def __init__(self, model: DLGM):
        self.model = model.model
        top = model.z_dims[-1]
        mean, cov = torch.zeros(top).double(), torch.eye(top).double()
        self.steps = []
        for w, b, variance in reversed(layers(model)):
            below = w @ cov @ w.T + variance.diag()
            gain = cov @ w.T @ below.inverse()
            posterior = cov - gain @ w @ cov
            self.steps.insert(0, (gain, mean - gain @ (w @ mean + b), (posterior + posterior.T) / 2))
            mean, cov = w @ mean + b, below
        self.evidence = MultivariateNormal(mean, cov)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            below = x
            for level, (gain, shift, cov) in enumerate(self.steps, start=1):
                below = pyro.sample(f"z{level}", dist.MultivariateNormal(below @ gain.T + shift, cov))


# ---- the marginal (oracle O3)


@pytest.mark.parametrize("z_dims", [(3,), (3, 2), (3, 2, 4), (2, 5)])
def test_the_evidence_is_that_of_the_collapsed_gaussian(z_dims: tuple[int, ...]) -> None:
    """Under the exact posterior every weight of every draw is p(x), which the layers' algebra gives."""
    model, x = linear(4, z_dims), normal(6, 4)
    exact = ByBayes(model)
    evidence = exact.evidence.log_prob(x)
    torch.testing.assert_close(model.marginal().log_prob(x), evidence, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_weights(exact, x, k=5), evidence.expand(5, 6), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.marginal().covariance_matrix, exact.evidence.covariance_matrix)


def test_one_layer_is_factor_analysis() -> None:
    """Its log-likelihood at scikit-learn's own maximum, row by row."""
    x = normal(200, 6) @ normal(6, 6)
    theirs = FactorAnalysis(3, random_state=0).fit(x.numpy())
    model = linear(6, (3,))
    with torch.no_grad():
        model.decoder[0].weight.copy_(torch.tensor(theirs.components_.T))  # pyright: ignore
        model.decoder[0].bias.copy_(torch.tensor(theirs.mean_))  # pyright: ignore
        model.log_scale.copy_(0.5 * torch.tensor(theirs.noise_variance_).log())
    expected = torch.tensor(theirs.score_samples(x.numpy()))
    torch.testing.assert_close(model.marginal().log_prob(x), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_weights(ByBayes(model), x)[0], expected, rtol=1e-8, atol=1e-8)


def test_two_layers_whose_first_has_a_unit_for_each_pixel_are_factor_analysis() -> None:
    model, x = linear(4, (4, 2)), normal(5, 4)
    with torch.no_grad():
        model.decoder[0].weight.copy_(normal(4).diag())  # pyright: ignore
    (w0, b0, s0), (w1, b1, s1) = layers(model)
    theirs = FactorAnalysis(2)
    theirs.components_, theirs.mean_ = (w0 @ w1).T.numpy(), (w0 @ b1 + b0).numpy()
    theirs.noise_variance_ = (w0.diagonal().square() * s1 + s0).numpy()
    expected = torch.tensor(theirs.score_samples(x.numpy()))
    torch.testing.assert_close(model.marginal().log_prob(x), expected, rtol=1e-8, atol=1e-8)


def test_the_marginal_is_differentiable_and_that_of_generated_images() -> None:
    model = linear(3, (2, 2))
    model.marginal().log_prob(normal(5, 3)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith(("up", "head")))
    drawn, exact = model.generate(20_000, seed=1), model.requires_grad_(False).marginal()
    assert float(z_scores(drawn, exact.mean).abs().max()) < 4
    cov = exact.covariance_matrix - (2 * model.log_scale).exp().diag()  # mean images carry no pixel noise
    variance = cov.diagonal()
    se = ((variance.outer(variance) + cov.square()) / len(drawn)).sqrt()
    assert bool(((drawn.T.cov() - cov).abs() < 4 * se).all())


@pytest.mark.parametrize(
    "model",
    [
        DLGM(4, (2,), ((),)),
        DLGM(4, (2,), ((3,),), likelihood="gaussian"),
        DLGM(4, (2, 2), ((), ()), likelihood="gaussian"),
        DLGM(4, (2, 2), ((), (3,)), likelihood="gaussian", noise="learned"),
    ],
)
def test_other_models_have_no_marginal(model: DLGM) -> None:
    with pytest.raises(ValueError, match="only a linear Gaussian model has its p\\(x\\) in closed form: DLGM\\(D, "):
        model.marginal()


# ---- guides that are exact: weights without variance


@torch.no_grad()
def constant(head: Any, gain: Tensor, shift: Tensor, log_variance: Tensor, u: Tensor | None = None) -> None:
    """Set a head to mean gain x + shift, constant deviations and direction."""
    rest = [log_variance] if u is None else [log_variance, u]
    head.linear.weight.copy_(torch.cat([gain, *(0 * gain for _ in rest)]))
    head.linear.bias.copy_(torch.cat([shift, *rest]))


def assert_exact(model: DLGM, x: Tensor) -> None:
    log_w, evidence = log_weights(model, x, k=8), model.marginal().log_prob(x)
    torch.testing.assert_close(log_w, evidence.expand(8, len(x)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("guide", ["chain", "parallel"])
@pytest.mark.parametrize("noise", ["learned", "network"])
def test_rank_one_is_exact_where_data_have_one_dimension(guide: str, noise: str) -> None:
    """The posterior's precision is I + w w^T / s^2 (oracle O3)."""
    model, x = linear(1, (4,), guide=guide, posterior="rank_one", noise=noise), normal(7, 1)
    w, b, s2 = layers(model)[0]
    cov = (torch.eye(4) + w.T @ w / s2).inverse()
    gain = cov @ w.T / s2
    constant(model.head[0], gain, -gain @ b, torch.zeros(4), w[0] / s2.sqrt())
    assert_exact(model, x)
    nats, evidence = log_marginal(model, x, k=3), model.marginal().log_prob(x).detach()
    assert abs(nats.mean - float(evidence.mean())) < 1e-5  # its weights are kept in float32
    diagonal = linear(1, (4,), guide=guide)
    diagonal.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head")}, strict=False)
    constant(diagonal.head[0], gain, -gain @ b, cov.diagonal().log())
    assert float(log_weights(diagonal, x, k=8).detach().std(0).min()) > 1e-2


def test_a_chain_of_rank_one_is_exact_under_a_diagonal_second_layer() -> None:
    model, x = linear(1, (3, 3), posterior="rank_one"), normal(7, 1)
    with torch.no_grad():
        model.prior[0].linear.weight.copy_(normal(3).diag())  # pyright: ignore
    (w, b, s2), (v, c, t2) = layers(model)
    v = v.diagonal()
    prior = v.square() + t2  # of z1, whose mean is c
    cov = (prior.reciprocal().diag() + w.T @ w / s2).inverse()
    gain = cov @ w.T / s2
    constant(model.head[0], gain, c - gain @ (w @ c + b), prior.log(), w[0] / s2.sqrt())
    precision = 1 + v.square() / t2
    gain = (v / t2 / precision).diag()
    constant(model.head[1], gain, -gain @ c, -precision.log(), torch.zeros(3))
    assert_exact(model, x)


def test_a_ladder_is_exact_where_its_upward_pass_is_the_likelihood() -> None:
    """Orthogonal columns: p(x | z1) is a diagonal Gaussian in z1, and p(z1 | z2, x) its product with p(z1 | z2)."""
    model, x = linear(4, (2, 1), guide="ladder"), normal(7, 4)
    q, a = torch.linalg.qr(normal(4, 2)).Q, torch.tensor([1.3, 0.7]).double()
    with torch.no_grad():
        model.decoder[0].weight.copy_(q * a)  # pyright: ignore
        model.log_scale.fill_(-0.3)
    (w, b, s2), (v, c, t2) = layers(model)
    gain = (q / a).T
    constant(model.head[0], gain, -gain @ b, s2[:2].log() - 2 * a.log())
    w2, b2 = w @ v, w @ c + b  # x given z2
    noise = w @ t2.diag() @ w.T + s2.diag()
    gain = w2.T @ (w2 @ w2.T + noise).inverse()
    constant(model.head[1], gain, -gain @ b2, (1 - gain @ w2).log().flatten())
    assert_exact(model, x)
    with torch.no_grad():
        model.head[0].linear.bias[2] += 0.1  # pyright: ignore
    assert float(log_weights(model, x, k=8).detach().std(0).min()) > 1e-3


def test_a_product_of_gaussians() -> None:
    """Its density is the product of the two up to a constant."""
    a, b = (normal(5), normal(5).exp()), (normal(5), normal(5).exp())
    z = normal(9, 5)
    rest = Normal(*a).log_prob(z) + Normal(*b).log_prob(z) - Normal(*product(a, b)).log_prob(z)
    torch.testing.assert_close(rest, rest[:1].expand(9, 5), rtol=1e-10, atol=1e-10)
