"""Posterior means and standard deviations from draws, and how sure the draws make them."""

import math
from typing import NamedTuple

import numpy as np

from inference.comparison.coordinates import Coordinates
from inference.comparison.diagnostics import ess
from inference.types import Draws

__all__ = ["Moments", "drawn_moments", "reference_moments"]


class Moments(NamedTuple):
    """What one engine says of every coordinate."""

    mean: np.ndarray  # (F,)
    sd: np.ndarray  # (F,)
    ess: np.ndarray  # (F,) for the error of the mean; infinite where the moments are exact
    sd_mcse: np.ndarray  # (F,) of `sd`, continuous coordinates
    bulk: np.ndarray  # (F,) ESS of the ranks
    log_p: float  # E[log p(x, h)], nats per unit
    log_p_mcse: float


def drawn_moments(table: Coordinates, draws: Draws, units: int) -> Moments:
    """Means and standard deviations of draws, with what tells their Monte Carlo errors.

    units: N where some engine has a weight for each datum, else 1: engines that know log p of all data alone are
    divided by it too.
    """
    values, continuous = table.values, ~table.discrete
    mean, sd, bulk = values.mean((0, 1)), values.std((0, 1)), ess(values, "bulk")
    size = bulk.copy()  # on 0 and 1, ranks are the values themselves
    sd_mcse = np.zeros_like(mean)
    if continuous.any():
        size[continuous] = ess(values[..., continuous], "mean")
        squares = (values[..., continuous] - mean[continuous]) ** 2
        se = squares.std((0, 1)) / np.sqrt(ess(squares, "mean"))
        sd_mcse[continuous] = se / (2 * np.maximum(sd[continuous], 1e-300))  # delta method
    size = np.where(np.isnan(size), 1.0, size)  # too few draws to count effective ones
    joint = draws.log_p.double().sum(-1).numpy() / units
    joint_size = ess(joint[..., None], "mean")[0]
    log_p_mcse = float(joint.std()) / math.sqrt(1.0 if math.isnan(joint_size) else joint_size)
    return Moments(mean, sd, size, sd_mcse, bulk, float(joint.mean()), log_p_mcse)


def reference_moments(table: Coordinates, drawn: Moments) -> Moments:
    """The moments that others are judged by: the exact ones where there are such, else what the reference drew."""
    if table.exact is None:
        return drawn
    mean, sd = table.exact
    return drawn._replace(mean=mean, sd=sd, ess=np.full_like(mean, math.inf), sd_mcse=np.zeros_like(mean))
