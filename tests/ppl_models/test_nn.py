"""ppl_models.nn: shapes of the networks, and the vector of pixels against torch's own Bernoulli."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_models.nn import ACTIVATIONS, BernoulliVector, GaussianHead, Linear, conv_decoder, conv_encoder, fold, mlp

IMAGES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 9, 7), (2, 1, 5)]


def reference(logits: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)


@pytest.mark.parametrize("end", [False, True])
def test_mlp_puts_activations_between_layers(end: bool) -> None:
    net = mlp((4, 3, 2), nn.ReLU, end=end)
    assert [type(layer).__name__ for layer in net] == ["Linear", "ReLU", "Linear", *(["ReLU"] if end else [])]
    assert all(bool((layer.bias == 0).all()) for layer in net if isinstance(layer, nn.Linear))
    assert net(torch.randn(6, 5, 4)).shape == (6, 5, 2)


LARGE = {"three axes": (5, 100), "one row, repeated": (500,)}  # 2^21 multiplications: the path through oneDNN


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_in_value_and_two_derivatives(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(200, 784, bias=bias)
    x = torch.randn(*LARGE[kind], 200)
    x = (x[:1].expand_as(x) if kind == "one row, repeated" else x).requires_grad_()
    weight = torch.randn(*LARGE[kind], 784)
    leaves = [x, *layer.parameters()]
    results = []
    for out in (layer(x), nn.functional.linear(x, layer.weight, layer.bias)):
        grads = torch.autograd.grad((out.tanh() * weight).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(grads[0].square().sum(), leaves[:2])
        results.append([out, *grads, *second])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_linear_takes_transposed_and_broken_strides() -> None:
    torch.manual_seed(0)
    layer = Linear(200, 784)
    for x in (torch.randn(200, 500).t(), torch.randn(500, 400)[:, ::2], torch.randn(1, 200).expand(500, 200)):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-5)
    layer(torch.randn(500, 200)).sum().backward()  # an expanded gradient
    assert layer.bias is not None and layer.bias.grad is not None and bool((layer.bias.grad == 500).all())


def test_linear_leaves_other_types_to_torch() -> None:
    layer, x = Linear(200, 784), torch.randn(500, 200)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    double = layer.double()
    assert torch.equal(double(x.double()), nn.functional.linear(x.double(), double.weight, double.bias))
    nn.Linear(200, 784).load_state_dict(layer.state_dict())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_a_module(activation: str) -> None:
    assert mlp((2, 2, 2), ACTIVATIONS[activation])(torch.randn(3, 2)).shape == (3, 2)


def test_gaussian_head_returns_the_square_root_of_the_variance() -> None:
    head, h = GaussianHead(4, 3), torch.randn(5, 2, 4)
    mean, scale = head(h)
    assert mean.shape == scale.shape == (5, 2, 3)
    torch.testing.assert_close(scale.square().log(), head.linear(h)[..., 3:])


def test_fold_runs_leading_dims_as_one_batch() -> None:
    net = nn.Conv2d(2, 4, 3, padding=1)
    x = torch.randn(3, 5, 2, 6, 6)
    torch.testing.assert_close(fold(net, x, 3), torch.stack([net(part) for part in x]))


@pytest.mark.parametrize("shape", IMAGES)
def test_conv_stacks_fit_any_image(shape: tuple[int, int, int]) -> None:
    size = shape[0] * shape[1] * shape[2]
    assert conv_encoder(shape, 4, 10, nn.ReLU)(torch.rand(3, size)).shape == (3, 10)
    assert conv_decoder(shape, 4, 10, nn.ReLU)(torch.rand(3, 10)).shape == (3, size)


# ---- BernoulliVector

SHAPES = [
    ((5, 3), (5, 3)),
    ((7, 5, 3), (5, 3)),  # particles: one image under many logits
    ((7, 1, 3), (5, 3)),
    ((3,), (5, 3)),  # one vector of logits for every image
    ((1, 3), (7, 5, 3)),
    ((5, 3), (3,)),
    ((2, 5, 1), (3,)),  # one logit for all pixels
]


@pytest.mark.parametrize(("logits_shape", "value_shape"), SHAPES)
def test_bernoulli_vector_equals_bernoulli_in_value_and_gradient(logits_shape, value_shape) -> None:  # noqa: ANN001
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(logits_shape, generator=generator, dtype=torch.float64)).requires_grad_()
    value = torch.bernoulli(torch.full(value_shape, 0.5, dtype=torch.float64), generator=generator).requires_grad_()
    ours = BernoulliVector(logits, validate_args=False).log_prob(value)
    theirs = reference(logits).log_prob(value)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    inputs = (logits, value)
    for mine, its in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-14)


def test_bernoulli_vector_takes_grey_pixels() -> None:
    logits, value = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    ours = BernoulliVector(logits, validate_args=False).log_prob(value)
    torch.testing.assert_close(ours, reference(logits).log_prob(value), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("extreme", [1e4, -1e4, 300.0, -300.0, 21.0, -21.0, 0.0])
def test_extreme_logits_stay_finite(extreme: float, pixel: float) -> None:
    logits = torch.full((1, 3), extreme, dtype=torch.float64, requires_grad=True)
    value = torch.full((1, 3), pixel, dtype=torch.float64)
    ours, theirs = BernoulliVector(logits).log_prob(value), reference(logits).log_prob(value)
    assert bool(torch.isfinite(ours).all())
    # torch's softplus is linear from 20 on: an error of exp(-20) = 2.1e-9 nats a pixel at most
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-8)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0], rtol=1e-10, atol=1e-14)


def test_gradients_of_first_and_second_order() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    value = torch.rand(3, 1, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def log_prob(logits: Tensor, value: Tensor) -> Tensor:
        return BernoulliVector(logits, validate_args=False).log_prob(value)

    assert torch.autograd.gradcheck(log_prob, (logits, value))
    assert torch.autograd.gradgradcheck(log_prob, (logits, value))


def test_half_precision_logits_are_summed_in_the_precision_of_the_data() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 784, generator=generator).bfloat16().requires_grad_()
    value = torch.bernoulli(torch.full((8, 784), 0.5), generator=generator)
    log_prob = BernoulliVector(logits, validate_args=False).log_prob(value)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, reference(logits.float()).log_prob(value))
    log_prob.sum().backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16


def test_sample_shape_expand_and_moments() -> None:
    logits = torch.tensor([[-2.0, 0.0, 1.0], [3.0, -0.5, -1e4]])
    d = BernoulliVector(logits)
    assert (d.batch_shape, d.event_shape) == ((2,), (3,))
    assert d.expand((2,)) is d
    wide = d.expand((5, 2))
    assert (wide.batch_shape, wide.event_shape) == ((5, 2), (3,))
    assert wide.sample((4,)).shape == (4, 5, 2, 3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        draws = d.sample((20_000,))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    se = (d.mean * (1 - d.mean) / len(draws)).sqrt()
    assert bool(((draws.mean(0) - d.mean).abs() <= 4 * se + 1e-12).all())
    torch.testing.assert_close(d.mean, torch.sigmoid(logits))


def test_validation_refuses_what_is_no_pixel() -> None:
    with pytest.raises(ValueError, match="within the support"):
        BernoulliVector(torch.zeros(2, 3), validate_args=True).log_prob(torch.full((2, 3), 0.5))
