"""A game as one HTML page: both players' curves with the level of the equilibrium, who was frozen when, and samples.

At the equilibrium of the cross-entropy losses D = 1/2 everywhere and the discriminator's loss is log 4
[goodfellow2014]. How near the last epochs are to it says less of the samples than the samples themselves.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from inference.adversarial.losses import Equilibrium
from inference.comparison.figures import curves, write_atomic
from inference.comparison.report import Picture, environment, flatten, shown

__all__ = ["Level", "Picture", "Snapshot", "write_game"]

NEAR = 0.01  # of the steps: frozen stretches with less between them are drawn as one
PLAYERS = {"discriminator": 0, "generator": 1}  # the lines of their colours


class Snapshot(NamedTuple):
    """What the generator made of the same noise after so many steps."""

    words: str
    light: bytes
    dark: bytes | None = None


class Level(NamedTuple):
    """One game: the whole run, or one level of a pyramid of games."""

    heading: str
    history: Sequence[Mapping[str, Any]]
    freezes: Sequence[tuple[str, int, int | None]] = ()  # player, first step, step of the thaw
    frames: Sequence[Snapshot] = ()


def write_game(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, object],
    config: Mapping[str, object],
    levels: Sequence[Level],
    rest: Equilibrium,
    pictures: Sequence[Picture] = (),
    evaluation: Mapping[str, Any] | None = None,
    evaluate: str = "",
    film: bytes | None = None,
) -> None:
    """Render a game as one self-contained page at `path`, written atomically.

    summary: key facts, label -> value. config: option -> value; `command` and `versions` get places of their own.
    levels: the games, one or the levels of a pyramid; a history's rows have `epoch`, `step`, `d_loss`, `g_loss`,
        `accuracy`, `d_real`, `d_fake`. rest: where they come to rest.
    evaluation: `headline`, a sentence; `warnings`, sentences; `figures`, mappings with `name`, `value`, `real` (what
        true data get), `unit` and `words`; `notes`, sentences. evaluate: the command that makes one.
    film: a GIF of the samples over time.
    """
    settings = dict(config)
    command, versions = settings.pop("command", None), settings.pop("versions", None)
    page = (
        environment()
        .get_template("game.html")
        .render(
            title=title,
            headline=_unbroken([*_headline(levels, rest), *([evaluation["headline"]] if evaluation else [])]),
            summary={key: value for key, value in summary.items() if value is not None},
            levels=[
                (level.heading, _charts(level, rest), _frozen(level), [shown(each) for each in level.frames])
                for level in levels
            ],
            rest=rest,
            level=_level(rest),
            pictures=[(each.heading, each.caption, shown(each)) for each in pictures],
            evaluation=evaluation,
            evaluate=evaluate,
            film=None if film is None else base64.b64encode(film).decode(),
            settings=flatten(settings),
            command=command,
            versions=flatten(versions) if isinstance(versions, Mapping) else {},
        )
    )
    write_atomic(path, page.encode())


def _headline(levels: Sequence[Level], rest: Equilibrium) -> list[str]:
    """How the last game stood at its end."""
    done = [level for level in levels if level.history]
    if not done:
        return ["No epoch finished."]
    last = done[-1].history[-1]
    steps = sum(level.history[-1]["step"] for level in done)
    name = f", the last {done[-1].heading}" if len(done) > 1 else ""
    words = [f"{steps:,} steps{name}."]
    right, level = 100 * last["accuracy"], _level(rest)
    words.append(
        f"In the last epoch the discriminator tells {right:.0f} % of rows right (50 % at equilibrium), "
        f"its loss is {_signed(last['d_loss'])}{f' ({level} at equilibrium)' if level else ''}."
    )
    return words


def _unbroken(sentences: Sequence[str]) -> str:
    """Sentences in a line that does not break between a number and its per cent."""
    return " ".join(sentences).replace(" %", "\N{NO-BREAK SPACE}%")


def _level(rest: Equilibrium) -> str:
    """The discriminator's loss at the equilibrium, in words."""
    if rest.d_loss is None:
        return ""
    return "log 4 = 1.39" if math.isclose(rest.d_loss, math.log(4)) else _signed(rest.d_loss)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _charts(level: Level, rest: Equilibrium) -> list[tuple[str, Markup]]:
    """Losses and verdicts over steps: (heading, <svg>) pairs; stretches in which a player was frozen as bands."""
    last = level.history[-1]["step"] if level.history else 0
    bands = [
        (start, stop, PLAYERS[player])
        for player in PLAYERS
        for start, stop in _merged([f for f in level.freezes if f[0] == player], last)
    ]
    losses = {} if rest.d_loss is None else {f"D: {_level(rest)}": rest.d_loss}
    if rest.g_loss is not None:
        losses[f"G: {_signed(rest.g_loss)}"] = rest.g_loss
    panels = (
        ("Losses", {"d_loss": "discriminator", "g_loss": "generator"}, "loss", losses),
        ("What D says", {"d_real": "of data", "d_fake": "of samples"}, "mean of D",
         {} if rest.score is None else {f"{rest.score:g}": rest.score}),
        ("How often D is right", {"accuracy": "accuracy"}, "share of rows", {"1/2": 0.5}),
    )  # fmt: skip
    charts = []
    for name, keys, y_label, rules in panels:
        svg = curves(
            level.history, "step", keys, x_label="step", y_label=y_label, title=f"{name} {level.heading} over steps",
            levels=rules, bands=bands,
        )  # fmt: skip
        if svg:
            charts.append((name, Markup(svg)))  # safe unescaped: curves() escapes every word it is given
    return charts


def _frozen(level: Level) -> str:
    """Who was frozen and how long, in a sentence; nothing where nobody was."""
    last = level.history[-1]["step"] if level.history else 0
    words = []
    for player in PLAYERS:
        stretches = [(start, last if stop is None else stop) for who, start, stop in level.freezes if who == player]
        if stretches:
            steps = sum(stop - start for start, stop in stretches)
            times = "once" if len(stretches) == 1 else f"{len(stretches):,} times"
            words.append(f"the {player} {times}, {steps:,} of {last:,} steps")
    return f"Frozen: {'; '.join(words)}." if words else ""


def _merged(freezes: Sequence[tuple[str, int, int | None]], last: int) -> list[tuple[float, float]]:
    """Stretches as they are drawn: those that nearly touch are one."""
    found: list[tuple[float, float]] = []
    for _, start, stop in freezes:
        end = float(last if stop is None else stop)
        if found and start - found[-1][1] < NEAR * last:
            found[-1] = (found[-1][0], end)
        else:
            found.append((float(start), end))
    return found
