"""Error against the number of labels: several runs, each with its own draw of labels, as a table and one chart."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from inference.comparison.charts import MARKS, Chart, legend
from inference.comparison.figures import write_atomic
from inference.comparison.report import environment

__all__ = ["Errors", "over_draws", "write_labels"]


class Errors(NamedTuple):
    """The test error of one method with so many labels, over draws of which rows are labelled; shares, not per cent."""

    method: str
    labels: int
    draws: int
    mean: float
    se: float | None  # of the mean, over draws; None of a single one
    low: float
    high: float


def over_draws(found: Mapping[tuple[str, int], Sequence[float]]) -> list[Errors]:
    """(method, labels) -> errors of each draw, as rows sorted by method, in the order it came, and labels."""
    order = {method: i for i, method in enumerate(dict.fromkeys(method for method, _ in found))}
    rows = []
    for (method, labels), errors in sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        n, mean = len(errors), sum(errors) / len(errors)
        variance = sum((error - mean) ** 2 for error in errors) / (n - 1) if n > 1 else math.nan
        se = math.sqrt(variance / n) if n > 1 else None
        rows.append(Errors(method, labels, n, mean, se, min(errors), max(errors)))
    return rows


def write_labels(path: Path, title: str, rows: Sequence[Errors]) -> None:
    """Write the page; the chart shows the first six methods."""
    methods = list(dict.fromkeys(row.method for row in rows))[: len(MARKS)]  # what the chart can tell apart
    page = (
        environment()
        .get_template("labels.html")
        .render(
            title=title,
            rows=rows,
            chart=Markup(_chart(title, rows, methods)),
            swatches={method: Markup(legend(i)) for i, method in enumerate(methods)},
        )
    )
    write_atomic(path, page.encode())


def _chart(title: str, rows: Sequence[Errors], methods: Sequence[str]) -> str:
    """Means with a bar of one standard error to either side, a line a method; '' where every row has no label."""
    drawn = [row for row in rows if row.labels > 0 and row.method in methods]
    if not drawn:
        return ""
    x = min(row.labels for row in drawn) / 1.3, max(row.labels for row in drawn) * 1.3
    top = max(100 * (row.mean + (row.se or 0)) for row in drawn)
    chart = Chart(x, (0.0, max(1.05 * top, 1.0)), "labels", "test error, %", title, width=560, height=360, x_log=True)
    for i, method in enumerate(methods):
        own = [row for row in drawn if row.method == method]
        points = [(float(row.labels), 100 * row.mean) for row in own]
        chart.line(points, i)
        chart.marks(points, i, opacity=1)
        spans = [
            (row.labels, 100 * (row.mean - row.se), 100 * (row.mean + row.se)) for row in own if row.se is not None
        ]
        chart.bars(spans, i)
    return chart.svg()
