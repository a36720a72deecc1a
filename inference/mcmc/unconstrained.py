"""The log-joint over a model's continuous latents, unconstrained: where HMC moves.

    z = T(u),   log p(x, T(u), d) + log |det dT/du|

T is the bijector from all reals to the support of each site, taken inside the run of the program, so that a support may
depend on other latents. The numbers u lie in one tensor (C, N, D): C chains; N elements of the plate that holds every
site, independent of one another, or 1 where there is none; D numbers of each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to

from inference.capture.potential import is_identity
from inference.errors import UnsupportedModelError
from inference.mcmc.joint import LogJoint
from inference.mcmc.scoring import Score, log_prob

__all__ = ["Unconstrained", "best", "unconstrain"]

_ROUNDS = 3  # of the check that elements of the data plate do not mix


class Part(NamedTuple):
    """Where one site's numbers lie."""

    name: str
    shape: tuple[int, ...]  # of u in one chain
    axis: int | None  # of the data plate in it, from the left; None: N = 1
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Unconstrained:
    """A log-joint as a function of u, the discrete latents given; `unconstrain` makes one."""

    joint: LogJoint
    parts: tuple[Part, ...]
    units: int  # N
    moving: bool  # a support depends on a discrete latent, so that u changes where only the discrete ones did

    def flatten(self, values: dict[str, Tensor]) -> Tensor:
        """The continuous latents among values (C, *site shape), unconstrained: (C, N, D)."""
        found = _run(self.joint, values, self._names, inverse=True).moved
        return torch.cat([self._packed(part, found[part.name]) for part in self.parts], -1)

    def values(self, q: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The continuous latents at q (C, N, D), each (C, *site shape); the discrete ones from `given`."""
        found = _run(self.joint, given | self._unpacked(q), self._names).moved
        return {name: found[name].detach() for name in self._names}

    def log_density(self, q: Tensor, given: dict[str, Tensor]) -> Tensor:
        """(C, N) nats, at q (C, N, D) and the discrete latents of `given`."""
        ran = _run(self.joint, given | self._unpacked(q), self._names)
        total = self.joint.log_p(ran.terms)
        return total if self.units > 1 else total.sum(1, keepdim=True)

    def gradient(self, q: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The log density (C, N) and its gradient (C, N, D): units are independent, so one backward run does."""
        with torch.enable_grad():
            q = q.detach().requires_grad_()
            log_p = self.log_density(q, given)
            (slope,) = torch.autograd.grad(log_p.sum(), q)
        return log_p.detach(), slope

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts)

    def _packed(self, part: Part, u: Tensor) -> Tensor:
        axis = None if part.axis is None else 1 + part.axis
        u = u.unsqueeze(1) if axis is None else u.movedim(axis, 1)
        return u.flatten(2) if u.dim() > 2 else u.unsqueeze(2)

    def _unpacked(self, q: Tensor) -> dict[str, Tensor]:
        found, first = {}, 0
        for part in self.parts:
            rest = tuple(size for i, size in enumerate(part.shape) if i != part.axis)
            size = math.prod(rest)
            u = q[..., first : first + size].reshape(*q.shape[:2], *rest).to(part.dtype)
            found[part.name] = u.squeeze(1) if part.axis is None else u.movedim(1, 1 + part.axis)
            first += size
        return found


def unconstrain(joint: LogJoint, values: dict[str, Tensor], other: Callable[[], dict[str, Tensor]]) -> Unconstrained:
    """The density of a log-joint's continuous latents, to be called inside `running`.

    Args:
        joint: as `gibbs.init` planned it.
        values: a state of positive probability, (C, *site shape) each.
        other: draws such a state anew, to find out whether elements of the data plate mix.

    Raises:
        UnsupportedModelError: no continuous latent; a support without a bijector from the reals; a log-density whose
            gradient is not finite at `values`.
    """
    sites = [site for site in joint.latents if site.support is None]
    if not sites:
        raise UnsupportedModelError("the model has no continuous latent site, so HMC has nothing to move: use Gibbs()")
    free = _run(joint, values, frozenset(site.name for site in sites), inverse=True).moved

    def made(data: bool) -> Unconstrained:
        parts = tuple(
            Part(
                site.name,
                tuple(free[site.name].shape[1:]),
                site.batch + joint.data.dim if data and joint.data is not None else None,
                free[site.name].dtype,
            )
            for site in sites
        )
        return Unconstrained(joint, parts, joint.data.size if data and joint.data is not None else 1, False)

    others = [other() for _ in range(_ROUNDS)]
    target = made(joint.data is not None)
    if target.units > 1 and not all(_splits(target, values, there) for there in others):
        target = made(False)
    q = target.flatten(values)
    here = target.values(q, values)
    if any(not torch.equal(v, here[name]) for there in others for name, v in target.values(q, there).items()):
        target = replace(target, moving=True)
    log_p, slope = target.gradient(q, values)
    if not bool(torch.isfinite(log_p).all() and torch.isfinite(slope).all()):
        raise UnsupportedModelError(
            "the log-joint or its gradient is not finite at the first state: check the supports of the continuous "
            f"latents {', '.join(repr(part.name) for part in target.parts)}, or start elsewhere with a narrower prior"
        )
    return target


def best(target: Unconstrained, q: Tensor, values: dict[str, Tensor], chains: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The chains of q and values with the highest density, row by row where rows are independent.

    A few of many starts end beside the posterior, in places that single updates leave slowly: a mixture's components
    that lie on one another.
    """
    joint = target.joint
    with joint.running():
        found = target.log_density(q, values).topk(chains, 0).indices  # (C, N)
    kept = {}
    for name, value in values.items():
        site = joint.sites[name]
        shape = [chains] + [1] * len(site.shape)
        if target.units > 1 and joint.data is not None:
            shape[1 + site.batch + joint.data.dim] = target.units
        kept[name] = value.gather(0, found.reshape(shape).expand(chains, *site.shape))
    return q.gather(0, found[..., None].expand(chains, *q.shape[1:])), kept


def _splits(target: Unconstrained, one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether each element of the data plate has a log density of its own, u of a random half taken from elsewhere."""
    here, there = target.flatten(one), target.flatten(other)
    half = torch.rand(target.units) < 0.5
    mixed = torch.where(half[:, None], there, here)
    a, b, both = (target.log_density(q, one) for q in (here, there, mixed))
    wanted = torch.where(half, b, a)
    scale = 1 + torch.maximum(a.abs(), b.abs()).amax(1, keepdim=True)
    return bool(((both - wanted).abs() <= 1e4 * torch.finfo(here.dtype).eps * scale)[torch.isfinite(wanted)].all())


class _Moved(Score):
    """Put values into the latent sites; those of `free` come as u and are moved into their supports, or out of them."""

    def __init__(self, joint: LogJoint, values: dict[str, Tensor], free: frozenset[str], inverse: bool):
        super().__init__(joint.sites, values, frozenset() if inverse else frozenset(joint.sites), log_prob)
        self.free, self.inverse = free, inverse
        self.moved: dict[str, Tensor] = {}
        self.stretch: dict[str, Tensor] = {}  # log |det dT/du|

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if name not in self.free:
            return
        to = _bijector(msg)
        if self.inverse:
            self.moved[name] = to.inv(msg["value"])
            return
        u = msg["value"]
        self.moved[name] = msg["value"] = z = to(u)
        if not is_identity(to):  # which stretches nothing
            self.stretch[name] = to.log_abs_det_jacobian(u, z)


class _Ran(NamedTuple):
    moved: dict[str, Tensor]  # (C, ...)
    terms: dict[str, Tensor]  # (1, C or 1, *dims of the program)


def _run(joint: LogJoint, values: dict[str, Tensor], free: frozenset[str], inverse: bool = False) -> _Ran:
    """Run the program at values (C, ...): all chains at once, or one after the other where it cannot do that."""
    if joint.mode == "loop":
        chains = len(next(iter(values.values())))
        each = [_once(joint, {name: v[c] for name, v in values.items()}, free, inverse, 0) for c in range(chains)]
        moved = {name: torch.stack([one.moved[name] for one in each]) for name in each[0].moved}
        return _Ran(moved, {n: torch.stack([one.terms[n] for one in each])[None] for n in each[0].terms})
    inner = {name: joint.nesting - joint.sites[name].batch for name in values}
    arranged = {name: v.reshape(v.shape[:1] + (1,) * inner[name] + v.shape[1:]) for name, v in values.items()}
    ran = _once(joint, arranged, free, inverse, 1)
    moved = {name: v.reshape(v.shape[:1] + v.shape[1 + inner[name] :]) for name, v in ran.moved.items()}
    return _Ran(moved, {name: term[None] for name, term in ran.terms.items()})


def _once(joint: LogJoint, values: dict[str, Tensor], free: frozenset[str], inverse: bool, lead: int) -> _Ran:
    record = _Moved(joint, values, free, inverse)
    joint.execute(record)
    terms = {name: joint.padded(term, lead) for name, term in record.found.items()}
    for name, stretch in record.stretch.items():
        batch = lead + joint.nesting if lead else joint.sites[name].batch
        stretch = stretch.flatten(batch).sum(-1) if stretch.dim() > batch else stretch
        terms[f"{name}, stretch"] = joint.padded(stretch, lead)
    return _Ran(record.moved, terms)


def _bijector(msg: Any) -> Any:
    """From all reals to a site's support."""
    try:
        return biject_to(msg["fn"].support)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"the latent site '{msg['name']}' has the support {msg['fn'].support}, to which torch knows no bijector "
            "from the reals, so HMC cannot move it: write it as a transform of latents that have one"
        ) from error
