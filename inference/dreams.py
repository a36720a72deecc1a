"""Data that a model draws itself: a run with nothing observed, each observed argument replaced by its draw."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from inference.errors import UnsupportedModelError
from inference.pair import is_stochastic

__all__ = ["check_dream", "dream"]


def dream(model: Callable[..., Any], data: tuple[Any, ...], foreign: str) -> tuple[Any, tuple[Any, ...]]:
    """A trace of the model with nothing observed, and its data in the places of the given ones.

    Raises:
        UnsupportedModelError: an observed value that is none of the arguments: `foreign`, with {name} for the site.
    """
    with poutine.uncondition():  # entered outside the trace: it has the last word on a site
        trace: Any = poutine.trace(model).get_trace(*data)
    drawn = list(data)
    for name, site in trace.nodes.items():
        if not (is_stochastic(site) and site["infer"].get("was_observed")):
            continue
        places = [i for i, arg in enumerate(data) if arg is site["infer"]["obs"]]
        if not places:
            raise UnsupportedModelError(foreign.format(name=name))
        for i in places:
            drawn[i] = site["value"].to(data[i].dtype).reshape(data[i].shape)
    return trace, tuple(drawn)


def check_dream(model: Callable[..., Any], trace: Any, drawn: tuple[Any, ...], reads: str) -> None:
    """Refuse a model that reads what it observes: given its dream for data, it rates the dream otherwise.

    Raises:
        UnsupportedModelError: `reads`, with {name} for the site whose log-probability is another.
    """
    again: Any = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*drawn)
    for name, site in trace.nodes.items():
        if is_stochastic(site):
            there, here = (
                s["fn"].log_prob(site["value"], *s["args"], **s["kwargs"]) for s in (site, again.nodes[name])
            )
            if there.shape != here.shape or not torch.allclose(there, here, rtol=1e-3, atol=1e-3):
                raise UnsupportedModelError(reads.format(name=name))
