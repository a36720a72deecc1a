"""Pictures of deep models on a run's page: codes of each layer, missing pixels filled in, images being drawn."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.cli.imputations import fill_in, imputation_sheet, random_mask, square_mask
from inference.cli.runs import Run, test_rows
from inference.comparison.figures import image_grid, png_bytes
from inference.comparison.game_pictures import animation
from inference.comparison.latent_pictures import latent_picture
from inference.comparison.report import Picture
from inference.comparison.sheets import framed, headed, stacked

__all__ = ["DEEP", "boxes_of", "code_pictures", "deep_facts", "deep_pictures", "drawing_film", "drawing_pictures"]

DEEP = ("dlgm", "draw")  # models of several latent sites, each with units of its own
SHARES, STEPS, EACH = (0.3, 0.5, 0.7), 100, 3  # of imputations; images a mask
CODES = 2000
DRAWN, READ, MOST = 6, 4, 12  # images of each kind, glimpses at most
FILM_SECONDS = 4.0


def deep_facts(run: Run) -> dict[str, str]:
    """What a deep model is, for the head of the page: its network and guide, or its glimpses and windows."""
    options = run.options
    if run.model == "dlgm":
        layers = [f"{'-'.join(map(str, [*h, z]))}" for h, z in zip(options["hidden"], options["z_dims"], strict=True)]
        posterior = ", rank one" if options.get("posterior") == "rank_one" else ""
        return {"network": "-".join([str(options["x_dim"]), *layers]), "guide": options["guide"] + posterior}
    if run.model == "draw":
        sides = {word: options[word] for word in ("read", "write") if options[word]}
        windows = ", ".join(f"{word}s through {side} x {side}" for word, side in sides.items())
        return {"glimpses": str(options["glimpses"]), "attention": windows or "none"}
    return {}


def deep_pictures(pair: Any, run: Run, x: Tensor) -> list[tuple[str, str, bytes]]:
    """Headings, captions and PNG files beside samples and reconstructions; x: test images (N, D)."""
    shape = tuple(run.options["image_shape"])
    found = drawing_pictures(pair.owner, shape, run.seed, x[:READ]) if run.model == "draw" else []
    few = x[: 2 * EACH]
    masks = [random_mask(len(few), shape, share, run.seed + i) for i, share in enumerate(SHARES)]
    masks.append(square_mask(len(few), shape, max(1, max(shape[1:]) // 2)))
    filled = fill_in(pair, few, masks, STEPS, run.seed)
    caption = (
        "Missing pixels (blue) of test images by the Markov chain z ~ q(z | x), missing pixels ~ p(x | z): their "
        f"probabilities after so many steps, and the mean of the last {STEPS // 2}."
    )
    return [*found, ("Imputations", caption, png_bytes(imputation_sheet(few, filled, shape, EACH)))]


def code_pictures(model: Any, run: Run) -> list[Picture]:
    """A picture for each layer of a DLGM: the guide's means of test images by class."""
    if run.model != "dlgm":
        return []
    test = test_rows(run, None, run.seed)
    chosen = torch.randperm(len(test.x), generator=torch.Generator().manual_seed(run.seed))[:CODES]
    labels = None if test.y is None else test.y[chosen].numpy()
    caption = f"Means of the guide for {len(chosen):,} test images"
    caption += ", coloured by class" if labels is not None and labels.max() < 10 else ""
    caption += "; of a layer of more than two units the first two principal components."
    found = []
    for level, z in enumerate(model.encode_layers(test.x[chosen]), start=1):
        light, dark = (latent_picture(z.numpy(), labels, dark=dark) for dark in (False, True))
        units = f"{z.shape[1]} unit{'s' if z.shape[1] > 1 else ''}{', next to the data' if level == 1 else ''}"
        found.append(Picture(f"z{level}, {units}", caption, light, dark))
    return found


def drawing_pictures(model: Any, shape: tuple[int, ...], seed: int, x: Tensor) -> list[tuple[str, str, bytes]]:
    """Rows of an image at each glimpse: from the prior, and of test images (N, D) read and drawn again."""
    at = np.unique(np.linspace(0, model.glimpses - 1, min(MOST, model.glimpses)).round().astype(int))
    words = [f"t = {t + 1}" if t == at[0] else str(t + 1) for t in at]

    def rows(images: Tensor, boxes: np.ndarray) -> np.ndarray:  # (T, n, D), (T, n, 4) -> n rows of some glimpses
        pixels = images[at].transpose(0, 1).flatten(0, 1).reshape(-1, *shape)
        return framed(pixels, boxes[at].swapaxes(0, 1).reshape(-1, 4), len(at))

    frames = model.frames(DRAWN, seed)
    caption = "From the prior, step by step" + ("; red: the window that is written." if frames.write else ".")
    sheet = headed(rows(frames.images, boxes_of(frames.write, frames.images)), words)
    found = [("Images being drawn", caption, png_bytes(sheet))]
    again = model.frames_of(x)
    both = torch.stack([x.expand(len(again.images), -1, -1), again.images], 2)  # (T, n, 2, D)
    boxes = np.stack([boxes_of(again.read, again.images), boxes_of(again.write, again.images)], 2)
    pairs = [rows(both[:, i], boxes[:, i]) for i in range(len(x))]
    caption = "Test images, and below each what has been drawn of it"
    caption += "; red: the window that is read, below that which is written." if again.read or again.write else "."
    return [*found, ("Images being read and drawn", caption, png_bytes(stacked([headed(pairs[0], words), *pairs[1:]])))]


def drawing_film(model: Any, shape: tuple[int, ...], n: int, seed: int) -> bytes:
    """A GIF of n images from the prior as they are drawn; it pauses on the last."""
    frames, columns = model.frames(n, seed), max(1, round(n**0.5))
    boxes = boxes_of(frames.write, frames.images)
    images = frames.images.reshape(len(boxes), n, *shape)
    grids = [framed(x, box, columns) for x, box in zip(images, boxes, strict=True)] + [image_grid(images[-1], columns)]
    words = [f"t = {t + 1}" for t in range(len(images))] + [f"after {len(images)} glimpses"]
    milliseconds = round(1000 * FILM_SECONDS / len(grids))
    return animation(
        [(word, png_bytes(grid)) for word, grid in zip(words, grids, strict=True)], max(60, min(400, milliseconds))
    )


def boxes_of(window: Any, images: Tensor) -> np.ndarray:
    """Edges of windows in pixels from an image's corner, (T, n, 4): left, top, right, bottom; NaN without attention.

    A window counts pixels from the middle of the first; its frame runs through the outermost lines of its grid.
    """
    if window is None:
        return np.full((*images.shape[:2], 4), np.nan)
    half = window.side / 2
    return (torch.stack([window.x - half, window.y - half, window.x + half, window.y + half], -1) + 0.5).numpy()
