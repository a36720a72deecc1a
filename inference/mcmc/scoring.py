"""What an engine computes of a site while the program runs with given values of its latents."""

import math
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from inference.errors import UnsupportedModelError
from inference.mcmc.sites import Site
from inference.pair import is_stochastic

__all__ = ["Score", "changing", "log_prob", "possible", "upper_bound"]


class Score(Messenger):
    """Put values into the latent sites, and compute something of the wanted ones."""

    def __init__(self, sites: dict[str, Site], values: dict[str, Tensor], wanted: frozenset[str], score: Any):
        super().__init__()
        self.sites, self.values, self.wanted, self.score = sites, values, wanted, score
        self.found: dict[str, Tensor] = {}
        self.seen: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if not is_stochastic(msg) or msg["infer"].get("_deterministic"):
            return
        name = msg["name"]
        if name not in self.sites or self.sites[name].observed != msg["is_observed"]:
            raise changing({name})
        self.seen.add(name)
        if not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[name], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.wanted:
            msg["ranged"] = self.sites[msg["name"]].ranged
            self.found[msg["name"]] = self.score(msg)


def log_prob(msg: Any) -> Tensor:
    """A site's log-probability under its scale and mask, nats."""
    fn, value = msg["fn"], msg["value"]
    term = fn.log_prob(value, *msg["args"], **msg["kwargs"])
    if msg["ranged"]:  # elements whose support ends earlier than the widest
        term = torch.where(fn.support.check(value), term, -math.inf)
    return scale_and_mask(term, msg["scale"], msg["mask"])


def upper_bound(msg: Any) -> Tensor:
    """The largest value of a site whose support is an interval of integers, else 0."""
    within = msg["fn"].support
    while isinstance(within, constraints.independent):
        within = within.base_constraint
    return torch.as_tensor(within.upper_bound if isinstance(within, constraints.integer_interval) else 0)


def possible(msg: Any) -> Tensor:
    """Whether a site's probability is other than 0: torch turns a probability of 0 into some 1e-7 or 1e-16."""
    base = fn = msg["fn"]
    while hasattr(base, "base_dist"):
        base = base.base_dist
    base = getattr(base, "_categorical", base)  # that of a one-hot one
    # `probs` is computed from logits at its first use, and then stands in __dict__ as well
    by_probs = "probs" in base.__dict__ and ("logits" not in base.__dict__ or base._param is base.probs)
    ok = log_prob(msg | {"scale": 1.0}) > -math.inf
    if by_probs and base.probs.is_floating_point():
        value = msg["value"].argmax(-1) if base is not fn and hasattr(fn, "_categorical") else msg["value"]
        single = base.log_prob(value) > math.log(2 * torch.finfo(base.probs.dtype).eps)
        extra = single.dim() - ok.dim()
        single = single.flatten(single.dim() - extra).all(-1) if extra > 0 else single
        ok = ok & (single if msg["mask"] is None else single | ~torch.as_tensor(msg["mask"]))
    return ok


def changing(names: set[str]) -> UnsupportedModelError:
    """The error of a program whose sites come and go."""
    which = ", ".join(f"'{name}'" for name in sorted(names))
    return UnsupportedModelError(
        f"the program has site {which} in some runs and not in others, so it has no fixed set of latents: "
        "take every branch and mask what does not apply (poutine.mask)"
    )
