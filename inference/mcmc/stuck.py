"""Sites that single-site updates can never move, because probabilities of 0 leave them one value at a time.

In asia, either = tub OR lung: given the other two, each of the three is certain, and a chain of single updates stays
where it began. Such a site's conditional had a single possible value at every sweep. Whether that is the truth or a
chain that cannot move is decided by enumeration: the sites that share the probabilities of 0 are drawn jointly from the
last state, and where their joint conditional holds other values, the draws are refused.

This finds elements that never had a choice. A chain that moves within one of several islands is not found; chains from
different starts (R-hat) may show it.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.mcmc.conditionals import Cell, Group, candidates, digits, log_conditional, num_candidates
from inference.mcmc.groups import make_group
from inference.mcmc.joint import LogJoint, summed
from inference.mcmc.scoring import possible

__all__ = ["check_moves"]

_NEGLIGIBLE = 1e-6
_CHUNK = 256


def check_moves(
    joint: LogJoint, groups: Sequence[Group], values: dict[str, Tensor], free: dict[str, Tensor], sweeps: int
) -> None:
    """Refuse draws of a chain whose single updates cannot reach what a joint one can.

    Args:
        joint: the log-joint.
        groups: the updates of a sweep.
        values: the chains' last state, (C, *site shape) each.
        free: (C, *site shape) each: whether an element had more than one possible value at any of the sweeps.
        sweeps: how many there were, of warm-up and after.

    Raises:
        UnsupportedModelError: names the block that would move; a warning where it is too large to enumerate.
    """
    with joint.running():
        for group in groups:
            stuck = {name: ~free[name] for name in group.names}
            if any(bool(mask.any()) for mask in stuck.values()):
                _check_group(joint, groups, group, values, stuck, sweeps)


def _check_group(
    joint: LogJoint, groups: Sequence[Group], group: Group, values: dict[str, Tensor], stuck: dict[str, Tensor],
    sweeps: int,
) -> None:  # fmt: skip
    """Widen the group by the sites that share its probabilities of 0, until it moves or nothing shares them."""
    wider = group
    while culprits := _excluding(joint, wider, values, stuck):
        sharing = [g for g in groups if culprits & set(g.affected) or set(g.names) & set(wider.names)]
        names = tuple(site.name for site in joint.latents if any(site.name in g.names for g in sharing))
        if names == wider.names:
            return  # all that share them are drawn jointly already: the evidence leaves one value
        plates = tuple(plate for plate in group.plates if all(plate in g.plates for g in sharing))
        affected = tuple(name for name in joint.sites if any(name in g.affected for g in sharing))
        where = f"{_names(group.names)} had a single possible value at every one of {sweeps} sweeps"
        try:
            wider = make_group(joint, names, plates, affected)
        except UnsupportedModelError as error:
            warnings.warn(
                f"{where}, which may be right or a chain that cannot move, for {error}: "
                f"pass blocks= with some of {names}",
                stacklevel=4,
            )
            return
        mass = _mass_elsewhere(joint, wider, values, stuck)
        if mass > _NEGLIGIBLE:
            raise UnsupportedModelError(
                f"{where}, while jointly with its neighbours it has others of probability {mass:.3g}: single updates "
                f"cannot pass the probabilities of 0 between them, so pass blocks=[{names}]"
            )


def _excluding(joint: LogJoint, group: Group, values: dict[str, Tensor], stuck: dict[str, Tensor]) -> set[str]:
    """The sites whose probabilities of 0 exclude every other value of a stuck element."""
    found: set[str] = set()
    for update in group.updates:
        here = _stuck_at(joint, update, stuck)
        if not here.any():
            continue
        v = num_candidates(joint, update)
        oks: dict[str, list[Tensor]] = {}
        for first in range(1, v, _CHUNK):
            shifts = torch.arange(first, min(first + _CHUNK, v))
            terms = joint.terms(values | candidates(joint, update, values, shifts), group.affected, possible)
            for name, term in terms.items():
                ok = summed(term, group.plates, torch.all)
                oks.setdefault(name, []).append(ok.expand(len(shifts), *here.shape))
        each = {name: torch.cat(parts) for name, parts in oks.items()}  # (V - 1, C, *E)
        some = torch.stack(list(each.values())).all(0)
        here = here & ~some.any(0)
        found |= {name for name, ok in each.items() if bool((~ok & here).any())}
    return found


def _mass_elsewhere(joint: LogJoint, group: Group, values: dict[str, Tensor], stuck: dict[str, Tensor]) -> float:
    """The largest probability, under the block's joint conditional, that a stuck element has another value."""
    largest = 0.0
    for update in group.updates:
        p = log_conditional(joint, group, update, values).softmax(0)  # (V, C, *E)
        for cell, digit in zip(update, digits(joint, update, torch.arange(len(p))), strict=True):
            if cell.site in stuck:
                other = p[(digit != 0).to(p.device)].sum(0)
                largest = max(largest, float((other * _stuck_at(joint, (cell,), stuck)).max()))
    return largest


def _stuck_at(joint: LogJoint, update: tuple[Cell, ...], stuck: dict[str, Tensor]) -> Tensor:
    """Whether any cell of an update is stuck: (C, *E)."""
    masks = []
    for cell in update:
        if cell.site in stuck:
            mask = stuck[cell.site][(slice(None), *cell.index)]
            masks.append(mask[..., 0] if joint.sites[cell.site].unit else mask)
    return torch.stack(masks).any(0)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
