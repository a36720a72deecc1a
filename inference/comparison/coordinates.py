"""Draws as a table of numbers whose means are compared: one coordinate for each element of each site.

a binary element      h          its mean is P(h = 1)
another discrete one  1[h = s]   one coordinate a state s: its mean is P(h = s)
a continuous one      h          means and standard deviations, in units of the reference's standard deviation
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inference.evidence.exact import Posterior
from inference.types import Draws

__all__ = ["MOST_COORDINATES", "MOST_STATES", "Coordinates", "tabulate"]

MOST_COORDINATES = 512  # beyond, evenly spaced ones stand for all: diagnostics cost about a millisecond each
FIXED = 1e-6  # a continuous coordinate that varies by less, relative to its size, is a constant
MOST_STATES = 20  # of a discrete site; with more, such as a count, it is treated as a number


class Coordinates(NamedTuple):
    """Draws of C chains, S draws, F coordinates."""

    values: np.ndarray  # (C, S, F)
    names: tuple[str, ...]  # "h1[3, 5]", "y[2] = 7"
    discrete: np.ndarray  # (F,) bool
    total: int  # coordinates before the choice of MOST_COORDINATES
    exact: tuple[np.ndarray, np.ndarray] | None = None  # mean and standard deviation (F,), where they are known


def tabulate(
    draws: Mapping[str, Draws], sites: Sequence[str], posterior: Posterior | None = None
) -> dict[str, Coordinates]:
    """The same coordinates of every engine's draws, and their moments under an exact posterior.

    The states of a discrete site are the posterior's, or those that any engine drew.
    """
    states = {site: _states([each.values[site].numpy() for each in draws.values()]) for site in sites}
    if posterior is not None:
        supports = {site: posterior.support[site].numpy() for site in sites if site in posterior.support}
        states |= {site: values if len(values) <= MOST_STATES else None for site, values in supports.items()}
    exact = None if posterior is None else _exact(posterior, states)
    tables = {engine: _table(each, states, exact) for engine, each in draws.items()}
    moving = np.any([_moves(table) for table in tables.values()], 0)
    return {engine: _chosen(table, np.flatnonzero(moving)) for engine, table in tables.items()}


def _moves(table: Coordinates) -> np.ndarray:
    """Which coordinates (F,) are numbers to compare; the zeros of a triangular matrix, say, are none."""
    spread = np.ptp(table.values, axis=(0, 1))
    return table.discrete | (spread > FIXED * np.maximum(1.0, np.abs(table.values).max((0, 1))))


def _chosen(table: Coordinates, kept: np.ndarray) -> Coordinates:
    """At most MOST_COORDINATES of those kept."""
    at = kept[np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MOST_COORDINATES)).round().astype(int))]
    exact = None if table.exact is None else (table.exact[0][at], table.exact[1][at])
    names = tuple(table.names[i] for i in at)
    return Coordinates(table.values[..., at], names, table.discrete[at], len(kept), exact)


def _states(values: Sequence[np.ndarray]) -> np.ndarray | None:
    """The states of a discrete site, or None for a continuous one."""
    found = np.array([])
    for each in values:
        if not np.array_equal(each, np.round(each)):
            return None
        found = np.union1d(found, each)
        if len(found) > MOST_STATES:
            return None
    return found


def _exact(posterior: Posterior, states: Mapping[str, np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every coordinate, (F,), in the order of `_table`."""
    means, sds = [], []
    for site, known in states.items():
        if known is None:
            means.append(posterior.mean[site].numpy().reshape(-1))
            sds.append(posterior.sd[site].numpy().reshape(-1))
            continue
        p = posterior.probs[site].double().numpy()  # (*shape, V)
        p = (p[..., known == 1] if _binary(known) else p).reshape(-1)
        means.append(p)
        sds.append(np.sqrt(np.clip(p * (1 - p), 0, None)))
    return np.concatenate(means), np.concatenate(sds)


def _binary(known: np.ndarray) -> bool:
    return set(known) <= {0, 1}


def _table(
    draws: Draws, states: Mapping[str, np.ndarray | None], exact: tuple[np.ndarray, np.ndarray] | None
) -> Coordinates:
    columns, names, discrete = [], [], []
    for site, known in states.items():
        values = draws.values[site].numpy()
        flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
        labels = [site + (f"[{', '.join(map(str, i))}]" if i else "") for i in np.ndindex(values.shape[2:])]
        if known is None or _binary(known):
            columns.append(flat)
            names += labels
        else:
            columns.append((flat[..., None] == known).astype(np.float64).reshape(*flat.shape[:2], -1))
            names += [f"{label} = {state:g}" for label in labels for state in known]
        discrete += [known is not None] * columns[-1].shape[2]
    values = np.concatenate(columns, 2)
    return Coordinates(values, tuple(names), np.array(discrete), values.shape[2], exact)
