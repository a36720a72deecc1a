"""ArviZ in one place: diagnostics of plain arrays, in ArviZ 0.2x and 1.x."""

import math
import warnings

import numpy as np

__all__ = ["khat"]


def khat(log_w: np.ndarray) -> np.ndarray:
    """Pareto k-hat of importance weights: the tail index of each datum's weights [vehtari2024psis].

    Below 0.5 the weights have a finite variance; above 0.7 neither their mean nor its error can be trusted.

    Args:
        log_w: (K, N) log-weights of K draws for each of N data.

    Returns:
        (N,); NaN where K < 25 is too few for a tail.
    """
    if log_w.shape[0] < 25:
        return np.full(log_w.shape[1], math.nan)
    rows = np.ascontiguousarray(log_w.T, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.2x announces its own 1.0 at import
        try:
            from arviz import psislw
        except ImportError:  # ArviZ 1.x: a package of its own, which takes log-likelihoods: the weights' negative
            from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

            return np.asarray(array_stats.psislw(-rows)[1])
        return np.asarray(psislw(rows)[1])
