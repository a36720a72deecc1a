"""Charts of a comparison as inline <svg>: marks and lines in a frame with ticks, linear or logarithmic.

As everywhere on the pages, text and axes take `currentColor`, and the i-th engine the CSS variable --line-i: one
drawing serves light and dark. Engines differ by mark and dash too, not by colour alone.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.comparison.figures import tick_label, ticks

__all__ = ["MARKS", "Chart", "legend"]

LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 42
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
# a mark of some 7 pixels for each engine, drawn from its centre
MARKS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",  # disc
    "m-2.8 -2.8h5.6v5.6h-5.6z",  # square
    "m0 -3.6l3.4 6.2h-6.8z",  # triangle
    "m0 -3.8l3.8 3.8l-3.8 3.8l-3.8 -3.8z",  # diamond
    "m-3 -3l6 6m0 -6l-6 6",  # cross
    "m-3.5 0h7m-3.5 -3.5v7",  # plus
)


@dataclass
class Chart:
    """A frame to draw in, then `svg()`; x and y ranges are given, so that charts side by side can share them.

    Points outside the range are left out, lines are clipped. Raises nothing: what is not finite is not drawn.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str
    title: str
    width: int = 360
    height: int = 260
    x_log: bool = False
    y_log: bool = False
    _inside: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], i: int, width: float = 1.8, dashed: bool = True) -> None:
        """Draw a line through points in engine i's colour and dash."""
        placed = [place for point in points if (place := self._place(*point)) is not None]
        if placed:
            dash = f' stroke-dasharray="{DASHES[i % len(DASHES)]}"' if dashed and DASHES[i % len(DASHES)] else ""
            path = "M" + "L".join(f"{px} {py}" for px, py in placed) + ("h0" if len(placed) == 1 else "")
            self._inside.append(
                f'<path d="{path}" fill="none" stroke-width="{width}" stroke-linejoin="round" stroke-linecap="round"'
                f'{dash} style="stroke:{_colour(i)}"/>'
            )

    def marks(self, points: Sequence[tuple[float, float]], i: int, opacity: float = 0.75) -> None:
        """Draw engine i's mark at points."""
        placed = [place for point in points if (place := self._place(*point)) is not None]
        # one path for all: a page of some thousand elements is slow
        shape = "".join(f"M{px} {py}{MARKS[i % len(MARKS)]}" for px, py in placed)
        self._inside.append(f'<path d="{shape}" {_paint(i)} opacity="{opacity}"/>')

    def bars(self, points: Sequence[tuple[float, float, float]], i: int) -> None:
        """Draw vertical bars (x, low, high) in engine i's colour: uncertainty."""
        path = ""
        for x, low, high in points:
            bottom, top = self._place(x, low), self._place(x, high)
            if bottom is not None and top is not None:
                path += f"M{bottom[0]} {bottom[1]}V{top[1]}"
        if path:
            self._inside.append(
                f'<path d="{path}" fill="none" stroke-width="1" opacity=".45" style="stroke:{_colour(i)}"/>'
            )

    def rule(self, points: Sequence[tuple[float, float]], words: str = "") -> None:
        """Draw a thin line of the page's ink through points: a threshold, a diagonal; with words at its left end."""
        placed = [place for point in points if (place := self._place(*point)) is not None]
        path = "M" + "L".join(f"{px} {py}" for px, py in placed)
        self._inside.append(f'<path d="{path}" fill="none" stroke="currentColor" stroke-opacity=".55"/>')
        if words and placed:
            self._inside.append(
                f'<text x="{LEFT + 4}" y="{placed[0][1] - 4}" font-size="11">{html.escape(words)}</text>'
            )

    def svg(self) -> str:
        """The whole chart."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        text, grid = [], []
        for value in _ticks(*self.x, self.x_log):
            place = self._place(value, self.y[0])
            if place is not None:
                grid.append(f"M{place[0]} {TOP}V{bottom}")
                text.append(f'<text x="{place[0]}" y="{bottom + 16}" text-anchor="middle">{_written(value)}</text>')
        for value in _ticks(*self.y, self.y_log):
            place = self._place(self.x[0], value)
            if place is not None:
                grid.append(f"M{LEFT} {place[1]}H{right}")
                text.append(f'<text x="{LEFT - 6}" y="{place[1] + 4}" text-anchor="end">{_written(value)}</text>')
        middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
        text.append(
            f'<text x="{middle_x}" y="{self.height - 7}" text-anchor="middle">{html.escape(self.x_label)}</text>'
        )
        upright = f'transform="translate(11 {middle_y}) rotate(-90)"'
        text.append(f'<text {upright} text-anchor="middle">{html.escape(self.y_label)}</text>')
        frame = f'x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"'
        inner = f'<svg {frame} viewBox="{LEFT} {TOP} {right - LEFT} {bottom - TOP}">{"".join(self._inside)}</svg>'
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" font-size="12" fill="currentColor">'
            f"<title>{html.escape(self.title)}</title>"
            f'<path d="{"".join(grid)}" stroke="currentColor" stroke-opacity=".13"/>'
            f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
            f"{''.join(text)}{inner}</svg>"
        )

    def _place(self, x: float, y: float) -> tuple[float, float] | None:
        px, py = _share(x, *self.x, self.x_log), _share(y, *self.y, self.y_log)
        if px is None or py is None:
            return None
        px = LEFT + px * (self.width - LEFT - RIGHT)
        py = self.height - BOTTOM - py * (self.height - TOP - BOTTOM)
        return round(px, 1), round(py, 1)


def legend(i: int) -> str:
    """A swatch of engine i, for a line of words: its dash and its mark."""
    dash = f' stroke-dasharray="{DASHES[i % len(DASHES)]}"' if DASHES[i % len(DASHES)] else ""
    return (
        '<svg width="34" height="12" viewBox="-17 -6 34 12" aria-hidden="true">'
        f'<path d="M-16 0H16" fill="none" stroke-width="1.8"{dash} style="stroke:{_colour(i)}"/>'
        f'<path d="M0 0{MARKS[i % len(MARKS)]}" {_paint(i)}/></svg>'
    )


def _colour(i: int) -> str:
    return f"var(--line-{i % len(MARKS)})"


def _paint(i: int) -> str:
    """Attributes of engine i's mark: filled, or drawn where it is open."""
    if MARKS[i % len(MARKS)].endswith("z"):
        return f'style="fill:{_colour(i)}"'
    return f'fill="none" stroke-width="1.8" style="stroke:{_colour(i)}"'


def _share(value: float, low: float, high: float, log: bool) -> float | None:
    """Where a value lies in its range: 0 at the low end, 1 at the high one; at most a little outside."""
    if not math.isfinite(value) or (log and value <= 0):
        return None
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return min(2.0, max(-1.0, (value - low) / (high - low)))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if not log:
        return ticks(low, high, 5)
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    steps = (1,) if len(powers) > 3 else (1, 2, 5)
    found = [step * 10.0**power for power in range(powers.start - 1, powers.stop + 1) for step in steps]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def _written(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")
    return tick_label(value)
