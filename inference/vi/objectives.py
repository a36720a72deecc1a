"""The bounds: each is a reduction of the weights, and a gradient that is unbiased for that bound.

    ELBO      L   = E[log w]                    = L_reg + L_rec          (the survey's Section 3.2)
    IWAE      L_k = E[log 1/K sum_k w_k]        L_k <= L_{k+1} -> log p(x)  (the survey's Equation 10)

Values are in nats per datum. Sites that cannot be reparameterised get the score-function term with a leave-one-out
baseline: the baseline of particle k never sees particle k, else the gradient is biased.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.enumeration import branches
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, refuse_dropout
from inference.types import Estimate
from inference.weights import run, weigh, weigh_traces

__all__ = ["IWAE", "TraceELBO", "TraceEnumELBO"]


@dataclass(frozen=True)
class TraceELBO:
    """The evidence lower bound [kingma2014vae], in nats per datum.

    L(x) = E_q[log p(x, z) - log q(z | x)] = -KL(q || p) + E_q[log p(x | z)] = L_reg + L_rec.

    Args:
        num_particles: samples per datum, averaged.
        closed_form_kl: take KL(q || p) of a site in closed form where torch knows it.

    Raises (when called):
        ShapeError: num_particles < 1.
        UnsupportedModelError: a site of the model is enumerated: use TraceEnumELBO().
    """

    num_particles: int = 1
    closed_form_kl: bool = True

    def __post_init__(self) -> None:
        _check_particles("num_particles", self.num_particles)

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs L_reg in the loss."""
        pair = as_pair(pair)
        structure = pair.structure(*batch)
        if structure.model_enum:
            raise UnsupportedModelError(
                f"TraceELBO cannot sum out the enumerated site {_names(structure.model_enum)}: use TraceEnumELBO()"
            )
        w = weigh(pair, batch, self.num_particles, closed_form_kl=self.closed_form_kl, enumerate_sites=False)
        elbo = w.reg * beta + w.rec
        surrogate = elbo
        if w.score is not None:
            # `elbo` carries -beta dlog q of these sites itself, of mean 0 and pure noise: taken out
            surrogate = elbo + w.score * (_centred(elbo.detach()) + beta)
        return _estimate(surrogate.mean(0), w.reg.mean(0), w.rec.mean(0), w.rows)


@dataclass(frozen=True)
class TraceEnumELBO:
    """The ELBO with its enumerated sites summed exactly (the survey's Equation 9 for a latent label).

    L(x) = sum_y q(y | x) E_q(z | x, y)[log p(x, y, z) - log q(y, z | x)]; sites that only the model has are summed
    inside the logarithm, which is tighter.

    Args:
        num_particles: samples of the sites that are not enumerated.
        closed_form_kl: take KL(q || p) of such a site in closed form, branch by branch, where torch knows it.
    """

    num_particles: int = 1
    closed_form_kl: bool = True

    def __post_init__(self) -> None:
        _check_particles("num_particles", self.num_particles)

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs L_reg in the loss."""
        pair = as_pair(pair)
        structure = pair.structure(*batch)
        if not (structure.model_enum or structure.guide_enum):
            return TraceELBO(self.num_particles, self.closed_form_kl)(pair, *batch, beta=beta)
        b = branches(pair, batch, self.num_particles, structure, closed_form_kl=self.closed_form_kl)
        q = b.log_q.exp()
        elbo = b.reg * beta + b.rec
        # a branch of probability 0 has log p = -inf and weight 0: its product is 0, and so is its gradient
        elbo = torch.where(q > 0, elbo, torch.zeros_like(elbo))
        surrogate = q * elbo
        if b.score is not None:
            value = elbo.detach()
            surrogate = surrogate + q.detach() * b.score * _centred((q.detach() * value).sum(0), value)
        parts = [(q * torch.where(q > 0, part, torch.zeros_like(part))).sum(0).mean(0) for part in (b.reg, b.rec)]
        reg, rec = parts
        return _estimate(surrogate.sum(0).mean(0), reg, rec, b.rows)


@dataclass(frozen=True)
class IWAE:
    """The importance-weighted bound of k particles [burda2016], in nats per datum.

    L_k(x) = E[log 1/K sum_k w_k]. Its gradient is

    - `gradient="plain"`: that of the bound itself, with VIMCO's leave-one-out baseline on the sites that are not
      reparameterised [mnih2016vimco];
    - `gradient="dreg"`: the same expectation for the guide with less variance, sum_k v_k^2 dlog w_k/dz_k dz_k/dphi, v
      the normalised weights; needs a guide that is reparameterised throughout [tucker2019dreg]. Parameters that guide
      and model share, as a ladder's, keep the model's score without the guide's to cancel it: much noise, so "plain".

    Raises (when called):
        ShapeError: k < 1; k = 1 with a discrete site, where the baseline is 0/0.
        UnsupportedModelError: "dreg" with a site that is not reparameterised, or enumerated.
    """

    k: int = 5
    gradient: str = "plain"

    def __post_init__(self) -> None:
        _check_particles("k", self.k)
        if self.gradient not in ("plain", "dreg"):
            raise ValueError(f"the gradient is 'plain' or 'dreg', got {self.gradient!r}")

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs log p(z) - log q(z | x) inside each weight."""
        pair = as_pair(pair)
        if self.gradient == "dreg":
            return self._dreg(pair, batch, beta)
        w = weigh(pair, batch, self.k)
        log_w = w.log_w if isinstance(beta, float) and beta == 1.0 else w.reg * beta + w.rec
        bound = log_w.logsumexp(0) - math.log(self.k)
        surrogate = bound
        if w.score is not None:
            surrogate = bound + (w.score * self._signal(log_w.detach(), bound.detach())).sum(0)
        return _estimate(surrogate, None, None, w.rows, value=bound)

    def _signal(self, log_w: Tensor, bound: Tensor) -> Tensor:
        """The learning signal of each particle: the bound less what it were without it, (K, N)."""
        if self.k == 1:
            raise ShapeError(
                "IWAE on discrete sites needs k >= 2 (leave-one-out baseline), got k=1: pass k=5 or use TraceELBO()"
            )
        # particle k's own weight is replaced by the geometric mean of the others, so the baseline does not see it
        others = (log_w.sum(0) - log_w) / (self.k - 1)
        eye = torch.eye(self.k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
        without = torch.where(eye, others.unsqueeze(0), log_w.unsqueeze(0)).logsumexp(1) - math.log(self.k)
        return bound - without

    def _dreg(self, pair: Pair, batch: tuple[Any, ...], beta: float) -> Estimate:
        structure = pair.structure(*batch)
        if structure.model_enum or structure.guide_enum:
            raise UnsupportedModelError(
                "the doubly reparameterised gradient has no enumerated sites: use gradient='plain'"
            )
        normalised: list[Tensor] = []  # filled below, read in the backward pass
        with pair.scope(), pyro.validation_enabled(False):
            self._check_frozen(pair, batch, structure)
            drawn = run(pair.guide, batch, self.k, structure)
            for name, site in drawn.nodes.items():
                if is_latent(site):
                    if not site["fn"].has_rsample:
                        raise UnsupportedModelError(
                            f"the doubly reparameterised gradient needs reparameterised sites, and '{name}' is not: "
                            "use gradient='plain'"
                        )
                    if site["value"].requires_grad:
                        site["value"] = _with_scaled_gradient(
                            site["value"], site["fn"].event_dim, normalised, structure
                        )
            # the second run of the guide, under frozen parameters, leaves log q a gradient through z alone
            with _frozen(pair):
                guide_trace = run(poutine.replay(pair.guide, trace=drawn), batch, self.k, structure)
            model_trace = run(poutine.replay(pair.model, trace=drawn), batch, self.k, structure)
            w = weigh_traces(model_trace, guide_trace, self.k, structure)
        log_w = w.log_w if isinstance(beta, float) and beta == 1.0 else w.reg * beta + w.rec
        v = log_w.detach().softmax(0)
        normalised.append(v)
        bound = log_w.detach().logsumexp(0) - math.log(self.k)
        return _estimate((v * log_w).sum(0), None, None, w.rows, value=bound)

    def _check_frozen(self, pair: Pair, batch: tuple[Any, ...], structure: Structure) -> None:
        """Once a pair: with values given and parameters frozen, log q must have no gradient left."""
        refuse_dropout(pair, "the doubly reparameterised gradient", "gradient='plain'")
        if pair in _FREEZABLE:
            return
        with torch.random.fork_rng(), _frozen(pair):
            drawn = run(pair.guide, batch, self.k, structure)
            for site in drawn.nodes.values():
                if is_latent(site):
                    site["value"] = site["value"].detach()
            replayed = run(poutine.replay(pair.guide, trace=drawn), batch, self.k, structure)
            replayed.compute_log_prob(lambda name, site: is_latent(site))
        for name, site in replayed.nodes.items():
            if is_latent(site) and site["log_prob"].requires_grad:
                raise UnsupportedModelError(
                    f"the guide's site '{name}' depends on a parameter that the pair does not know: "
                    "register its network with pyro.module, or use gradient='plain'"
                )
        _FREEZABLE.add(pair)


_FREEZABLE: weakref.WeakSet[Pair] = weakref.WeakSet()


@contextmanager
def _frozen(pair: Pair) -> Iterator[None]:
    parameters = [p for p in pair.named_parameters().values() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def _with_scaled_gradient(value: Tensor, event_dim: int, normalised: list[Tensor], structure: Structure) -> Tensor:
    """A copy of a guide's value whose gradient is multiplied by its particle's normalised weight."""
    copy = value.clone()

    def hook(gradient: Tensor) -> Tensor:
        (v,) = normalised  # (K, N), or (K, 1) where a latent site is outside the data plate
        shape = [1] * (1 + structure.nesting)  # the particle plate is the leftmost
        shape[0] = v.shape[0]
        if structure.local:
            shape[structure.dim] = v.shape[1]
        batch_ndim = gradient.dim() - event_dim
        return gradient * v.reshape(shape[len(shape) - batch_ndim :] + [1] * event_dim)

    copy.register_hook(hook)
    return copy


def _centred(value: Tensor, per_branch: Tensor | None = None) -> Tensor:
    """The score's signal: less the mean of the other particles; with one particle, as it is."""
    k = value.shape[0]
    signal = value if per_branch is None else per_branch
    return signal if k == 1 else signal - (value.sum(0) - value) / (k - 1)


def _estimate(
    surrogate: Tensor, reg: Tensor | None, rec: Tensor | None, rows: float, value: Tensor | None = None
) -> Estimate:
    """Nats per datum from sums over units; `value` is the bound where the surrogate is not."""

    def mean(part: Tensor) -> Tensor:
        return part.detach().sum() / rows

    if value is not None:
        return Estimate(-surrogate.sum() / rows, mean(value))
    assert reg is not None and rec is not None
    return Estimate(-surrogate.sum() / rows, mean(reg) + mean(rec), mean(reg), mean(rec))


def _check_particles(name: str, k: int) -> None:
    if k < 1:
        raise ShapeError(f"{name} is at least 1, got {name}={k}: IWAE(k=5), TraceELBO(num_particles=1)")


def _names(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
