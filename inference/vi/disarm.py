"""DisARM: the gradient of binary latents from pairs of antithetic draws.

For one site of independent units b_i ~ Bernoulli(sigmoid(alpha_i)), drawn as b = 1[u < p], with its mirror image
b~ = 1[1 - u < p], u uniform and p = sigmoid(alpha), and with f the bound's integrand,

    dE[f(b)]/dalpha_i = E[1/2 (f(b) - f(b~)) (-1)^{b~_i} 1[b_i != b~_i] sigmoid(|alpha_i|)]        [dong2020disarm]

Why: b_i != b~_i has probability 2 min(p_i, 1 - p_i), and the term is then max(p_i, 1 - p_i) / 2 times f with unit i on
less f with it off; the product of the two is p_i (1 - p_i), the derivative of p_i, times half of that difference, and
either order of on and off gives it. A guide of several sites takes them in turn: the site's mirror image given the same
draws before it, everything after it drawn again, one more evaluation of f for each site.
"""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, is_stochastic, refuse_dropout
from inference.types import Estimate
from inference.weights import Layout, layout_of, per_unit, run, weigh_traces

__all__ = ["DisARM"]


@dataclass(frozen=True)
class DisARM:
    """The evidence lower bound with the DisARM gradient for Bernoulli sites [dong2020disarm], in nats per datum.

    The model's gradient is the ordinary one; the guide's logits alpha get the term above, each datum with its own
    f(b) - f(b~); reparameterised sites beside them keep their pathwise gradient. With T Bernoulli sites in the guide a
    step evaluates the pair 1 + T times, T of these without a gradient. No baseline, no parameter, and no tuning.

    Args:
        num_particles: antithetic pairs per datum, averaged.

    Raises:
        ShapeError: num_particles < 1.
        UnsupportedModelError (when called): no Bernoulli site in the guide; a site that is neither reparameterised nor
            a product of Bernoulli units; an enumerated site; dropout.
    """

    num_particles: int = 1

    def __post_init__(self) -> None:
        if self.num_particles < 1:
            raise ShapeError(f"num_particles is at least 1, got num_particles={self.num_particles}: DisARM()")

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs L_reg in the loss."""
        pair = as_pair(pair)
        structure = pair.structure(*batch)
        if structure.model_enum:
            raise UnsupportedModelError("DisARM cannot sum out an enumerated site: use TraceEnumELBO()")
        refuse_dropout(pair, "DisARM", "IWAE(k=5) or TraceELBO(num_particles=2)")
        k = self.num_particles
        with pair.scope(), pyro.validation_enabled(False):
            first = run(pair.guide, batch, k, structure)
            logits = _bernoulli_logits(first)
            model_trace = run(poutine.replay(pair.model, trace=first), batch, k, structure)
            w = weigh_traces(model_trace, first, k, structure)
            sites = [site for site in model_trace.nodes.values() if is_stochastic(site)]
            layout, rows = layout_of(sites, k, structure)
            assert w.score is not None
            f = w.reg * beta + w.rec
            surrogate = f + w.score * beta  # f carries -beta dlog q, whose mean is 0: without it
            uniforms = {name: _uniform(first.nodes[name]["value"], alpha) for name, alpha in logits.items()}
            for name, alpha in logits.items():
                mirrored, other = _evaluate(pair, batch, k, structure, _Mirror(name, first, uniforms), beta)
                gap = 0.5 * (f.detach() - other)
                surrogate = surrogate + gap * _slope(first.nodes[name], mirrored.nodes[name], alpha, layout)
        reg, rec = (part.detach().mean(0).sum() / rows for part in (w.reg, w.rec))
        return Estimate(-surrogate.mean(0).sum() / rows, reg + rec, reg, rec)


class _Mirror(Messenger):
    """Run a guide again: sites before `target` as they were, its mirror image, the rest from the same uniforms.

    The uniforms behind the rest are independent of the target's, so these draws have their own law whatever the target
    is; and where their logits do not depend on the target they are the old ones, and cancel in f(b) - f(b~).
    """

    def __init__(self, target: str, first: Any, uniforms: dict[str, Tensor]):
        super().__init__()
        self.target, self.first, self.uniforms = target, first, uniforms
        self.passed = False

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        old = self.first.nodes.get(name)
        if old is None or msg["is_observed"]:
            return
        if name in self.uniforms and (self.passed or name == self.target):
            u = self.uniforms[name]
            alpha = _product_of_bernoullis(msg["fn"])
            assert alpha is not None
            msg["value"] = ((1 - u if name == self.target else u) < torch.sigmoid(alpha)).to(old["value"].dtype)
            self.passed = True
        elif self.passed and is_stochastic(old):
            return  # reparameterised and below the target: drawn anew
        else:
            msg["value"] = old["value"]
        msg["done"] = True


@torch.no_grad()
def _evaluate(
    pair: Pair, batch: tuple[Any, ...], k: int, structure: Structure, mirror: _Mirror, beta: float
) -> tuple[Any, Tensor]:
    """The guide's run under the mirror, and f there (K, N)."""
    with mirror:
        guide_trace = run(pair.guide, batch, k, structure)
    model_trace = run(poutine.replay(pair.model, trace=guide_trace), batch, k, structure)
    w = weigh_traces(model_trace, guide_trace, k, structure)
    return guide_trace, w.reg * beta + w.rec


@torch.no_grad()
def _uniform(b: Tensor, alpha: Tensor) -> Tensor:
    """The u behind a draw b = 1[u < sigmoid(alpha)]: uniform below p where b is 1, above it where b is 0."""
    p = torch.sigmoid(alpha)
    r = torch.rand_like(b.to(p.dtype))
    return torch.where(b > 0, r * p, p + r * (1 - p))


def _slope(first: Any, mirrored: Any, alpha: Tensor, layout: Layout) -> Tensor:
    """Sum over a unit's coordinates of (-1)^{b~} 1[b != b~] sigmoid(|alpha|) alpha, to be differentiated: (K, N)."""
    b, other = first["value"], mirrored["value"]
    weight = (b - other) * torch.sigmoid(alpha.detach().abs())  # (-1)^{b~} 1[b != b~] = b - b~
    event = first["fn"].event_dim
    terms = weight * alpha
    return per_unit(terms.flatten(terms.dim() - event).sum(-1) if event else terms, layout)


def _bernoulli_logits(trace: Any) -> dict[str, Tensor]:
    """Logits of every site that is not reparameterised, in the order of the run; refuses all but Bernoulli units."""
    found = {}
    for name, site in trace.nodes.items():
        if is_latent(site) and not site["fn"].has_rsample:
            alpha = _product_of_bernoullis(site["fn"])
            if alpha is None:
                raise UnsupportedModelError(
                    f"DisARM needs independent Bernoulli units wherever a site is not reparameterised, and '{name}' is "
                    f"{_kind(site['fn'])}: use IWAE(k=5) or TraceELBO(num_particles=2)"
                )
            found[name] = alpha
    if not found:
        raise UnsupportedModelError("DisARM is for guides with Bernoulli sites, and this one has none: use TraceELBO()")
    return found


def _product_of_bernoullis(fn: Any) -> Tensor | None:
    """The logits of a distribution of independent 0/1 units, by whatever class; None for any other.

    A chain of units has logits too, and those are not its units' means: so the mean must be their sigmoid.
    """
    binary, fn = is_binary(fn), _base(fn)
    if not binary or not isinstance(getattr(fn, "logits", None), Tensor):
        return None
    if type(fn) in (dist.Bernoulli, torch.distributions.Bernoulli):  # no look at values, so that it can be recorded
        return fn.logits
    try:
        mean = fn.mean
    except NotImplementedError:
        return None
    return fn.logits if torch.allclose(mean.detach(), torch.sigmoid(fn.logits.detach()), atol=1e-5) else None


def is_binary(fn: Any) -> bool:
    """Whether every coordinate of a distribution's value is 0 or 1."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.boolean


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _kind(fn: Any) -> str:
    return f"a {type(_base(fn)).__name__.lstrip('_')}"
