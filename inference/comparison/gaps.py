"""Where a trained model's bound loses: the gap between log p(x) and the guide's ELBO, split in two [cremer2018].

    log p(x) - L[q]  =  (log p(x) - L[q*])  +  (L[q*] - L[q])
                        approximation gap       amortisation gap

q is the guide, q* the best of its family for each datum. Nats per datum; log p(x) from annealed importance sampling.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from torch import Tensor

from inference.comparison.charts import Chart, legend
from inference.comparison.table import fixed
from inference.evidence.ais import Annealed, upper
from inference.types import Draws

__all__ = ["Bound", "Gaps", "content", "gaps_section", "sentence", "split"]

NBSP = "\N{NO-BREAK SPACE}"


class Bound(NamedTuple):
    """A bound on log p(x) of each datum, from below unless its name says otherwise."""

    name: str
    values: np.ndarray  # (N,) nats
    role: str  # "guide": the amortised q; "family": the best of its family, q*; "wider": of a larger one; "" others


class Gaps(NamedTuple):
    """Bounds from the loosest to log p(x) itself."""

    bounds: tuple[Bound, ...]
    log_p: np.ndarray  # (N,) the annealed lower bound
    log_p_above: np.ndarray  # (N,) the annealed upper bound, as good as the draws that it starts from
    settings: str  # of the annealing, in words

    def gap(self, role: str) -> np.ndarray | None:
        """Log p(x) - L of the bound with a role, (N,)."""
        found = [self.log_p - bound.values for bound in self.bounds if bound.role == role]
        return found[0] if found else None


def elbo(draws: Draws) -> np.ndarray:
    """L_1 of each datum (N,), the mean of all draws' log-weights."""
    assert draws.log_q is not None
    return (draws.log_p.double() - draws.log_q.double()).flatten(0, 1).mean(0).numpy()


def split(draws: dict[str, Draws], roles: dict[str, str], forward: Annealed, reverse: Annealed, settings: str) -> Gaps:
    """The gaps of engines' draws.

    Args:
        draws: of each engine with a guide, log q among them.
        roles: engine -> its bound's role.
        forward: annealed on the same data.
        reverse: chains back from draws of the posterior.
        settings: of the annealing, in words.
    """
    found = [Bound(name, elbo(draws[name]), role) for name, role in roles.items()]
    guide = next(name for name, role in roles.items() if role == "guide")
    log_w = _weights(draws[guide])
    k = len(log_w)
    bound = (log_w.logsumexp(0) - math.log(k)).numpy()
    found.append(Bound(f"{guide}, k = {k:,}", bound, ""))
    above = upper(forward.log_w, reverse.log_w).numpy()
    return Gaps(tuple(found), forward.log_p.numpy(), above, settings)


def sentence(gaps: Gaps) -> str:
    """What is lost and where, in a sentence or two."""
    guide, family, wider = gaps.gap("guide"), gaps.gap("family"), gaps.gap("wider")
    assert guide is not None and family is not None
    words = (
        f"The guide's bound lies {_pm(guide)} nats below log p(x): {_pm(guide - family)} because the guide is "
        f"amortised, {_pm(family)} because its family holds nothing closer"
    )
    if wider is not None:
        words += f" (a full-rank Gaussian for each datum would leave {_pm(wider)})"
    larger = "a more flexible family" if family.mean() > (guide - family).mean() else "a larger or longer trained guide"
    return f"{words}. Most is to be gained from {larger}."


def content(gaps: Gaps | None) -> dict[str, Any] | None:
    """The gaps as rows.json holds them: means with standard errors over data, and each datum's values."""
    if gaps is None:
        return None
    guide, family = gaps.gap("guide"), gaps.gap("family")
    assert guide is not None and family is not None
    every = [*gaps.bounds, Bound("AIS", gaps.log_p, "log p(x)"), Bound("AIS, upper", gaps.log_p_above, "above")]
    return {
        "sentence": sentence(gaps),
        "annealing": gaps.settings,
        "gap": _mean(guide),
        "amortisation": _mean(guide - family),
        "approximation": _mean(family),
        "bounds": [
            {"name": b.name, "role": b.role, **_mean(b.values), "values": [round(float(v), 4) for v in b.values]}
            for b in every
        ],
    }


def gaps_section(gaps: Gaps | None) -> Markup:
    """The section of the page; nothing where there are no gaps."""
    if gaps is None:
        return Markup("")
    rows = "".join(
        _row(b.name, b.values, _pm(gaps.log_p - b.values))
        for b in sorted(gaps.bounds, key=lambda b: float(b.values.mean()))
    )
    rows += _row("annealed, from below", gaps.log_p, "0")
    rows += _row("annealed, from above", gaps.log_p_above, _pm(gaps.log_p - gaps.log_p_above))
    chart, names = _chart(gaps)
    swatches = "".join(f"<li>{legend(i)}{escape(name)}</li>" for i, name in enumerate(names))
    # safe to pass unescaped: every word that is not our own has been escaped
    return Markup(
        "<section><h2>Where the bound loses</h2>"
        f"<p>{escape(sentence(gaps))}</p>"
        "<p class='soft'>Mean over data ± standard error over data, nats per datum. The amortisation gap is what a "
        "guide optimised for each datum alone wins over the trained one; the approximation gap is what remains to "
        f"log p(x). {escape(gaps.settings)}</p>"
        "<div class='scroll'><table class='numbers'><thead><tr><th></th><th>nats</th><th>to log p(x)</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
        f"<ul class='legend'>{swatches}</ul><figure class='wide'>{chart}</figure></section>"
    )


def _row(name: str, values: np.ndarray, gap: str) -> str:
    head = f"<th scope='row' style='text-align:left;white-space:normal'>{escape(name)}</th>"
    return f"<tr>{head}<td>{fixed(float(values.mean()))}</td><td>{gap}</td></tr>"


def _chart(gaps: Gaps) -> tuple[str, list[str]]:
    """Every datum's gaps, in the order of the guide's."""
    guide = gaps.gap("guide")
    assert guide is not None
    order = np.argsort(guide)
    lines = [(b.name, gaps.log_p - b.values) for b in gaps.bounds if b.role]
    high = max(float(line.max()) for _, line in lines)
    low = min(0.0, *(float(line.min()) for _, line in lines))
    chart = Chart(
        (0.0, len(order) + 1.0), (low - 0.02 * high, 1.05 * high), "data, in order of the guide's gap",
        "log p(x) − bound, nats", "Gap of each datum", width=520, height=300,
    )  # fmt: skip
    chart.rule([(0.0, 0.0), (len(order) + 1.0, 0.0)])
    for i, (_, line) in enumerate(lines):
        chart.marks([(rank + 1.0, float(value)) for rank, value in enumerate(line[order])], i)
    return chart.svg(), [name for name, _ in lines]


def _weights(draws: Draws) -> Tensor:
    assert draws.log_q is not None
    return (draws.log_p.double() - draws.log_q.double()).flatten(0, 1)


def _mean(values: np.ndarray) -> dict[str, float | None]:
    se = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "se": se}


def _pm(values: np.ndarray) -> str:
    found = _mean(values)
    return fixed(found["mean"]) + ("" if found["se"] is None else f"{NBSP}±{NBSP}{fixed(found['se'])}")
