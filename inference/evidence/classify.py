"""Classification by generative models: Bayes' rule over the log-evidence of one model for each class.

    p(y | x) = p(x | y) p(y) / sum_c p(x | c) p(c)                 (the survey's Equation 1, p(x, y) / p(x))

Any estimate of log p(x | y) will do. N rows, Y classes; nats.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.importance import bound_per_datum, importance_weights

__all__ = ["Classes", "bayes", "check_labels", "classify"]


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
        """The share of rows whose likeliest class is not their label y (N,), 0 ... Y-1."""
        return float((self.label != check_labels(y, self.log_prob)).double().mean())


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
        UnsupportedModelError: a row that has probability 0 in every class, or an evidence that is NaN or infinite.
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
    odd = (~log_p.isfinite()).nonzero().flatten()
    if len(odd):
        row = int(odd[0])
        raise UnsupportedModelError(
            f"row {row} has log p(x) = {float(log_p[row])}, so it has no class: leave it out, or mend the model that "
            f"gives it {log_evidence[row].tolist()}"
        )
    return Classes(log_evidence, log_joint - log_p.unsqueeze(1), log_p)


def check_labels(y: Tensor, columns: Tensor) -> Tensor:
    """The labels (N,) of columns (N, Y), on the same device; refuses what is no class of theirs."""
    n, classes = columns.shape
    if n == 0 or y.shape != (n,):
        raise ShapeError(
            f"there is a label for each of {n} rows, at least one, got shape {tuple(y.shape)}: pass y of the same rows"
        )
    if int(y.min()) < 0 or int(y.max()) >= classes:
        wrong = int(y[(y < 0) | (y >= classes)][0])
        raise ShapeError(f"a label is a class 0 ... {classes - 1}, got {wrong}: give a model for each label")
    return y.long().to(columns.device)


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
