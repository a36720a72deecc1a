"""Which updates a model has, which terms each of them changes, and which plates are drawn at once.

A site's own plates claim that their elements are independent given the rest. The claim is checked by flipping random
sets m of elements from one random state to another: where elements do not mix, every term of element e depends on the
flip of e alone,

    term_e(flip of m) = term_e(flip of all) if e in m, else term_e(flip of none),

and a site outside the plate has no term that changes at all. Where this fails, the elements of that plate are updated
one after the other.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.mcmc.conditionals import Cell, Group
from inference.mcmc.joint import MODES, LogJoint, summed
from inference.mcmc.sites import Plate, Site

__all__ = ["group_sites", "make_group", "plan"]

_MAX_STATES = 2**16  # of a block
_ROUNDS = 6
_DENSITIES = (0.5, 0.0, 0.2, 0.8, 0.5, 0.0)  # of the flipped sets; 0: a single element


class _Disagreement(Exception):
    """The program gives other terms for many states at once than for each of them alone."""


def plan(
    joint: LogJoint, values: dict[str, Tensor], members: Sequence[tuple[str, ...]], generator: torch.Generator
) -> tuple[LogJoint, tuple[Group, ...]]:
    """The way to run the program, and the groups of updates of a sweep, in the program's order.

    Args:
        joint: the log-joint.
        values: a state of positive probability, (C, *site shape) each.
        members: sites of each group, as `group_sites` gives them.
        generator: of the probes.

    Raises:
        UnsupportedModelError: a block of more than 2^16 states.
    """
    parents = joint.parents({name: v[0] for name, v in values.items()})
    reason = ""
    for mode in MODES:
        joint = replace(joint, mode=mode)
        try:
            probes = [_Probe(joint, names, values, parents, generator) for names in members]
            break
        except (_Disagreement, RuntimeError, IndexError, ShapeError, ValueError, TypeError) as error:
            if mode == MODES[-1] or isinstance(error, UnsupportedModelError):
                raise
            reason = " ".join(str(error).split())
    if joint.mode == MODES[-1]:
        warnings.warn(
            f"the program does not run with many states at once ({reason}), so each runs by itself, which is slow: "
            "index from the right, and let every operation take leading dims",
            stacklevel=4,
        )
    groups = []
    for probe in probes:  # pyright: ignore[reportPossiblyUnbound]
        plates = probe.independent()
        groups.append(make_group(joint, probe.names, plates, probe.affected))
    return joint, tuple(groups)


def make_group(joint: LogJoint, names: tuple[str, ...], plates: tuple[Plate, ...], affected: tuple[str, ...]) -> Group:
    """The updates of a site coordinate by coordinate, or of a block at once.

    Raises:
        UnsupportedModelError: a block of more than 2^16 states.
    """
    cells = [[Cell(name, index) for index in _indices(joint.sites[name], plates)] for name in names]
    if len(names) == 1:
        return Group(names, plates, affected, tuple((cell,) for cell in cells[0]))
    flat = tuple(itertools.chain(*cells))
    states = math.prod(len(joint.sites[cell.site].support) for cell in flat)  # pyright: ignore[reportArgumentType]
    if states > _MAX_STATES:
        raise UnsupportedModelError(
            f"the block {names} has {states} joint states in each element, more than the {_MAX_STATES} that are "
            "enumerated at a time: make it smaller"
        )
    return Group(names, plates, affected, (flat,))


def group_sites(joint: LogJoint, blocks: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The discrete sites, each alone or with its block, in the program's order.

    Raises:
        UnsupportedModelError: no discrete latent; a block that names something else, or one twice.
    """
    discrete = [site.name for site in joint.latents if site.support is not None]
    if not discrete:
        raise UnsupportedModelError(
            "the model has no discrete latent site, so Gibbs sampling has nothing to draw: use HMC or NUTS for "
            "continuous latents, or remove the obs= of the site that you mean"
        )
    given = list(itertools.chain(*blocks))
    for name in given:
        if name not in discrete:
            raise UnsupportedModelError(
                f"blocks names '{name}', which is no discrete latent site of the model: choose among {discrete}"
            )
        if given.count(name) > 1:
            raise UnsupportedModelError(f"blocks names '{name}' twice: put a site into one block")
    block_of = {name: tuple(block) for block in blocks for name in block}
    return list(dict.fromkeys(block_of.get(name, (name,)) for name in discrete))


def _indices(site: Site, plates: tuple[Plate, ...]) -> list[tuple[Any, ...]]:
    """An index for each unit of a site in an element of `plates`."""
    at_once = {plate.dim + site.batch for plate in plates}
    last = len(site.shape) - site.unit
    ranges = [[slice(None)] if i in at_once or i >= last else list(range(size)) for i, size in enumerate(site.shape)]
    return list(itertools.product(*ranges))


class _Probe:
    """Random flips of a group's sites: what they change, and whether plates keep their word."""

    def __init__(
        self, joint: LogJoint, names: tuple[str, ...], values: dict[str, Tensor],
        parents: dict[str, frozenset[str]] | None, generator: torch.Generator,
    ):  # fmt: skip
        self.joint, self.names, self.generator = joint, names, generator
        common = set.intersection(*(set(joint.sites[name].plates) for name in names))
        self.claimed = tuple(sorted(common, key=lambda plate: plate.dim))
        self.values = values
        self.rounds: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        reached = {s for s in joint.sites if parents is not None and parents[s] & set(names)}
        changed: set[str] = set()
        for i in range(_ROUNDS):
            # the state itself, and then others: a dependence may show in some states only
            base = values if i < 2 else values | self._random([s.name for s in joint.latents if s.support is not None])
            other = self._random(list(names))
            terms = joint.terms(base | {name: torch.stack([base[name], other[name]]) for name in names})
            if i in (0, 2):
                self._agrees(base | other, terms)
            changed |= {s for s, term in terms.items() if len(term) > 1 and not _same(term[0], term[1])}
            self.rounds.append((base, other))
        self.affected = tuple(name for name in joint.sites if name in changed | reached)

    def independent(self) -> tuple[Plate, ...]:
        """The plates whose elements may be drawn at once; a warning names the others."""
        if self._holds(self.claimed):
            return self.claimed
        kept = tuple(plate for plate in self.claimed if self._holds((plate,)))
        if not self._holds(kept):
            kept = ()
        lost = ", ".join(f"'{plate.name}'" for plate in self.claimed if plate not in kept)
        which = ", ".join(f"'{name}'" for name in self.names)
        warnings.warn(
            f"the log-joint mixes elements of plate {lost} at site {which}, so they are updated one at a time, which "
            "is right but slow: put whatever depends on one element alone into its plate",
            stacklevel=5,
        )
        return kept

    def _holds(self, plates: tuple[Plate, ...]) -> bool:
        """Whether every term splits by elements of `plates`."""
        if not plates:
            return True
        if any(plate not in self.joint.sites[name].plates for plate in plates for name in self.affected):
            return False
        sizes = [plate.size for plate in plates]
        for density, (base, other) in zip(_DENSITIES, self.rounds, strict=True):
            flip = torch.rand(sizes, generator=self.generator, device=self.generator.device) < density
            if density == 0.0:
                flip.view(-1)[torch.randint(flip.numel(), (), generator=self.generator, device=flip.device)] = True
            mixed = {}
            for name in self.names:
                site = self.joint.sites[name]
                shape = [1] * len(site.shape)
                for plate in plates:
                    shape[plate.dim + site.batch] = plate.size
                mixed[name] = torch.where(flip.reshape(shape), other[name], base[name])
            stacked = {name: torch.stack([base[name], other[name], mixed[name]]) for name in self.names}
            for term in self.joint.terms(base | stacked, self.affected).values():
                none, every, some = summed(term.expand(3, *term.shape[1:]), plates)
                if not _same(some, torch.where(flip, every, none), summed(term.abs(), plates).amax(0)):
                    return False
        return True

    def _random(self, names: list[str]) -> dict[str, Tensor]:
        """Values drawn uniformly from the supports of `names`, in the shape of the state."""
        drawn = {}
        for name in names:
            site, like = self.joint.sites[name], self.values[name]
            shape = like.shape[: like.dim() - site.unit]
            support = site.support
            assert support is not None
            drawn[name] = support[
                torch.randint(len(support), shape, generator=self.generator, device=self.generator.device)
            ]
        return drawn

    def _agrees(self, values: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
        """Compare the second of two candidates of one chain with a run of that state alone."""
        c = len(next(iter(values.values()))) - 1
        alone = replace(self.joint, mode="loop").terms({name: v[c:] for name, v in values.items()})
        for name, term in terms.items():
            one = alone[name][0, 0]
            many = term[-1, -1] if term.shape[1] > 1 or c == 0 else term[-1, 0]
            if many.shape != one.shape and many.expand_as(one).shape != one.shape or not _same(many, one):
                raise _Disagreement(f"site '{name}' then has other terms")


def _same(a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
    """Whether log-probabilities agree to rounding; minus infinity equals itself."""
    scale = torch.maximum(a.abs(), b.abs()) if scale is None else scale
    close = (a - b).abs() <= 100 * torch.finfo(a.dtype).eps * (1 + scale.nan_to_num(posinf=0.0))
    return bool((close | (a == b) | (a.isnan() & b.isnan())).all())
