"""A data set: flat images in [0, 1], perhaps labels, and the checks that make this true.

Images are kept flat, (N, D), because that is what every density in the toolkit takes; `image_shape` says how
to fold them back. Whatever a file holds, it passes `dataset` below before a user sees it, so a value outside
[0, 1], a NaN or a label too few is found here, by name and row, and not later as a strange loss.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["DataError", "Dataset", "binarize", "check", "dataset", "hold_out", "permutation", "seeds", "shifted"]


class DataError(ValueError):
    """A data set or a file of it that cannot be used; the message says the rule, the value and the remedy."""


class Dataset(NamedTuple):
    """Images and perhaps labels; C * H * W == D."""

    x: Tensor  # (N, D) float32 in [0, 1], flat
    y: Tensor | None  # (N,) int64
    image_shape: tuple[int, int, int]  # (C, H, W)
    name: str


def dataset(
    x: Tensor,  # (N, D)
    y: Tensor | None,  # (N,)
    image_shape: tuple[int, int, int],
    name: str,
    least: int = 2,
) -> Dataset:
    """Build a `Dataset` after checking shapes and values; `least` rows are needed (2 to train on, 1 to test
    on).

    Raises DataError.
    """
    c, h, w = image_shape
    if x.ndim != 2 or x.shape[1] != c * h * w:
        raise DataError(f"{name}: images of shape {image_shape} are {c * h * w} numbers a row, got {tuple(x.shape)}")
    if y is not None and y.shape != x.shape[:1]:
        raise DataError(
            f"{name}: one label an image is needed, got {len(x)} images, labels of shape {tuple(y.shape)}: "
            "give integer labels of shape (N,)"
        )
    check(x, name, least)
    return Dataset(x.to(torch.float32), None if y is None else y.to(torch.int64), image_shape, name)


def check(x: Tensor, name: str, least: int = 2) -> None:  # x: (N, D)
    """Raise DataError unless x has `least` rows and every value is finite and inside [0, 1]."""
    if len(x) == 0:
        raise DataError(f"{name}: a data set of 0 images cannot be used: give at least {least}")
    if len(x) < least:
        raise DataError(f"{name}: a data set of 1 image cannot be trained on or split: give at least 2")
    if x.numel() == 0:
        raise DataError(f"{name}: the images have no pixels (shape {tuple(x.shape)}): give at least 1 pixel an image")
    low, high = (float(v) for v in x.aminmax())  # both are NaN if anything is
    if low >= 0.0 and high <= 1.0:
        return
    rows = x.flatten(1)
    row = int((~((rows >= 0.0) & (rows <= 1.0))).any(dim=1).nonzero()[0])
    if not bool(torch.isfinite(rows[row]).all()):
        raise DataError(f"{name}: pixels must be finite, and row {row} holds nan or inf: repair or drop that row")
    if not bool(torch.isfinite(rows).all()):  # min and max of the file would be NaN: give those of the row
        low, high = (float(v) for v in rows[row].aminmax())
    if low >= -1.0 and high <= 1.0:
        remedy = "images in [-1, 1] want (x + 1) / 2"
    elif low >= 0.0 and high <= 255.0:
        remedy = "divide by 255"
    else:
        remedy = "subtract the minimum and divide by the range"
    raise DataError(
        f"{name}: pixels must be inside [0, 1], and row {row} is the first outside it "
        f"(minimum {low:g}, maximum {high:g}): {remedy}"
    )


def binarize(x: Tensor, generator: torch.Generator | None = None) -> Tensor:  # (N, D) -> (N, D)
    """Draw binary images b ~ Bernoulli(x) from grey ones; `generator` lives on the device of x."""
    return torch.bernoulli(x, generator=generator)


def shifted(x: Tensor, image_shape: tuple[int, int, int], most: int, generator: torch.Generator) -> Tensor:
    """Move each image by -most ... most pixels along each side, zeros moving in: (N, D) -> (N, D)."""
    n, (channels, h, w) = len(x), image_shape
    by = torch.randint(-most, most + 1, (2, n, 1), generator=generator, device=x.device)
    rows, columns = (torch.arange(size, device=x.device) + by[i] for i, size in enumerate((h, w)))
    inside = ((rows >= 0) & (rows < h)).unsqueeze(2) & ((columns >= 0) & (columns < w)).unsqueeze(1)
    index = rows.clamp(0, h - 1).unsqueeze(2) * w + columns.clamp(0, w - 1).unsqueeze(1)
    moved = x.reshape(n, channels, h * w).gather(2, index.reshape(n, 1, h * w).expand(-1, channels, -1))
    return (moved * inside.reshape(n, 1, h * w)).reshape(n, -1)


def hold_out(train: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off round(fraction * N) rows, at least 1, by a seeded permutation: (train, held_out).

    Raises DataError if `fraction` is not inside (0, 1) or if there are fewer than 2 rows.
    """
    n = len(train.x)
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the fraction held out must be inside (0, 1), got {fraction}: pass for example 0.1")
    if n < 2:
        raise DataError(f"{train.name}: a data set of 1 image cannot be trained on or split: give at least 2")
    held = min(max(1, round(fraction * n)), n - 1)
    order = permutation(n, seeds(seed)[0]).to(train.x.device)
    return _rows(train, order[held:]), _rows(train, order[:held])


def _rows(data: Dataset, index: Tensor) -> Dataset:  # index: (M,)
    return data._replace(x=data.x[index], y=None if data.y is None else data.y[index])


def seeds(*words: int) -> tuple[int, int]:
    """Two 64-bit seeds that are a function of the words, far apart even for neighbouring ones."""
    # seed + epoch would make epoch 1 of seed 0 the same as epoch 0 of seed 1
    first, *others = (w % 2**64 for w in words)
    state = np.random.SeedSequence(first, spawn_key=tuple(others)).generate_state(2, np.uint64)
    return int(state[0]), int(state[1])


def permutation(n: int, seed: int) -> Tensor:  # -> (N,)
    """Return a permutation of 0..n-1 by seed; drawn on the CPU, so that it is the same for any device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
