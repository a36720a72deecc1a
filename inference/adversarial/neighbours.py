"""Nearest training rows of samples, and one figure for how much of a generator's output is copied from training data.

A generator that stores its training set passes every comparison of distributions; its samples lie nearer to training
rows than fresh data do. So both distances are taken to the same training set, and compared.
"""

import math
from typing import NamedTuple

import torch
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from inference.adversarial.rows import check_rows
from inference.errors import ShapeError

__all__ = ["Memorisation", "Neighbours", "memorisation", "nearest"]


class Neighbours(NamedTuple):
    """The n nearest training rows of each row, nearest first."""

    distance: Tensor  # (N, n), Euclidean
    index: Tensor  # (N, n) int64, into the training rows


class Memorisation(NamedTuple):
    """How near samples lie to the training rows, beside held-out data."""

    nearer: float  # share of pairs in which the sample is nearer than the held-out row: 1/2 where nothing is copied
    se: float  # of that share where nothing is copied, over samples and held-out rows
    ratio: float  # median distance of samples / that of held-out rows: 1 where nothing is copied, 0 for copies


def nearest(x: Tensor, train: Tensor, n: int = 1) -> Neighbours:
    """The n nearest training rows (M, D) of each row of x (N, D), by Euclidean distance: of pixels, or of features.

    Raises:
        ShapeError: rows of different lengths; n not between 1 and M.
        NonFiniteError: a row that is NaN or infinite.
    """
    check_rows({"x": x, "train": train})
    if not 1 <= n <= len(train):
        raise ShapeError(f"n is between 1 and the number of training rows, {len(train)}, got {n}")
    search = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(train.detach().cpu().numpy())
    distance, index = search.kneighbors(x.detach().cpu().numpy())
    return Neighbours(torch.from_numpy(distance), torch.from_numpy(index))


def memorisation(samples: Tensor, held_out: Tensor, train: Tensor) -> Memorisation:
    """Whether samples lie nearer to the training rows than held-out rows of the same source do [meehan2020].

        nearer = P(d(sample) < d(held-out)) + P(equal) / 2,   d the distance to the nearest training row

    This is the Mann-Whitney statistic: 1/2 +- se for a generator that draws from the truth, 1 for one that copies, 0
    for one whose samples are far from all data. Blurred samples lie near everything and raise it without being copies,
    and a copy moved by two pixels is no longer near in pixels [theis2016]: take features too, and look at
    the neighbours.

    Args:
        samples: (N, D).
        held_out: (N', D), of the same source as the training rows and none of them.
        train: (M, D).

    Raises:
        ShapeError, NonFiniteError: as `nearest`.
    """
    check_rows({"samples": samples, "held_out": held_out, "train": train})
    ours, theirs = (nearest(x, train).distance[:, 0].numpy() for x in (samples, held_out))
    pairs = len(ours) * len(theirs)
    nearer = float(mannwhitneyu(theirs, ours).statistic) / pairs
    median, other = (float(torch.from_numpy(d).median()) for d in (ours, theirs))
    ratio = median / other if other > 0 else math.nan  # held-out rows that are in the training set
    return Memorisation(nearer, math.sqrt((len(ours) + len(theirs) + 1) / (12 * pairs)), ratio)
