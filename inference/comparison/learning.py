"""One model learnt by several methods, each under the same budget of seconds: the second half of a comparison.

The clock runs while a method steps and stands still while the model is evaluated, so a slow evaluation costs no method
anything. Snapshots are evenly spaced in the logarithm of time: early differences are as large as late ones.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from inference.errors import RunError
from inference.types import BatchSource, Stepper

__all__ = ["Curve", "Snapshot", "learn"]

SNAPSHOTS = 9  # after the start: at budget / 2^8, ..., budget / 2, budget


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
    estimate: str = "exact"  # of log p(x): "exact", or the bound that stands for it


def learn(
    make: Callable[[], Any],
    methods: Mapping[str, Callable[[Any], Stepper]],
    batches: BatchSource,
    evaluate: Callable[[Any], tuple[float, float]],
    *,
    budget: float,
    seed: int = 0,
    estimate: str = "exact",
    on_time: Callable[[str, float], None] | None = None,
) -> tuple[Curve, ...]:
    """Train a fresh model by each method for `budget` seconds.

    Args:
        make: a new model, the same at every call.
        methods: name -> the stepper that trains a model: `lambda model: SVI(model, IWAE(5), ...)`.
        batches: the training data.
        evaluate: the model's test log p(x), mean and standard error in nats.
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
    for name, stepper in methods.items():
        model = make()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            told = (lambda used, name=name: on_time(name, used)) if on_time is not None else None
            points = _timed(stepper(model), batches, lambda model=model: evaluate(model), budget, seed, told)
        curves.append(Curve(name, points, model, estimate))
    return tuple(curves)


def _timed(
    stepper: Stepper,
    batches: BatchSource,
    evaluate: Callable[[], tuple[float, float]],
    budget: float,
    seed: int,
    told: Callable[[float], None] | None,
) -> tuple[Snapshot, ...]:
    due = [budget / 2**i for i in reversed(range(SNAPSHOTS))]
    stepper.init(*next(iter(batches.epoch(0, seed))))
    points = [Snapshot(0.0, 0, *evaluate())]
    used, steps = 0.0, 0
    every = (batch for epoch in itertools.count() for batch in batches.epoch(epoch, seed))
    while due:
        start = time.perf_counter()
        stepper.step(*next(every))
        used, steps = used + time.perf_counter() - start, steps + 1
        if used >= due[0]:
            due = [moment for moment in due if moment > used]
            with torch.random.fork_rng():
                points.append(Snapshot(used, steps, *evaluate()))
        if told is not None:
            told(used)
    return tuple(points)
