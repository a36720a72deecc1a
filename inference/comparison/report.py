"""One training run as one HTML page that needs no other file, no script and no network."""

import base64
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from inference.comparison.figures import curves, write_atomic

__all__ = ["Picture", "environment", "flatten", "shown", "write_run"]

KHAT_LIMIT = 0.7  # above it the weights' variance cannot be trusted: vehtari2024psis


class Picture(NamedTuple):
    """PNG files of one picture: for a dark page another one, where it is drawn and not made of pixels."""

    heading: str
    caption: str
    light: bytes
    dark: bytes | None = None


def write_run(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, object],
    config: Mapping[str, object],
    history: Sequence[Mapping[str, Any]],
    evaluation: Sequence[Mapping[str, Any]] | None = None,
    images: Sequence[tuple[str, str, bytes]] = (),
    noun: str = "images",
    evidence: str = "log p(x)",
    classes: Mapping[str, Any] | None = None,
    codes: Sequence[Picture] = (),
) -> None:
    """Render a run as one self-contained page at `path`, written atomically.

    summary: key facts, label -> value (parameters, steps, seconds, device, data).
    config: option -> value, nested mappings flattened with dots; `command` and `versions` get places of their
        own.
    history: one mapping an epoch with `epoch`, `loss`, and perhaps `reg`, `rec`, `valid`, `cpu_seconds`. In
        nats per datum, loss = -(L_reg + L_rec), L_reg = -KL(q || p); `valid` has the sign of `loss`. Seconds
        count from the start of the run.
    evaluation: one mapping for each k with `k`, `mean` and `se` (nats), `images`, and perhaps `khat`,
        `active_units`, `units`, `sites` (of each latent site `active`, `units` and `kl`, nats),
        `data`, `ais` (sentences).
    images: (heading, caption, PNG bytes).
    noun: what a datum is, in the plural; a run of images can be evaluated by `ppl evaluate`.
    evidence: what the bound is a bound on.
    classes: of a classifier: `headline` and `lines`, sentences; `others` to compare with, `name`, `error` and its
        interval `low`, `high`; `confusion`, a row for each true class and a column for each predicted one.
    codes: pictures of latent space, one for each layer.
    """
    path = Path(path)
    settings = dict(config)
    command, versions = settings.pop("command", None), settings.pop("versions", None)
    rows = sorted(evaluation or (), key=lambda row: row["k"])
    page = (
        environment()
        .get_template("run.html")
        .render(
            title=title,
            summary=summary,
            headline=_headline(history, rows, evidence) + (f" {classes['headline']}" if classes else ""),
            charts=_charts(history),
            has_parts=any(row.get("reg") is not None for row in history),
            rows=rows,
            noun=noun,
            evidence=evidence,
            classes=classes,
            facts={key: _last(rows, key) for key in ("active_units", "units", "sites", "data", "khat", "ais")},
            use=_use(_last(rows, "sites") or {}),
            khat_limit=KHAT_LIMIT,
            evaluate=f"ppl evaluate {shlex.quote(str(path.parent))} --k 1,5,50,5000",
            settings=flatten(settings),
            command=command,
            versions=flatten(versions) if isinstance(versions, Mapping) else {},
            images=[(heading, caption, *_embed(png)) for heading, caption, png in images],
            codes=[(picture.heading, picture.caption, shown(picture)) for picture in codes],
        )
    )
    write_atomic(path, page.encode())


def environment() -> Environment:
    """The templates beside this file, with the filters `number` and `nats`."""
    environment = Environment(
        loader=PackageLoader("inference.comparison", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, nats=_nats)
    return environment


def _charts(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Draw the loss and its two parts, over epochs and over CPU-seconds: (heading, <svg>) pairs."""
    # the parts are drawn as costs, so that the loss is their plain sum
    costs = [{**row, **{key: -row[key] for key in ("reg", "rec") if row.get(key) is not None}} for row in history]
    panels = {
        "Loss": {"loss": "training", "valid": "validation"},
        "Regulariser (KL)": {"reg": "training"},
        "Reconstruction": {"rec": "training"},
    }
    charts = []
    for x_key, x_label in (("epoch", "epoch"), ("cpu_seconds", "CPU-seconds")):
        for name, keys in panels.items():
            spoken = f"{name} in nats per datum, over {x_label}"
            svg = curves(costs, x_key, keys, x_label=x_label, y_label="nats per datum", title=spoken)
            if svg:
                # safe to pass unescaped: curves() escapes every word it is given
                charts.append((f"{name}, by {x_label}", Markup(svg)))
    return charts


def _headline(history: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], evidence: str) -> str:
    losses = [float(row["loss"]) for row in history if row.get("loss") is not None]
    losses = [loss for loss in losses if math.isfinite(loss)]
    if not losses:
        return "No epoch finished."
    if len(losses) == 1:
        words = f"One epoch, loss {_nats(losses[0])} nats per datum."
    else:
        first, last = _nats(losses[0]), _nats(losses[-1])
        words = f"{len(losses):,} epochs, loss {first} to {last} nats per datum."
    if rows and math.isfinite(rows[-1]["mean"]):
        best = rows[-1]
        bound = f"{_nats(best['mean'])} ± {_nats(best['se'])}"
        words += f" Evaluated: {evidence} at least {bound} nats (k = {best['k']:,})."
    return words


def _use(sites: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A chart of the KL of each latent site in turn, where there are more than a small table shows at a glance."""
    if len(sites) <= 3:
        return Markup("")
    rows = [{"t": t, "kl": site["kl"]} for t, site in enumerate(sites.values(), start=1)]
    words = f"{next(iter(sites))} to {list(sites)[-1]}"
    title = "KL of each latent site"
    return Markup(curves(rows, "t", {"kl": words}, x_label="latent site", y_label="KL, nats", title=title))


def _last(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((row[key] for row in reversed(rows) if row.get(key) is not None), None)


def flatten(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, their keys joined with dots."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _embed(png: bytes) -> tuple[str, int, int]:
    """Encode a PNG as base64, with its size, so that the page does not jump while it decodes."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return base64.b64encode(png).decode(), *image.size


def shown(picture: Any) -> dict[str, Any]:
    """A picture with `light`, `dark` and `heading` (or `words`) as the macro `embedded` takes it."""
    light, width, height = _embed(picture.light)
    dark = None if picture.dark is None else _embed(picture.dark)[0]
    words = getattr(picture, "words", None) or picture.heading
    return {"light": light, "dark": dark, "width": width, "height": height, "words": words}


def _number(value: object) -> object:
    """Write numbers as people read them, 1,234 and 0.0012; what is not a number passes through."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "\N{MINUS SIGN}")
    value = float(value)
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "\N{MINUS SIGN}")


def _nats(value: float | None) -> str:
    """Write nats to two decimals: smaller differences are within any standard error we print."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:,.2f}".replace("-", "\N{MINUS SIGN}")
