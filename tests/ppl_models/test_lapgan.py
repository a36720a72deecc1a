"""ppl_models.pyramid and ppl_models.lapgan: exact inverse, linearity, players of each level, coarse to fine."""

from typing import Any

import pytest
import torch

from ppl_models.lapgan import LAPGAN
from ppl_models.pyramid import collapse, downsampled, laplacian_pyramid, pyramid_shapes, upsampled

SHAPE = (3, 16, 8)


# ---- the pyramid


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_collapse_is_the_inverse(dtype, tolerance, levels):
    x = torch.rand(5, 384, dtype=dtype)
    x[0], x[1] = 0.0, (x[1] > 0.5).to(dtype)  # black, and as rough as an image can be
    pyramid = laplacian_pyramid(x, SHAPE, levels)
    assert [tuple(h.shape) for h in pyramid] == [(5, c * h * w) for c, h, w in pyramid_shapes(SHAPE, levels)]
    assert (collapse(pyramid, SHAPE) - x).abs().max() <= tolerance
    made = [torch.randn_like(h) for h in pyramid]  # and any bands are an image's
    again = laplacian_pyramid(collapse(made, SHAPE), SHAPE, levels)
    torch.testing.assert_close(collapse(again, SHAPE), collapse(made, SHAPE), atol=10 * tolerance, rtol=0)


def test_the_pyramid_is_linear(double):
    x, y = torch.randn(2, 4, 384)
    parts = zip(*(laplacian_pyramid(image, SHAPE, 3) for image in (x, y, 2.0 * x - 3.0 * y)), strict=True)
    for h_x, h_y, h in parts:
        torch.testing.assert_close(h, 2.0 * h_x - 3.0 * h_y)


def test_down_and_up_are_weighted_means_written_out_pixel_by_pixel(double):
    """Each by its definition on one row of pixels: w = (1, 4, 6, 4, 1) / 16 around every second one, edges repeated."""
    w, x = torch.tensor([1.0, 4, 6, 4, 1]) / 16, torch.randn(8)
    at = lambda line, i: line[min(max(i, 0), len(line) - 1)]  # noqa: E731
    down = torch.stack([sum(w[m] * at(x, 2 * j + m - 2) for m in range(5)) for j in range(4)])  # pyright: ignore
    image = x.expand(4, 8).reshape(1, 32)  # the same in each line, so that blurring along columns changes nothing
    torch.testing.assert_close(downsampled(image, (1, 4, 8)), down.expand(2, 4).reshape(1, 8))
    up = torch.zeros(8)
    for i in range(8):
        for j in range(-1, 5):  # pixel j lies at 2j
            if abs(2 * j - i) <= 2:
                up[i] += 2 * w[2 * j - i + 2] * at(down, j)
    torch.testing.assert_close(upsampled(down.expand(2, 4).reshape(1, 8), (1, 2, 4)), up.expand(4, 8).reshape(1, 32))


def test_plain_images_have_no_bands_and_smooth_ones_little(double):
    plain = torch.full((1, 384), 0.3)
    *bands, coarsest = laplacian_pyramid(plain, SHAPE, 3)
    assert max(float(h.abs().max()) for h in bands) < 1e-15 and torch.allclose(coarsest, torch.tensor(0.3).double())
    rows = 0.5 + 0.5 * torch.linspace(0, 3.1416, 64).cos()  # flat at the edges
    smooth, rough = (rows[:, None] * rows).reshape(1, -1), torch.rand(1, 4096)
    energy = [float(laplacian_pyramid(x, (1, 64, 64), 2)[0].square().mean()) for x in (smooth, rough)]
    assert energy[0] < 2e-5 and energy[1] > 0.05  # white noise of variance 1/12 keeps most of it


def test_images_stay_in_the_unit_interval():
    x = (torch.rand(20, 384) > 0.5).float()
    coarse = downsampled(x, SHAPE)
    low = upsampled(coarse, (3, 8, 4))
    for part in (coarse, low):
        assert -1e-6 <= part.min() and part.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: pyramid_shapes((3, 28, 28), 4), "28 x 28 cannot be halved 3 times: pass levels=3, or pad or crop"),
        (lambda: laplacian_pyramid(torch.rand(2, 30), (1, 5, 6), 2), "5 x 6 cannot be halved 1 times: pass levels=1"),
        (lambda: collapse([torch.rand(2, 30)] * 2, (1, 5, 6)), "cannot be halved"),
        (lambda: laplacian_pyramid(torch.rand(2, 31), (1, 5, 6), 1), r"rows \(N, 30\), got \(2, 31\)"),
        (lambda: collapse([torch.rand(2, 15), torch.rand(2, 4)], (1, 4, 4)), r"rows \(N, 16\), got \(2, 15\)"),
        (lambda: pyramid_shapes((3, 32, 32), 0), "at least 1 level"),
        (lambda: LAPGAN((3, 30, 30), levels=3), "30 x 30 cannot be halved 2 times: pass levels=2"),
        (lambda: LAPGAN((3, 32, 32), channels=0), "channels is at least 1, got 0"),
        (lambda: LAPGAN((1, 8, 8), 2, channels=2)(torch.rand(2, 5)), r"LAPGAN's noise takes rows \(N, 164\)"),
        (lambda: LAPGAN((1, 8, 8), 2, channels=2).level(0).discriminator(torch.rand(2, 64)), "needs low-pass images"),
        (lambda: LAPGAN((1, 8, 8), 2).level(2), "levels go from 0 to 1, got 2"),
        (lambda: LAPGAN((1, 8, 8), 2).rows(torch.rand(2, 64), -1), "levels go from 0 to 1, got -1"),
    ],
)
def test_what_does_not_fit_is_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# ---- the players


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("n_classes", [None, 3])
def test_shapes_of_every_level(size, colours, n_classes):
    lapgan = LAPGAN((colours, size, size), levels=3, z_dim=5, channels=2, n_classes=n_classes)
    x, y = torch.rand(4, lapgan.x_dim), None if n_classes is None else torch.tensor([0, 1, 2, 0])
    for k in range(3):
        generator, discriminator = lapgan.level(k)
        real, *given = lapgan.rows(x, k, y)
        fake = generator(generator.noise(4), *given)
        assert fake.shape == real.shape == (4, colours * (size >> k) ** 2) == (4, generator.x_dim)
        assert discriminator.x_dim == generator.x_dim and len(given) == (k < 2) + (y is not None)
        assert generator.noise(4).shape == (4, generator.z_dim) and torch.equal(
            generator.generate(4, 1, *given), generator.generate(4, 1, *given)
        )
        for rows in (real, fake):
            features = discriminator.features(rows, *given)
            assert torch.equal(discriminator(rows, *given), discriminator.head(features).squeeze(1))
    classes = () if y is None else (y,)
    assert lapgan.noise(4).shape == (4, lapgan.z_dim) and lapgan.generate(4, 0, *classes).shape == x.shape


def test_the_rows_of_the_levels_are_the_pyramid(double):
    lapgan, x = LAPGAN((1, 16, 16), levels=3, channels=2), torch.rand(3, 256)
    pyramid = laplacian_pyramid(x, (1, 16, 16), 3)
    for k in range(3):
        torch.testing.assert_close(lapgan.rows(x, k)[0], pyramid[k])
    band, low = lapgan.rows(x, 0)
    torch.testing.assert_close(band + low, x)
    band, low = lapgan.rows(x, 1)
    torch.testing.assert_close(band + low, downsampled(x, (1, 16, 16)))


def test_samples_are_the_players_chained_by_the_pyramid(double):
    lapgan = LAPGAN((1, 16, 16), levels=3, z_dim=7, channels=2).eval()
    for k in range(2):  # bands that would leave the unit interval
        generator: Any = lapgan.level(k).generator
        generator.net[-3].weight.data.mul_(100.0)
    z = lapgan.noise(4)
    z0, z1, z2 = z[:, :256], z[:, 256:320], z[:, 320:]
    x = lapgan.level(2).generator(z2)
    low = upsampled(x, (1, 4, 4))
    x = low + lapgan.level(1).generator(z1, low)
    low = upsampled(x.clamp(0, 1), (1, 8, 8))
    x = (low + lapgan.level(0).generator(z0, low)).clamp(0, 1)
    torch.testing.assert_close(lapgan(z), x)
    assert (x == 0).any() and (x == 1).any()
    z[:, :256] = 0.0  # the finest noise moves the finest band only
    moved = (lapgan(z) - x).abs()
    assert moved.max() > 1e-4 and z0.shape[1] + z1.shape[1] + z2.shape[1] == lapgan.z_dim


def test_samples_leave_rng_and_modes_as_they_were():
    lapgan = LAPGAN((1, 16, 16), levels=2, channels=2)
    lapgan.level(1).generator.eval()  # trained already
    state, modes = torch.get_rng_state(), [m.training for m in lapgan.modules()]
    x = lapgan.generate(3, seed=1)
    assert torch.equal(torch.get_rng_state(), state) and modes == [m.training for m in lapgan.modules()]
    assert 0.0 <= x.min() and x.max() <= 1.0 and not torch.equal(x, lapgan.generate(3, seed=2))


def test_a_band_is_judged_by_itself_as_an_image_and_beside_its_low_pass(double):
    lapgan, x = LAPGAN((1, 16, 16), levels=2, channels=2), torch.rand(4, 256)
    d = lapgan.level(0).discriminator
    band, low = lapgan.rows(x, 0)
    torch.testing.assert_close(d(band, low)[:2], d(band[:2], low[:2]), atol=1e-14, rtol=0)
    seen = []
    d.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    d(band, low)
    torch.testing.assert_close(seen[0], torch.stack([2 * x - 1, 2 * low - 1], 1).reshape(4, 2, 16, 16))


def test_classes_change_every_level():
    lapgan, x = LAPGAN((1, 16, 16), levels=2, channels=4, n_classes=3), torch.rand(5, 256)
    zero, one = torch.zeros(5, dtype=torch.long), torch.ones(5, dtype=torch.long)
    for k in range(2):
        g, d = lapgan.level(k)
        real, *low = lapgan.rows(x, k)
        assert (g.generate(5, 0, *low, zero) - g.generate(5, 0, *low, one)).abs().max() > 1e-4
        assert (d(real, *low, zero) - d(real, *low, one)).abs().max() > 1e-4
    assert not torch.equal(lapgan.generate(5, 0, zero), lapgan.generate(5, 0, one))
