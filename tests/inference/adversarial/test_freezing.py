"""Who is frozen: the rules as functions, and the log of what they decided."""

import math

import pytest

from inference import FreezeOnAccuracy, FreezeOnLoss, FreezeSchedule
from inference.adversarial.freezing import Freeze, Freezer, Frozen, Readings
from inference.errors import RunError


def follow(rule, readings):
    """Who is frozen at each of a row of readings."""
    now, seen = Frozen(), []
    for step, reading in enumerate(readings):
        now = rule(now, step, reading)
        seen.append("".join(name for name, frozen in zip("dg", now, strict=True) if frozen))
    return seen


def accuracy(*values):
    return [Readings(0.0, 0.0, value) for value in values]


def losses(*pairs):
    return [Readings(d, g, 0.5) for d, g in pairs]


def test_by_accuracy_the_winner_stops_until_the_other_has_caught_up():
    rule = FreezeOnAccuracy(0.8, 0.6, 0.3, 0.4)
    seen = follow(rule, accuracy(0.75, 0.85, 0.75, 0.61, 0.6, 0.75, 0.35, 0.29, 0.35, 0.4, 0.5))
    assert seen == ["", "d", "d", "d", "", "", "", "g", "g", "", ""]


def test_by_loss_too():
    rule = FreezeOnLoss(discriminator=(0.5, 0.9), generator=(0.2, 0.4))
    seen = follow(rule, losses((0.6, 1), (0.4, 1), (0.8, 1), (0.9, 1), (0.8, 0.3), (0.8, 0.1), (0.8, 0.3), (0.8, 0.4)))
    assert seen == ["", "d", "d", "", "", "g", "g", ""]


def test_both_are_never_frozen_by_a_loss():
    rule = FreezeOnLoss(discriminator=(0.5, 0.9), generator=(0.2, 0.4))
    assert follow(rule, losses((0.1, 0.1), (0.1, 1), (0.1, 0.1))) == ["", "d", ""]


def test_nobody_is_frozen_before_there_is_a_reading():
    for rule in (FreezeOnAccuracy(), FreezeOnLoss()):
        assert rule(Frozen(), 0, None) == Frozen()


def test_a_schedule():
    rule = FreezeSchedule(discriminator=[(1, 3)], generator=[(0, 2), (4, math.inf)])
    assert follow(rule, [None] * 6) == ["g", "dg", "d", "", "g", "g"]


def test_the_log_says_who_was_frozen_when():
    freezer = Freezer(FreezeSchedule(discriminator=[(1, 3), (5, 6)], generator=[(4, math.inf)]))
    for step in range(7):
        freezer.decide(step)
    assert freezer.freezes == [
        Freeze("discriminator", 1, 3), Freeze("generator", 4, None), Freeze("discriminator", 5, 6),
    ]  # fmt: skip


def test_readings_are_running_means_and_survive_a_checkpoint():
    freezer = Freezer(FreezeOnAccuracy())
    freezer.read(Readings(1.0, 2.0, 0.5))
    freezer.read(Readings(2.0, 0.0, 1.0))
    assert freezer.readings == pytest.approx((1.1, 1.8, 0.55))
    freezer.decide(2)
    other = Freezer(FreezeOnAccuracy())
    other.load_state(freezer.state())
    assert (other.now, other.freezes, other.readings) == (freezer.now, freezer.freezes, freezer.readings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FreezeOnAccuracy(0.7, 0.8),
        lambda: FreezeOnAccuracy(high=1.2),
        lambda: FreezeOnAccuracy(low=0.5, low_thaw=0.4),
        lambda: FreezeOnLoss(discriminator=(0.9, 0.5)),
        lambda: FreezeOnLoss(discriminator=None),
        lambda: FreezeOnLoss(generator=(float("nan"), 1.0)),
        lambda: FreezeSchedule(generator=[(5, 5)]),
        lambda: FreezeSchedule(discriminator=[(-1, 5)]),
    ],
)
def test_levels_that_cannot_be_meant(make):
    with pytest.raises(RunError, match="for example"):
        make()
