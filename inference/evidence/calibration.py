"""Calibration: whether a probability of 0.9 is right nine times in ten, and a temperature that makes it so.

    p_T(y | x)  proportional to  p(y) p(x | y)^(1/T)

Bayes' rule is as sure as its models are right. Pixels that depend on one another more than a model knows, or training
rows that it has learnt by heart, make it too sure; evidence averaged over noisy copies of a row makes it too modest.
One number mends either: T, above 1 or below, fitted on labelled rows that no model was trained on. With a uniform prior
the likeliest class stays. N rows, Y classes; nats.
"""

import math
from typing import NamedTuple

from scipy.optimize import minimize_scalar
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.classify import bayes, check_labels

__all__ = ["Calibration", "calibrate", "calibration_error"]

_RANGE = 1e-3, 1e3  # of temperatures: rows without a single error have their optimum at 0


class Calibration(NamedTuple):
    """A temperature, and what it did on the rows that it was fitted on."""

    temperature: float
    nll: tuple[float, float]  # mean -log p(y | x) before and after, nats
    ece: tuple[float, float]  # expected calibration error before and after


def calibrate(log_evidence: Tensor, y: Tensor, prior: Tensor | None = None) -> Calibration:
    """The temperature of greatest likelihood, argmax_T sum_n log p_T(y_n | x_n) [guo2017].

    The likelihood is concave in 1/T, so there is one optimum; it is sought between 0.001 and 1000.

    Args:
        log_evidence: (N, Y) of rows that no model was trained on.
        y: their labels (N,), 0 ... Y-1.
        prior: p(y) (Y,); uniform by default.

    Raises:
        ShapeError: labels out of range, or not one a row.
        UnsupportedModelError: as `classify`; a row whose own class gives it probability 0.
    """
    y = check_labels(y, log_evidence)
    own = log_evidence.gather(1, y.unsqueeze(1)).squeeze(1)
    if bool((own == -math.inf).any()):
        row = int((own == -math.inf).nonzero()[0])
        raise UnsupportedModelError(
            f"row {row} has probability 0 in its own class {int(y[row])}, which no temperature mends: leave it out"
        )

    def nll(log_t: float) -> float:
        log_prob = bayes(log_evidence, prior, math.exp(log_t)).log_prob
        return -float(log_prob.gather(1, y.unsqueeze(1)).mean())

    bounds = math.log(_RANGE[0]), math.log(_RANGE[1])
    best = math.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)  # pyright: ignore
    before, after = (calibration_error(bayes(log_evidence, prior, t).log_prob, y) for t in (1.0, best))
    return Calibration(best, (nll(0.0), nll(math.log(best))), (before, after))


def calibration_error(log_prob: Tensor, y: Tensor, bins: int = 15) -> float:
    """The expected calibration error, sum_b n_b / N |accuracy_b - confidence_b| [guo2017].

    Rows fall into bins of equal width by the probability of their likeliest class, their confidence.

    Args:
        log_prob: (N, Y) log p(y | x).
        y: labels (N,), 0 ... Y-1.
        bins: between 0 and 1.

    Raises:
        ShapeError: no bin; labels out of range, or not one a row.
    """
    if bins < 1:
        raise ShapeError(f"bins is at least 1, got {bins}: pass bins=15")
    confidence, label = log_prob.double().exp().max(1)
    excess = (label == check_labels(y, log_prob)).double() - confidence
    at = (confidence * bins).long().clamp(max=bins - 1)
    # n_b |mean of the excess in b| is |its sum in b|
    return float(excess.new_zeros(bins).index_add(0, at, excess).abs().sum() / len(y))
