"""Images that a conditional model completes: the part that is given as it is, the rest drawn."""

from typing import Any

import torch
from torch import Tensor

from inference.cli.runs import Run, test_rows

__all__ = ["completed", "completions", "reconstructed"]

MEAN_DRAWS = 200  # of z, whose mean images are averaged


def completions(model: Any, run: Run, images: Tensor, draws: int = 8) -> Tensor:
    """Each image (N, D) as a row of pictures: what is given on grey, its mean completion, `draws` of them, the truth.

    A draw is the mean image of one z ~ p(z | c). Shapes: -> (N * (draws + 3), D).
    """
    assert run.parts is not None
    x, c = run.rows(images)
    drawn = model.predict(c, draws, run.seed)
    mean = model.predict(c, MEAN_DRAWS, run.seed).mean(0)
    filled = [torch.full_like(x, 0.5), mean, *drawn, x]
    return torch.stack([run.parts.join(part, c) for part in filled], 1).flatten(0, 1)


def reconstructed(model: Any, run: Run, images: Tensor) -> Tensor:
    """Images (N, D) whose part to predict is the mean image of its own code."""
    assert run.parts is not None
    x, c = run.rows(images)
    return run.parts.join(model.reconstruct(x, c), c)


def completed(model: Any, run: Run, n: int, seed: int) -> Tensor:
    """Test images drawn at random (with replacement), each completed by the mean image of one draw of z: (n, D)."""
    assert run.parts is not None
    images = test_rows(run, None, seed).x
    chosen = torch.randint(len(images), (n,), generator=torch.Generator().manual_seed(seed))
    _, c = run.rows(images[chosen])
    return run.parts.join(model.predict(c, 1, seed)[0], c)
