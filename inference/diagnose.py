"""Where a bound went wrong: the first site of a pair whose log-probability is NaN or infinite."""

from typing import Any

import pyro
import torch
from pyro import poutine

from inference.pair import Pair, is_stochastic

__all__ = ["nonfinite_site"]


def nonfinite_site(pair: Pair, batch: tuple[Any, ...]) -> str:
    """Words that name the first bad site of guide or model on a batch, or what to look at where none is found."""
    with torch.no_grad(), pair.scope(), pyro.validation_enabled(False), torch.random.fork_rng():
        guide_trace = poutine.trace(pair.guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*batch)
        for program, trace in (("guide", guide_trace), ("model", model_trace)):
            nodes: Any = trace.nodes
            for name, site in nodes.items():
                if is_stochastic(site):
                    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
                    if not bool(torch.isfinite(log_prob).all()):
                        return f", first at the {program}'s site '{name}': lower the learning rate or clip the gradient"
    return ", at no single site: lower the learning rate or clip the gradient"
