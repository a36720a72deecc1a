"""Reweighted wake-sleep: learn the model from weighted draws of the guide, and the guide from draws that fit the model.

    v_k = w_k / sum_j w_j,   w_k = p(x, h_k) / q(h_k | x),   h_k ~ q(. | x)

    wake-theta   sum_k v_k dlog p(x, h_k)/dtheta                 the model, towards log p(x)
    wake-phi     sum_k v_k dlog q(h_k | x)/dphi                  the guide, towards the posterior, on real data
    sleep-phi    dlog q(h | x)/dphi at (x, h) ~ p                the same on the model's own data: its dreams

No term differentiates through a draw, so discrete and continuous sites are alike, and no baseline is needed. Weights
are normalised for each datum: rows of a batch never compete.
"""

import math
import weakref
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from inference.dreams import check_dream, dream
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, is_stochastic
from inference.types import Estimate, Objective
from inference.weights import Layout, layout_of, log_prob_sum, run

__all__ = ["Dreaming", "ReweightedWakeSleep", "Sleep"]


@dataclass(frozen=True)
class ReweightedWakeSleep:
    """Reweighted wake-sleep of k particles [bornschein2015rws]; its value is the bound L_k, in nats per datum.

    The updates are the three above; theta's and phi's never reach into each other. Those of wake are ratios of two
    averages over k draws, so their mean is that of L_inf only as k grows; sleep-phi's is exact for its own objective,
    E_p(x)[log q(h | x)].

    Args:
        k: particles K; with k=1 and `phi="sleep"` this is the wake-sleep algorithm itself.
        phi: the guide's update: "wake", "sleep", or "both", half of each.

    Raises:
        ShapeError: k < 1; k = 1 where the guide learns from the weights, which are all 1 then.
        UnsupportedModelError (when called): an enumerated site; for the sleep phase, an observed site that is none of
            the batch's own tensors, a model that reads what it should dream, a guide with auxiliary sites.
    """

    k: int = 5
    phi: str = "wake"

    def __post_init__(self) -> None:
        if self.phi not in ("wake", "sleep", "both"):
            raise ValueError(f"phi, the guide's update, is 'wake', 'sleep' or 'both', got {self.phi!r}")
        if self.k < 2 and not (self.k == 1 and self.phi == "sleep"):
            raise ShapeError(
                f"reweighted wake-sleep weighs k >= 2 draws against one another, got k={self.k}: pass k=5, or "
                "ReweightedWakeSleep(1, phi='sleep') for plain wake-sleep"
            )

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs log p(h) - log q(h | x) in each weight, and log p(h) in theta's update."""
        pair = as_pair(pair)
        structure = pair.structure(*batch)
        if structure.model_enum:
            raise UnsupportedModelError("reweighted wake-sleep cannot sum out an enumerated site: use IWAE(k=5)")
        with pair.scope(), pyro.validation_enabled(False):
            with _Detached():
                drawn = run(pair.guide, batch, self.k, structure)
            trace = run(poutine.replay(pair.model, trace=drawn), batch, self.k, structure)
            sites = [site for site in trace.nodes.values() if is_stochastic(site)]
            layout, rows = layout_of(sites, self.k, structure)
            log_q = _total(drawn, layout, latent=True)
            log_prior = _total(trace, layout, latent=True)
            rec = _total(trace, layout, latent=False)
            if not any(is_latent(site) for site in drawn.nodes.values()):
                raise UnsupportedModelError(
                    "the guide samples nothing, so there is nothing to weigh: use TraceEnumELBO()"
                )
            log_w = (beta * (log_prior - log_q) + rec).detach().expand(self.k, -1)  # (K, N)
            v = log_w.softmax(0)
            surrogate = _weighted(v, beta * log_prior + rec)
            share = 0.5 if self.phi == "both" else 1.0
            if self.phi != "sleep":
                surrogate = surrogate + share * _weighted(v, log_q)
            if self.phi != "wake":
                surrogate = surrogate + share * _dream(pair, batch, structure)
        bound = log_w.logsumexp(0) - math.log(self.k)
        return Estimate(-surrogate.sum() / rows, bound.sum() / rows)


@dataclass(frozen=True)
class Sleep:
    """The sleep phase alone: E_p(x, h)[log q(h | x)], in nats per datum; the guide learns, the model stays as it is.

    Its optimum is the posterior for every x that the model draws, and it covers the whole of it (the Kullback-Leibler
    divergence from p to q), as a proposal of importance sampling should. The batch gives the number of rows alone.

    Raises (when called):
        UnsupportedModelError: as the sleep phase of ReweightedWakeSleep.
    """

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on as many draws of the model as the batch has rows; `beta` has nothing to weigh."""
        pair = as_pair(pair)
        structure = pair.structure(*batch)
        with pair.scope(), pyro.validation_enabled(False):
            log_q = _dream(pair, batch, structure)
        return Estimate(-log_q.mean(), log_q.detach().mean())


@dataclass(frozen=True)
class Dreaming:
    """A bound for the guide alone, with dreams: L + weight * E_p(x, h)[log q(h | x)]; the model stays as it is.

    The end of a training run. A guide that saw a fixed set of data alone has memorised some of it, and seeks modes; the
    sleep phase, on data that never recur, covers. A small weight costs next to nothing of L_1 and gains at large k.
    Parameters that model and guide share belong to the model. The bound is what is reported.

    Args:
        objective: the bound: TraceELBO(), IWAE(5).
        weight: of the sleep phase.

    Raises:
        ShapeError: a weight that is not above 0.
        UnsupportedModelError: an objective that learns itself (NVIL()): SVI would not see it in here; when called, as
            the sleep phase of ReweightedWakeSleep.
    """

    objective: Objective
    weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ShapeError(
                f"the weight of the sleep phase is above 0, got {self.weight}: pass 0.3, or the bound alone"
            )
        if isinstance(self.objective, torch.nn.Module):
            raise UnsupportedModelError(
                f"{type(self.objective).__name__} has parameters of its own, which would not learn: "
                "take TraceELBO() or IWAE(k)"
            )

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch, and on as many draws of the model; `beta` is the bound's."""
        pair = as_pair(pair)
        if pair not in _MODELS:
            _MODELS[pair] = pair.model_parameters(*batch)
        held = [parameter for parameter in _MODELS[pair] if parameter.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            estimate = self.objective(pair, *batch, beta=beta)
            return estimate._replace(loss=estimate.loss + self.weight * Sleep()(pair, *batch).loss)
        finally:
            for parameter in held:
                parameter.requires_grad_(True)


class _Detached(Messenger):
    """Every draw of a program becomes a constant: entered outside the trace, so that the trace records it so."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


def _weighted(v: Tensor, log_p: Tensor) -> Tensor:
    """Sum over particles, (K, N) -> (N,); a draw that is impossible weighs nothing, and 0 times infinity is 0."""
    return torch.where(v > 0, v * log_p, 0.0).sum(0)


def _total(trace: Any, layout: Layout, latent: bool) -> Tensor:
    """Log-probability of a trace's latent or observed sites for each particle and unit: (K or 1, N)."""
    sites = (site for site in trace.nodes.values() if is_stochastic(site) and is_latent(site) == latent)
    return log_prob_sum(sites, layout)


def _dream(pair: Pair, batch: tuple[Any, ...], structure: Structure) -> Tensor:
    """Log q(h | x) (N,) of one draw (x, h) of the model for each row, differentiable in phi."""
    trace, dreamt = _draw(pair, batch)
    guide_trace = run(poutine.replay(pair.guide, trace=trace), dreamt, 1, structure)
    auxiliary = [name for name, site in guide_trace.nodes.items() if is_latent(site) and name not in trace.nodes]
    if auxiliary:
        raise UnsupportedModelError(
            f"the guide's auxiliary site '{auxiliary[0]}' is no site of the model, so a dream has no value for it: "
            "use phi='wake'"
        )
    sites = [site for site in trace.nodes.values() if is_stochastic(site)]
    layout, _ = layout_of(sites, 1, structure)
    return _total(guide_trace, layout, latent=True).squeeze(0)


@torch.no_grad()
def _draw(pair: Pair, batch: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A trace of the model with nothing observed, and the batch as it dreams it; each pair is checked once."""
    if pair not in _DREAMERS:
        with torch.random.fork_rng(), pair.evaluating():
            check_dream(pair.model, *dream(pair.model, batch, _FOREIGN), _READS)
        _DREAMERS.add(pair)
    return dream(pair.model, batch, _FOREIGN)


_FOREIGN = (
    "the sleep phase hands the guide a dreamt '{name}', but its observed value is none of the batch's arguments: write "
    "obs=x with x an argument as it comes, or use phi='wake'"
)
_READS = (
    "the model's site '{name}' depends on data that the sleep phase dreams, so its draws are no draws of the model: "
    "use phi='wake'"
)
_DREAMERS: weakref.WeakSet[Pair] = weakref.WeakSet()
_MODELS: weakref.WeakKeyDictionary[Pair, list[torch.nn.Parameter]] = weakref.WeakKeyDictionary()
