"""Missing pixels of test images filled in by a run's model: the masks, the picture and what the errors are."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.cli.runs import Run
from inference.comparison.figures import image_grid
from inference.comparison.sheets import headed, masked, stacked
from inference.errors import RunError
from inference.evidence.importance import summarise
from inference.mcmc.imputation import Imputed, impute

__all__ = ["COLUMNS", "Filled", "Mask", "error_words", "fill_in", "imputation_sheet", "random_mask", "square_mask"]

COLUMNS = 7  # steps of the chain in the picture
LEAST = 1e-3  # a probability in an error: one surprise is at most 6.9 nats


class Mask(NamedTuple):
    """Which pixels are missing, in words and of each image."""

    words: str
    missing: Tensor  # (N, D) bool


class Filled(NamedTuple):
    """What the chains made of images under several masks."""

    masks: Sequence[Mask]
    steps: list[int]  # of the chain that the picture shows
    found: list[Imputed]  # one a mask


def random_mask(n: int, shape: tuple[int, int, int], share: float, seed: int) -> Mask:
    """So many of each image's pixels at random, all channels of a pixel together; at least one, and never all."""
    if not 0 < share < 1:
        raise RunError(f"--missing takes shares of the pixels above 0 and below 1, got {share:g}: pass 0.3,0.5,0.7")
    channels, pixels = shape[0], shape[1] * shape[2]
    count = min(max(1, round(share * pixels)), pixels - 1)
    order = torch.rand(n, pixels, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return Mask(f"{share:.0%} of the pixels missing".replace("%", " %"), (order < count).repeat(1, channels))


def square_mask(n: int, shape: tuple[int, int, int], side: int) -> Mask:
    """A square in the middle of every image."""
    channels, high, wide = shape
    if not 0 < side < max(high, wide):
        raise RunError(
            f"--square hides all of an image of {high} x {wide} at {max(high, wide)} pixels a side, got {side}: take "
            f"one of 1 ... {max(high, wide) - 1}"
        )
    missing = torch.zeros(high, wide, dtype=torch.bool)
    top, left = max(0, (high - side) // 2), max(0, (wide - side) // 2)
    missing[top : top + side, left : left + side] = True
    return Mask(f"a square of {side} pixels missing", missing.flatten().repeat(channels).expand(n, -1))


def fill_in(
    pair: Any, x: Tensor, masks: Sequence[Mask], steps: int, seed: int, on_step: Callable[[int], None] | None = None
) -> Filled:
    """Run a chain for each image (N, D) under each mask, all at once."""
    if steps < 1:
        raise RunError(f"--steps is at least 1, got {steps}: pass 100")
    at = sorted({round(step) for step in np.geomspace(1, steps, COLUMNS)})
    every = impute(
        pair, x.repeat(len(masks), 1), torch.cat([mask.missing for mask in masks]), steps, seed=seed, at=at,
        on_step=on_step,
    )  # fmt: skip
    n = len(x)
    found = [
        Imputed(every.x[rows], every.mean[rows], every.path[:, rows], every.accepted[rows])
        for rows in (slice(start, start + n) for start in range(0, len(every.x), n))
    ]
    return Filled(masks, at, found)


def imputation_sheet(x: Tensor, filled: Filled, shape: tuple[int, int, int], n: int) -> np.ndarray:
    """The first n images under each mask: what is given, the chain at some steps, its mean, the truth."""
    sheets = []
    for mask, found in zip(filled.masks, filled.found, strict=True):
        given = torch.from_numpy(masked(x[:n].reshape(-1, *shape), mask.missing[:n].reshape(-1, *shape)))
        others = (
            torch.stack([*found.path[:, :n], found.mean[:n], x[:n]], 1).reshape(n, -1, *shape).expand(-1, -1, 3, -1, -1)
        )
        rows = torch.cat([given.to(others).unsqueeze(1), others], 1)  # (n, columns, 3, H, W)
        words = ["given", *(f"{step}" for step in filled.steps), "mean", "truth"]
        sheets.append(headed(headed(image_grid(rows.flatten(0, 1).numpy(), len(words)), words), [mask.words]))
    return stacked(sheets)


def error_words(run: Run, x: Tensor, filled: Filled, mean: Tensor) -> list[str]:
    """A sentence for each mask: errors a missing pixel, and those of the training images' mean (D,)."""
    error = _root if run.options.get("likelihood", "bernoulli") == "gaussian" else _nats
    return [
        f"{mask.words}, errors a pixel: {error(x, found.mean, mask.missing)}; "
        f"by the training images' mean {error(x, mean.expand_as(x), mask.missing)}."
        for mask, found in zip(filled.masks, filled.found, strict=True)
    ]


def _root(x: Tensor, guess: Tensor, missing: Tensor) -> str:
    return f"root mean square error {_mean_over((x - guess).square(), missing).mean().sqrt():.4f}"


def _nats(x: Tensor, guess: Tensor, missing: Tensor) -> str:
    p = guess.clamp(LEAST, 1 - LEAST)
    nats = summarise(_mean_over(-(x * p.log() + (1 - x) * (1 - p).log()), missing), 1)
    wrong = _mean_over(((guess > 0.5) != (x > 0.5)).to(x), missing).mean()
    se = "" if nats.num_data == 1 else f" +- {nats.se:.3f}"
    return f"{nats.mean:.3f}{se} nats, {100 * wrong:.1f} % wrong"


def _mean_over(values: Tensor, missing: Tensor) -> Tensor:
    """Each image's mean over its missing pixels: (N,)."""
    return torch.where(missing, values, 0).sum(1) / missing.sum(1)
