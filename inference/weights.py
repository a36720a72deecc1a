"""Importance weights of a model/guide pair: the one primitive; every bound and every evidence is a reduction of them.

    log w_k(x_n) = log p(x_n, z_k) - log q(z_k | x_n),   z_k ~ q(. | x_n)

One weight for each particle k and each independent unit n of the data plate, so that a bound's logsumexp runs over
particles of one datum and never mixes data. The scale of a subsampled plate stays outside; enumerated sites are summed
inside each weight; sites that cannot be reparameterised leave a score term, log q, beside it.
"""

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, is_stochastic

__all__ = ["Weights", "log_weights", "weigh"]

PARTICLES = "_particles"


class Weights(NamedTuple):
    """Log-weights of K particles on N units, and their parts.

    K is k; N is the number of data in the batch, or 1 where the pair has latents outside the data plate: then one
    weight belongs to all data together.
    """

    log_w: Tensor  # (K, N)
    reg: Tensor  # (K, N)  log p(z) - log q(z | x), or its negative Kullback-Leibler divergence in closed form
    rec: Tensor  # (K, N)  log p(x | z); log_w = reg + rec
    score: Tensor | None  # (K, N)  sum of log q over the sites that are not reparameterised
    rows: float  # data that the weights speak of: mean nats per datum = sum over N / rows


class Layout(NamedTuple):
    """Where the axes of a log-probability lie, counted from the right."""

    particles: int | None
    data: int | None  # None: everything but particles is summed
    plate: str
    scale: float  # of the data plate's subsample


def log_weights(pair: Any, *batch: Any, k: int = 1) -> Tensor:
    """Log importance weights, differentiable in every reparameterised direction, in nats.

    Args:
        pair: an object with `.model` and `.guide`, or a tuple of the two [burda2016].
        batch: the arguments of both.
        k: number of particles K, drawn in one vectorised run.

    Returns:
        (K, N) for N independent units of the data plate; (K, 1) where a latent site lies outside of it.

    Raises:
        ShapeError: k < 1.
        UnsupportedModelError: no data plate; sites that do not match; an enumerated site inside an inner plate.
    """
    return weigh(as_pair(pair), batch, k).log_w


def weigh(
    pair: Pair, batch: Iterable[Any], k: int, *, closed_form_kl: bool = False, enumerate_sites: bool = True
) -> Weights:
    """The weights with their parts; enumerated sites of model and guide summed inside each particle's weight."""
    batch = tuple(batch)
    structure = pair.structure(*batch)
    if enumerate_sites and (structure.model_enum or structure.guide_enum):
        from inference.enumeration import weigh_enumerated

        return weigh_enumerated(pair, batch, k, structure)
    check_k(k)
    with pair.scope(), pyro.validation_enabled(False):
        return weigh_traces(*run_both(pair, batch, k, structure), k, structure, closed_form_kl)


def check_k(k: int) -> None:
    """Refuse fewer than one particle."""
    if k < 1:
        raise ShapeError(f"the number of particles k is at least 1, got k={k}: pass k=1 for the ELBO")


def run(program: Any, batch: tuple[Any, ...], k: int, structure: Structure) -> Any:
    """The trace of one vectorised run of a program with K particles."""
    try:
        with particles(k, structure):
            return poutine.trace(program).get_trace(*batch)
    except (RuntimeError, ValueError, IndexError) as error:
        if k == 1 or isinstance(error, UnsupportedModelError):
            raise
        raise UnsupportedModelError(
            f"the program does not run with {k} particles at once ({' '.join(str(error).split())}): a leading "
            "particle dim comes before the data, so index from the right and fold convolutions, or take one particle"
        ) from error


def run_both(pair: Pair, batch: tuple[Any, ...], k: int, structure: Structure) -> tuple[Any, Any]:
    """The traces of the model, at the guide's draws, and of the guide."""
    guide_trace = run(pair.guide, batch, k, structure)
    return run(poutine.replay(pair.model, trace=guide_trace), batch, k, structure), guide_trace


def stochastic_sites(*traces: Any) -> list[dict[str, Any]]:
    """The sample sites of each trace, by name."""
    return [{name: site for name, site in trace.nodes.items() if is_stochastic(site)} for trace in traces]


def particles(k: int, structure: Structure) -> Any:
    """A plate of K particles left of all the model's own plates; nothing at all for one particle."""
    return pyro.plate(PARTICLES, k, dim=-1 - structure.nesting) if k > 1 else nullcontext()


def weigh_traces(
    model_trace: Any, guide_trace: Any, k: int, structure: Structure, closed_form_kl: bool = False
) -> Weights:
    """Weights of two traces without enumerated sites."""
    model, guide = stochastic_sites(model_trace, guide_trace)
    scores = [name for name, site in guide.items() if not site["fn"].has_rsample]
    layout, rows = layout_of(model.values(), k, structure)

    reg: Any = 0.0
    rec: Any = 0.0
    score: Any = None
    closed = closed_form(model, guide) if closed_form_kl and not scores else {}
    for name, site in model.items():
        if name in closed:
            reg = reg - per_unit(scaled(site, closed[name], layout), layout)
        elif is_latent(site):
            reg = reg + per_unit(log_prob(site, layout), layout)
        else:
            rec = rec + per_unit(log_prob(site, layout), layout)
    for name, site in guide.items():
        if name not in closed:
            log_q = per_unit(log_prob(site, layout), layout)
            reg = reg - log_q
            if not site["fn"].has_rsample:
                # the score is that of the draw itself: scales and masks are in the bound that it multiplies
                drawn = per_unit(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), layout)
                score = drawn if score is None else score + drawn

    log_w = reg + rec
    shape = torch.Size((k, log_w.shape[-1]))
    return Weights(
        log_w.expand(shape), _expand(reg, log_w, shape), _expand(rec, log_w, shape),
        None if score is None else score.expand(shape), rows,
    )  # fmt: skip


def layout_of(model_sites: Iterable[dict[str, Any]], k: int, structure: Structure) -> tuple[Layout, float]:
    """The axes of this run, and how many data its weights speak of; refuses what a per-datum weight cannot say."""
    frames = {f.name: f for site in model_sites for f in site["cond_indep_stack"] if f.vectorized}
    data = frames.get(structure.plate)
    size = 1 if data is None else data.size
    full = 1 if data is None else data.full_size or size
    if k > 1:
        inner = [f.name for f in frames.values() if f.name != structure.plate and f.full_size not in (None, f.size)]
        if inner:
            raise UnsupportedModelError(
                f"plate '{inner[0]}' is subsampled inside each datum, so its weights are no weights of the datum: "
                "use all of that plate, or TraceELBO()"
            )
        if not structure.local and full != size:
            raise UnsupportedModelError(
                f"a latent site outside plate '{structure.plate}' with a subsample of {size} of {full} rows has "
                "no importance weight: pass all rows, or use TraceELBO()"
            )
    particle_dim = -1 - structure.nesting if k > 1 else None
    layout = Layout(particle_dim, structure.dim if structure.local else None, structure.plate, full / size)
    return layout, float(size if structure.local else full)


def log_prob(site: dict[str, Any], layout: Layout) -> Tensor:
    """Log-probability of a site's value in nats, masked, without the data plate's own scale where units are data."""
    return scaled(site, site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]), layout)


def scaled(site: dict[str, Any], value: Tensor, layout: Layout) -> Tensor:
    """A site's term under its mask and the scales that the user set."""
    scale = site["scale"]
    if layout.data is not None and layout.scale != 1.0:
        scale = scale / layout.scale
    return scale_and_mask(value, scale, site["mask"])


def per_unit(value: Tensor, layout: Layout) -> Tensor:
    """Sum a term over every dim but particles and data: (..., K, ..., N, ...) -> (K or 1, N or 1)."""
    if layout.data is None:
        if layout.particles is None or value.dim() < -layout.particles:
            return value.sum().reshape(1, 1)
        return value.flatten(1).sum(1, keepdim=True) if value.dim() > 1 else value.unsqueeze(1)
    keep = [d for d in (layout.particles, layout.data) if d is not None and value.dim() >= -d]
    drop = [d for d in range(-value.dim(), 0) if d not in keep]
    if drop:
        value = value.sum(drop)
    if layout.data not in keep:
        value = value.unsqueeze(-1)
    if value.dim() < 2:
        value = value.unsqueeze(0)
    return value


def log_prob_sum(sites: Iterable[dict[str, Any]], layout: Layout) -> Tensor:
    """Log-probability of some sites together, in nats: (K or 1, N or 1)."""
    return torch.as_tensor(sum(per_unit(log_prob(site, layout), layout) for site in sites))


def closed_form(model: dict[str, Any], guide: dict[str, Any]) -> dict[str, Tensor]:
    """KL(q || p) for each site of both programs for which torch knows it; a site's event dims are summed."""
    found: dict[str, Tensor] = {}
    if [n for n in guide if n in model] != [n for n in model if n in guide]:
        # KL(q(z|a) || p(z|b)) averages over z with b held fixed: wrong where the guide draws b after z
        return found
    for name, site in guide.items():
        twin = model.get(name)
        if twin is not None and is_latent(site) and is_latent(twin) and _plain(site) and _plain(twin):
            if site["scale"] == twin["scale"]:
                with suppress(NotImplementedError):
                    found[name] = kl_divergence(site["fn"], twin["fn"])
    return found


def _plain(site: dict[str, Any]) -> bool:
    """Whether a site's divergence is only its distribution's: no mask, no point mass with a density of its own."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return site["mask"] is None and not isinstance(fn, Delta)


def _expand(part: Any, like: Tensor, shape: torch.Size) -> Tensor:
    return (part if isinstance(part, Tensor) else like.new_tensor(part)).expand(shape)
