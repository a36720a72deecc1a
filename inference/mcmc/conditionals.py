"""Exact full conditionals by enumeration, of all elements of independent plates at once.

An update draws its cells z_u (one coordinate of one site, or a block of several) given all else:

    p(z_u = v | rest) = p(v, rest) / sum_v' p(v', rest)

Only the terms of the log-joint that z_u enters differ between candidates v, so only those are computed. In plates whose
elements do not mix, each term splits by element, and one run of the program with candidate v in all elements gives the
conditional of every element. Candidates are numbered from the current value, j = 0 ... V - 1: cell i takes the value
that stands d_i(j) places further in its support, d(j) the digits of j in mixed radix; j = 0 stays.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.mcmc.joint import LogJoint, summed
from inference.mcmc.sites import Plate

__all__ = ["Cell", "Group", "assign", "candidates", "digits", "draw", "log_conditional", "num_candidates", "term_sum"]

# Elements of the widest tensors of one run: candidates go in parts where they would take more
_BUDGET = 2**24


class Cell(NamedTuple):
    """One unit of a site, in every element of the plates that are drawn at once."""

    site: str
    index: tuple[
        Any, ...
    ]  # into the site's own dims: slices over those plates (and one-hot vectors), numbers elsewhere


class Group(NamedTuple):
    """The updates of one site, or the one update of a block: they share plates and terms."""

    names: tuple[str, ...]
    plates: tuple[Plate, ...]  # whose elements are drawn at once, from left to right
    affected: tuple[str, ...]  # sites whose terms change
    updates: tuple[tuple[Cell, ...], ...]  # one after the other


def num_candidates(joint: LogJoint, update: tuple[Cell, ...]) -> int:
    """V, the number of joint values of an update's cells."""
    return math.prod(len(_support(joint, cell)) for cell in update)


def log_conditional(
    joint: LogJoint, group: Group, update: tuple[Cell, ...], values: dict[str, Tensor], current: Tensor | None = None
) -> Tensor:
    """Log p of each candidate and the rest, but for terms that all candidates share, in nats.

    Args:
        joint: the log-joint.
        group: the update's group.
        update: one of its updates.
        values: the state, (C, *site shape) each.
        current: (C, *E), what `term_sum` says of the state, if known already.

    Returns:
        (V, C, *E): candidate 0 is the current value.
    """
    v = num_candidates(joint, update)
    width = sum(joint.sites[name].shape.numel() for name in group.affected) * next(iter(values.values())).shape[0]
    step = max(1, _BUDGET // max(width, 1))
    parts = [] if current is None else [current.unsqueeze(0)]
    for start in range(len(parts), v, step):
        shifts = torch.arange(start, min(start + step, v))
        moved = values | candidates(joint, update, values, shifts)
        parts.append(_reduced(joint, group, moved).expand(len(shifts), *([-1] * (1 + len(group.plates)))))
    return torch.cat(parts)


def term_sum(joint: LogJoint, group: Group, terms: dict[str, Tensor]) -> Tensor:
    """The terms that a group's updates change, element by element, in nats: (J or 1, C, *E)."""
    total: Any = 0.0
    for name in group.affected:
        total = total + summed(terms[name], group.plates).to(torch.float64)
    if bool(total.isnan().any()):  # a term may be anything where another says that the state is impossible
        for name in group.affected:
            total = torch.where(summed(terms[name], group.plates) == -math.inf, -math.inf, total)
    return total


def assign(joint: LogJoint, update: tuple[Cell, ...], values: dict[str, Tensor], choice: Tensor) -> None:
    """Put candidate `choice` (C, *E) of each element into the state, in place."""
    for cell, steps in zip(update, digits(joint, update, choice), strict=True):
        at = (slice(None), *cell.index)
        value = values[cell.site]
        value[at] = _advance(_support(joint, cell), value[at], steps, joint.sites[cell.site].unit)


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A candidate for each element, by the Gumbel trick: (V, C, *E) -> (C, *E)."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log_()).argmax(0)


def _reduced(joint: LogJoint, group: Group, values: dict[str, Tensor]) -> Tensor:
    return term_sum(joint, group, joint.terms(values, group.affected))


def candidates(
    joint: LogJoint, update: tuple[Cell, ...], values: dict[str, Tensor], shifts: Tensor
) -> dict[str, Tensor]:
    """The sites of an update with candidates `shifts` (J,) in every element: (J, C, *site shape)."""
    moved = {}
    for cell, digit in zip(update, digits(joint, update, shifts), strict=True):
        value = values[cell.site]
        if cell.site not in moved:
            moved[cell.site] = value.expand(len(shifts), *value.shape).clone()
        new, unit = moved[cell.site], joint.sites[cell.site].unit
        here = value[(slice(None), *cell.index)]
        steps = digit.to(here.device).reshape(-1, *(1,) * (here.dim() - unit))
        new[(slice(None), slice(None), *cell.index)] = _advance(_support(joint, cell), here, steps, unit)
    return moved


def digits(joint: LogJoint, update: tuple[Cell, ...], number: Tensor) -> list[Tensor]:
    """The digits of candidate numbers, one for each cell, the last cell's fastest."""
    found = []
    for cell in reversed(update):
        radix = len(_support(joint, cell))
        found.append(number % radix)
        number = number // radix
    return found[::-1]


def _advance(support: Tensor, value: Tensor, steps: Tensor, unit: int) -> Tensor:
    """The values that stand `steps` places after `value` in the support, cyclically."""
    here = value.argmax(-1) if unit else (value - support[0]).long()
    return support[(here + steps) % len(support)]


def _support(joint: LogJoint, cell: Cell) -> Tensor:
    support = joint.sites[cell.site].support
    assert support is not None
    return support
