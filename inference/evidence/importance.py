"""Log-evidence by importance sampling: the bound L_k for any k, with the standard error over data, and what to trust.

    L_k(x) = E[log 1/k sum_j w_j]  <=  log p(x),     rising with k

All k come from the same draws: the K weights of a datum are cut into K/k groups, whose log-means are averaged. So on
the same images L_1 <= L_5 <= ... <= L_K holds exactly (Jensen, group by group), and small k cost nothing more.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.errors import ShapeError
from inference.pair import Pair, as_pair, refuse_untrained
from inference.types import Nats
from inference.weights import weigh

__all__ = ["bound_per_datum", "importance_weights", "log_marginal"]

# values of the widest layer held at once: 2^22 float32 are 16 MB, which stay near the cores
_VALUES = 2**22


@torch.no_grad()
def importance_weights(
    pair: Any,
    x: Tensor | tuple[Tensor, ...],
    k: int,
    *,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """Log-weights of k draws for each datum, memory bounded.

    Args:
        pair: a model/guide pair whose latents all lie in the data plate.
        x: rows (N, D) on any device; moved to the pair's. Where model and guide take several tensors, a tuple of them,
            each of N rows: `(x, c)`.
        k: number of draws for each datum.
        seed: of the draws; the caller's RNG is left as it was.
        on_rows: called with the number of rows done, for a progress bar.

    Returns:
        (k, N) in nats.

    Raises:
        ShapeError: k < 1, no rows, tensors of different lengths, or weights that are not per datum.
    """
    data = (x,) if isinstance(x, Tensor) else x
    given, pair = pair, as_pair(pair)
    if k < 1:
        raise ShapeError(f"the number of draws k is at least 1, got k={k}: k=5000 is usual for log p(x)")
    if not data or len(data[0]) == 0:
        raise ShapeError("there is no datum to evaluate: pass at least one row")
    total = len(data[0])
    if any(len(part) != total for part in data):
        raise ShapeError(f"data are rows of one length, got {[len(part) for part in data]}: give each datum its row")
    device = device_of(pair, data[0])
    with torch.random.fork_rng(), pair.evaluating():
        torch.manual_seed(seed)
        if not pair.structure(*(part[:1].to(device) for part in data)).local:
            raise ShapeError("a latent site lies outside the data plate, so no datum has weights of its own")
        refuse_untrained(given, pair)
        width = max(1, *(part[0].numel() for part in data))
        rows = min(total, 100)
        chunk = max(1, min(k, _VALUES // (rows * width)))
        out = torch.empty(k, total)
        for start in range(0, total, rows):
            part = tuple(each[start : start + rows].to(device) for each in data)
            for at in range(0, k, chunk):
                n = min(chunk, k - at)
                out[at : at + n, start : start + rows] = weigh(pair, part, n).log_w.cpu()
            if on_rows is not None:
                on_rows(min(total, start + rows))
    return out


def bound_per_datum(log_w: Tensor, k: int) -> Tensor:
    """L_k of each datum from its K >= k log-weights, averaged over K // k groups: (K, N) -> (N,), nats."""
    total = log_w.shape[0]
    if not 1 <= k <= total:
        raise ShapeError(f"k lies in 1 ... {total}, the number of weights, got k={k}")
    groups = total // k
    grouped = log_w[: groups * k].reshape(groups, k, -1).double()
    return (grouped.logsumexp(1) - math.log(k)).mean(0)


def log_marginal(pair: Any, x: Tensor | tuple[Tensor, ...], k: int = 5000, *, seed: int = 0) -> Nats:
    """The bound L_k on log p(x), mean over the rows of x, with its standard error over rows [burda2016].

    log p(x) >= L_k = E[log 1/k sum_j p(x, z_j) / q(z_j | x)], in nats per datum. It understates log p(x): compare
    models by it at one k and on the same rows.

    Args:
        pair: a model/guide pair whose latents all lie in the data plate.
        x: rows (N, D), or a tuple of tensors of N rows: of a conditional model, `(x, c)`, the bound is on log p(x | c).
        k: draws for each datum.
        seed: of the draws.

    Raises:
        ShapeError: k < 1, no rows, tensors of different lengths, or weights that are not per datum.
    """
    return summarise(bound_per_datum(importance_weights(pair, x, k, seed=seed), k), k)


def summarise(values: Tensor, k: int) -> Nats:
    """Mean and standard error over data of a bound per datum (N,)."""
    n = len(values)
    se = float(values.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan
    return Nats(float(values.mean()), se, n, k)


def device_of(pair: Pair, x: Tensor) -> torch.device:
    """Where a pair's parameters are; without any, where x is."""
    for parameter in pair.named_parameters().values():
        return parameter.device
    return x.device
