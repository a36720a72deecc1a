"""Freeze learning: a player that is ahead stops until the other has caught up (the survey's Section 4.3.1).

A rule is a function (who was frozen, step, readings) -> who is; `Freezer` keeps what it needs and writes down who was
frozen when.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from inference.errors import RunError

__all__ = [
    "PLAYERS",
    "Freeze",
    "FreezeOnAccuracy",
    "FreezeOnLoss",
    "FreezeRule",
    "FreezeSchedule",
    "Freezer",
    "Frozen",
    "Readings",
]

PLAYERS = ("discriminator", "generator")
MOMENTUM = 0.9  # of the readings: single batches are noisy


class Freeze(NamedTuple):
    """A stretch of steps in which a player did not learn, `stop` not included; None while it lasts."""

    player: str
    start: int
    stop: int | None


class Readings(NamedTuple):
    """How the game stands, as running means over steps."""

    d_loss: float
    g_loss: float
    accuracy: float  # share of rows, real and generated, that the discriminator tells right


class Frozen(NamedTuple):
    """Which players do not learn."""

    discriminator: bool = False
    generator: bool = False


class FreezeRule(Protocol):
    """Who is frozen at the coming step, as a function of who was, of the step and of the readings so far."""

    def __call__(self, was: Frozen, step: int, readings: Readings | None) -> Frozen:
        """`readings` is None before the first step."""
        ...


@dataclass(frozen=True)
class FreezeOnAccuracy:
    """Freeze the player that wins, by the share of rows that the discriminator tells right: 1/2 at equilibrium.

    The discriminator stops while the accuracy is above `high`, until it has fallen to `high_thaw`; the generator while
    it is below `low`, until it has risen to `low_thaw`.

    Raises:
        RunError: unless 0 <= low <= low_thaw <= high_thaw <= high <= 1.
    """

    high: float = 0.85
    high_thaw: float = 0.7
    low: float = 0.3
    low_thaw: float = 0.45

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.low_thaw <= self.high_thaw <= self.high <= 1:
            raise RunError(
                "accuracies of freezing are 0 <= low <= low_thaw <= high_thaw <= high <= 1, got "
                f"{self.low}, {self.low_thaw}, {self.high_thaw}, {self.high}: for example FreezeOnAccuracy(0.85, 0.7)"
            )

    def __call__(self, was: Frozen, step: int, readings: Readings | None) -> Frozen:
        """One of the players at most."""
        if readings is None:
            return Frozen()
        accuracy = readings.accuracy
        return Frozen(
            accuracy > (self.high_thaw if was.discriminator else self.high),
            accuracy < (self.low_thaw if was.generator else self.low),
        )


@dataclass(frozen=True)
class FreezeOnLoss:
    """Freeze a player while its loss is below a level, until it has risen to another; a pair (level, thaw) a player.

    Losses depend on `loss=`: for cross entropy the discriminator's is log 4 = 1.386 at equilibrium, the non-saturating
    generator's log 2 = 0.693. Where both would be frozen, neither is: nothing could change any more.

    Raises:
        RunError: a level that is not finite or above its thaw; no level at all.
    """

    discriminator: tuple[float, float] | None = (0.5, 0.9)
    generator: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        levels = [pair for pair in (self.discriminator, self.generator) if pair is not None]
        if not levels or any(not (math.isfinite(a) and math.isfinite(b) and a <= b) for a, b in levels):
            raise RunError(
                "a player is frozen while its loss is below a level, until it is at another, not lower one, got "
                f"discriminator={self.discriminator}, generator={self.generator}: "
                "for example FreezeOnLoss(discriminator=(0.5, 0.9))"
            )

    def __call__(self, was: Frozen, step: int, readings: Readings | None) -> Frozen:
        """One of the players at most."""
        if readings is None:
            return Frozen()

        def low(loss: float, pair: tuple[float, float] | None, frozen: bool) -> bool:
            return pair is not None and loss < pair[1 if frozen else 0]

        now = Frozen(
            low(readings.d_loss, self.discriminator, was.discriminator),
            low(readings.g_loss, self.generator, was.generator),
        )
        return Frozen() if all(now) else now


@dataclass(frozen=True)
class FreezeSchedule:
    """Freeze players over given stretches of steps: (start, stop) pairs, counted from 0, `stop` not included.

    `stop` may be math.inf: a player that never learns.

    Raises:
        RunError: a stretch that ends before it starts.
    """

    discriminator: Sequence[tuple[float, float]] = ()
    generator: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        for start, stop in (*self.discriminator, *self.generator):
            if not 0 <= start < stop:
                raise RunError(
                    f"a stretch of frozen steps is 0 <= start < stop, got ({start}, {stop}): "
                    "for example FreezeSchedule(generator=[(0, 500)])"
                )

    def __call__(self, was: Frozen, step: int, readings: Readings | None) -> Frozen:
        """Whoever the schedule names."""

        def within(stretches: Sequence[tuple[float, float]]) -> bool:
            return any(start <= step < stop for start, stop in stretches)

        return Frozen(within(self.discriminator), within(self.generator))


class Freezer:
    """Who is frozen now, who was when, and the readings that decide; without a rule, nobody ever."""

    def __init__(self, rule: FreezeRule | None):
        self.rule = rule
        self.now = Frozen()
        self.freezes: list[Freeze] = []
        self.readings: Readings | None = None

    def decide(self, step: int) -> Frozen:
        """Who does not learn at this step."""
        if self.rule is None:
            return self.now
        now = self.rule(self.now, step, self.readings)
        for player, was, is_now in zip(PLAYERS, self.now, now, strict=True):
            if is_now and not was:
                self.freezes.append(Freeze(player, step, None))
            elif was and not is_now:
                at = max(i for i, each in enumerate(self.freezes) if each.player == player)
                self.freezes[at] = self.freezes[at]._replace(stop=step)
        self.now = now
        return now

    def read(self, seen: Readings) -> None:
        """Take a step's losses and accuracy into the running means."""
        was = seen if self.readings is None else self.readings
        self.readings = Readings(*(MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(was, seen, strict=True)))

    def state(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {
            "frozen": list(self.now),
            "freezes": [list(each) for each in self.freezes],
            "readings": None if self.readings is None else list(self.readings),
        }

    def load_state(self, meta: dict[str, Any]) -> None:
        """Take up a state."""
        self.now = Frozen(*meta["frozen"])
        self.freezes = [Freeze(*each) for each in meta["freezes"]]
        self.readings = None if meta["readings"] is None else Readings(*meta["readings"])
