"""Pictures of a model of labels: each class in the same styles, and the style of a test image in every class."""

from typing import Any

import torch
from torch import Tensor

from inference.cli.runs import Run, test_rows
from inference.comparison.figures import image_grid, png_bytes

__all__ = ["analogies", "by_class", "label_pictures"]

STYLES, IMAGES = 16, 12


def by_class(model: Any, styles: int, seed: int) -> Tensor:
    """A row for each class, one draw of style a column: (C * styles, D)."""
    return model.generate(styles, seed).transpose(0, 1).flatten(0, 1)


def analogies(model: Any, images: Tensor) -> Tensor:
    """Each image (N, D), and beside it its style in every class: (N * (1 + C), D)."""
    classes = model.classify(images[:1]).shape[-1]
    z = model.style(images)
    y = torch.arange(classes, device=z.device)
    drawn = model.decode(y.expand(len(z), classes), z.unsqueeze(1).expand(-1, classes, -1))
    return torch.cat([images.unsqueeze(1), drawn], 1).flatten(0, 1)


def label_pictures(model: Any, run: Run) -> list[tuple[str, str, bytes]]:
    """Headings, captions and PNG files for the page."""
    x = test_rows(run, None, run.seed, drawn=False).x
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(run.seed))[:IMAGES]]
    classes = model.classify(x[:1]).shape[-1]
    shape = run.options["image_shape"]

    def png(rows: Tensor, columns: int) -> bytes:
        return png_bytes(image_grid(rows.cpu().reshape(-1, *shape), columns))

    return [
        ("Class by style", f"Mean images E[x | y, z]: a row for each of {classes} classes, one draw of style "
         "z ~ p(z) a column.", png(by_class(model, STYLES, run.seed), STYLES)),
        ("Analogies", "Test images on the left; to the right their style, the mean of q(z | x, y) at the likeliest y, "
         "in every class.", png(analogies(model, x), 1 + classes)),
    ]  # fmt: skip
