"""The groups of a sweep's updates: a site coordinate by coordinate, or a block of sites at once."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from inference.errors import UnsupportedModelError
from inference.mcmc.conditionals import Cell, Group
from inference.mcmc.joint import LogJoint
from inference.mcmc.sites import Plate, Site

__all__ = ["MAX_STATES", "group_sites", "make_group"]

MAX_STATES = 2**16  # of a block, in each element of its plates


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
    if states > MAX_STATES:
        raise UnsupportedModelError(
            f"the block {names} has {states} joint states in each element, more than the {MAX_STATES} that are "
            "enumerated at a time: make it smaller"
        )
    return Group(names, plates, affected, (flat,))


def _indices(site: Site, plates: tuple[Plate, ...]) -> list[tuple[Any, ...]]:
    """An index for each unit of a site in an element of `plates`."""
    at_once = {plate.dim + site.batch for plate in plates}
    last = len(site.shape) - site.unit
    ranges = [[slice(None)] if i in at_once or i >= last else list(range(size)) for i, size in enumerate(site.shape)]
    return list(itertools.product(*ranges))
