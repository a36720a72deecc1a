"""Which updates a model has, which terms each of them changes, and which plates are drawn at once.

A site's own plates claim that their elements are independent given the rest. The claim is checked by flipping random
sets m of elements from one random state to another: where elements do not mix, every term of element e depends on the
flip of e alone,

    term_e(flip of m) = term_e(flip of all) if e in m, else term_e(flip of none),

and a site outside the plate has no term that changes at all. Where this fails, the elements of that plate are updated
one after the other.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.mcmc.conditionals import Group
from inference.mcmc.groups import make_group
from inference.mcmc.joint import MODES, LogJoint, summed
from inference.mcmc.scoring import upper_bound
from inference.mcmc.sites import Plate

__all__ = ["plan", "same"]

_ROUNDS = 6
_CHECKS = 48  # states that are also run alone, at least one for each group in each round
_DENSITIES = (0.5, 0.0, 0.2, 0.8, 0.5, 0.0)  # of the flipped sets; 0: a single element


class _Disagreement(Exception):
    """The program gives other terms for many states at once than for each of them alone."""


# what a program may raise that was not written for leading dims
_CANNOT = (_Disagreement, RuntimeError, IndexError, ValueError, TypeError)


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
        UnsupportedModelError: a block of more than 2^16 states; a support that depends on another latent; a program
            that draws random numbers outside its sites.
    """
    _check_supports(joint, values, generator)
    parents = joint.traced({name: v[0] for name, v in values.items()})
    checks = max(1, _CHECKS // (_ROUNDS * len(members)))
    reason = ""
    for mode in MODES:
        joint = replace(joint, mode=mode)
        try:
            probes = [_Probe(joint, names, values, parents, generator, checks) for names in members]
            break
        except _CANNOT as error:
            if isinstance(error, UnsupportedModelError):
                raise
            if mode == MODES[-1] and isinstance(error, _Disagreement):
                raise UnsupportedModelError(
                    f"two runs of the program on one state differ ({error}), so it draws random numbers outside its "
                    "sites: make them sites, or switch dropout off"
                ) from error
            if mode == MODES[-1]:
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


def _check_supports(joint: LogJoint, values: dict[str, Tensor], generator: torch.Generator) -> None:
    """Refuse a site whose values reach further in some states of the others."""
    hints = joint.traced({name: v[0] for name, v in values.items()}, upper_bound)
    hinted = [site.name for site in joint.latents if site.support is not None and hints.get(site.name)]
    if not hinted:
        return
    discrete = [site.name for site in joint.latents if site.support is not None]
    rounds = [values | random_values(joint, discrete, values, generator) for _ in range(_ROUNDS)]
    states = {name: torch.cat([state[name] for state in rounds]) for name in values}
    for name, bound in replace(joint, mode="loop").terms(states, hinted, upper_bound).items():
        if bool((bound != bound[:, :1]).any()):
            raise UnsupportedModelError(
                f"the support of '{name}' depends on another latent: give it the widest one, with log-probability "
                "minus infinity where it does not reach (a Categorical with such logits)"
            )


def random_values(
    joint: LogJoint, names: Sequence[str], values: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Values of discrete sites drawn uniformly from their supports, in the shape of the state."""
    drawn = {}
    for name in names:
        site, like = joint.sites[name], values[name]
        support = site.support
        assert support is not None
        shape = like.shape[: like.dim() - site.unit]
        drawn[name] = support[torch.randint(len(support), shape, generator=generator, device=generator.device)]
    return drawn


class _Probe:
    """Random flips of a group's sites: what they change, and whether plates keep their word."""

    def __init__(
        self, joint: LogJoint, names: tuple[str, ...], values: dict[str, Tensor],
        parents: dict[str, frozenset[str]], generator: torch.Generator, checks: int,
    ):  # fmt: skip
        self.joint, self.names, self.generator = joint, names, generator
        common = set.intersection(*(set(joint.sites[name].plates) for name in names))
        self.claimed = tuple(sorted(common, key=lambda plate: plate.dim))
        self.values = values
        self.rounds: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        reached = {s for s in joint.sites if parents.get(s, frozenset()) & set(names)}
        changed: set[str] = set()
        for i in range(_ROUNDS):
            # the state itself, and then others: a dependence may show in some states only
            base = values if i < 2 else values | self._random([s.name for s in joint.latents if s.support is not None])
            other = self._random(names)
            terms = joint.terms(base | {name: torch.stack([base[name], other[name]]) for name in names})
            for _ in range(checks):
                self._agrees(base, other, terms)
            changed |= {s for s, term in terms.items() if len(term) > 1 and not same(term[0], term[1])}
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
                flip.view(-1)[self._below(flip.numel())] = True
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
                if not same(some, torch.where(flip, every, none), summed(term.abs(), plates).amax(0)):
                    return False
        return True

    def _random(self, names: Sequence[str]) -> dict[str, Tensor]:
        return random_values(self.joint, names, self.values, self.generator)

    def _agrees(self, base: dict[str, Tensor], other: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
        """Compare the terms of one candidate of one chain with those of that state run alone."""
        chains = len(next(iter(base.values())))
        j, c = int(self._below(2)), int(self._below(chains))
        values = base | other if j else base
        alone = replace(self.joint, mode="loop").terms({name: v[c : c + 1] for name, v in values.items()})
        for name, term in terms.items():
            one, many = alone[name][0, 0], term[min(j, len(term) - 1), min(c, term.shape[1] - 1)]
            if not same(many.expand_as(one), one):
                raise _Disagreement(f"site '{name}' has other terms")

    def _below(self, n: int) -> Tensor:
        return torch.randint(n, (), generator=self.generator, device=self.generator.device)


def same(a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
    """Whether log-probabilities agree to rounding; minus infinity equals itself."""
    scale = torch.maximum(a.abs(), b.abs()) if scale is None else scale
    close = (a - b).abs() <= 100 * torch.finfo(a.dtype).eps * (1 + scale.nan_to_num(posinf=0.0))
    return bool((close | (a == b) | (a.isnan() & b.isnan())).all())
