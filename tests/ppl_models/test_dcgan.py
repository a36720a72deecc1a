"""ppl_models.dcgan: shapes and sizes, Radford's rules read off the layers, conventions of the players, refusals."""

from typing import Any

import pytest
import torch
from torch import nn

from ppl_models import DCGAN28, DCGAN32, DCGAN64, DCGANDiscriminator, DCGANGenerator

PAIRS = {28: DCGAN28, 32: DCGAN32, 64: DCGAN64}


def layers(network: nn.Module, *kinds: type) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("colours", [1, 3])
def test_shapes(size, colours):
    pair = PAIRS[size](colours, z_dim=5, channels=2)
    g, d = pair.generator, pair.discriminator
    x = g(g.noise(3))
    assert x.shape == (3, colours * size * size) == (3, g.x_dim) and g.noise(3).shape == (3, g.z_dim)
    assert d(x).shape == (3,) and d.x_dim == g.x_dim
    last = {28: 8 * 4 * 4, 32: 8 * 4 * 4, 64: 16 * 4 * 4}[size]
    assert d.features(x).shape == (3, last) and torch.equal(d(x), d.head(d.features(x)).squeeze(1))


def test_the_number_of_weights_is_that_of_the_reference_network():
    """The well-known DCGAN of 64 pixels, Z = 100 and 64 channels, which has no biases outside batch norm."""
    pair = DCGAN64()
    biases = [m.bias for m in layers(pair, nn.Conv2d, nn.ConvTranspose2d, nn.Linear) if m.bias is not None]
    assert sum(b.numel() for b in biases) == 3 + 64 + 1  # G's output, D's input and D's logit: no norm behind them
    count = {name: sum(p.numel() for p in player.parameters()) for name, player in pair.named_children()}
    assert count == {"generator": 3_576_704 + 3, "discriminator": 2_765_568 + 64 + 1}


def test_the_rules_of_radford():
    pair = DCGAN64(channels=4)
    g, d = list(pair.generator.net), list(pair.discriminator.net)
    assert not layers(pair, nn.MaxPool2d, nn.AvgPool2d, nn.Upsample)
    assert layers(pair, nn.Linear) == [pair.discriminator.head]  # no hidden dense layer
    assert len(layers(pair.generator, nn.BatchNorm2d)) == 4 and len(layers(pair.discriminator, nn.BatchNorm2d)) == 3
    assert not isinstance(g[-2], nn.BatchNorm2d) and isinstance(g[-2], nn.Tanh)
    assert isinstance(d[0], nn.Conv2d) and isinstance(d[1], nn.LeakyReLU) and d[1].negative_slope == 0.2
    assert len(layers(pair.generator, nn.ReLU)) == 4 and not layers(pair.discriminator, nn.ReLU)
    weights = torch.cat(
        [m.weight.detach().flatten() for m in layers(DCGAN32(channels=16), nn.Conv2d, nn.ConvTranspose2d)]
    )
    assert abs(float(weights.std()) / 0.02 - 1) < 4 / (2 * len(weights)) ** 0.5


def test_images_are_in_the_unit_interval_and_seen_from_minus_one_to_one():
    g = DCGANGenerator((1, 28, 28), z_dim=4, channels=2, norm=None)
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.mul_(50.0)
    x = g(g.noise(20))
    assert 0.0 <= x.min() < 0.1 and 0.9 < x.max() <= 1.0
    d, seen = DCGANDiscriminator((1, 28, 28), channels=2), []
    d.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    d(torch.tensor([[0.0], [1.0]]).expand(2, 784))
    assert torch.equal(seen[0][:, 0, 0, 0], torch.tensor([-1.0, 1.0])) and seen[0].shape == (2, 1, 28, 28)


def test_a_row_is_judged_by_itself_without_batch_norm(double):
    x = torch.rand(4, 784)
    alone = DCGANDiscriminator((1, 28, 28), channels=2, norm=None, spectral_norm=True).eval()
    torch.testing.assert_close(alone(x)[:2], alone(x[:2]), atol=1e-14, rtol=0)
    around = DCGANDiscriminator((1, 28, 28), channels=2, norm=None, minibatch_kernels=3).eval()
    assert around.features(x).shape == (4, 8 * 16 + 3)
    assert (around.features(x)[:2, -3:] - around.features(x[:2])[:, -3:]).abs().min() > 0.1


def test_packed_images_are_channels():
    d, seen = DCGANDiscriminator((3, 32, 32), channels=2, pack=2), []
    d.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(4, 3 * 32 * 32)
    assert d.x_dim == 2 * 3 * 32 * 32 and d(x.reshape(2, -1)).shape == (2,)
    torch.testing.assert_close(seen[0][1, 3:], 2 * x[3].reshape(3, 32, 32) - 1)  # the second image of the second row


def test_classes_change_both_players():
    g = DCGANGenerator((1, 28, 28), z_dim=4, channels=4, n_classes=3)
    d = DCGANDiscriminator((1, 28, 28), channels=4, n_classes=3)
    zero, one = torch.zeros(5, dtype=torch.long), torch.ones(5, dtype=torch.long)
    x = g.generate(5, 0, zero)
    assert (x - g.generate(5, 0, one)).abs().max() > 1e-5 and torch.equal(x, g.generate(5, 0, zero))
    assert (d(x, zero) - d(x, one)).abs().max() > 1e-5


def test_samples_leave_rng_and_modes_as_they_were():
    g = DCGANGenerator((1, 28, 28), z_dim=4, channels=2)
    state = torch.get_rng_state()
    assert g.generate(3, seed=1).shape == (3, 784)
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in g.modules())
    assert not torch.equal(g.generate(3, seed=1), g.generate(3, seed=2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DCGANGenerator((1, 30, 30)), "28, 32 or 64 pixels a side, got 30: rescale"),
        (lambda: DCGANDiscriminator((3, 32, 28)), r"with H = W, got \(3, 32, 28\)"),
        (lambda: DCGANGenerator((28, 28)), r"image_shape is \(C, H, W\)"),  # pyright: ignore[reportArgumentType]
        (lambda: DCGANGenerator((1, 28, 28), channels=0), "channels is at least 1, got 0"),
        (lambda: DCGANGenerator((1, 28, 28), norm="layer"), "unknown norm 'layer'"),
        (lambda: DCGANDiscriminator((1, 28, 28), spectral_norm=True), "pass norm=None with it"),
        (lambda: DCGANDiscriminator((1, 28, 28), pack=2, n_classes=10), "packed data have no common class"),
        (lambda: DCGANDiscriminator((1, 28, 28), channels=2)(torch.rand(2, 1024)), r"rows \(N, 784\), got \(2, 1024\)"),
        (lambda: DCGANGenerator((1, 28, 28), channels=2)(torch.rand(2, 7)), r"rows \(N, 100\), got \(2, 7\)"),
    ],
)
def test_what_does_not_fit_is_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
