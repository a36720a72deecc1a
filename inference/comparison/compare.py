"""One model, one data set, several engines: run each, measure it against the reference, and say which to trust.

result = compare(sbn, x, {"guide": Guided(), "gibbs": Gibbs(chains=4), "exact": Exact()}, reference="exact")
result.save("runs/sbn")          # report.html, comparison.nc, rows.json
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from inference.comparison.coordinates import tabulate
from inference.comparison.learning import Curve
from inference.comparison.moments import drawn_moments, reference_moments
from inference.comparison.rows import Measured, Row, measure
from inference.comparison.verdict import Verdict, answer, verdicts
from inference.errors import NonFiniteError, RunError, ShapeError, UnsupportedModelError
from inference.evidence.exact import Exact, exact_posterior
from inference.pair import Pair, is_latent
from inference.types import Draws, Engine

__all__ = ["Comparison", "compare", "model_of"]


class Comparison(NamedTuple):
    """What `compare` found; print it with rich for the table, `save` it for the page."""

    measured: tuple[Measured, ...]
    draws: dict[str, Draws]
    coordinates: tuple[str, ...]  # names of the F numbers compared
    total_coordinates: int  # before the choice of at most 512
    discrete: bool  # every site is discrete: errors are of probabilities
    num_data: int
    error: float  # the error whose time is told
    title: str = "Comparison of engines"
    learning: tuple[Curve, ...] = ()  # of the same model, by several methods
    notes: dict[str, str] = {}  # label -> words, for the page's head

    @property
    def rows(self) -> list[Row]:
        """A row for each engine, in the order given."""
        return [each.row for each in self.measured]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """A verdict for each engine, by the rules of `inference.comparison.verdict`."""
        return verdicts(self.rows)

    @property
    def answer(self) -> str:
        """One sentence: which engine to trust here, and what it cost."""
        return answer(self.rows)

    def save(self, out: str | Path) -> Path:
        """Write report.html, comparison.nc and rows.json into a new or empty folder, all or nothing; the page's path.

        Raises:
            RunError: the folder exists and is not empty.
        """
        from inference.comparison.saving import save

        return save(self, Path(out))

    def __rich__(self) -> Any:
        """The table that the page leads with, for a terminal of 80 columns."""
        from inference.comparison.table import table

        return table(self)


def compare(
    model: Any,
    data: Any,
    engines: Mapping[str, Engine],
    *,
    reference: str,
    error: float = 0.05,
    seed: int = 0,
    on_engine: Callable[[str], None] | None = None,
) -> Comparison:
    """Run every engine on a model and its data, and judge each against the reference.

    Args:
        model: a pair (`.model`, `.guide`), or a Pyro model alone where no engine needs a guide.
        data: the model's argument, or a tuple of them.
        engines: name -> engine: `Guided(...)`, `Gibbs(...)`, `Exact()`, or anything that returns `Draws`.
        reference: the name of the engine that is right: `Exact()` where it fits, else a long run.
        error: the error (root mean square over means) whose time each row tells.
        seed: of every engine; the caller's RNG is left as it was.
        on_engine: called with an engine's name before it runs, for a progress bar.

    Returns:
        Rows, verdicts and draws; `.save(folder)` writes the page, `print` of rich shows the table.

    Raises:
        RunError: no engine, an unknown reference, an error that is not positive.
        ShapeError: an engine returned no draws, or draws of another shape than the model's.
        UnsupportedModelError: an engine returned sites that the model lacks, or lacks sites that the model has.
        NonFiniteError: an engine returned NaN or infinite values.
    """
    data = data if isinstance(data, tuple) else (data,)
    if reference not in engines:
        raise RunError(
            f"unknown reference '{reference}': name one of the engines, {', '.join(engines) or 'none given'}"
        )
    if not 0 < error < float("inf"):
        raise RunError(f"the error whose time is told is above 0, got {error}: pass error=0.05")
    shapes = _latents(model, data)
    draws: dict[str, Draws] = {}
    for name, engine in engines.items():
        if on_engine is not None:
            on_engine(name)
        with torch.random.fork_rng():
            draws[name] = _checked(name, engine(model, *data, seed=seed), shapes)
    posterior = exact_posterior(model, *data) if isinstance(engines[reference], Exact) else None
    tables = tabulate(draws, list(shapes), posterior)
    drawn = {name: drawn_moments(tables[name], draws[name]) for name in engines}
    judge = reference_moments(tables[reference], drawn[reference])
    measured = tuple(
        measure(
            name, tables[name], draws[name], drawn[name], judge,
            is_reference=name == reference, exact=isinstance(engine, Exact),
            log_evidence=None if posterior is None else posterior.log_p.numpy(), error=error,
        )
        for name, engine in engines.items()
    )  # fmt: skip
    table = tables[reference]
    num_data = len(data[0]) if isinstance(data[0], Tensor) and data[0].dim() else 1
    return Comparison(measured, draws, table.names, table.total, bool(table.discrete.all()), num_data, error)


def model_of(model: Any) -> Callable[..., Any]:
    """The Pyro model of a pair, of a tuple (model, guide), or of itself."""
    if isinstance(model, tuple):
        return model[0]
    inner = getattr(model, "model", None)
    return inner if callable(inner) else model


def _latents(model: Any, data: tuple[Any, ...]) -> dict[str, torch.Size]:
    """Name and shape of the model's latent sites, from one run."""
    program = model_of(model)
    if not callable(program):
        raise UnsupportedModelError(
            f"a model is a Pyro program of its data, got {type(model).__name__}: pass a function"
        )
    scope = model.scope() if isinstance(model, Pair) else torch.no_grad()
    with torch.random.fork_rng(), torch.no_grad(), scope:
        trace: Any = poutine.trace(program).get_trace(*data)
    shapes = {name: site["value"].shape for name, site in trace.nodes.items() if is_latent(site)}
    if not shapes:
        raise UnsupportedModelError("the model has no latent site, so there is no posterior to compare")
    return shapes


def _checked(name: str, draws: Draws, shapes: Mapping[str, torch.Size]) -> Draws:
    """Refuse draws that cannot be those of the model's posterior."""
    extra, missing = sorted(draws.values.keys() - shapes.keys()), sorted(shapes.keys() - draws.values.keys())
    if extra:
        raise UnsupportedModelError(
            f"engine '{name}' returned the site '{extra[0]}', which is no latent site of the model: it has "
            f"{', '.join(shapes)}"
        )
    if missing:
        raise UnsupportedModelError(f"engine '{name}' returned no draws of '{missing[0]}': draw every latent site")
    chains, count = draws.log_p.shape[:2]
    if chains < 1 or count < 1:
        raise ShapeError(f"engine '{name}' returned no draws ({chains} chains of {count}): ask it for at least one")
    for site, shape in shapes.items():
        if draws.values[site].shape != (chains, count, *shape):
            raise ShapeError(
                f"engine '{name}' returned '{site}' of shape {tuple(draws.values[site].shape)}, not "
                f"{(chains, count, *shape)}: chains, draws, then the site's own shape"
            )
    logs = [draws.log_p] if draws.log_q is None else [draws.log_p, draws.log_q]
    if not all(bool(torch.isfinite(value).all()) for value in [*draws.values.values(), *logs]):
        raise NonFiniteError(f"engine '{name}' returned draws that are NaN or infinite: it diverged, or saw a datum so")
    return draws._replace(values={site: draws.values[site].detach().cpu() for site in shapes})
