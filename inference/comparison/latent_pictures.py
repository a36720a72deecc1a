"""Scatter pictures of latent codes, a small one for each layer, coloured by class."""

import io
from typing import Any

import numpy as np

from inference.comparison.game_pictures import DARK, LIGHT

__all__ = ["in_plane", "latent_picture"]

CLASSES = 10  # colours that can be told apart
INCHES = 3.4


def in_plane(z: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:  # (N, Z)
    """Codes as points (N, 2), and what the axes are.

    Two units are the axes themselves, of more the first two principal components; one unit lies on the x
    axis, and chance spreads its points along the other.
    """
    if z.shape[1] == 1:
        return np.concatenate([z, np.random.default_rng(0).uniform(-1, 1, z.shape)], 1), ("unit 1", "(any)")
    if z.shape[1] == 2:
        return z, ("unit 1", "unit 2")
    from sklearn.decomposition import PCA

    found = PCA(2, svd_solver="full").fit(z)
    first, second = (
        f"component {i}, {s:.0%} of the variance" for i, s in enumerate(found.explained_variance_ratio_, 1)
    )
    return found.transform(z), (first, second)


def latent_picture(z: np.ndarray, labels: np.ndarray | None, *, dark: bool = False) -> bytes:
    """A PNG file of codes (N, Z) as dots, coloured by their labels (N,) where there are at most ten classes."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    paint = DARK if dark else LIGHT
    names = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    style: Any = {"font.size": 9, "axes.linewidth": 0.6, **dict.fromkeys(names, paint["soft"])}
    points, words = in_plane(np.asarray(z, np.float64))
    with rc_context(style):
        figure = Figure((INCHES, INCHES), dpi=130, layout="constrained")
        figure.set_facecolor(paint["page"])
        axes = figure.add_subplot()
        axes.set_facecolor(paint["page"])
        axes.set(xlabel=words[0], ylabel=words[1], **({"yticks": []} if z.shape[1] == 1 else {}))
        dots: Any = {"s": 5, "linewidths": 0, "alpha": 0.75}
        if labels is None or labels.max() >= CLASSES:
            axes.scatter(*points.T, color=paint["real"], **dots)
        else:
            colours = colormaps["tab10"].colors  # pyright: ignore
            axes.scatter(*points.T, c=[colours[label] for label in labels], **dots)
            marks = [axes.plot([], [], "o", color=colours[label], label=str(label))[0] for label in np.unique(labels)]
            axes.legend(
                handles=marks, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, ncols=len(marks),
                handletextpad=0.0, columnspacing=0.5, handlelength=1.0, labelcolor=paint["ink"],
            )  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
