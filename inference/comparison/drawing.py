"""Draws from a guide with log p and log q of each: many in one vectorised run, or one by one.

One run draws them all in a plate left of the model's own plates. A program that indexes from the left (`a[county]`)
takes that dim for its own, and may go wrong without a word, so `vectorises` first holds three draws at once against
the same three one by one. Enumerated sites of the model are summed out of log p.
"""

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.pair import Pair, Structure, is_latent, is_stochastic
from inference.weights import layout_of, log_prob_sum, run

__all__ = ["draw", "vectorises"]

_VALUES = 2**22  # of the widest site held at once, as elsewhere
_PROBES = 3


def draw(
    pair: Pair, data: tuple[Any, ...], count: int, k: int, vectorised: bool = True
) -> tuple[dict[str, Tensor], Tensor, Tensor]:  # site -> (S, *its shape), log p (S, N), log q (S, N)
    """Draw `count` times, each of k by lot, in chunks of bounded memory."""
    structure = pair.structure(*data)
    with torch.no_grad(), pair.scope(), pyro.validation_enabled(False):
        once: Any = poutine.trace(pair.guide).get_trace(*data)
        sites = {n: s for n, s in once.nodes.items() if is_latent(s) and not s["infer"].get("is_auxiliary")}
        if not sites:
            raise UnsupportedModelError(
                "an enumerated site has no draws, and the guide samples no other: let it draw one"
            )
        width = max(
            site["value"].numel() for site in [*sites.values(), *({"value": x} for x in data if torch.is_tensor(x))]
        )
        # one by one: the k of one draw are k runs
        chunk = max(1, _VALUES // (width * k)) if vectorised else 1
        parts = []
        for start in range(0, count, chunk):
            n = min(chunk, count - start) * k
            if vectorised:
                values, log_p, log_q = _weighed(pair, data, n, structure, list(sites))
            else:
                each = [_weighed(pair, data, 1, structure, list(sites)) for _ in range(n)]
                values = {name: torch.stack([one[0][name] for one in each]) for name in sites}
                log_p, log_q = torch.cat([one[1] for one in each]), torch.cat([one[2] for one in each])
            values = {name: value.reshape(n, *sites[name]["value"].shape) for name, value in values.items()}
            if k > 1:
                axes = {name: structure.dim - site["fn"].event_dim for name, site in sites.items()}
                values, log_p, log_q = _by_lot(values, log_p, log_q, k, axes if structure.local else None)
            parts.append((values, log_p, log_q))
    values = {name: torch.cat([part[0][name] for part in parts]) for name in sites}
    return values, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])


def vectorises(pair: Pair, data: tuple[Any, ...]) -> bool:
    """Whether draws in one run have the log-probabilities that each has alone; the RNG is left as it was."""
    structure = pair.structure(*data)
    k = _PROBES
    with torch.random.fork_rng(), torch.no_grad(), pair.scope(), pyro.validation_enabled(False):
        try:
            drawn = run(pair.guide, data, k, structure)
            trace = run(poutine.replay(pair.model, trace=drawn), data, k, structure)
            together = [_total(each, k, structure) for each in (trace, drawn)]
            alone: list[list[Tensor]] = [[], []]
            for i in range(k):
                for found, program, nodes in zip(alone, (pair.model, pair.guide), (trace, drawn), strict=True):
                    single: Any = poutine.trace(program).get_trace(*data)
                    values = {
                        name: site["value"].reshape(k, *single.nodes[name]["value"].shape)[i]
                        for name, site in nodes.nodes.items()
                        if is_latent(site) and not _is_point(site["fn"])  # a point mass follows from the others
                    }
                    single = poutine.trace(poutine.condition(program, values)).get_trace(*data)
                    found.append(_total(single, 1, structure))
        except (UnsupportedModelError, RuntimeError, IndexError, ValueError):
            return False
    return all(
        torch.allclose(torch.cat(one), many, rtol=1e-3, atol=1e-2)
        for one, many in zip(alone, together, strict=True)
    )  # fmt: skip


def _weighed(
    pair: Pair, data: tuple[Any, ...], n: int, structure: Structure, names: list[str]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """N draws of the guide, their log p and log q (n, N)."""
    drawn = run(pair.guide, data, n, structure)
    log_q = _total(drawn, n, structure)
    if structure.model_enum:
        from inference.enumeration import weigh_enumerated

        # the same draws again, so that their weights come with the enumerated sites summed out
        again = Pair(pair.model, poutine.replay(pair.guide, trace=drawn), pair.owner, whole=pair.whole)
        log_p = weigh_enumerated(again, data, n, structure).log_w + log_q
    else:
        log_p = _total(run(poutine.replay(pair.model, trace=drawn), data, n, structure), n, structure)
    return {name: drawn.nodes[name]["value"] for name in names}, log_p, log_q


def _total(trace: Any, k: int, structure: Structure) -> Tensor:
    """Log-probability of a trace's sites for each of k draws and each unit, (k, N)."""
    sites = [site for site in trace.nodes.values() if is_stochastic(site)]
    layout, _ = layout_of(sites, k, structure)
    return log_prob_sum(sites, layout).expand(k, -1)


def _is_point(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _by_lot(
    values: dict[str, Tensor], log_p: Tensor, log_q: Tensor, k: int, axes: dict[str, int] | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Of every k draws one, by weight, each datum for itself: (S k, ...) -> (S, ...)."""
    log_p, log_q = (each.reshape(-1, k, each.shape[1]) for each in (log_p, log_q))
    log_w = log_p - log_q  # (S, K, N)
    index = torch.distributions.Categorical(logits=log_w.movedim(1, -1)).sample()  # (S, N)
    kept = {}
    for name, value in values.items():
        value = value.reshape(-1, k, *value.shape[1:])
        shape = [len(index), 1, *[1] * (value.dim() - 2)]
        if axes is not None:
            shape[axes[name]] = index.shape[1]
        at = index.reshape(shape).expand(-1, 1, *value.shape[2:])
        kept[name] = value.gather(1, at).squeeze(1)
    log_p = log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    return kept, log_p, log_p - (log_w.logsumexp(1) - math.log(k))
