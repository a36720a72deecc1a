"""The rows as a table: which numbers, under which words, for the page and for a terminal of 80 columns."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from inference.comparison.learning import Curve, behind, learnt_best
from inference.comparison.rows import KHAT_LIMIT, Row

__all__ = ["QUANTITIES", "Quantity", "number", "table"]

LEARNT = "Test log p(x) ({}), nats per datum"


class Quantity(NamedTuple):
    """A line of the page's table."""

    group: str
    name: str
    unit: str
    value: Callable[[Row], str]  # '' where an engine has none
    help: str


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with so many significant digits, a real minus sign, and '' for None."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "\N{INFINITY}"
    if abs(value) >= 10 ** max(2, digits):
        return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
    if value != 0 and abs(value) < 10**-3:
        text = f"{value:.1e}"
        return f"{text.split('e')[0]}e{int(text.split('e')[1])}".replace("-", "\N{MINUS SIGN}")
    return ("0" if value == 0 else f"{value:#.{digits}g}".rstrip(".")).replace("-", "\N{MINUS SIGN}")


def fixed(value: float | None, places: int = 2) -> str:
    """Write a number with so many decimals, '' for None."""
    return "" if value is None else f"{value:,.{places}f}".replace("-", "\N{MINUS SIGN}")


def _held(row: Row, value: float | None) -> float | None:
    """A number against the reference; a sampled reference is held against none."""
    return None if row.is_reference and not row.exact else value


def _beside(row: Row, value: float | None, mcse: float | None) -> str:
    return "" if _held(row, value) is None else f"{number(value)} ±\N{NO-BREAK SPACE}{number(mcse)}"


QUANTITIES = (
    Quantity("Against the reference", "error of means, largest", "",
             lambda r: _beside(r, r.error_max, r.error_max_mcse),
             "probabilities of discrete sites, standard deviations of continuous ones; ± Monte Carlo standard error"),
    Quantity("Against the reference", "largest error in MCSE", "",
             lambda r: "" if r.is_reference else fixed(r.error_z, 1), "over 4: not chance"),
    Quantity("Against the reference", "error of means, RMS", "", lambda r: _beside(r, r.error, r.error_mcse),
             "root mean square over coordinates; ± what chance alone gives"),
    Quantity("Against the reference", "error of sds, largest", "", lambda r: _beside(r, r.sd_error, r.sd_error_mcse),
             "relative, continuous sites"),
    Quantity("Against the reference", "error of E[log p(x, h)]", "nats",
             lambda r: "" if r.is_reference else _beside(r, r.log_p_error, r.log_p_mcse),
             "sees dependence"),
    Quantity("Chains", "chains × draws", "", lambda r: f"{r.chains} × {r.draws:,}", ""),
    Quantity("Chains", "R-hat, largest", "", lambda r: fixed(r.r_hat, 3), "over 1.01: not converged; blind to bias"),
    Quantity("Chains", "ESS bulk, least", "", lambda r: number(r.ess_bulk, 3), "effective sample size"),
    Quantity("Chains", "ESS tail, least", "", lambda r: number(r.ess_tail, 3), ""),
    Quantity("Chains", "divergences", "", lambda r: "" if r.divergences is None else f"{r.divergences:,}",
             "transitions that left their trajectory"),
    Quantity("Chains", "ESS per second", "1/s", lambda r: number(r.ess_per_second, 3), "bulk, MCMC, sampling alone"),
    Quantity("Bounds", "log p(x)", "nats", lambda r: fixed(r.log_evidence) if r.exact else "", "exact"),
    Quantity("Bounds", "ELBO", "nats", lambda r: fixed(r.elbo), ""),
    Quantity("Bounds", "importance-weighted bound", "nats",
             lambda r: fixed(r.bound), "of all draws"),
    Quantity("Bounds", "gap, log p(x) − ELBO", "nats", lambda r: fixed(r.gap), "KL(q || posterior)"),
    Quantity("Bounds", "k-hat, median over data", "", lambda r: "" if r.whole else fixed(r.khat_median),
             f"over {KHAT_LIMIT}: heavy tail"),
    Quantity("Bounds", "k-hat, largest", "", lambda r: "" if r.whole else fixed(r.khat_max), ""),
    Quantity("Bounds", "k-hat of all data jointly", "", lambda r: fixed(r.khat_joint), ""),
    Quantity("Cost", "sampling", "s", lambda r: number(r.seconds), ""),
    Quantity("Cost", "training or warm-up", "s", lambda r: number(r.warmup_seconds), ""),
    Quantity("Cost", "compilation", "s", lambda r: number(r.compile_seconds) if r.compile_seconds >= 1e-3 else "", ""),
    Quantity("Cost", "all", "s", lambda r: number(r.seconds_total), ""),
    Quantity("Cost", "until the error stays small", "s", lambda r: number(r.seconds_to_error), "see the chart"),
    Quantity("Cost", "density evaluations", "", lambda r: f"{r.evaluations:,}" if r.evaluations else "",
             "of log p over all data"),
)  # fmt: skip


def table(result: Any) -> Any:
    """Rows, verdicts and the answer for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    styles = {"trust": "green", "use with care": "yellow", "do not trust": "red"}
    grid = Table(box=None, padding=(0, 1), pad_edge=False, title=result.title, title_justify="left")
    grid.add_column("engine", overflow="fold")
    grid.add_column("verdict", overflow="fold")
    for heading in ("error", "MCSE", "R-hat", "ESS", "k-hat", "gap", "seconds"):
        grid.add_column(heading, justify="right", no_wrap=True)
    words = result.verdicts
    for row in result.rows:
        word = words[row.engine].word
        grid.add_row(
            row.engine, Text(word, styles[word]),
            number(_held(row, row.error_max)), number(_held(row, row.error_max_mcse)),
            fixed(row.r_hat), number(row.ess_bulk, 3), fixed(row.khat_median), fixed(row.gap),
            number(row.seconds_total),
        )  # fmt: skip
    legend = "error: the largest of the means, beside its Monte Carlo standard error; ESS: bulk, the least; gap: nats."
    lines = [Text.assemble((row.engine, "bold"), ": ", words[row.engine].why) for row in result.rows]
    parts = [grid, Text(legend, "dim"), Text(), *lines, Text(), Text(result.answer, "bold")]
    if result.gaps is not None:
        from inference.comparison.gaps import sentence  # which needs this file

        parts += [Text(), Text(sentence(result.gaps))]
    if result.learning:
        parts += [Text(), learning(result.learning), Text(), Text(learnt_best(result.learning), "bold")]
    return Group(*parts)


def learning(curves: Sequence[Curve]) -> Any:
    """The end of each learning curve, for a terminal."""
    from rich.table import Table

    grid = Table(
        box=None, padding=(0, 1), pad_edge=False, title=LEARNT.format(curves[0].estimate), title_justify="left"
    )
    for heading in ("method", "log p(x)", "behind the best", "steps", "seconds"):
        grid.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    gaps = behind(curves)
    for curve in curves:
        last, (gap, se) = curve.points[-1], gaps[curve.method]
        away = f"{fixed(gap)} ± {fixed(se)}" if gap else ""
        grid.add_row(curve.method, fixed(last.log_p), away, f"{last.steps:,}", fixed(last.seconds, 1))
    return grid
