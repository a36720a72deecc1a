"""ppl_models.VAE: shapes for every network, its densities, its output bias, its draws, its refusals."""

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Independent, Normal

from inference import log_weights
from ppl_models import VAE
from ppl_models.nn import ACTIVATIONS

IMAGES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 9, 7)]


def make(shape: tuple[int, int, int], conv: bool, **options: Any) -> VAE:
    size = shape[0] * shape[1] * shape[2]
    return VAE(size, z_dim=4, hidden=(6, 12), image_shape=shape, conv=conv, **options)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("shape", IMAGES)
def test_shapes_with_and_without_particles(shape: tuple[int, int, int], conv: bool, likelihood: str) -> None:
    vae = make(shape, conv, likelihood=likelihood)
    x = torch.rand(5, vae.x_dim).round()
    for k in (1, 3):
        log_w = log_weights(vae, x, k=k)
        assert log_w.shape == (k, 5)
        log_w.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in vae.parameters())
    assert vae.q_z(x).batch_shape == (5,) and vae.q_z(x).event_shape == (4,)
    z = torch.randn(3, 5, 4)
    p = vae.p_x(z)
    assert p.batch_shape == (3, 5) and p.event_shape == (vae.x_dim,)
    assert vae.decode(z).shape == (3, 5, vae.x_dim)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.generate(2).shape == (2, vae.x_dim)


@pytest.mark.parametrize("hidden", [(7,), (7, 6), (7, 6, 5)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_sizes_and_activations_are_arguments(hidden: tuple[int, ...], activation: str) -> None:
    vae = VAE(9, z_dim=2, hidden=hidden, activation=activation)
    weights = [p.shape for name, p in vae.named_parameters() if name.startswith("encoder") and p.dim() == 2]
    assert weights == list(zip(hidden, (9, *hidden[:-1]), strict=True))
    weights = [p.shape for name, p in vae.named_parameters() if name.startswith("decoder") and p.dim() == 2]
    assert weights == list(zip((*reversed(hidden), 9), (2, *reversed(hidden)), strict=True))
    assert log_weights(vae, torch.rand(3, 9), k=2).shape == (2, 3)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_log_weight_is_the_sum_of_its_densities(likelihood: str) -> None:
    vae = VAE(6, z_dim=3, hidden=(5,), likelihood=likelihood).double()
    if likelihood == "gaussian":
        vae.log_scale.data.normal_()
    x = torch.rand(4, 6, dtype=torch.float64).round()
    torch.manual_seed(1)
    log_w = log_weights(vae, x)[0]
    torch.manual_seed(1)
    z = poutine.trace(vae.guide).get_trace(x).nodes["z"]["value"]
    mean, scale = vae.head(vae.encoder(x))
    out = vae.decoder(z)
    if likelihood == "bernoulli":
        rec = torch.distributions.Bernoulli(logits=out).log_prob(x).sum(-1)
    else:
        rec = Independent(Normal(out, vae.log_scale.exp()), 1).log_prob(x)
    by_hand = Normal(0.0, 1.0).log_prob(z).sum(-1) + rec - Normal(mean, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(log_w, by_hand, rtol=1e-10, atol=1e-10)


def test_model_follows_the_data_type() -> None:
    vae = VAE(6, z_dim=3, hidden=(5,)).double()
    x = torch.rand(4, 6, dtype=torch.float64).round()
    with pyro.validation_enabled(True):
        trace = poutine.trace(vae.model).get_trace(x)
        trace.compute_log_prob()
    assert trace.nodes["z"]["value"].dtype == torch.float64
    assert trace.nodes["x"]["log_prob"].dtype == torch.float64


# ---- the output bias


def last_bias(vae: VAE) -> torch.Tensor:
    return [p for name, p in vae.decoder.named_parameters() if name.endswith("bias")][-1].detach()


def test_output_bias_starts_at_the_logit_of_the_data_mean() -> None:
    mean = torch.tensor([0.0, 0.1, 0.5, 1.0])
    bias = last_bias(VAE(4, 2, (3,), mean=mean))
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.001, 0.1, 0.5, 0.999]))
    assert bool((last_bias(VAE(4, 2, (3,))) == 0).all())


def test_output_bias_of_a_gaussian_is_the_mean_itself() -> None:
    mean = torch.tensor([-3.0, 0.1, 0.5, 7.0])
    torch.testing.assert_close(last_bias(VAE(4, 2, (3,), likelihood="gaussian", mean=mean)), mean)


def test_output_bias_of_a_convolution_is_one_a_channel() -> None:
    mean = torch.stack([torch.full((8, 8), 0.2), torch.full((8, 8), 0.7), torch.full((8, 8), 0.4)])
    bias = last_bias(make((3, 8, 8), conv=True, mean=mean.flatten()))
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.2, 0.7, 0.4]))


# ---- draws


@pytest.mark.parametrize("conv", [False, True])
def test_generate_is_seeded_and_leaves_the_callers_rng(conv: bool) -> None:
    vae = make((1, 8, 8), conv)
    before = torch.get_rng_state()
    first = vae.generate(5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(vae.generate(5, seed=3), first)
    assert not torch.equal(vae.generate(5, seed=4), first)
    assert not first.requires_grad
    assert bool(((first >= 0) & (first <= 1)).all())


def test_reconstruct_decodes_the_guides_mean() -> None:
    vae = VAE(6, z_dim=3, hidden=(5,))
    x = torch.rand(4, 6)
    torch.testing.assert_close(vae.reconstruct(x), vae.decoder(vae.head(vae.encoder(x))[0]).sigmoid())


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x_dim": 0}, "x_dim is at least 1, got 0: VAE(784, z_dim=50, hidden=(200, 200))"),
        ({"z_dim": 0}, "z_dim is at least 1, got 0: VAE(784, z_dim=50, hidden=(200, 200))"),
        ({"hidden": (5, 0)}, "hidden is at least 1, got 0: VAE(784, z_dim=50, hidden=(200, 200))"),
        ({"hidden": ()}, "hidden needs at least one layer, got (): VAE(784, z_dim=50, hidden=(200, 200))"),
        ({"activation": "swish"}, "unknown activation 'swish': choose one of tanh, relu, softplus, elu, gelu"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': choose bernoulli or gaussian"),
        ({"conv": True}, "conv=True needs image_shape=(C, H, W)"),
        ({"image_shape": (1, 3, 3)}, "image_shape (1, 3, 3) does not hold x_dim=12 values"),
        ({"mean": torch.rand(7)}, "mean holds 7 values, not x_dim=12: pass the mean of the training rows, x.mean(0)"),
        (
            {"mean": torch.rand(24), "conv": True, "image_shape": (1, 4, 3)},
            "mean holds 24 values, not x_dim=12: pass the mean of the training rows, x.mean(0)",
        ),
    ],
)
def test_refusals_say_the_rule_and_the_remedy(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        VAE(**({"x_dim": 12, "z_dim": 2, "hidden": (5,)} | arguments))
    assert str(error.value) == sentence
