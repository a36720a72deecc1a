"""What each latent site of a guide costs: its share of KL(q(z | x) || p(z)), the regulariser of the bound.

    KL_s(x) = E_q[log q(z_s | .) - log p(z_s | .)],     sum_s KL_s(x) = KL(q(z | x) || p(z)) = -L_reg(x)

A layer, or a step of a recurrent model, that the guide leaves at its prior costs nothing and tells nothing
[sonderby2016].
"""

from typing import Any

import pyro
import torch
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.importance import device_of, summarise
from inference.pair import as_pair, is_latent
from inference.types import Nats
from inference.weights import (
    check_k,
    closed_form,
    layout_of,
    log_prob,
    per_unit,
    run_both,
    scaled,
    stochastic_sites,
)

__all__ = ["kl_by_site"]

_ROWS = 200  # a run's data


@torch.no_grad()
def kl_by_site(pair: Any, x: Tensor | tuple[Tensor, ...], draws: int = 1, *, seed: int = 0) -> dict[str, Nats]:
    """The mean over data of each latent site's KL_s(x), in nats, with its standard error over data [sonderby2016].

    In closed form for sites that model and guide sample in the same order, given what is drawn before; else by draws.
    Where the orders differ a share may be negative: only their sum is a divergence.

    Args:
        pair: a model/guide pair whose latents all lie in the data plate, none of them enumerated.
        x: rows (N, D), or a tuple of tensors of N rows where model and guide take several.
        draws: K, of the guide for each datum.
        seed: of the draws; the caller's RNG is left as it was.

    Returns:
        For each latent site, in the order in which the guide draws them, its Nats (k: the draws).

    Raises:
        ShapeError: draws < 1, no rows, a latent site outside the data plate.
        UnsupportedModelError: an enumerated site, which has no share of its own.
    """
    data = (x,) if isinstance(x, Tensor) else x
    pair = as_pair(pair)
    check_k(draws)
    if len(data[0]) == 0:
        raise ShapeError("there is no datum to evaluate: pass at least one row")
    device = device_of(pair, data[0])
    parts: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng(), pair.evaluating(), pair.scope(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for start in range(0, len(data[0]), _ROWS):
            batch = tuple(each[start : start + _ROWS].to(device) for each in data)
            structure = pair.structure(*batch)
            if structure.model_enum or structure.guide_enum:
                name = min(structure.model_enum | structure.guide_enum)
                raise UnsupportedModelError(
                    f"the site '{name}' is summed out, so it has no share: let the guide draw it"
                )
            if not structure.local:
                raise ShapeError("a latent site lies outside the data plate, so no datum has a share of its own")
            model, guide = stochastic_sites(*run_both(pair, batch, draws, structure))
            layout, _ = layout_of(model.values(), draws, structure)
            closed = closed_form(model, guide)
            for name, site in guide.items():
                if not is_latent(site) or name not in model:
                    continue
                if name in closed:
                    share = scaled(model[name], closed[name], layout)
                else:
                    share = log_prob(site, layout) - log_prob(model[name], layout)
                share = per_unit(share, layout).expand(draws, len(batch[0]))
                parts.setdefault(name, []).append(share.mean(0).cpu())
    return {name: summarise(torch.cat(part).double(), draws) for name, part in parts.items()}
