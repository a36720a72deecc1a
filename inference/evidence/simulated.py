"""Data that a model draws itself, each with the latents that made it: a draw of p(z | x) for every such x."""

from typing import Any

import pyro
import torch
from torch import Tensor

from inference.dreams import check_dream, dream
from inference.pair import Pair, is_latent

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
        trace, drawn = dream(
            pair.model,
            data,
            "the observed value of '{name}' is none of the arguments, so it cannot be replaced by a draw: "
            "write obs=x with x an argument as it comes",
        )
        check_dream(
            pair.model,
            trace,
            drawn,
            "the model's site '{name}' reads data that it observes, so its draws are no draws of the model",
        )
    latents = {n: s["value"] for n, s in trace.nodes.items() if is_latent(s) and not s["infer"].get("was_observed")}
    return drawn, latents
