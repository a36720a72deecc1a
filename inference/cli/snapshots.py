"""Samples over time: what the generator makes of the same noise after 0, 1, 2, 3, 5, ... epochs, kept in DIR/frames.

Images are kept as PNG files; points with D on a mesh around them, from which the page draws its pictures.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.adversarial.virtual import refresh, virtual_layers
from inference.cli.game_words import LOSSES
from inference.comparison.figures import image_grid, png_bytes, write_atomic
from inference.comparison.game_pictures import Frame, Window, mesh, window_of
from inference.pair import evaluating
from ppl_models.pyramid import upsampled

__all__ = ["FRAMES", "Snapshots", "conditions_of", "drawable", "frames_in", "points_frame", "read_frame"]

FRAMES = "frames"
MOST = 12  # snapshots of a run
POINTS, IMAGES = 2000, 36
PARTNERS = 4  # packs of real and of generated rows beside which D judges a row, where it judges packs


class Snapshots:
    """The callback of `fit`: a frame at epochs that grow in proportion."""

    def __init__(self, out: Path, run: Any, found: Any, whole: Any, part: Any, game: Any):
        self.out, self.run, self.found, self.whole, self.part, self.game = out, run, found, whole, part, game
        self.at = {round(epoch) for epoch in np.geomspace(1, run.epochs, MOST)}

    def __call__(self, row: dict[str, Any]) -> None:
        """Take a frame after an epoch, if it is one of those to show."""
        if row["epoch"] in self.at:
            self.take(row["step"])

    def take(self, step: int) -> None:
        """Write the frame of a step, of rows that can be drawn."""
        run, generator = self.run, self.game.best
        with torch.no_grad():
            refresh(virtual_layers(generator), generator)
        buffer = io.BytesIO()
        if run.image_shape is not None:
            x, shape = images_at(run, self.whole, self.part, generator)
            buffer.write(png_bytes(image_grid(x.cpu().reshape(-1, *shape), columns=6)))
        elif drawable(self.found):
            frame = points_frame(run, self.found, generator, self.game.discriminator)
            arrays = {name: value for name, value in frame._asdict().items() if value is not None}
            np.savez_compressed(buffer, **arrays)
        else:
            return
        (self.out / FRAMES).mkdir(exist_ok=True)
        kind = "npz" if run.image_shape is None else "png"
        write_atomic(self.out / FRAMES / f"step-{step:08d}.{kind}", buffer.getvalue())


def images_at(run: Any, whole: Any, part: Any, generator: Any) -> tuple[Tensor, tuple[int, int, int]]:
    """Samples of a part and their shape; of a pyramid, by `generator` on top of the coarser, trained levels."""
    classes = conditions_of(run, IMAGES)
    if run.game != "lapgan":
        return generator.generate(IMAGES, run.seed, *classes), run.image_shape
    x = None
    for k in reversed(range(part.level, whole.levels)):
        g = generator if k == part.level else whole.level(k).generator
        if x is None:
            x = g.generate(IMAGES, run.seed, *classes)
        else:
            low = upsampled(x, whole.shapes[k + 1])
            x = (low + g.generate(IMAGES, run.seed + k, low, *classes)).clamp(0.0, 1.0)
    assert x is not None
    return x, whole.shapes[part.level]


def frames_in(out: Path) -> list[tuple[int, Path]]:
    """The frames of a run, (step, file) in order."""
    found = sorted((out / FRAMES).glob("step-*.*"))
    return [(int(path.stem.removeprefix("step-")), path) for path in found]


def points_frame(run: Any, found: Any, generator: Any, discriminator: Any) -> Frame:
    """Samples on the line or in the plane, and D on the mesh around the data."""
    x = generator.generate(POINTS, run.seed, *conditions_of(run, POINTS)).cpu()
    return Frame(x.numpy(), decision_of(run, discriminator, window_of(found.x.numpy()), found.x, x))


def read_frame(path: Path) -> Frame:
    """The points of a frame; raises ValueError where the file is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return Frame(arrays["samples"], arrays["decision"] if "decision" in arrays.files else None)
    except Exception as error:  # numpy and zipfile each raise their own
        raise ValueError(f"{path} is damaged ({error}): delete it") from None


def drawable(found: Any) -> bool:
    """Whether the rows are points on a line or in the plane."""
    return found.image_shape is None and found.x.shape[1] <= 2


def conditions_of(run: Any, n: int) -> tuple[Tensor, ...]:
    """Classes for n samples, in turn, where the game has classes."""
    return (torch.arange(n) % run.generator["n_classes"],) if run.labels else ()


@torch.no_grad()
def decision_of(run: Any, discriminator: Any, window: Window, real: Tensor, fake: Tensor) -> np.ndarray | None:
    """D(x) on the window's mesh (G,); None where the rows of a batch or their classes have a say in it.

    A discriminator of packs judges x beside other rows, half of them real and half samples: their mean logit.
    """
    if run.labels or run.discriminator.get("minibatch_kernels"):
        return None
    like = next(discriminator.parameters())
    points = torch.from_numpy(mesh(window)).to(like)
    with evaluating(discriminator):
        if run.pack == 1:
            logits = discriminator(points)
        else:
            few = min(PARTNERS, len(real) // run.pack) * run.pack
            rows = torch.cat([real[:few], fake[:few]]).to(like).reshape(-1, run.pack, real.shape[1])
            packs = [torch.cat([points, p.flatten().expand(len(points), -1)], 1) for p in rows[:, 1:]]
            logits = torch.stack([discriminator(pack) for pack in packs]).mean(0)
    loss = LOSSES[run.loss]
    if loss.equilibrium().score is None:  # a critic's values have no scale: seen through a sigmoid about their middle
        logits = logits - logits.median()
        return torch.sigmoid(logits).cpu().numpy()
    return loss.score(logits).cpu().numpy()
