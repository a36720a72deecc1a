"""Discrete sites summed out exactly, inside each particle's weight.

A site marked infer={"enumerate": "parallel"} takes all its values at once, on a tensor dim of its own. With y such a
site and z_k a sample,

    in the model alone:       log w_k = log sum_y p(x, y, z_k) - log q(z_k | x)
    in model and guide:       log w_k = log sum_y p(x, y, z_ky) / q(z_ky | x, y),    the guide's q(y | x) cancelling

so that the mean of w_k is p(x) for every k. TraceEnumELBO takes the guide's expectation instead:
sum_y q(y | x) [log p(x, y, z_y) - log q(y, z_y | x)] (the survey's Equation 9). The sum over the model's own sites is
Pyro's tensor contraction, which follows plates and Markov chains.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.pair import Pair, Structure, is_latent, is_stochastic
from inference.weights import PARTICLES, Layout, Weights, check_k, closed_form, layout_of, run

__all__ = ["Branches", "branches", "weigh_enumerated"]


class Branches(NamedTuple):
    """Terms of each branch e of the guide's enumerated sites (E = 1 where the guide has none)."""

    rec: Tensor  # (E, K, N)  log p(x | z), the model's own enumerated sites summed out
    reg: Tensor  # (E, K, N)  log p(z) - log q(z | x) over the sites in both programs
    log_q: Tensor  # (E, K, N)  log q of the branch: the guide's enumerated sites
    joint: Tensor  # (E, K, N)  rec + reg + log_q: q(y) cancels, so a class that the guide excludes leaves no nan
    score: Tensor | None  # (E, K, N)  log q of the sampled sites that are not reparameterised
    score_sum: Tensor | None  # (K, N)  the same, each sample counted once
    rows: float


def weigh_enumerated(pair: Pair, batch: tuple[Any, ...], k: int, structure: Structure) -> Weights:
    """Weights with every enumerated site summed inside; their parts weigh the branches by their posterior."""
    b = branches(pair, batch, k, structure)
    log_w = b.joint.logsumexp(0)
    if len(b.joint) == 1:
        return Weights(log_w, b.reg[0], b.rec[0], b.score_sum, b.rows)
    posterior = (b.joint - log_w).exp()
    rec = (posterior * b.rec.nan_to_num(neginf=0.0)).sum(0)
    return Weights(log_w, log_w - rec, rec, b.score_sum, b.rows)


def branches(
    pair: Pair, batch: tuple[Any, ...], k: int, structure: Structure, *, closed_form_kl: bool = False
) -> Branches:
    """Run a pair once with K particles and every enumerated branch side by side; `joint` is open-form only.

    Raises:
        UnsupportedModelError: a site enumerated by the guide inside a plate of its own within the datum; a scale of the
            user's on a site that depends on an enumerated one.
    """
    check_k(k)
    model_trace, guide_trace = _trace(pair, batch, k, structure)
    model = {name: site for name, site in model_trace.nodes.items() if is_stochastic(site)}
    guide = {name: site for name, site in guide_trace.nodes.items() if is_stochastic(site)}
    layout, rows = layout_of(model.values(), k, structure)
    symbols = model_trace.plate_to_symbol
    to_dim = model_trace.symbol_to_dim | guide_trace.symbol_to_dim
    edge = layout.particles if layout.particles is not None else -structure.nesting  # leftmost dim that is no branch

    summed = {model[name]["infer"]["_enumerate_symbol"] for name in structure.model_enum}
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    closed = _closed_form(model, guide, structure) if closed_form_kl else {}
    rec: Any = 0.0
    reg: Any = 0.0
    for name, site in model.items():
        term: Any = _masked(site)  # packed: it carries its dims' names
        if name in closed and summed.isdisjoint(closed[name]._pyro_dims):
            reg = reg - _units(packed.unpack(closed[name], to_dim), edge, layout) * _scale(site, layout)
            continue
        closed.pop(name, None)
        if summed.isdisjoint(term._pyro_dims) and name not in structure.model_enum:
            value = _units(packed.unpack(term, to_dim), edge, layout) * _scale(site, layout)
            if is_latent(site):
                reg = reg + value
            else:
                rec = rec + value
            continue
        own = float(_own_scale(site, layout))
        if own != 1.0:
            raise UnsupportedModelError(
                f"site '{name}' depends on an enumerated site and has a scale of its own ({own:g}): "
                "remove poutine.scale or the inner plate's subsample there"
            )
        ordinal = frozenset(symbols[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        factors.setdefault(ordinal, []).append(term)
    if factors:
        rec = rec + _contract(model, factors, summed, symbols, to_dim, edge, layout, structure)

    joint = rec + reg
    log_q: Any = 0.0
    score: Any = None
    once: Any = None
    for name, site in guide.items():
        if name in closed:
            continue
        value = _units(packed.unpack(_masked(site), to_dim), edge, layout) * _scale(site, layout)
        reg = reg - value
        if name in structure.guide_enum:
            _check_guide_site(name, site, structure)
            log_q = log_q + value
            continue
        joint = joint - value
        if not site["fn"].has_rsample:
            # the score is that of the draw itself: scales and masks are in the bound that it multiplies
            drawn = _units(packed.unpack(site["packed"]["unscaled_log_prob"], to_dim), edge, layout)
            score = drawn if score is None else score + drawn
            sampled = drawn.flatten(0, -3).sum(0)
            once = sampled if once is None else once + sampled

    joint = joint + torch.zeros_like(log_q) if isinstance(log_q, Tensor) else joint  # a branch may be q's alone
    flat = torch.Size((-1, k, joint.shape[-1]))

    def stack(part: Any) -> Tensor:
        return torch.as_tensor(part, dtype=joint.dtype, device=joint.device).expand(joint.shape).reshape(flat)

    return Branches(
        stack(rec), stack(reg), stack(log_q), stack(joint),
        None if score is None else stack(score),
        None if once is None else once.expand(flat[1:]), rows,
    )  # fmt: skip


def _trace(pair: Pair, batch: tuple[Any, ...], k: int, structure: Structure) -> tuple[Any, Any]:
    first = -1 - structure.nesting - (k > 1)
    with pair.scope(), pyro.validation_enabled(False):
        # the model's enumerated dims follow the guide's: the second messenger goes on where the first stopped
        with EnumMessenger(first_available_dim=first):
            guide_trace = run(pair.guide, batch, k, structure)
        _share_dims(guide_trace)
        with EnumMessenger():
            model_trace = run(poutine.replay(pair.model, trace=guide_trace), batch, k, structure)
        guide_trace, model_trace = prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
    return model_trace, guide_trace


def _share_dims(guide_trace: Any) -> None:
    """Let each site of the guide know the enumerated dims of sites after it: in the model it may come after them."""
    latents = [site["infer"] for site in guide_trace.nodes.values() if is_latent(site)]
    seen: dict[int, set[int]] = {}
    for infer in latents:
        for dim, number in infer.get("_dim_to_id", {}).items():
            seen.setdefault(dim, set()).add(number)
    shared = {dim: numbers.pop() for dim, numbers in seen.items() if len(numbers) == 1}  # not those used again
    for infer in latents:
        infer["_dim_to_id"] = shared | infer.get("_dim_to_id", {})


def _contract(
    model: dict[str, Any], factors: Any, summed: set[str], symbols: Any, to_dim: Any, edge: int, layout: Layout,
    structure: Structure,
) -> Tensor:  # fmt: skip
    """Sum the model's own enumerated sites out of the factors that know of them."""
    keep = {symbols[PARTICLES]} if PARTICLES in symbols else set()
    within = all(_inside(model[name], structure.plate) for name in structure.model_enum)
    if within:
        keep.add(symbols[structure.plate])
    elif layout.data is None and layout.scale != 1.0:
        raise UnsupportedModelError(
            f"an enumerated site outside plate '{structure.plate}' needs all its rows: do not subsample that plate"
        )
    total = contract_to_tensor(factors, summed, target_ordinal=frozenset(keep))
    value = _units(packed.unpack(total, to_dim), edge, layout)
    return value * (layout.scale if layout.data is None and within else 1.0)


def _closed_form(model: dict[str, Any], guide: dict[str, Any], structure: Structure) -> dict[str, Any]:
    """KL(q || p) of each sampled site, packed, where torch knows it."""
    found: dict[str, Any] = {}
    for name, value in closed_form(model, guide).items():
        if name not in structure.guide_enum:
            symbols = model[name]["infer"]["_dim_to_symbol"] | guide[name]["infer"]["_dim_to_symbol"]
            found[name] = packed.pack(value, symbols)
    return found


def _masked(site: dict[str, Any]) -> Tensor:
    """A site's packed log-probability under its mask, without its scale."""
    return packed.scale_and_mask(site["packed"]["unscaled_log_prob"], mask=site["packed"]["mask"])


def _own_scale(site: dict[str, Any], layout: Layout) -> Any:
    """The scale that the user set on a site, without that of the data plate's subsample."""
    return site["scale"] / layout.scale if _inside(site, layout.plate) else site["scale"]


def _scale(site: dict[str, Any], layout: Layout) -> Any:
    """What a site's term is multiplied by: one weight for all data counts the rows that a subsample left out."""
    return _own_scale(site, layout) if layout.data is not None else site["scale"]


def _inside(site: dict[str, Any], plate: str) -> bool:
    return any(f.name == plate for f in site["cond_indep_stack"])


def _units(value: Tensor, edge: int, layout: Layout) -> Tensor:
    """Sum every dim but branches, particles and data: -> (branches..., K or 1, N or 1)."""
    value = value.reshape((1,) * (-edge - value.dim()) + value.shape) if value.dim() < -edge else value
    drop = [d for d in range(edge, 0) if d not in (layout.particles, layout.data)]
    if drop:
        value = value.sum(drop, keepdim=True)
    branch_shape = value.shape[: value.dim() + edge]
    k = value.shape[layout.particles] if layout.particles is not None else 1
    n = value.shape[layout.data] if layout.data is not None else 1
    return value.reshape(*branch_shape, k, n) if branch_shape else value.reshape(1, k, n)


def _check_guide_site(name: str, site: dict[str, Any], structure: Structure) -> None:
    inner = [f.name for f in site["cond_indep_stack"] if f.vectorized and f.name not in (structure.plate, PARTICLES)]
    if inner:
        raise UnsupportedModelError(
            f"the guide enumerates '{name}' inside plate '{inner[0]}' of each datum, which has more branches than fit: "
            "leave the site out of the guide, so that the model sums it out"
        )
