"""One model, one data set, several engines: run each, measure it against the reference, and say which to trust.

result = compare(sbn, x, {"guide": Guided(), "gibbs": Gibbs(chains=4), "exact": Exact()}, reference="exact")
result.save("runs/sbn")          # report.html, comparison.nc, rows.json
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from inference.comparison.completion import Sites, complete, read_sites
from inference.comparison.coordinates import tabulate
from inference.comparison.gaps import Gaps
from inference.comparison.learning import Curve
from inference.comparison.likelihood import log_likelihood
from inference.comparison.moments import drawn_moments, reference_moments
from inference.comparison.rows import Measured, Row, measure
from inference.comparison.verdict import Verdict, answer, verdicts
from inference.errors import NonFiniteError, RunError, ShapeError, UnsupportedModelError
from inference.evidence.exact import Exact, Posterior, exact_posterior
from inference.pair import Pair
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
    gaps: Gaps | None = None  # of a trained model's bound

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
        engines: name -> engine: `Guided(...)`, `NUTS(...)`, `Gibbs(...)`, `Exact()`, or anything that returns `Draws`.
            Sites that an engine sums out are drawn from their exact conditional, deterministic sites follow.
        reference: the name of the engine that is right: `Exact()` where it fits, or one whose method
            `posterior(model, *data)` gives the moments, else a long run.
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
    sites = _sites(model, data)
    shapes = sites.latent | sites.derived
    draws: dict[str, Draws] = {}
    for name, engine in engines.items():
        if on_engine is not None:
            on_engine(name)
        with torch.random.fork_rng():
            found = _checked(name, engine(model, *data, seed=seed), shapes, sites)
            with _running(model):
                found = complete(model_of(model), data, found, sites, seed)
                with suppress(UnsupportedModelError):  # a comparison does not need it; ArviZ's loo does
                    found = found._replace(log_likelihood=log_likelihood(model_of(model), found, *data))
            draws[name] = found._replace(values={site: found.values[site].detach().cpu() for site in shapes})
    posterior = _posterior(engines[reference], model, data)
    tables = tabulate(draws, list(shapes), posterior)
    units = max(each.log_p.shape[-1] for each in draws.values())
    drawn = {name: drawn_moments(tables[name], draws[name], units) for name in engines}
    judge = reference_moments(tables[reference], drawn[reference])
    measured = tuple(
        measure(
            name, tables[name], draws[name], drawn[name], judge,
            is_reference=name == reference, exact=_is_exact(engine), how=getattr(engine, "how", "enumeration"),
            log_evidence=None if posterior is None else posterior.log_p.numpy(), units=units, error=error,
        )
        for name, engine in engines.items()
    )  # fmt: skip
    table = tables[reference]
    return Comparison(measured, draws, table.names, table.total, bool(table.discrete.all()), sites.num_data, error)


def model_of(model: Any) -> Callable[..., Any]:
    """The Pyro model of a pair, of a tuple (model, guide), or of itself."""
    if isinstance(model, tuple):
        return model[0]
    inner = getattr(model, "model", None)
    return inner if callable(inner) else model


def _posterior(engine: Any, model: Any, data: tuple[Any, ...]) -> Posterior | None:
    """The exact moments of a reference that has them."""
    if isinstance(engine, Exact):
        return exact_posterior(model, *data)
    return engine.posterior(model, *data) if hasattr(engine, "posterior") else None


def _is_exact(engine: Any) -> bool:
    return isinstance(engine, Exact) or hasattr(engine, "posterior")


def _running(model: Any) -> Any:
    """Where a Pair's programs run: in their own parameter store."""
    return model.scope() if isinstance(model, Pair) else nullcontext()


def _sites(model: Any, data: tuple[Any, ...]) -> Sites:
    """The model's latent and deterministic sites, from one run."""
    program = model_of(model)
    if not callable(program):
        raise UnsupportedModelError(
            f"a model is a Pyro program of its data, got {type(model).__name__}: pass a function"
        )
    with _running(model):
        sites = read_sites(program, data)
    if not sites.latent:
        raise UnsupportedModelError("the model has no latent site, so there is no posterior to compare")
    return sites


def _checked(name: str, draws: Draws, shapes: Mapping[str, torch.Size], sites: Sites) -> Draws:
    """Refuse draws that cannot be those of the model's posterior."""
    extra = sorted(draws.values.keys() - shapes.keys())
    missing = sorted(sites.latent.keys() - sites.enumerated - draws.values.keys())
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
    for site, values in draws.values.items():
        wanted = (chains, count, *shapes[site])
        if values.shape != wanted:
            raise ShapeError(
                f"engine '{name}' returned '{site}' of shape {tuple(values.shape)}, not {wanted}: "
                "chains, draws, then the site's own shape"
            )
    logs = [draws.log_p] if draws.log_q is None else [draws.log_p, draws.log_q]
    if not all(bool(torch.isfinite(value).all()) for value in [*draws.values.values(), *logs]):
        raise NonFiniteError(f"engine '{name}' returned draws that are NaN or infinite: it diverged, or saw a datum so")
    return draws
