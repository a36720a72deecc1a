"""DRAW's eye and pen: layers that read an image and write on a canvas, the whole of it or through a window.

    Reader(x, error, h) -> what the encoder sees      Writer(h) -> what is added to the canvas

`known(x)` is the part of the encoder's gates that hangs on x alone, computed once and not at every step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.attention import Window, read, window, write
from ppl_models.lstm import beside
from ppl_models.nn import Linear, mlp

__all__ = ["WholeReader", "WholeWriter", "WindowReader", "WindowWriter"]

Shape = tuple[int, int, int]  # (C, H, W)


class WholeReader(nn.Module):
    """Shows the whole error image; the image itself goes to the 4 H gates once."""

    def __init__(self, x_dim: int, units: int):
        super().__init__()
        self.n_out = x_dim
        self.image = _without_bias(x_dim, 4 * units)

    def known(self, x: Tensor) -> Tensor | None:
        """The image's part of the gates: (N, D) -> (N, 4 H)."""
        return self.image(x)

    def forward(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return error

    def window(self, h: Tensor) -> Window | None:
        """None: there is no window."""
        return None


class WindowReader(nn.Module):
    """Shows a patch of the image and the same patch of the error, through a window that h places."""

    def __init__(self, shape: Shape, units: int, grid: int):
        super().__init__()
        self.shape, self.grid, self.n_out = shape, grid, 2 * shape[0] * grid * grid
        self.place: Any = mlp((units, 5))[0]
        with torch.no_grad():
            self.place.bias[2] = 2 * math.log(_stride(shape, grid) / 2)  # neighbours meet half-way

    def known(self, x: Tensor) -> Tensor | None:
        """None: what is seen of x hangs on the window."""
        return None

    def forward(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        """(..., D) and (..., H) -> (..., 2 C n n)."""
        c, height, width = self.shape
        with _full_precision(h):
            both = beside(x, error).unflatten(-1, (2 * c, height, width))
            return read(both, self.place(h), self.grid).flatten(-3)

    def window(self, h: Tensor) -> Window | None:
        """Where the decoder's state h (..., H) looks."""
        return window(self.place(h), self.grid, self.shape[1:])


class WholeWriter(nn.Module):
    """Writes everywhere: a linear map, whose bias would be a part of the first canvas."""

    def __init__(self, x_dim: int, units: int):
        super().__init__()
        self.canvas = _without_bias(units, x_dim)

    def forward(self, h: Tensor) -> Tensor:
        """(..., H) -> (..., D)."""
        return self.canvas(h)

    def window(self, h: Tensor) -> Window | None:
        """None: there is no window."""
        return None


class WindowWriter(nn.Module):
    """Writes a patch through a window; h gives both."""

    def __init__(self, shape: Shape, units: int, grid: int):
        super().__init__()
        self.shape, self.grid = shape, grid
        self.patch: Any = mlp((units, 5 + shape[0] * grid * grid))[0]
        stride = _stride(shape, grid)
        with torch.no_grad():
            self.patch.bias[2] = 2 * math.log(stride / 2)
            self.patch.bias[4] = -2 * math.log(stride)  # so that a patch of ones begins as a canvas of about ones

    def forward(self, h: Tensor) -> Tensor:
        """(..., H) -> (..., D)."""
        c, height, width = self.shape
        with _full_precision(h):
            params, patch = self.patch(h).split((5, c * self.grid**2), -1)
            return write(patch.unflatten(-1, (c, self.grid, self.grid)), params, (height, width)).flatten(-3)

    def window(self, h: Tensor) -> Window | None:
        """Where the decoder's state h (..., H) writes."""
        return window(self.patch(h)[..., :5], self.grid, self.shape[1:])


def _full_precision(like: Tensor) -> torch.autocast:
    """No autocast within: 16-bit numbers would place a window to an eighth of a pixel."""
    return torch.autocast(like.device.type, enabled=False)


def _stride(shape: Shape, grid: int) -> float:
    """Pixels between the lines of a grid over the whole image."""
    return max(1.0, (max(shape[1:]) - 1) / max(grid - 1, 1))


def _without_bias(n_in: int, n_out: int) -> Linear:
    layer = Linear(n_in, n_out, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer
