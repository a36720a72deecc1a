"""Exact answers for models with finite discrete latents, by enumeration: the reference for every other engine.

    log p(x) = log sum_h p(x, h),   p(h | x) = p(x, h) / p(x),   d log p(x) = E_{p(h | x)}[d log p(x, h)]

Up to 2^20 joint states of each datum, a chunk at a time, so that memory does not grow with their number. Nats.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.marginal import exact_log_marginal, log_sum, log_term
from inference.evidence.states import States
from inference.types import Draws

__all__ = ["Exact", "Posterior", "Table", "exact_log_marginal", "exact_posterior", "exact_table"]

# log-probabilities that a table holds at most: 128 MB in float64
_TABLE = 2**24


class Posterior(NamedTuple):
    """p(h | x) by its marginals, and log p(x)."""

    log_p: Tensor  # (N,) log p(x_n), nats
    mean: dict[str, Tensor]  # site -> its shape, e.g. (N, H): for binary units the probability of a one
    sd: dict[str, Tensor]  # site -> its shape
    probs: dict[str, Tensor]  # site -> (*its shape, V), of each value
    support: dict[str, Tensor]  # site -> (V,) the values


@torch.no_grad()
def exact_posterior(model: Any, *data: Any) -> Posterior:
    """Posterior marginals, means and standard deviations of every discrete latent, in one pass over the states.

    Args:
        model: a Pyro program with Bernoulli, Categorical or Binomial latents, or a model/guide pair.
        data: its arguments.

    Raises:
        UnsupportedModelError: as exact_log_marginal; a datum of probability 0.
    """
    states = States(model, data)
    counts: dict[str, Any] = dict.fromkeys(states.sites, 0.0)
    total = torch.zeros(states.units, dtype=torch.float64, device=states.device)
    top = torch.full_like(total, torch.finfo(total.dtype).min)
    for index in states.chunks("posterior"):
        term = log_term(states, index)
        # weights relative to the largest term so far; what was summed before shrinks when a larger one comes
        higher = torch.maximum(top, term.amax(0))
        shrink, weight = (top - higher).exp(), (term - higher).exp()
        total = total * shrink + weight.sum(0)
        for name, digit in states.digits(index).items():
            here = one_hot(digit, len(states.sites[name].support)).flatten(1).to(weight)  # (K, coordinates * V)
            counts[name] = counts[name] * shrink.unsqueeze(-1) + weight.t() @ here
        top = higher
    log_p = _positive(top + total.log())
    mean, sd, probs = {}, {}, {}
    for name, site in states.sites.items():
        p = (counts[name] / total.unsqueeze(1)).reshape(states.units, *site.shape, -1)
        values = site.support.to(p)
        m = p @ values
        mean[name] = states.place(name, m)
        sd[name] = states.place(name, (p * (values - m.unsqueeze(-1)) ** 2).sum(-1).sqrt())
        probs[name] = states.place(name, p, extra=1)
    return Posterior(log_p, mean, sd, probs, {name: site.support for name, site in states.sites.items()})


class Table(NamedTuple):
    """p(h | x) of every joint state."""

    log_p: Tensor  # (N,) log p(x_n), nats
    log_posterior: Tensor  # (N, states); reshape a row to `sizes` for one dim a coordinate
    values: dict[str, Tensor]  # site -> (states, *its shape within one unit)
    sizes: tuple[int, ...]  # number of values of each coordinate, the sites in the model's order


@torch.no_grad()
def exact_table(model: Any, *data: Any) -> Table:
    """The posterior itself, log p(h | x) of every joint state of every datum, in nats.

    Args:
        model: a Pyro program with Bernoulli, Categorical or Binomial latents, or a model/guide pair.
        data: its arguments.

    Raises:
        UnsupportedModelError: as exact_posterior; more than 2^24 log-probabilities.
    """
    states = States(model, data)
    if states.total * states.units > _TABLE:
        raise UnsupportedModelError(
            f"a table of {states.total} states for {states.units} data has more than 2^24 entries: "
            "pass fewer rows, or use exact_posterior()"
        )
    joint = torch.cat([log_term(states, index) for index in states.chunks("posterior")])
    log_p = _positive(joint.logsumexp(0))
    values = states.values(torch.arange(states.total, device=states.device))
    return Table(log_p, (joint - log_p).t(), values, states.sizes)


@dataclass(frozen=True)
class Exact:
    """An engine that draws from the posterior itself: independent draws, by the inverse of its distribution function.

    Args:
        num_samples: S, draws of a chain.
        chains: C; as good as one chain of C S draws.

    Raises (when called):
        ShapeError: num_samples or chains below 1.
        UnsupportedModelError: as exact_posterior.
    """

    num_samples: int = 1000
    chains: int = 1

    def __post_init__(self) -> None:
        for name, value in (("num_samples", self.num_samples), ("chains", self.chains)):
            if value < 1:
                raise ShapeError(f"{name} is at least 1, got {name}={value}: Exact(num_samples=1000, chains=1)")

    @torch.no_grad()
    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw given data; the caller's RNG is left as it was."""
        begin = time.perf_counter()
        states = States(pair, data)
        log_p = _positive(log_sum(states))
        middle = time.perf_counter()
        count = self.chains * self.num_samples
        u = torch.rand(count, states.units, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        u = u.t().contiguous().to(states.device) * (1 - 1e-9)  # rounding must not carry u past the last state
        state = torch.full(u.shape, -1, device=states.device)  # (N, C S)
        log_joint = torch.empty_like(u)
        below = torch.zeros(states.units, 1, dtype=u.dtype, device=states.device)  # distribution function so far
        for index in states.chunks("draws"):
            joint = states.joint(index)
            below_here = below + (joint.log_p - joint.log_free - log_p).double().exp().t().cumsum(1)  # (N, K)
            at = torch.searchsorted(below_here, u, right=True)
            found = (state < 0) & (at < len(index))
            at = at.clamp(max=len(index) - 1)
            state = torch.where(found, index[at], state)
            log_joint = torch.where(found, joint.log_p.t().double().gather(1, at), log_joint)
            below = below_here[:, -1:]
        shape = (self.chains, self.num_samples)
        values = {
            name: states.place(name, value).unflatten(0, shape) for name, value in states.values(state.t()).items()
        }
        return Draws(
            values=values,
            log_p=log_joint.t().unflatten(0, shape),
            seconds=time.perf_counter() - middle,
            warmup_seconds=middle - begin,
            evaluations=2 * states.total,
        )


def _positive(log_p: Tensor) -> Tensor:
    """Refuse data that the model cannot have made: they have no posterior."""
    impossible = (log_p == -math.inf).nonzero().flatten()
    if len(impossible):
        raise UnsupportedModelError(
            f"datum {impossible[0].item()} has probability 0 under every state, so it has no posterior: "
            "leave it out, or mend the model"
        )
    return log_p
