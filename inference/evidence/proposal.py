"""A better proposal for a trained model: its guide, taught by the model's own draws.

A guide that was trained on a fixed set of data has memorised some of it: its weights on new data have heavy tails
(Pareto k-hat), and even L_5000 stays far below log p(x). The model has as many data as one likes, each with the latents
that made it. A copy of the guide that learns from these (the sleep phase) covers the posterior, so that the same model
gets a tighter bound at large k. At k = 1 the bound loosens: a guide that covers is no guide that seeks the mode.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.errors import ShapeError
from inference.pair import Pair, as_pair
from inference.vi.svi import SVI
from inference.vi.wake_sleep import Sleep

__all__ = ["tune_guide"]


def tune_guide(
    pair: Any,
    x: Tensor | tuple[Tensor, ...],
    steps: int,
    *,
    lr: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Pair:
    """A copy of a pair whose guide has maximised E_p(x, z)[log q(z | x)] for some steps; the model is the same.

    Parameters that model and guide share belong to the model, and stay.

    Args:
        pair: a trained pair; it is left as it was.
        x: (N, D) rows, for their number and kind alone: nothing is learnt from their values. Or a tuple of tensors, as
            model and guide take them: what the model does not observe, as the c of p(x | c), stays as it is.
        steps: of N draws of the model each.
        lr: of Adam, falling to 0 on a straight line.
        seed: of the draws; the caller's RNG is left as it was.
        on_step: called with the number of steps done.

    Raises:
        ShapeError: steps < 1.
        UnsupportedModelError: the model cannot draw its own data (see `Sleep`).
    """
    if steps < 1:
        raise ShapeError(f"the number of steps is at least 1, got {steps}: pass 8000")
    batch = (x,) if isinstance(x, Tensor) else x
    tuned = copy.deepcopy(as_pair(pair))
    # eps as in training: latents that the model hardly uses have tiny gradients
    svi = SVI(tuned, Sleep(), lambda parameters: torch.optim.Adam(parameters, lr, eps=1e-4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in tuned.model_parameters(*batch):
            parameter.requires_grad_(False)
        svi.init(*batch)
        for step in range(steps):
            for group in svi.optimizers[0].param_groups:
                group["lr"] = lr * (1 - step / steps)
            svi.step(*batch)
            if on_step is not None:
                on_step(step + 1)
    return tuned
