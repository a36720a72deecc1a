"""DRAW's attention: a grid of Gaussian filters laid over an image (Gregor et al. 2015, Section 3.2).

    read:   gamma F_y image F_x^T         an image (C, H, W) seen as a patch (C, n, n)
    write:  F_y^T patch F_x / gamma       a patch drawn on an image

Rows of F_x (n, W) and F_y (n, H) are Gaussians about the grid's lines, normalised over pixels, so a grid that lies off
the image sees the image's edge. Pure functions of tensors; any size, any channels, any leading dims.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Window", "filterbank", "read", "window", "write"]

_LEAST = 1e-12  # of a filter's variance, squared pixels: below, a filter is one pixel anyway


class Window(NamedTuple):
    """Where a grid of filters lies, in pixels counted from 0 at the left and the top; each value (...)."""

    x: Tensor  # its centre
    y: Tensor
    stride: Tensor  # between two of its lines
    deviation: Tensor  # of each Gaussian
    intensity: Tensor  # gamma
    side: Tensor  # from its first line to its last, (n - 1) stride


def window(params: Tensor, grid: int, shape: tuple[int, int]) -> Window:
    """The window that five numbers of a network stand for [gregor2015, Equations 21 to 24].

    Zeros stand for a grid over the whole image, its lines from the first pixel to the last of the longer side.

    Args:
        params: (..., 5): centre x, centre y, log variance, log stride, log intensity.
        grid: n, lines of the grid each way.
        shape: (H, W) of the image.
    """
    params = params.to(torch.promote_types(params.dtype, torch.float32))  # half a pixel is lost to half precision
    x, y, log_variance, log_stride, log_intensity = params.unbind(-1)
    h, w = shape
    stride = log_stride.exp() * ((max(h, w) - 1) / max(grid - 1, 1))
    return Window(
        x=(w + 1) / 2 * (x + 1) - 1,
        y=(h + 1) / 2 * (y + 1) - 1,
        stride=stride,
        deviation=(0.5 * log_variance).exp(),
        intensity=log_intensity.exp(),
        side=stride * (grid - 1),
    )


def filterbank(centre: Tensor, stride: Tensor, deviation: Tensor, grid: int, size: int) -> Tensor:
    """Gaussian filters along one side of an image: F[i, a] = exp(-(a - m_i)^2 / 2 s^2) / Z_i, sum_a F[i, a] = 1.

    m_i = centre + (i - (n - 1) / 2) stride. A softmax over pixels: where a Gaussian lies off the image and all its
    values underflow, the nearest pixel has the weight.

    Args:
        centre: (...), in pixels counted from 0.
        stride: (...), pixels between two filters.
        deviation: (...), s, in pixels.
        grid: n, number of filters.
        size: A, pixels of that side.

    Returns:
        (..., n, A).
    """
    options = {"dtype": centre.dtype, "device": centre.device}
    lines = torch.arange(grid, **options) - (grid - 1) / 2
    means = centre.unsqueeze(-1) + lines * stride.unsqueeze(-1)  # (..., n)
    distance = torch.arange(size, **options) - means.unsqueeze(-1)  # (..., n, A)
    half_precision = -0.5 / deviation.square().clamp(min=_LEAST)
    return (distance.square() * half_precision[..., None, None]).softmax(-1)


def read(image: Tensor, params: Tensor, grid: int) -> Tensor:
    """What a window sees of an image: gamma F_y image F_x^T [gregor2015, Equation 27].

    Args:
        image: (..., C, H, W).
        params: (..., 5) as for `window`.
        grid: n, lines of the grid each way.

    Returns:
        (..., C, n, n).
    """
    h, w = image.shape[-2:]
    at = window(params, grid, (h, w))
    across = filterbank(at.x, at.stride, at.deviation, grid, w)
    down = filterbank(at.y, at.stride, at.deviation, grid, h)
    return at.intensity[..., None, None, None] * _sandwich(down, image, across.transpose(-1, -2))


def write(patch: Tensor, params: Tensor, shape: tuple[int, int]) -> Tensor:
    """A patch drawn through a window: F_y^T patch F_x / gamma [gregor2015, Equation 29].

    Args:
        patch: (..., C, n, n).
        params: (..., 5) as for `window`.
        shape: (H, W) of the image.

    Returns:
        (..., C, H, W).
    """
    grid = patch.shape[-1]
    at = window(params, grid, shape)
    across = filterbank(at.x, at.stride, at.deviation, grid, shape[1])
    down = filterbank(at.y, at.stride, at.deviation, grid, shape[0])
    return _sandwich(down.transpose(-1, -2), patch / at.intensity[..., None, None, None], across)


def _sandwich(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """Left times each channel times right, two products for all channels: (p, H), (C, H, W), (W, q) -> (C, p, q)."""
    c, h, _ = middle.shape[-3:]
    half = (middle.flatten(-3, -2) @ right).unflatten(-2, (c, h))  # (..., C, H, q)
    whole = left @ half.transpose(-3, -2).flatten(-2)  # (..., p, C q)
    return whole.unflatten(-1, (c, right.shape[-1])).transpose(-3, -2)
