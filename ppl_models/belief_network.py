"""Belief networks of binary units in a fixed order (Neal 1992): each the logistic regression of those before it.

    p(s_i = 1 | s_1, ..., s_{i-1}) = sigmoid(sum_{j<i} W_ij s_j + b_i)

A mask says which weights there are. In every row of data any units may be observed, and all others are latent. A
network in layers is a special case, `BeliefNetwork.layered(sizes)`: `SigmoidBeliefNetwork` is that one, layer by layer.
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ppl_models.nn import BernoulliVector, mlp

__all__ = ["BeliefNetwork"]


class BeliefNetwork(nn.Module):
    """A sigmoid belief network over U ordered binary units [neal1992] as a Pyro model/guide pair.

    Sites: `s1`, ..., `sU` in data plate `data` at dim -1. Given flags of what is observed, each is Pyro's pair of sites
    `s1_observed` and `s1_unobserved` (`obs_mask`): a latent for every row, which counts where s1 is not observed. The
    guide is q(s_i = 1 | x) = sigmoid(f_i(x where observed, flags)), a product over units. The cost of a run grows with
    U sites: some hundred units, not thousands.

    Args:
        mask: (U, U), strictly lower triangular: nonzero at [i, j] where unit i sees unit j; or U itself, for units that
            see all before them.
        guide_hidden: units of the guide's one hidden layer; None: it is linear.

    Raises:
        ValueError: a mask that is not strictly lower triangular; fewer than one unit.
    """

    mask: Tensor

    def __init__(self, mask: Tensor | int, guide_hidden: int | None = None):
        super().__init__()
        allowed = _allowed(mask, guide_hidden)
        self.x_dim = units = len(allowed)
        self.register_buffer("mask", allowed)
        self._parents = [row.nonzero().flatten().tolist() for row in allowed]
        scale = allowed.sum(1, keepdim=True).clamp(min=1).sqrt()
        self.weight = nn.Parameter(torch.randn(units, units) * allowed / scale)
        self.bias = nn.Parameter(torch.zeros(units))
        inner = () if guide_hidden is None else (guide_hidden,)
        self.net = mlp((2 * units, *inner, units))

    @classmethod
    def layered(cls, sizes: Sequence[int], guide_hidden: int | None = None) -> "BeliefNetwork":
        """Layers of (D, H1, H2, ...) units, from the data up, each seeing the one above alone.

        In the units' order the top layer is first and the data last, so x is `s[..., -D:]`.
        """
        mask = torch.zeros(sum(sizes), sum(sizes))
        start = 0
        for above, below in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            mask[start + above : start + above + below, start : start + above] = 1
            start += above
        return cls(mask, guide_hidden)

    def model(self, x: Tensor, observed: Tensor | None = None) -> None:
        """p(s) of rows x (N, U) of 0 and 1; `observed` (N, U) bool says which values are data, None: all.

        Raises:
            ValueError: `observed` of another shape or no bool; an observed value that is neither 0 nor 1.
        """
        x = self._observed(x, observed)
        s: list[Tensor] = []
        with pyro.plate("data", len(x), dim=-1):
            for i, parents in enumerate(self._parents):
                logits = self.bias[i]
                if parents:
                    seen = torch.stack(torch.broadcast_tensors(*(s[j] for j in parents)), -1)
                    logits = seen @ self.weight[i, parents] + logits
                known: Any = None if observed is None else observed[:, i]
                s.append(pyro.sample(f"s{i + 1}", dist.Bernoulli(logits=logits), obs=x[:, i], obs_mask=known))

    def guide(self, x: Tensor, observed: Tensor | None = None) -> None:
        """q(s not observed | x) of rows x (N, U)."""
        if observed is None:
            return
        x = self._observed(x, observed)
        logits = self.net(torch.cat([(x - 0.5) * observed, observed.to(x)], -1))
        with pyro.plate("data", len(x), dim=-1):
            for i in range(self.x_dim):
                unknown: Any = ~observed[:, i]
                with poutine.mask(mask=unknown):
                    pyro.sample(f"s{i + 1}_unobserved", dist.Bernoulli(logits=logits[:, i]))

    def log_joint(self, s: Tensor) -> Tensor:
        """Log p(s) in nats of values of all units: (..., U) -> (...)."""
        return BernoulliVector(s @ (self.weight * self.mask).t() + self.bias).log_prob(s)

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Ancestral draws of all units: (n, U) of 0 and 1; the caller's RNG is left as it was."""
        generator = torch.Generator(self.bias.device).manual_seed(seed)
        weight = self.weight * self.mask
        s = self.bias.new_zeros(n, self.x_dim)
        for i in range(self.x_dim):
            s[:, i] = torch.bernoulli(torch.sigmoid(s @ weight[i] + self.bias[i]), generator=generator)
        return s

    def _observed(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """Check the data; what is not observed becomes 0, be it NaN."""
        if x.dim() != 2 or x.shape[1] != self.x_dim:
            raise ValueError(f"x has a column for each of the {self.x_dim} units, got shape {tuple(x.shape)}")
        if observed is not None:
            if observed.shape != x.shape or observed.dtype != torch.bool:
                raise ValueError(
                    f"observed is a bool for each value of x {tuple(x.shape)}, got {tuple(observed.shape)} of "
                    f"{observed.dtype}: pass for example ~x.isnan()"
                )
            x = torch.where(observed, x, 0.0)
        wrong = (x != 0) & (x != 1)
        # a program that is being recorded (`inference.capture`) cannot choose by value; it has run, and checked, before
        if get_proxy_mode() is None and wrong.any():
            row, unit = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"observed units are 0 or 1, got {x[row, unit].item():g} for s{unit + 1} of row {row}: "
                "binarise x, or mark the value as not observed"
            )
        return x


def _allowed(mask: Tensor | int, guide_hidden: int | None) -> Tensor:
    if isinstance(mask, int):
        mask = torch.ones(max(mask, 0), max(mask, 0)).tril(-1)
    if mask.dim() != 2 or mask.shape[0] != mask.shape[1] or len(mask) < 1:
        raise ValueError(f"the mask is (U, U) with U >= 1 units, got {tuple(mask.shape)}: BeliefNetwork(8)")
    early = (mask.triu() != 0).nonzero()
    if len(early):
        i, j = early[0].tolist()
        raise ValueError(
            f"the mask is strictly lower triangular, for a unit sees those before it alone, got {mask[i, j].item():g} "
            f"at [{i}, {j}]: put unit {j} before unit {i}, or take mask.tril(-1)"
        )
    if guide_hidden is not None and guide_hidden < 1:
        raise ValueError(f"guide_hidden is at least 1, got {guide_hidden}: leave it out for a linear guide")
    return (mask != 0).to(torch.get_default_dtype())
