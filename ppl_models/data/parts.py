"""Images in two parts for structured prediction: x, what is to be predicted, and c, what is given.

`image_parts("upper", (1, 28, 28))` says which pixels are which: `parts.split(images)` gives the lower half x and the
upper half c, `parts.join(x, c)` the images again, and `SplitBatches` takes batches apart as they come.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_models.data.batches import Batches
from ppl_models.data.dataset import DataError

__all__ = ["CONDITIONS", "ImageParts", "SplitBatches", "image_parts"]

CONDITIONS = ("upper", "lower", "left", "right", "quadrant")
_OTHER = {"upper": "lower", "lower": "upper", "left": "right", "right": "left"}


class ImageParts(NamedTuple):
    """Which pixels are given, and which are predicted: together each pixel once."""

    predicted: Tensor  # (D,) int64, places in the flat image
    given: Tensor  # (C,) int64
    words: str  # "lower half given the upper half"

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Take images apart: (..., D + C) -> x (..., D) and c (..., C)."""
        return images[..., self.predicted.to(images.device)], images[..., self.given.to(images.device)]

    def join(self, x: Tensor, c: Tensor) -> Tensor:
        """Put images together: x (..., D) and c (..., C), whose leading dims broadcast, -> (..., D + C)."""
        lead = torch.broadcast_shapes(x.shape[:-1], c.shape[:-1])
        out = x.new_empty(*lead, len(self.predicted) + len(self.given))
        out[..., self.predicted.to(x.device)], out[..., self.given.to(x.device)] = x, c
        return out


def image_parts(condition: str, image_shape: tuple[int, int, int], quadrants: int = 1) -> ImageParts:
    """What is given of an image (C, H, W): a half, or one to three of its quadrants.

    Args:
        condition: the part that is given: "upper", "lower", "left", "right" (half) or "quadrant"; of an odd number of
            rows the middle one is in the lower half, of columns in the right.
        image_shape: (C, H, W); a pixel is given in all its channels or in none.
        quadrants: of "quadrant", how many: 1, the lower left; 2, both on the left; 3, all but the lower right
            [sohn2015].

    Raises:
        DataError: another condition or number; an image of one row or column, which has no halves.
    """
    channels, height, width = image_shape
    if condition not in CONDITIONS:
        raise DataError(f"unknown condition '{condition}': choose {', '.join(CONDITIONS[:-1])} or {CONDITIONS[-1]}")
    if quadrants not in (1, 2, 3):
        raise DataError(f"1, 2 or 3 quadrants of an image are given, got {quadrants}: pass 1, and 3 are predicted")
    if quadrants > 1 and condition != "quadrant":
        raise DataError(f"a number of quadrants goes with the condition 'quadrant', not with '{condition}'")
    rows, columns = torch.arange(height).unsqueeze(1), torch.arange(width)
    upper, left = rows < height // 2, columns < width // 2
    lower, right = ~upper, ~left
    given = {
        "upper": upper.expand(height, width), "lower": lower.expand(height, width),
        "left": left.expand(height, width), "right": right.expand(height, width),
        "quadrant": {1: lower & left, 2: left.expand(height, width), 3: upper | left}[quadrants],
    }[condition]  # fmt: skip
    if bool(given.all()) or not bool(given.any()):
        raise DataError(f"an image of {height} x {width} pixels has no such part: give images of at least 2 x 2")
    flat = given.expand(channels, height, width).flatten()
    if condition == "quadrant":
        words = {1: "three quadrants given one", 2: "two quadrants given two", 3: "one quadrant given three"}[quadrants]
    else:
        words = f"{_OTHER[condition]} half given the {condition} half"
    return ImageParts((~flat).nonzero().flatten(), flat.nonzero().flatten(), words)


class SplitBatches:
    """Batches of images, each in its two parts: what `Batches` yields as (x, ...) comes as (predicted, given, ...).

    A grey image that is drawn anew at every visit is drawn as a whole, so that its parts are of one drawing.
    """

    def __init__(self, batches: Batches, parts: ImageParts) -> None:
        """Keep both as they are."""
        self.batches, self.parts = batches, parts

    @property
    def num_rows(self) -> int:
        """The number of rows, N."""
        return self.batches.num_rows

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:  # yields (B, D), (B, C), ...
        """Yield the batches of one epoch, a function of (seed, epoch)."""
        for images, *rest in self.batches.epoch(epoch, seed):
            yield *self.parts.split(images), *rest

    def to(self, device: torch.device | str) -> "SplitBatches":
        """Return the same batches with the tensors on `device`."""
        parts = self.parts._replace(predicted=self.parts.predicted.to(device), given=self.parts.given.to(device))
        return SplitBatches(self.batches.to(device), parts)
