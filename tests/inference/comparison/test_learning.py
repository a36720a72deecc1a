"""Learning under a budget: the clock counts steps alone, every method starts alike, and snapshots come when due."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from inference.comparison import learning
from inference.comparison.learning import Method, behind, learn, learnt_best
from inference.errors import RunError
from inference.types import Stepper


class Clock:
    """A clock that only steps and evaluations move."""

    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(learning, "time", SimpleNamespace(perf_counter=lambda: found.now))
    monkeypatch.setattr(Counter, "clock", found)
    return found


class Info(NamedTuple):
    loss: float


class Rows:
    """Batches of three rows."""

    num_rows = 6

    def __len__(self):
        return 2

    def epoch(self, epoch, seed):
        generator = torch.Generator().manual_seed(100 * seed + epoch)
        return iter([(part,) for part in torch.randn(6, 2, generator=generator).split(3)])

    def to(self, device):
        return self


class Counter:
    """A stepper whose step takes some milliseconds and moves its model by one."""

    optimizers: Any = ()
    clock = Clock()

    def __init__(self, model: list, seconds: float):
        self.model, self.seconds, self.seen, self.inits = model, seconds, [], 0

    def setup(self, fabric):
        raise AssertionError("no fabric here")

    def init(self, *batch):
        self.inits += 1

    def step(self, *batch):
        self.clock.sleep(self.seconds)
        self.model.append(torch.rand(()).item())
        self.seen.append(batch[0])
        return Info(0.0)

    def state(self):
        return {}, {}

    def load_state(self, tensors, meta):
        pass


def run(budget: float = 0.2, seed: int = 0, **methods: float):
    steppers: dict[str, Counter] = {}

    def make_method(name, seconds):
        def method(model) -> Stepper:
            steppers[name] = Counter(model, seconds)
            return steppers[name]

        return method

    def evaluate(model):
        Counter.clock.sleep(0.05)
        torch.rand(3)  # an evaluation that draws must not change what is learnt
        return torch.tensor([-1.0, 0.0, 1.0]) + len(model)

    made = {name: Method(make_method(name, seconds), Rows()) for name, seconds in methods.items()}
    return learn(list, made, evaluate, budget=budget, seed=seed), steppers


def test_the_budget_counts_steps_and_not_evaluations(clock):
    (curve,), _ = run(fast=0.002)
    last = curve.points[-1]
    assert last.seconds == pytest.approx(0.2, abs=0.0021)
    assert clock.now == pytest.approx(last.seconds + 0.05 * len(curve.points))
    assert last.log_p == last.steps == len(curve.model)


def test_snapshots_double_in_time_and_the_first_is_before_any_step():
    (curve,), _ = run(budget=0.5, fast=0.001)
    assert curve.points[0][:3] == (0.0, 0, 0.0)
    seconds = [point.seconds for point in curve.points[1:]]
    assert seconds == pytest.approx([0.5 / 2**i for i in range(8, -1, -1)], abs=0.0011)


def test_a_step_longer_than_the_budget_is_one_point():
    (curve,), _ = run(budget=0.01, slow=0.05)
    assert [point.steps for point in curve.points] == [0, 1]


def test_methods_see_the_same_batches_and_draws_and_start_afresh():
    (fast, slow), steppers = run(fast=0.002, slow=0.01)
    n = len(steppers["slow"].seen)
    assert n < len(steppers["fast"].seen)
    assert all(torch.equal(a, b) for a, b in zip(steppers["fast"].seen, steppers["slow"].seen, strict=False))
    assert fast.model[:n] == slow.model  # evaluations draw, and change nothing
    assert [stepper.inits for stepper in steppers.values()] == [1, 1]
    assert not torch.equal(steppers["fast"].seen[0], steppers["fast"].seen[2])  # another epoch, another order


def test_the_callers_randomness_stays():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    run(budget=0.02, fast=0.001)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_that_are_none_are_refused(budget):
    with pytest.raises(RunError, match="budget is above 0 seconds"):
        run(budget=budget, fast=0.001)


def test_differences_are_taken_datum_by_datum():
    """Two models a constant 0.5 apart: data differ by a nat, and the difference by nothing at all."""
    (curve,), _ = run(budget=0.02, fast=0.001)
    other = curve._replace(method="other", log_p=curve.log_p - 0.5, points=(curve.points[-1]._replace(log_p=-9.0),))
    gaps = behind([other, curve])
    assert gaps == {"other": (pytest.approx(0.5), pytest.approx(0.0, abs=1e-6)), "fast": (0.0, 0.0)}
    assert curve.points[-1].se == pytest.approx(1 / 3**0.5)
    said = learnt_best([other, curve])
    assert said.startswith("fast learnt best in 0.02") and said.endswith("; other is 0.50 ± 0.00 behind.")


def test_no_method_is_refused():
    with pytest.raises(RunError, match="no learning method"):
        run()
