"""A comparison as one HTML page that needs no other file: the table first, then what stands behind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from inference.comparison import verdict as rules
from inference.comparison.charts import Chart, legend
from inference.comparison.gaps import gaps_section
from inference.comparison.learning import behind, learnt_best
from inference.comparison.report import environment
from inference.comparison.rows import KHAT_LIMIT, Measured
from inference.comparison.table import QUANTITIES, number

__all__ = ["page"]

TRACE_POINTS = 200  # of each chain that are drawn
MOST_SUMMARISED = 24  # latents whose mean and standard deviation are written out
MOST_WIDTH = 4.0  # times the reference's: wider ones are drawn there
MOST_KHAT = 3.0  # larger ones are drawn there
CLASSES = {rules.TRUST: "good", rules.CARE: "care", rules.NOT: "bad"}


def page(result: Any) -> str:
    """The page of a `Comparison`."""
    reference = next(row for row in result.rows if row.is_reference)
    words = result.verdicts
    lines = [(q, [q.value(row) for row in result.rows]) for q in QUANTITIES]
    lines = [(q, cells) for q, cells in lines if any(cells)]
    return (
        environment()
        .get_template("compare.html")
        .render(
            title=result.title,
            answer=result.answer,
            engines=[row.engine for row in result.rows],
            reference=reference,
            verdicts=[(row.engine, words[row.engine], CLASSES[words[row.engine].word]) for row in result.rows],
            lines=lines,
            facts=_facts(result, reference),
            error=result.error,
            scatters=_scatters(result, reference.engine),
            widths=_widths(result),
            columns=_columns(len(result.rows) - 1),
            summary=_summary(result),
            total=int((~result.measured[0].discrete).sum()),
            paths=_paths(result),
            traces=_traces(result),
            khats=_khats(result),
            swatches_of=_swatches([row.engine for row in result.rows]),
            weighed=[m.row.engine for m in result.measured if m.khats is not None],
            gaps=gaps_section(result.gaps),
            learning=_learning(result.learning),
            learnt=[(c.method, c.points[-1], *behind(result.learning)[c.method]) for c in result.learning],
            learnt_best=learnt_best(result.learning) if result.learning else "",
            methods=_swatches([c.method for c in result.learning]),
            estimate=result.learning[0].estimate if result.learning else "",
            rules=rules,
            khat_limit=KHAT_LIMIT,
            most_khat=MOST_KHAT,
        )
    )


def _facts(result: Any, reference: Any) -> dict[str, str]:
    compared, total = len(result.coordinates), result.total_coordinates
    facts = {
        "data": f"{result.num_data:,}",
        "posterior means compared": f"{compared:,}" if compared == total else f"{compared:,} of {total:,}",
        "reference": f"{reference.engine}, {f'exact by {reference.how}' if reference.exact else 'sampled'}",
        "nats are": "of all data together" if reference.whole else "per datum",
    }
    return facts | result.notes


def _columns(panels: int) -> int:
    """Panels side by side on a desk, at most four, with no short last row where that can be."""
    return max(1, min(panels, 4)) if panels != 5 and panels != 6 else 3


def _swatches(names: Sequence[str]) -> dict[str, Markup]:
    return {name: Markup(legend(i)) for i, name in enumerate(names)}


def _range(values: Any, share: float = 0.04, least: float = 1e-9) -> tuple[float, float]:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    pad = max(share * (high - low), least, 1e-6 * abs(high))
    return low - pad, high + pad


def _decades(values: Any) -> tuple[float, float]:
    """A logarithmic range around positive values."""
    finite = np.asarray([value for value in values if np.isfinite(value) and value > 0])
    if not len(finite):
        return 0.1, 1.0
    return float(finite.min()) / 1.3, float(finite.max()) * 1.3


def _scatters(result: Any, reference: str) -> list[tuple[str, Markup]]:
    """A panel for each engine: its probabilities of discrete states against the reference's."""
    discrete = result.measured[0].discrete
    exact = result.measured[0].reference_mean[discrete]
    both, word = (-0.03, 1.03), "P(h = s)"
    charts = []
    if not discrete.any():
        return charts
    for i, each in enumerate(result.measured):
        if each.row.is_reference:
            continue
        name = each.row.engine
        chart = Chart(
            both,
            both,
            f"{reference}: {word}",
            f"{name}: {word}",
            f"{word}: {name} against {reference}",
            width=320,
            height=310,
        )
        chart.rule([(both[0], both[0]), (both[1], both[1])])
        chart.marks(list(zip(exact.tolist(), each.mean[discrete].tolist(), strict=True)), i, opacity=0.6)
        charts.append((name, Markup(chart.svg())))
    return charts


def _widths(result: Any) -> list[tuple[str, Markup]]:
    """A panel for each engine: a mark for each continuous latent, its mean's error against its relative width."""
    at = ~result.measured[0].discrete
    if not at.any():
        return []
    engines = [(i, m) for i, m in enumerate(result.measured) if not m.row.is_reference]
    points = {}
    for _, m in engines:
        sd = np.maximum(m.reference_sd[at], 1e-12)
        points[m.row.engine] = np.stack([(m.mean[at] - m.reference_mean[at]) / sd, m.sd[at] / sd], 1)
    every = np.concatenate([*points.values(), [[-0.1, 0.9], [0.1, 1.1]]])
    x, y = _range(every[:, 0]), _range(every[:, 1].clip(0, MOST_WIDTH))
    charts = []
    for i, m in engines:
        name = m.row.engine
        chart = Chart(x, y, "error of the mean, in sds", "sd over the reference's", f"Means and widths of {name}",
                      width=320, height=310)  # fmt: skip
        chart.rule([(x[0], 1.0), (x[1], 1.0)])
        chart.rule([(0.0, y[0]), (0.0, y[1])])
        chart.marks([(float(a), float(min(b, MOST_WIDTH))) for a, b in points[name]], i, opacity=0.7)
        charts.append((name, Markup(chart.svg())))
    return charts


def _summary(result: Any) -> list[tuple[str, list[str]]]:
    """The first continuous coordinates by name, with mean and standard deviation by each engine."""
    at = np.flatnonzero(~result.measured[0].discrete)
    at = sorted(at, key=lambda i: "[" in result.coordinates[i])  # scalars first; the sort keeps the rest in order
    lines = []
    for i in at[:MOST_SUMMARISED]:
        each = [(m.reference_mean[i], m.reference_sd[i]) if m.row.is_reference else (m.mean[i], m.sd[i])
                for m in result.measured]  # fmt: skip
        lines.append((result.coordinates[i], [f"{number(mean, 3)} ± {number(sd, 3)}" for mean, sd in each]))
    return lines


def _paths(result: Any) -> list[tuple[str, Markup]]:
    """The running error of every engine against seconds and against draws."""
    y = _decades([error for m in result.measured for error in m.error_path[:, 2]] + [result.error])
    charts = []
    for name, column, label in (
        ("By seconds", 1, "seconds, training and warm-up included"),
        ("By draws", 0, "draws of each chain"),
    ):
        x = _decades([value for m in result.measured for value in m.error_path[:, column]])
        chart = Chart(x, y, label, "error of means, RMS", f"Error against {label}", width=400, height=280,
                      x_log=True, y_log=True)  # fmt: skip
        chart.rule([(x[0], result.error), (x[1], result.error)], f"error {result.error:g}")
        for i, each in enumerate(result.measured):
            points = [(float(row[column]), float(row[2])) for row in each.error_path]
            chart.line(points, i, width=2)
            chart.marks(points[-1:], i, opacity=1)
        charts.append((name, Markup(chart.svg())))
    return charts


def _traces(result: Any) -> list[tuple[str, Markup]]:
    """A panel for each engine: log p(x, h) of its draws, a line a chain."""
    y = _range(np.concatenate([np.quantile(m.trace, [0.002, 0.998]) for m in result.measured]), least=0.01)
    level = float(next(m for m in result.measured if m.row.is_reference).trace.mean())
    charts = []
    for each in result.measured:
        chains, draws = each.trace.shape
        at = np.unique(np.linspace(0, draws - 1, min(draws, TRACE_POINTS)).round().astype(int))
        x = (0.0, float(max(1, draws - 1)))
        chart = Chart(x, y, "draw", "log p(x, h), nats", f"Trace of {each.row.engine}", height=220)
        for c in range(chains):
            chart.line([(float(s), float(each.trace[c, s])) for s in at], c, width=0.8, dashed=False)
        chart.rule([(x[0], level), (x[1], level)])
        charts.append((each.row.engine, Markup(chart.svg())))
    return charts


def _khats(result: Any) -> Markup | None:
    """Sorted k-hats of the data, a mark an engine."""
    known = [(i, m) for i, m in enumerate(result.measured) if m.khats is not None and np.isfinite(m.khats).any()]
    weighed = [(i, m) for i, m in known if not m.row.whole]
    if not weighed:
        return None
    every = np.concatenate([m.khats for _, m in weighed])
    low, high = _range([min(float(np.nanmin(every)), 0.0), max(min(float(np.nanmax(every)), MOST_KHAT), 1.0)])
    most = max(len(m.khats) for _, m in weighed)
    x = (0.0, most + 1.0)
    chart = Chart(
        x, (low, high), "data, in order of k-hat", "Pareto k-hat", "Pareto k-hat of each datum", width=400, height=260
    )
    chart.rule([(x[0], KHAT_LIMIT), (x[1], KHAT_LIMIT)], f"{KHAT_LIMIT}: not to be trusted above")
    for i, each in weighed:
        ordered = np.sort(_of(each))
        chart.marks([(float(rank + 1), min(float(k), MOST_KHAT)) for rank, k in enumerate(ordered)], i)
    return Markup(chart.svg())


def _of(each: Measured) -> np.ndarray:
    assert each.khats is not None
    return each.khats


def _learning(curves: Sequence[Any]) -> list[tuple[str, Markup]]:
    """Test log p(x) against seconds and against steps."""
    if not curves:
        return []
    y = _range([point.log_p for curve in curves for point in curve.points[1:]])
    charts = []
    for name, label in (("seconds", "seconds of learning"), ("steps", "steps")):
        lines = [[(float(getattr(p, name)), p.log_p) for p in curve.points[1:]] for curve in curves]
        chart = Chart(_decades([x for line in lines for x, _ in line]), y, label, "test log p(x), nats per datum",
                      f"Test log p(x) against {label}", width=400, height=280, x_log=True)  # fmt: skip
        for i, line in enumerate(lines):
            chart.line(line, i, width=2)
            chart.marks(line, i, opacity=1)
        charts.append((f"By {name}", Markup(chart.svg())))
    return charts
