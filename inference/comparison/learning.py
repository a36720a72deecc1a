"""One model learnt by several methods, each under the same budget of seconds: the second half of a comparison.

The clock runs while a method steps and stands still while the model is evaluated, so a slow evaluation costs no method
anything. Snapshots are evenly spaced in the logarithm of time: early differences are as large as late ones.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.errors import RunError
from inference.types import BatchSource, Stepper

__all__ = ["Curve", "Method", "Snapshot", "behind", "learn", "learnt_best"]

SNAPSHOTS = 9  # after the start: at budget / 2^8, ..., budget / 2, budget


class Method(NamedTuple):
    """A way to learn a model: what steps, and the batches that it takes (Gibbs wants the numbers of the rows too)."""

    stepper: Callable[[Any], Stepper]  # of a model: `lambda model: SVI(model, IWAE(5), ...)`
    batches: BatchSource


class Snapshot(NamedTuple):
    """A model on its way: seconds and steps so far, and its mean test log p(x) with standard error, nats."""

    seconds: float
    steps: int
    log_p: float
    se: float


class Curve(NamedTuple):
    """What one method learnt."""

    method: str
    points: tuple[Snapshot, ...]
    model: Any  # as it was after the last step
    log_p: Tensor  # (N,) of each test datum then, nats
    estimate: str = "exact"  # of log p(x): "exact", or the bound that stands for it


def learn(
    make: Callable[[], Any],
    methods: Mapping[str, Method],
    evaluate: Callable[[Any], Tensor],
    *,
    budget: float,
    seed: int = 0,
    estimate: str = "exact",
    on_time: Callable[[str, float], None] | None = None,
) -> tuple[Curve, ...]:
    """Train a fresh model by each method for `budget` seconds.

    Args:
        make: a new model, the same at every call.
        methods: name -> the stepper that trains a model, and the training data in batches.
        evaluate: the model's log p(x) of each test datum, (N,), nats.
        budget: seconds of learning for each method, evaluation not counted.
        seed: of batches and draws, the same for every method; the caller's RNG is left as it was.
        estimate: what `evaluate` gives, in words.
        on_time: called with method and seconds used, for a progress bar.

    Returns:
        A curve for each method; its first point is the model before any step.

    Raises:
        RunError: no method, a budget that is not positive.
    """
    if not methods:
        raise RunError("there is no learning method to compare: pass at least one")
    if not 0 < budget < float("inf"):
        raise RunError(f"the budget is above 0 seconds, got {budget}: pass for example 10")
    curves = []
    for name, method in methods.items():
        model = make()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            told = None if on_time is None else partial(on_time, name)
            points, last = _timed(method, model, partial(evaluate, model), budget, seed, told)
        curves.append(Curve(name, points, model, last, estimate))
    return tuple(curves)


def _timed(
    method: Method,
    model: Any,
    evaluate: Callable[[], Tensor],
    budget: float,
    seed: int,
    told: Callable[[float], None] | None,
) -> tuple[tuple[Snapshot, ...], Tensor]:
    due = [budget / 2**i for i in reversed(range(SNAPSHOTS))]
    stepper, batches = method.stepper(model), method.batches
    stepper.init(*next(iter(batches.epoch(0, seed))))
    values = evaluate()
    points = [_snapshot(0.0, 0, values)]
    used, steps = 0.0, 0
    every = (batch for epoch in itertools.count() for batch in batches.epoch(epoch, seed))
    while due:
        start = time.perf_counter()
        stepper.step(*next(every))
        used, steps = used + time.perf_counter() - start, steps + 1
        if used >= due[0]:
            due = [moment for moment in due if moment > used]
            with torch.random.fork_rng():
                values = evaluate()
            points.append(_snapshot(used, steps, values))
        if told is not None:
            told(used)
    return tuple(points), values


def _snapshot(seconds: float, steps: int, values: Tensor) -> Snapshot:
    return Snapshot(seconds, steps, *_mean(values))


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean over data and its standard error."""
    se = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), se


def behind(curves: Sequence[Curve]) -> dict[str, tuple[float, float]]:
    """How far each method's test log p(x) lies under the best one's at the end: nats, and the paired standard error."""
    best = max(curves, key=lambda curve: curve.points[-1].log_p)
    return {curve.method: _mean(best.log_p - curve.log_p) for curve in curves}


def learnt_best(curves: Sequence[Curve]) -> str:
    """One sentence: which method learnt the best model, and by how much."""
    best = max(curves, key=lambda curve: curve.points[-1].log_p)
    last = best.points[-1]
    words = f"{best.method} learnt best in {last.seconds:.3g} s: test log p(x) {last.log_p:.2f} nats"
    others = [
        f"{name} is {gap:.2f} ± {se:.2f} behind"
        for name, (gap, se) in sorted(behind(curves).items(), key=lambda item: item[1][0])
        if name != best.method
    ]
    return "; ".join([words, *others]).replace("-", "\N{MINUS SIGN}") + "."
