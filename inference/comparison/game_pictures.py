"""Pictures of a game: density, D and samples in one frame for data of one or two dimensions, a GIF, numbered images.

The frame is the survey's Figure 8 [goodfellow2014]: where the data lie, where the generator puts its samples, and what
the discriminator says of every place. Drawn twice for a page, once for a light background and once for a dark one.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inference.comparison.figures import image_grid

__all__ = ["Frame", "Mixture", "Window", "animation", "mesh", "numbered", "toy_picture", "window_of"]

SIDE = {1: 241, 2: 65}  # points of the mesh along an axis, by the dimensions of the data
DOTS = 2000  # samples that are drawn
MODEL_BINS = 96
LIGHT = {"page": "#ffffff", "ink": "#1d2329", "soft": "#59636e", "real": "#1f5fbf", "fake": "#c2570c"}
DARK = {"page": "#14171b", "ink": "#e3e6ea", "soft": "#9aa4af", "real": "#74aaf5", "fake": "#f2a25c"}


class Mixture(NamedTuple):
    """Where toy data come from: M normal modes of one standard deviation and of equal weight."""

    means: np.ndarray  # (M, D)
    sd: float


class Window(NamedTuple):
    """The part of the plane, or of the line, that is drawn."""

    low: np.ndarray  # (D,)
    high: np.ndarray  # (D,)


class Frame(NamedTuple):
    """What there is to draw at one step."""

    samples: np.ndarray  # (S, D) of the generator
    decision: np.ndarray | None  # (G,) D(x) on the mesh; None where D does not judge rows one by one


def window_of(real: np.ndarray) -> Window:  # (N, D)
    """The window in which data are seen with some room around them."""
    low, high = real.min(0), real.max(0)
    room = 0.15 * np.maximum(high - low, 1e-3)
    return Window(low - room, high + room)


def mesh(window: Window) -> np.ndarray:
    """The points (G, D) at which D is asked, x fastest."""
    dims = len(window.low)
    axes = [np.linspace(a, b, SIDE[dims], dtype=np.float32) for a, b in zip(window.low, window.high, strict=True)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, dims)


def toy_picture(
    frame: Frame,
    window: Window,
    truth: Mixture | None,
    real: np.ndarray,  # (N, D)
    *,
    dark: bool = False,
    inches: float = 5.0,
) -> bytes:
    """A PNG file of a frame of one or two dimensions; `truth` is drawn where it is known, else `real` rows themselves.

    At 3 inches and less the picture has neither labels nor legend.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = DARK if dark else LIGHT
    small = {"font.size": 9, "axes.linewidth": 0.6}
    names = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    style: Any = {**small, **dict.fromkeys(names, colours["soft"])}
    with rc_context(style):
        one, bare = len(window.low) == 1, inches <= 3
        figure = Figure((inches, inches * (0.62 if one else 1.0 if bare else 0.92)), dpi=130, layout="constrained")
        figure.set_facecolor(colours["page"])
        axes = figure.add_subplot()
        axes.set_facecolor(colours["page"])
        (_line if one else _plane)(axes, frame, window, truth, real, colours, bare)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plane(axes: Any, frame: Frame, window: Window, truth: Any, real: np.ndarray, colours: dict[str, str],
           bare: bool) -> None:  # fmt: skip
    """D as colour, the data's modes as circles of three standard deviations, samples as dots."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import LinearSegmentedColormap

    (x0, y0), (x1, y1) = window.low, window.high
    if frame.decision is not None:
        shades = LinearSegmentedColormap.from_list("D", [colours["fake"], colours["page"], colours["real"]])
        values = frame.decision.astype(np.float64).reshape(SIDE[2], SIDE[2])
        shown = axes.imshow(
            values, origin="lower", extent=(x0, x1, y0, y1), cmap=shades, vmin=0, vmax=1, alpha=0.75,
            interpolation="bilinear", aspect="auto",
        )  # fmt: skip
        if not bare:
            bar = axes.figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
            bar.set_label("D(x)")
            bar.outline.set_visible(False)
    if truth is None:
        axes.scatter(*real[:DOTS].T, s=2, color=colours["real"], linewidths=0, alpha=0.5)
    else:
        wide = np.full(len(truth.means), 6 * truth.sd)
        circles = EllipseCollection(
            wide, wide, np.zeros(len(wide)), units="xy", offsets=truth.means, transOffset=axes.transData,
            facecolors="none", edgecolors=colours["real"], linewidths=0.7 if bare else 1.2,
        )  # fmt: skip
        axes.add_collection(circles)
    axes.scatter(*frame.samples[:DOTS].T, s=1 if bare else 2.5, color=colours["ink"], linewidths=0, alpha=0.55)
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", **({"xticks": [], "yticks": []} if bare else {}))


def _line(axes: Any, frame: Frame, window: Window, truth: Any, real: np.ndarray, colours: dict[str, str],
          bare: bool) -> None:  # fmt: skip
    """The data's density, that of the samples, D, and the best D for these samples, p / (p + g)."""
    x, low, high = mesh(window)[:, 0], window.low[0], window.high[0]
    p = _density(real[:, 0], low, high)[1] if truth is None else _mixture(truth, x)
    at, g = _density(frame.samples[:, 0], low, high)
    p_x = p if truth is not None else np.interp(x, at, p)
    g_x = np.interp(x, at, g)
    axes.plot(x, p_x, ":", color=colours["real"], linewidth=2, label="data")
    axes.fill_between(at, g, step="mid", color=colours["fake"], alpha=0.25, linewidth=0)
    axes.step(at, g, where="mid", color=colours["fake"], linewidth=1, label="samples")
    axes.set(xlim=(low, high), ylim=(0, 1.1 * max(p_x.max(), min(g.max(), 2 * p_x.max()))))
    right = axes.twinx()
    right.set(ylim=(0, 1.02))
    right.axhline(0.5, color=colours["soft"], linewidth=0.5)
    if frame.decision is not None:
        right.plot(x, frame.decision, "--", color=colours["ink"], linewidth=1.4, label="D")
    seen = p_x + g_x > 0.02 * p_x.max()  # elsewhere both are noise
    best = np.where(seen, p_x / np.where(seen, p_x + g_x, 1), np.nan)
    right.plot(x, best, "-", color=colours["soft"], linewidth=0.9, label="best D")
    if bare:
        for side in (axes, right):
            side.set(xticks=[], yticks=[])
        return
    axes.set(xlabel="x", ylabel="density")
    right.set(ylabel="D(x)")
    lines = [each for side in (axes, right) for each in side.get_lines() if not each.get_label().startswith("_")]
    axes.legend(
        handles=lines,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        frameon=False,
        ncols=len(lines),
        labelcolor=colours["soft"],
    )


def _density(x: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """A histogram as a density: the middles of its bins and the heights; what lies outside counts in the total."""
    counts, edges = np.histogram(x, MODEL_BINS, (low, high))
    return (edges[1:] + edges[:-1]) / 2, counts / (max(1, len(x)) * (edges[1] - edges[0]))


def _mixture(truth: Mixture, x: np.ndarray) -> np.ndarray:
    z = (x[:, None] - truth.means[:, 0]) / truth.sd
    return np.exp(-0.5 * z**2).mean(1) / (truth.sd * np.sqrt(2 * np.pi))


def numbered(x: Any, columns: int) -> np.ndarray:
    """Images (N, C, H, W) as a grid with the number of each, from 0, in its corner: what `--plus 3,17` picks from."""
    grid = image_grid(x, columns, cell=64)
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    step_x, step_y = (grid.shape[1] + 3) / columns, (grid.shape[0] + 3) / rows
    sheet = Image.fromarray(grid)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i in range(len(x)):
        corner = (round(i % columns * step_x), round(i // columns * step_y))
        left, top, right, bottom = pen.textbbox((corner[0] + 2, corner[1] + 1), str(i), font=font)
        pen.rectangle((left - 2, top - 1, right + 1, bottom + 1), fill=(0, 0, 0))
        pen.text((corner[0] + 2, corner[1] + 1), str(i), font=font, fill=(255, 255, 255))
    return np.asarray(sheet)


def animation(pictures: Sequence[tuple[str, bytes]], milliseconds: int = 500) -> bytes:
    """A GIF of PNG files, each with its words above, small ones enlarged; so long each, the last for two seconds."""
    font, frames, opened = ImageFont.load_default(14), [], []
    for _, png in pictures:
        with Image.open(io.BytesIO(png)) as picture:
            opened.append(picture.convert("RGB"))
    size = max((picture.size for picture in opened), key=lambda size: size[0] * size[1])
    for (words, _), picture in zip(pictures, opened, strict=True):
        frame = Image.new("RGB", (size[0], size[1] + 22), "white")
        frame.paste(picture.resize(size, Image.Resampling.NEAREST), (0, 22))
        ImageDraw.Draw(frame).text((4, 3), words, font=font, fill="black")
        frames.append(frame.quantize(128))
    buffer = io.BytesIO()
    times = [milliseconds] * (len(frames) - 1) + [2000]
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()
