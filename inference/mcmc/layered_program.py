"""Whether a pair is a layered sigmoid belief network, so that `layered` may draw it in place of its own program."""

from typing import Any

import torch
from torch import Tensor

from inference.mcmc.joint import read
from inference.types import Layered

__all__ = ["is_layered"]


def is_layered(pair: Any, data: tuple[Any, ...]) -> bool:
    """Whether a pair offers layers (`Layered`), and its program says of a state what they say.

    One run of the program on one state; a subclass with a program of its own is found by it.
    """
    if not (callable(getattr(pair, "layers", None)) and hasattr(pair, "top_bias")):
        return False
    from inference.mcmc.layered import sample  # numba, which nothing else needs

    if not (isinstance(pair, Layered) and len(data) == 1 and isinstance(data[0], Tensor)):
        return False
    with torch.random.fork_rng():
        joint = read(pair, data)
    trial = sample(pair, data[0], chains=1, warmup_steps=0, num_samples=1)
    values = {name: value[:, 0] for name, value in trial.values.items()}  # (1, N, H) each
    if {site.name: (1, *site.shape) for site in joint.latents} != {k: tuple(v.shape) for k, v in values.items()}:
        return False
    with joint.running():
        log_p = joint.log_p(joint.terms(values))
    expected = trial.log_p[:, 0].to(log_p)
    return log_p.shape == expected.shape and torch.allclose(log_p, expected, rtol=1e-4, atol=1e-4)
