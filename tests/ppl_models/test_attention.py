"""ppl_models.attention: filters are distributions over pixels, reading and writing are each other's transpose."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from ppl_models.attention import filterbank, read, window, write

pytestmark = pytest.mark.usefixtures("double")

SHARP = -60.0  # log variance of a filter that is one pixel


def whole_image(*lead: int, log_variance: float = SHARP) -> Tensor:
    """A window over the whole image; with as many lines as pixels its stride is 1."""
    params = torch.zeros(*lead, 5)
    params[..., 2] = log_variance
    return params


def by_hand(image: Tensor, params: Tensor, n: int) -> tuple[Tensor, Tensor, float]:
    """F_x, F_y and gamma of one window by the paper's equations, pixels counted from 1 as there."""
    b, a = image.shape[-2:]
    gx, gy, log_variance, log_stride, log_gamma = params.tolist()
    centre_x, centre_y = (a + 1) / 2 * (gx + 1), (b + 1) / 2 * (gy + 1)
    stride = (max(a, b) - 1) / (n - 1) * math.exp(log_stride)
    banks = []
    for centre, size in ((centre_x, a), (centre_y, b)):
        bank = torch.zeros(n, size)
        for i in range(1, n + 1):
            mean = centre + (i - n / 2 - 0.5) * stride
            for pixel in range(1, size + 1):
                bank[i - 1, pixel - 1] = math.exp(-((pixel - mean) ** 2) / (2 * math.exp(log_variance)))
        banks.append(bank / bank.sum(1, keepdim=True))
    return banks[0], banks[1], math.exp(log_gamma)


def test_read_and_write_are_the_papers_equations():
    image, params, n = torch.randn(7, 9), torch.tensor([0.2, -0.3, 0.4, -0.5, 0.6]), 4
    across, down, gamma = by_hand(image, params, n)
    torch.testing.assert_close(read(image[None], params, n)[0], gamma * down @ image @ across.T)
    patch = torch.randn(n, n)
    torch.testing.assert_close(write(patch[None], params, (7, 9))[0], down.T @ patch @ across / gamma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centre", [3.2, -40.0, 1e4, -1e7])
@pytest.mark.parametrize("deviation", [0.0, 1e-9, 0.3, 50.0])
def test_rows_sum_to_one_wherever_the_filters_lie(deviation: float, centre: float, dtype: torch.dtype):
    at = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (centre, 1.7, deviation)]
    bank = filterbank(*at, grid=5, size=8)
    torch.testing.assert_close(bank.sum(-1), torch.ones(5, dtype=dtype), rtol=1e-6, atol=0.0)
    (bank * torch.arange(8)).sum().backward()
    assert all(v.grad is not None and bool(torch.isfinite(v.grad)) for v in at)


def test_a_filter_off_the_image_sees_the_edge():
    bank = filterbank(torch.tensor(500.0), torch.tensor(1.0), torch.tensor(0.1), grid=2, size=6)
    torch.testing.assert_close(bank, torch.eye(6)[[5, 5]])


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_writing_what_was_read_is_the_identity_in_the_limit(channels: int, lead: tuple[int, ...]):
    image, params = torch.randn(*lead, channels, 6, 6), whole_image(*lead)
    params[..., 4] = 0.7  # what reading multiplies by, writing divides by
    torch.testing.assert_close(read(image, params, 6), image * math.exp(0.7), rtol=0, atol=1e-12)
    torch.testing.assert_close(write(read(image, params, 6), params, (6, 6)), image, rtol=0, atol=1e-12)
    torch.testing.assert_close(read(write(image, params, (6, 6)), params, 6), image, rtol=0, atol=1e-12)
    soft = params + whole_image(log_variance=-SHARP)  # a deviation of one pixel blurs
    assert float((write(read(image, soft, 6), soft, (6, 6)) - image).detach().abs().max()) > 0.1


def test_zeros_are_a_grid_from_the_first_pixel_to_the_last():
    at = window(torch.zeros(5), grid=4, shape=(7, 10))
    assert (at.x, at.y, at.stride, at.side, at.deviation, at.intensity) == (4.5, 3.0, 3.0, 9.0, 1.0, 1.0)
    corners = read(torch.arange(36.0).reshape(1, 6, 6), whole_image(), grid=2)
    torch.testing.assert_close(corners, torch.tensor([[[0.0, 5.0], [30.0, 35.0]]]))
    centre = read(torch.arange(25.0).reshape(1, 5, 5), whole_image(), grid=1)
    torch.testing.assert_close(centre, torch.tensor([[[12.0]]]))


def test_x_moves_to_the_right_and_y_down():
    image = torch.arange(25.0).reshape(1, 5, 5)
    one_pixel = 2 / (5 + 1)
    right, down = whole_image(), whole_image()
    right[0], down[1] = one_pixel, one_pixel
    assert float(read(image, right, 1)) == pytest.approx(13)
    assert float(read(image, down, 1)) == pytest.approx(17)


def test_writing_is_the_transpose_of_reading():
    """<read(I), P> = gamma^2 <I, write(P)>, for images that are not square and each channel by itself."""
    params, image, patch = 0.3 * torch.randn(4, 5), torch.randn(4, 3, 6, 9), torch.randn(4, 3, 2, 2)
    seen, drawn = read(image, params, 2), write(patch, params, (6, 9))
    assert seen.shape == (4, 3, 2, 2) and drawn.shape == (4, 3, 6, 9)
    gamma = params[:, 4].exp()
    torch.testing.assert_close((seen * patch).sum((1, 2, 3)), gamma**2 * (image * drawn).sum((1, 2, 3)))
    torch.testing.assert_close(seen[:, 1:2], read(image[:, 1:2], params, 2))
    torch.testing.assert_close(drawn[:, 1:2], write(patch[:, 1:2], params, (6, 9)))


def test_leading_dims_broadcast():
    params, image = 0.3 * torch.randn(5, 4, 5), torch.randn(4, 2, 6, 7)
    seen = read(image, params, 3)
    assert seen.shape == (5, 4, 2, 3, 3)
    torch.testing.assert_close(seen[2, 1], read(image[1], params[2, 1], 3))
    drawn = write(image[..., :3, :3], params, (6, 7))
    torch.testing.assert_close(drawn[2, 1], write(image[1, :, :3, :3], params[2, 1], (6, 7)))


def test_gradients_by_finite_differences():
    image, patch = torch.randn(2, 2, 5, 7, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)
    params = (0.4 * torch.randn(2, 5)).requires_grad_()
    assert gradcheck(lambda i, p: read(i, p, 3), (image, params))
    assert gradcheck(lambda w, p: write(w, p, (5, 7)), (patch, params))


def test_half_precision_places_windows_in_single():
    params = torch.full((5,), 0.3).bfloat16()
    at = window(params, grid=3, shape=(28, 28))
    assert all(value.dtype == torch.float32 for value in at)
    assert read(torch.rand(1, 28, 28, dtype=torch.float32), params, 3).dtype == torch.float32
