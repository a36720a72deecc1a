"""Data that a model draws itself, each with the latents that made it: a draw of p(z | x) for every such x."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.pair import Pair, is_latent, is_stochastic

__all__ = ["simulate"]


@torch.no_grad()
def simulate(pair: Pair, data: tuple[Any, ...], seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """One run of the model with nothing observed: its data, in the places of the given ones, and its latents.

    Args:
        pair: the pair; only its model runs.
        data: its arguments, for their number and kind; those that are no observed value stay.
        seed: of the draws; the caller's RNG is left as it was.

    Raises:
        UnsupportedModelError: an observed value that is no argument; a model that reads what it observes.
    """
    with torch.random.fork_rng(), pair.scope(), pair.evaluating(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        with poutine.uncondition():  # entered outside the trace: it has the last word on a site
            trace: Any = poutine.trace(pair.model).get_trace(*data)
        drawn, observed = list(data), set()
        for name, site in trace.nodes.items():
            if is_stochastic(site) and site["infer"].get("was_observed"):
                observed.add(name)
                places = [i for i, arg in enumerate(data) if arg is site["infer"]["obs"]]
                if not places:
                    raise UnsupportedModelError(
                        f"the observed value of '{name}' is none of the arguments, so it cannot be replaced by a draw: "
                        "write obs=x with x an argument as it comes"
                    )
                for i in places:
                    drawn[i] = site["value"].to(data[i].dtype).reshape(data[i].shape)
        again: Any = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(*drawn)
    for name, site in trace.nodes.items():
        if is_stochastic(site):
            ours, theirs = (each["fn"].log_prob(site["value"]) for each in (site, again.nodes[name]))
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
                raise UnsupportedModelError(
                    f"the model's site '{name}' reads data that it observes, so its draws are no draws of the model"
                )
    latents = {n: s["value"] for n, s in trace.nodes.items() if is_latent(s) and n not in observed}
    return tuple(drawn), latents
