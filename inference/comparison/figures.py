"""From arrays to figures: images as one grid of pixels, a run's history as a small line chart in SVG."""

import html
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inference.errors import ShapeError

__all__ = ["curves", "image_grid", "png_bytes", "save_png", "tick_label", "ticks", "write_atomic"]

WIDTH, HEIGHT = 360, 220  # of a chart in CSS pixels: three fit abreast on a desk, one on a telephone
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 28, 40  # margins around the plotting area
DASHES = ("", "5 4", "1 4")


def image_grid(x: Any, columns: int, *, gap: int = 3, cell: int = 42) -> np.ndarray:
    """Lay images out row by row, upscaled by a whole factor until a side has about `cell` pixels.

    x: (N, C, H, W) in [0, 1], C = 1 or 3 -> (height, width, 3) uint8. Values outside [0, 1] are clipped. The
    gap is in pixels of the result; 0 suits a manifold, whose neighbours belong together. Raises ShapeError on
    other shapes.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise ShapeError(f"image_grid needs images (N, C, H, W) with C = 1 or 3, got {x.shape}: reshape first")
    if columns < 1:
        raise ShapeError(f"image_grid needs columns >= 1, got {columns}: pass columns=8")
    n, _, h, w = x.shape
    # NaN (a diverged decoder) becomes black rather than an undefined cast
    pixels = (np.clip(np.nan_to_num(x.astype(np.float64)), 0, 1) * 255).round().astype(np.uint8)
    scale = max(1, round(cell / max(h, w)))
    tiles = np.broadcast_to(pixels, (n, 3, h, w)).transpose(0, 2, 3, 1).repeat(scale, 1).repeat(scale, 2)
    columns = min(columns, n)
    rows, step_y, step_x = math.ceil(n / columns), h * scale + gap, w * scale + gap
    # mid-grey gaps: they show between black cells, between white ones, and on either page background
    grid = np.full((rows * step_y - gap, columns * step_x - gap, 3), 128, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * step_y, i % columns * step_x
        grid[top : top + h * scale, left : left + w * scale] = tile
    return grid


def png_bytes(array: np.ndarray) -> bytes:
    """Encode pixels, (H, W) or (H, W, 3) uint8, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(array: np.ndarray, path: str | Path) -> None:
    """Write pixels, (H, W) or (H, W, 3) uint8, to a PNG file: the whole of it or nothing."""
    write_atomic(path, png_bytes(array))


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write beside the target, then rename: a reader meets the old file or the new one, never half of one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def curves(
    history: Sequence[Mapping[str, Any]],
    x_key: str,
    keys: Mapping[str, str],
    *,
    x_label: str,
    y_label: str,
    title: str,
    levels: Mapping[str, float] | None = None,
    bands: Sequence[tuple[float, float, int]] = (),
) -> str:
    """Draw columns of a history against another column, as an inline <svg>; '' when there is nothing to draw.

    `keys` maps a column to its word in the legend. Rows where a value is absent or not finite are left out.
    The x axis starts at 0. `levels` are thin level lines, words to height, always inside the axis; `bands` are
    stretches of the x axis, (from, to, index of the line whose colour they take). Text and axes take the page's
    `currentColor`, lines its CSS variables --line-0, --line-1, ...: one drawing serves light and dark.
    """
    levels = levels or {}
    lines = {label: _column(history, x_key, key) for key, label in keys.items()}
    lines = {label: points for label, points in lines.items() if points}
    if not lines:
        return ""
    xs, ys = zip(*(p for points in lines.values() for p in points), strict=True)
    (x0, x1), (y0, y1) = _pad(min(0.0, *xs), max(xs), 0.0), _pad(*_with(levels.values(), *_robust(ys)), 0.06)

    def place(x: float, y: float) -> tuple[float, float]:
        px = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        # far outside is as invisible as just outside, and keeps the coordinates short
        py = HEIGHT - BOTTOM - np.clip((y - y0) / (y1 - y0), -2, 3) * (HEIGHT - TOP - BOTTOM)
        return round(px, 1), round(float(py), 1)

    whole = all(float(x).is_integer() for x in xs)
    grid, text, draw, legend = [], [], [], WIDTH - RIGHT
    for t in ticks(x0, x1, 5, whole):
        x = place(t, y0)[0]
        text.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick_label(t)}</text>')
    for t in ticks(y0, y1, 5):
        y = place(x0, t)[1]
        grid.append(f"M{LEFT} {y}H{WIDTH - RIGHT}")
        text.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick_label(t)}</text>')
    for start, stop, i in bands:
        left, right = place(max(start, x0), y0)[0], place(min(stop, x1), y0)[0]
        box = f'x="{left}" y="{TOP}" width="{round(max(right - left, 1.0), 1)}" height="{HEIGHT - TOP - BOTTOM}"'
        draw.append(f'<rect {box} opacity=".16" style="fill:var(--line-{i},currentColor)"/>')
    for words, level in levels.items():
        y = place(x0, level)[1]
        draw.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" fill="none" stroke="currentColor" stroke-opacity=".6"/>')
        draw.append(
            f'<text x="{LEFT + 4}" y="{y + 13 if y < TOP + 14 else y - 4}" font-size="11">{html.escape(words)}</text>'
        )
    for i, (label, points) in reversed(list(enumerate(lines.items()))):  # the first is drawn last, on top
        style = f"stroke:var(--line-{i},currentColor)"
        path = "M" + "L".join("{} {}".format(*place(*p)) for p in points)
        dash, width = f' stroke-dasharray="{DASHES[i % len(DASHES)]}"' if i else "", 1.8
        if len(points) == 1:  # with round caps, a segment of no length is a dot
            path, dash, width = path + "h0", "", 7
        stroke = f'fill="none" stroke-width="{width}" stroke-linecap="round"{dash}'
        draw.append(f'<path d="{path}" {stroke} style="{style}"/>')
        text.append(f'<text x="{legend}" y="15" text-anchor="end">{html.escape(label)}</text>')
        legend -= round(6.4 * len(label)) + 6
        text.append(f'<path d="M{legend - 20} 11H{legend}" stroke-width="2"{dash} style="{style}"/>')
        legend -= 34
    hidden = sum(not y0 <= y <= y1 for y in ys)
    note = f" ({hidden} outside the axis)" if hidden else ""
    text.append(f'<text x="4" y="15">{html.escape(y_label)}</text>')
    below = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}"'
    text.append(f'<text {below} text-anchor="middle">{html.escape(x_label)}{note}</text>')
    # an inner <svg> clips what it holds, with no id that could clash with another chart on the page
    tall = HEIGHT - TOP - BOTTOM
    frame = f'y="{TOP}" width="{WIDTH}" height="{tall}" viewBox="0 {TOP} {WIDTH} {tall}"'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12" fill="currentColor">'
        f"<title>{html.escape(title)}</title>"
        f'<path d="{"".join(grid)}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".5"/>'
        f"{''.join(text)}<svg {frame}>{''.join(draw)}</svg></svg>"
    )


def _column(history: Sequence[Mapping[str, Any]], x_key: str, key: str) -> list[tuple[float, float]]:
    pairs = [(row.get(x_key), row.get(key)) for row in history]
    points = [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]
    return [point for point in points if all(map(math.isfinite, point))]


def _robust(ys: Sequence[float]) -> tuple[float, float]:
    """Return the range of the data less outliers: the first epochs must not flatten all that follow."""
    low, high = np.quantile(ys, [0.05, 0.95])
    return max(min(ys), low - (high - low) / 3), min(max(ys), high + (high - low) / 3)


def _with(levels: Iterable[float], low: float, high: float) -> tuple[float, float]:
    """A range widened to hold the levels."""
    return min(low, *levels, high), max(high, *levels, low)


def _pad(low: float, high: float, share: float) -> tuple[float, float]:
    # one point, or a constant: there is no range to take a share of
    margin = share * (high - low) if high > low else 0.5 * max(1.0, abs(low) / 10)
    return low - margin, high + margin


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """List multiples of 1, 2 or 5 times a power of ten, at most about `most` of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / most)
    step = max(step, 1.0) if whole else step
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_label(tick: float) -> str:
    """Write a tick's number with a real minus sign."""
    return (f"{tick:,.0f}" if abs(tick) >= 1000 else f"{round(tick, 9):.6g}").replace("-", "\N{MINUS SIGN}")
