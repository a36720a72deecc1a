"""Missing data filled in by a Markov chain of guide and model in turn (Rezende et al. 2014).

    z ~ q(z | x),   x_missing ~ p(x | z);   seen pixels stay as they are

With the exact posterior for q this is Gibbs sampling: its draws come to be those of p(x_missing | x_seen). A guide that
is only close leaves an error, which a Metropolis step on z takes out (Mattei & Frellsen 2018): the drawn z replaces the
last one z' with probability min(1, w(z) / w(z')), w = p(x, z) / q(z | x) at the same x.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent

from inference.dreams import check_dream, dream
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, refuse_untrained
from inference.weights import run, run_both, weigh_traces

__all__ = ["Imputed", "impute"]


class Imputed(NamedTuple):
    """What a chain of T steps made of N rows with missing pixels; seen pixels are the data in all three."""

    x: Tensor  # (N, D) its last state: missing pixels drawn
    mean: Tensor  # (N, D) missing pixels are E[x | z], averaged over the second half of the steps
    path: Tensor  # (S, N, D) missing pixels are E[x | z] at the steps asked for; the chain's start at step 0
    accepted: Tensor  # (N,) share of the z drawn in the second half that were taken: 1 without the correction


@torch.no_grad()
def impute(
    pair: Any,
    x: Tensor,
    missing: Tensor,
    steps: int = 100,
    *,
    seed: int = 0,
    correct: bool = False,
    at: Sequence[int] = (),
    on_step: Callable[[int], None] | None = None,
) -> Imputed:
    """Fill in missing pixels, each row by a chain of its own [rezende2014].

    The chain starts from a draw of the model's own x. It runs on the device of x.

    Args:
        pair: a model/guide pair of x alone, whose site "x" has pixels that are independent given the latents.
        x: rows (N, D); what stands at missing pixels, NaN too, is never read.
        missing: (D,) or (N, D), True where a pixel is missing.
        steps: T, of the chain.
        seed: of its draws; the caller's RNG is left as it was.
        correct: take a drawn z with the probability that makes p(x_missing | x_seen) the chain's own distribution
            whatever the guide [mattei2018]; a step costs twice as much. Where few are taken it needs more steps.
        at: steps of 0 ... T whose mean images are kept, for a picture.
        on_step: called with the number of steps done.

    Raises:
        ShapeError: a mask that is not boolean, of another shape, or that hides nothing or a whole row; a seen pixel
            that is NaN; steps < 1, or a step outside 0 ... T.
        UnsupportedModelError: no pair; latents outside the data plate, or enumerated; no site "x" of independent
            pixels.
        RunError: a tuple of programs whose parameters nothing has trained.
    """
    given, pair = pair, as_pair(pair)
    missing = _check(x, missing, steps, at)
    with torch.random.fork_rng(), pair.evaluating(), pair.scope():
        torch.manual_seed(seed)
        start = _start(pair, x.masked_fill(missing, 0))
        structure = _structure(pair, start)
        refuse_untrained(given, pair)
        state, kept = torch.where(missing, start, x), None
        total, path, taken = torch.zeros_like(x), {0: state}, x.new_zeros(len(x))
        for step in range(1, steps + 1):
            with pyro.validation_enabled(False):
                drawn, mean, took, kept = _move(pair, state, kept if correct else None, structure)
            state, mean = torch.where(missing, drawn, x), torch.where(missing, mean, x)
            if step > steps // 2:
                total, taken = total + mean, taken + took
            if step in at:
                path[step] = mean
            if on_step is not None:
                on_step(step)
    kept_path = torch.stack([path[step] for step in at]) if at else x.new_zeros(0, *x.shape)
    half = steps - steps // 2
    return Imputed(state, total / half, kept_path, taken / half)


def _move(pair: Pair, x: Tensor, last: Any, structure: Structure) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Draw z given x, or keep the last one: draw and mean of p(x | z), the rows that took the new z, and z's trace."""
    model, guide = run_both(pair, (x,), 1, structure)
    drawn, mean = _pixels(model)
    if last is None:
        return drawn, mean, x.new_ones(len(x)), guide
    # the weight of the last z at this x, which has changed since it was drawn
    last_guide = run(poutine.replay(pair.guide, trace=last), (x,), 1, structure)
    last_model = run(poutine.replay(pair.model, trace=last), (x,), 1, structure)
    new, old = (weigh_traces(m, g, 1, structure).log_w[0] for m, g in ((model, guide), (last_model, last_guide)))
    take = torch.rand_like(new).log() < new - old  # (N,)
    for name, site in guide.nodes.items():
        if is_latent(site):
            rows = _along(take, site, structure)
            site["value"] = torch.where(rows, site["value"], last.nodes[name]["value"])
    rows = _along(take, model.nodes["x"], structure)
    last_drawn, last_mean = _pixels(last_model)
    return torch.where(rows, drawn, last_drawn), torch.where(rows, mean, last_mean), take.to(x), guide


def _pixels(model: Any) -> tuple[Tensor, Tensor]:
    """A draw of x given the latents of a trace, and its mean, (N, D) each."""
    fn = model.nodes["x"]["fn"]
    return fn.sample(), fn.mean


def _along(rows: Tensor, site: dict[str, Any], structure: Structure) -> Tensor:
    """A value for each row (N,), shaped to meet a site's value."""
    shape = [1] * site["value"].dim()
    shape[structure.dim - site["fn"].event_dim] = len(rows)
    return rows.reshape(shape)


def _start(pair: Pair, x: Tensor) -> Tensor:
    """A draw of the model's own x; refuses a model that the chain cannot take."""
    foreign = "the site '{name}' observes what is not x, so x cannot be filled in: a pair of model(x) and guide(x)"
    with pyro.validation_enabled(False):
        trace, (start,) = dream(pair.model, (x,), foreign)
        site = trace.nodes.get("x")
        if site is None or not site["infer"].get("was_observed"):
            raise UnsupportedModelError("the model observes no site 'x': name the one that holds the data so")
        fn = site["fn"]
        while isinstance(fn, Independent):
            fn = fn.base_dist
        if fn.event_dim > 0:
            raise UnsupportedModelError(
                f"the pixels of site 'x' depend on one another given the latents ({type(fn).__name__}), so those "
                "missing cannot be drawn alone: use independent ones, as Bernoulli(logits=l).to_event(1)"
            )
        reads = "the model reads the data that it observes at site '{name}', so it has no p(x | z) to draw from"
        check_dream(pair.model, trace, (start,), reads)
    return start


def _structure(pair: Pair, x: Tensor) -> Structure:
    structure = pair.structure(x)
    if not structure.local:
        raise UnsupportedModelError("a latent site lies outside the data plate, so no row has a chain of its own")
    if structure.model_enum:
        name = min(structure.model_enum)
        raise UnsupportedModelError(f"the guide draws no '{name}', which is marked for enumeration: let it draw one")
    return structure


def _check(x: Tensor, missing: Tensor, steps: int, at: Sequence[int]) -> Tensor:
    """The mask as (N, D)."""
    if x.dim() != 2 or not len(x):
        raise ShapeError(f"x holds rows (N, D), at least one, got {tuple(x.shape)}: flatten the images")
    if missing.dtype != torch.bool or missing.shape not in (x.shape, x.shape[1:]):
        raise ShapeError(
            f"missing is boolean and of shape {tuple(x.shape)} or {tuple(x.shape[1:])}, True where a pixel is missing, "
            f"got {missing.dtype} {tuple(missing.shape)}"
        )
    missing = missing.to(x.device).expand_as(x)
    if bool((hidden := missing.all(1)).any()):
        raise ShapeError(
            f"the mask hides every pixel of row {int(hidden.nonzero()[0])}: leave one to go by, or draw from the model"
        )
    if not bool(missing.any()):
        raise ShapeError("the mask hides no pixel: there is nothing to fill in")
    if bool(x[~missing].isnan().any()):
        raise ShapeError("a pixel that is seen is NaN: mark it as missing, missing |= x.isnan()")
    if steps < 1:
        raise ShapeError(f"the number of steps is at least 1, got steps={steps}: 100 is usual")
    if any(not 0 <= step <= steps for step in at):
        raise ShapeError(f"the steps to keep lie in 0 ... {steps}, got at={tuple(at)}")
    return missing
