"""Mean field for binary units, started where the pair's own guide stands: the discrete twin of `LocalGaussian`."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine

from inference.pair import as_pair
from inference.vi.mean_field import MeanField
from inference.weights import PARTICLES

__all__ = ["from_guide"]

DRAWS = 200  # of the guide, whose shares of ones are the start


def from_guide(pair: Any) -> Callable[..., MeanField]:
    """What makes the guide, for `Guided(guide=...)`: a logit for each row and unit, at the guide's own marginals."""
    pair = as_pair(pair)

    @torch.no_grad()
    def make(model: Any, *data: Any) -> MeanField:
        made = MeanField(model, *data)
        nesting = pair.structure(*data).nesting
        with pair.scope(), pair.evaluating(), pyro.validation_enabled(False), torch.random.fork_rng():
            with pyro.plate(PARTICLES, DRAWS, dim=-1 - nesting):
                trace: Any = poutine.trace(pair.guide).get_trace(*data)
        for name, logits in made.logits.items():
            site = trace.nodes[name.replace("/", ".")]["value"]
            p = (site.sum(0).reshape(logits.shape) + 0.5) / (DRAWS + 1)  # half a draw more of each kind
            logits.copy_(torch.logit(p))
        return made

    return make
