"""ppl_models.gan: shapes, conventions of the two players, standardised data, classes, refusals."""

import pytest
import torch

from ppl_models import Discriminator, Generator
from ppl_models.gan import FourierFeatures


@pytest.mark.parametrize("x_dim", [1, 2, 784])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_shapes(x_dim, norm):
    g = Generator(x_dim, z_dim=3, hidden=(8, 6), norm=norm)
    d = Discriminator(x_dim, hidden=(8, 5))
    assert g.noise(4).shape == (4, 3) and g(g.noise(4)).shape == (4, x_dim) == g.generate(4).shape
    x = g.generate(4)
    assert d(x).shape == (4,) and d.features(x).shape == (4, 5)
    assert (g.x_dim, g.z_dim, d.x_dim) == (x_dim, 3, x_dim)


def test_the_logit_is_the_head_of_the_features():
    d, x = Discriminator(2, minibatch_kernels=3), torch.randn(6, 2)
    assert torch.equal(d(x), d.head(d.features(x)).squeeze(1)) and d.features(x).shape == (6, 128 + 3)


def test_a_row_is_judged_by_itself_unless_minibatch_discrimination_looks_around(double):
    x = torch.randn(6, 2)
    plain = Discriminator(2, spectral_norm=True).eval()
    torch.testing.assert_close(plain(x)[:2], plain(x[:2]), atol=1e-14, rtol=0)
    around = Discriminator(2, minibatch_kernels=3).eval()
    assert (around(x)[:2] - around(x[:2])).abs().min() > 1e-3


def test_standardised_players_are_those_of_standard_data(double):
    mean, scale = torch.tensor([5.0, -300.0]), torch.tensor([0.01, 40.0])
    g, d = Generator(2, mean=mean, scale=scale), Discriminator(2, mean=mean, scale=scale, pack=3)
    plain_g, plain_d = Generator(2), Discriminator(2, pack=3)
    plain_g.load_state_dict({k: v for k, v in g.state_dict().items() if k not in ("mean", "scale")})
    plain_d.load_state_dict({k: v for k, v in d.state_dict().items() if k not in ("mean", "scale")})
    z = g.noise(6)
    torch.testing.assert_close(g(z), mean + scale * plain_g(z))
    torch.testing.assert_close(d(g(z).reshape(2, 6)), plain_d(plain_g(z).reshape(2, 6)), rtol=1e-9, atol=1e-9)
    assert {"mean", "scale"} <= set(dict(g.named_buffers())) and "mean" not in dict(plain_g.named_buffers())
    one = Generator(1, mean=4.0)  # one datum of one value, a number for its mean
    assert one.generate(3).shape == (3, 1) and one.scale is not None and float(one.scale) == 1.0


def test_bounded_rows_are_images():
    g = Generator(10, bounded=True)
    x = g(100 * g.noise(50))
    assert 0.0 <= x.min() < 0.1 and 0.9 < x.max() <= 1.0


def test_packing_takes_rows_of_several_data():
    d = Discriminator(2, pack=3)
    assert d.x_dim == 6 and d(torch.randn(4, 6)).shape == (4,)
    with pytest.raises(ValueError, match=r"takes rows \(N, 6\), got \(4, 2\)"):
        d(torch.randn(4, 2))


def test_classes_change_both_players():
    g, d = Generator(2, n_classes=3), Discriminator(2, n_classes=3)
    zero, one = torch.zeros(5, dtype=torch.long), torch.ones(5, dtype=torch.long)
    x = g.generate(5, 0, zero)
    assert (x - g.generate(5, 0, one)).abs().min() > 1e-4 and torch.equal(x, g.generate(5, 0, zero))
    assert (d(x, zero) - d(x, one)).abs().min() > 1e-4


def test_noise_is_standard_normal_in_the_dtype_of_the_network():
    g = Generator(2, z_dim=50).double()
    z = g.noise(2000)
    assert z.dtype == torch.float64 and not torch.equal(z, g.noise(2000))
    assert abs(float(z.mean())) < 4 / 100_000**0.5 and abs(float(z.var()) - 1) < 4 * (2 / 100_000) ** 0.5


def test_samples_of_batch_norm_do_not_depend_on_their_number():
    g = Generator(2, norm="batch")
    g(g.noise(64))
    many = g.generate(10, seed=3)
    assert g.training
    z = torch.randn(10, 16, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(many[:4], g.eval()(z[:4]).detach())


def test_spectral_norm_bounds_the_slope():
    d = Discriminator(4, hidden=(32, 32), activation="relu", spectral_norm=True)
    for _ in range(50):
        d(torch.randn(2, 4))
    d.eval()
    x = torch.randn(200, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(d(x).sum(), x)
    assert slope.norm(dim=1).max() <= 1.0 + 1e-3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Generator(0), "x_dim is at least 1, got 0"),
        (lambda: Generator(2, hidden=()), "hidden needs at least one layer"),
        (lambda: Generator(2, activation="swish"), "unknown activation 'swish': choose one of .*leaky_relu"),
        (lambda: Generator(2, norm="layer"), "unknown norm 'layer'"),
        (lambda: Generator(2, bounded=True, scale=2.0), "leave mean and scale out"),
        (lambda: Generator(2, mean=torch.zeros(3)), "mean is 1 finite value or one for each of x_dim=2, got 3"),
        (lambda: Generator(2, scale=torch.tensor([1.0, 0.0])), "scale .* above 0, got 2 from 0 to 1"),
        (lambda: Generator(2, mean=float("nan")), "mean is 1 finite value"),
        (lambda: Discriminator(2, pack=0), "pack is at least 1, got 0"),
        (lambda: Discriminator(2, pack=2, n_classes=4), "packed data have no common class"),
        (lambda: Discriminator(2, minibatch_kernels=-1), "minibatch_kernels is at least 0, got -1"),
        (lambda: Generator(2, n_classes=3).generate(2), "needs classes y"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_fourier_features_are_sines_and_cosines_of_fixed_frequencies():
    torch.manual_seed(0)
    layer = FourierFeatures(3, (1.0, 4.0))
    x = torch.randn(5, 3)
    expected = torch.cat([x, (x @ layer.frequencies).sin(), (x @ layer.frequencies).cos()], 1)
    assert layer.n_out == 3 + 64 and torch.equal(layer(x), expected)
    spread = [float(part.std()) for part in layer.frequencies.split(16, 1)]
    assert spread == pytest.approx([1, 4], rel=0.4)
    d = Discriminator(3, hidden=(8,), fourier=(1.0, 4.0), mean=1.0, scale=2.0)
    assert d(x).shape == (5,) and "fourier.frequencies" in d.state_dict()
    again = Discriminator(3, hidden=(8,), fourier=(1.0, 4.0), mean=1.0, scale=2.0)
    again.load_state_dict(d.state_dict())
    assert torch.equal(again(x), d(x))
    with pytest.raises(ValueError, match="above 0"):
        Discriminator(3, fourier=(1.0, 0.0))
