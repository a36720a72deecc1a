"""Log p(x, h) of a layered sigmoid belief network for many states h and all rows x at once.

    log p(x, h) = log p(h_L) + sum_l log p(h_l | h_{l+1}) + a . x - sum_d log(1 + exp a_d),    a = h_1 W_0 + b_0

One product of matrices (K, D) (D, N) stands for K N D Bernoulli probabilities.
"""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import softplus

from inference.types import Layered

__all__ = ["layered_joint", "layered_net"]


def layered_net(owner: Any, data: tuple[Any, ...], sites: Collection[str]) -> Layered | None:
    """The owner of a model whose sites are h1, h2, ... over one matrix of data, if it tells of its layers."""
    if not isinstance(owner, Layered) or len(data) != 1 or not isinstance(data[0], Tensor) or data[0].dim() != 2:
        return None
    return owner if set(sites) == {f"h{level}" for level in range(1, len(owner.layers()) + 1)} else None


def layered_joint(net: Layered, h: Sequence[Tensor], x: Tensor) -> Tensor:
    """Log p(x, h) in nats of K states h = (h1, h2, ...), each (K, H_l), and rows x (N, D): -> (K, N)."""
    logits = net.top_bias
    log_h = h[0].new_zeros(())
    for (weight, bias), layer in zip(reversed(net.layers()), reversed(h), strict=True):
        log_h = log_h + layer @ logits if logits.dim() == 1 else log_h + (layer * logits).sum(-1)
        log_h = log_h - softplus(logits).sum(-1)
        logits = layer @ weight + bias
    return (log_h - softplus(logits).sum(-1)).unsqueeze(-1) + logits @ x.t().to(logits)
