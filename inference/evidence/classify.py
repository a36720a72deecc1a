"""Classification by generative models: Bayes' rule over the log-evidence of one model for each class.

    p(y | x) = p(x | y) p(y) / sum_c p(x | c) p(c)                 (the survey's Equation 1, p(x, y) / p(x))

Any estimate of log p(x | y) will do. A model's evidence adds up over pixels that it takes for more independent than
they are, so that Bayes' rule is too sure of itself; a temperature T, p(y) p(x | y)^(1/T), mends that and is fitted on
labelled rows that no model was trained on. Y classes, N rows; nats.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.importance import bound_per_datum, importance_weights

__all__ = ["Calibration", "Classes", "bayes", "calibrate", "calibration_error", "classify"]

_RANGE = 1e-3, 1e3  # of temperatures: rows without a single error have their optimum at 0


class Classes(NamedTuple):
    """What Bayes' rule says of N rows."""

    log_evidence: Tensor  # (N, Y) log p(x | y), nats, as it came
    log_prob: Tensor  # (N, Y) log p(y | x)
    log_p: Tensor  # (N,) log p(x) = log sum_y p(y) p(x | y); of the tempered evidence where T is not 1

    @property
    def label(self) -> Tensor:
        """The likeliest class of each row (N,)."""
        return self.log_prob.argmax(1)

    def error(self, y: Tensor) -> float:
        """The share of rows whose likeliest class is not their label y (N,)."""
        return float((self.label != _labels(y, self.log_prob)).double().mean())


class Calibration(NamedTuple):
    """A temperature, and what it did on the rows that it was fitted on."""

    temperature: float
    nll: tuple[float, float]  # mean -log p(y | x) before and after, nats
    ece: tuple[float, float]  # expected calibration error before and after


def classify(
    models: Sequence[Any],
    x: Tensor,
    *,
    prior: Tensor | None = None,
    k: int = 100,
    evidence: Callable[[Any, Tensor], Tensor] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Classes:
    """Classify rows by the log-evidence that a model of each class gives them [saul1996].

    The evidence is by default L_k of each model's own guide, which is below log p(x | y), and the more so for classes
    that the row is not of: a guide has learnt no others. `evidence` takes any other, from a model and x to (N,) nats:
    `exact_log_marginal`, or `lambda model, x: AIS(steps=100)(model, x).log_p`.

    Args:
        models: a model/guide pair for each class, in the order of the labels.
        x: rows (N, D).
        prior: p(y) (Y,); uniform by default.
        k: importance samples of each row and class.
        evidence: another estimate in place of L_k.
        temperature: T, from `calibrate`.
        seed: of the importance samples; the caller's RNG is left as it was.

    Raises:
        ShapeError: fewer than two models, no rows, a prior that is none, T <= 0; an estimate not of shape (N,).
        UnsupportedModelError: a row that no class gives a positive probability.
    """
    if len(models) < 2:
        raise ShapeError(f"there are at least 2 classes, a model for each, got {len(models)}: pass one for each label")

    def bound(model: Any, x: Tensor) -> Tensor:
        return bound_per_datum(importance_weights(model, x, k, seed=seed), k)

    columns = []
    for model in models:
        with torch.no_grad():
            found = (evidence or bound)(model, x)
        if found.shape != (len(x),):
            raise ShapeError(
                f"an estimate of log p(x | y) has a number for each of {len(x)} rows, got shape {tuple(found.shape)}: "
                "return (N,), no mean over rows"
            )
        columns.append(found.detach().double().cpu())
    return bayes(torch.stack(columns, 1), prior, temperature)


def bayes(log_evidence: Tensor, prior: Tensor | None = None, temperature: float = 1.0) -> Classes:
    """p(y | x) of each row, proportional to p(y) p(x | y)^(1/T): the survey's Equation 1 at T = 1.

    Args:
        log_evidence: (N, Y) log p(x | y), nats; log p(x, y) with a uniform prior gives the same p(y | x).
        prior: p(y) (Y,); uniform by default.
        temperature: T > 0; 1 is Bayes' rule itself, more of it leans on the prior.

    Raises:
        ShapeError, UnsupportedModelError: as `classify`.
    """
    if not temperature > 0:
        raise ShapeError(f"a temperature is above 0, got {temperature}: take calibrate(...).temperature, or 1")
    log_joint = log_evidence.double() / temperature + _log_prior(log_evidence, prior)
    log_p = log_joint.logsumexp(1)
    impossible = (log_p == -math.inf).nonzero().flatten()
    if len(impossible):
        raise UnsupportedModelError(
            f"row {int(impossible[0])} has probability 0 in every class, so it has none: leave it out, or mend a model"
        )
    return Classes(log_evidence, log_joint - log_p.unsqueeze(1), log_p)


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
    y = _labels(y, log_evidence)
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
    excess = (label == _labels(y, log_prob)).double() - confidence
    at = (confidence * bins).long().clamp(max=bins - 1)
    # n_b |mean of the excess in b| is |its sum in b|
    return float(excess.new_zeros(bins).index_add(0, at, excess).abs().sum() / len(y))


def _log_prior(log_evidence: Tensor, prior: Tensor | None) -> Tensor:
    """Log p(y) (Y,), float64."""
    if log_evidence.dim() != 2 or 0 in log_evidence.shape:
        raise ShapeError(
            f"log-evidence has a row for each datum and a column for each class, got {tuple(log_evidence.shape)}"
        )
    classes = log_evidence.shape[1]
    if prior is None:
        return torch.full((classes,), -math.log(classes), dtype=torch.float64, device=log_evidence.device)
    prior = prior.double().to(log_evidence.device)
    if prior.shape != (classes,) or bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-4:
        raise ShapeError(
            f"a prior is {classes} probabilities that add up to 1, got {prior.flatten().tolist()}: pass "
            "counts / counts.sum()"
        )
    return prior.log()


def _labels(y: Tensor, columns: Tensor) -> Tensor:
    """The labels (N,), on the device of their rows; refuses what is no class of theirs."""
    n, classes = columns.shape
    if y.shape != (n,):
        raise ShapeError(f"there is a label for each of {n} rows, got shape {tuple(y.shape)}: pass y of the same rows")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        wrong = int(y[(y < 0) | (y >= classes)][0])
        raise ShapeError(f"a label is a class 0 ... {classes - 1}, got {wrong}: give a model for each label")
    return y.long().to(columns.device)
