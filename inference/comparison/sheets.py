"""Sheets of images: headings over their columns, frames around what a model attends to, steps of an imputation.

A sheet is pixels (height, width, 3) uint8, as `image_grid` lays them out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inference.comparison.figures import image_grid

__all__ = ["framed", "headed", "masked", "stacked"]

RED = (255, 40, 40)
HIDDEN = np.array([0.25, 0.45, 0.85])  # a colour that no grey image has
STRIP, GAP = 17, 3


def framed(x: Any, boxes: Any, columns: int, *, cell: int = 42) -> np.ndarray:
    """Images (N, C, H, W) as a grid, a red frame in each around its box (N, 4): left, top, right, bottom.

    Boxes are in pixels of an image, from its upper left corner. What lies outside is drawn along the image's edge; a
    box that is not finite is not drawn.
    """
    x, boxes = np.asarray(x), np.asarray(boxes, np.float64)
    grid = image_grid(x, columns, gap=GAP, cell=cell)
    columns = min(columns, len(x))
    step_y, step_x = x.shape[2], x.shape[3]
    scale = ((grid.shape[1] + GAP) // columns - GAP) // step_x
    high, wide = step_y * scale, step_x * scale
    sheet = Image.fromarray(grid)
    pen, width = ImageDraw.Draw(sheet), min(2, scale)
    for i, box in enumerate(boxes):
        if not np.isfinite(box).all():
            continue
        corner = np.array([i % columns * (wide + GAP), i // columns * (high + GAP)] * 2)
        inside = np.clip(np.round(box * scale), 0, [wide - 1, high - 1] * 2)
        pen.rectangle(tuple((corner + inside).astype(int).tolist()), outline=RED, width=width)
    return np.asarray(sheet)


def masked(x: Any, missing: Any) -> np.ndarray:
    """Images (N, C, H, W) in colour, their missing pixels (the same shape, or C = 1) blue: (N, 3, H, W)."""
    x, missing = np.asarray(x, np.float64), np.asarray(missing, bool)
    full = (len(x), 3, *x.shape[2:])
    return np.where(np.broadcast_to(missing, full), HIDDEN[:, None, None], np.broadcast_to(x, full))


def headed(sheet: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """A sheet below a dark strip with words over its columns, columns of one width; a single one stands at its left."""
    strip = Image.new("RGB", (sheet.shape[1], STRIP), (45, 50, 56))
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(11)
    wide = (sheet.shape[1] + GAP) / len(words)
    for i, word in enumerate(words):
        at, anchor = ((4, STRIP / 2), "lm") if len(words) == 1 else ((i * wide + (wide - GAP) / 2, STRIP / 2), "mm")
        pen.text(at, word, font=font, fill=(255, 255, 255), anchor=anchor)
    return np.concatenate([np.asarray(strip), sheet])


def stacked(sheets: Sequence[np.ndarray]) -> np.ndarray:
    """Sheets one below the other, narrower ones filled up with the colour of the gaps."""
    wide = max(sheet.shape[1] for sheet in sheets)
    filled = [np.pad(sheet, ((0, 0), (0, wide - sheet.shape[1]), (0, 0)), constant_values=128) for sheet in sheets]
    gap = np.full((2 * GAP, wide, 3), 128, np.uint8)
    return np.concatenate([part for sheet in filled for part in (sheet, gap)][:-1])
