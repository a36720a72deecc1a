"""What a trace says of its discrete latents: their coordinates, their values, and which rows are independent units."""

from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent

from inference.errors import UnsupportedModelError
from inference.pair import DATA_PLATE, Structure

__all__ = ["Site", "Units", "read_site", "read_units", "support"]


class Site(NamedTuple):
    """A latent site in one unit: its coordinates are the elements of `shape`, each with the values of `support`."""

    shape: tuple[int, ...]  # of one unit's value: plates but the data's, then event
    axis: int | None  # where the data plate's dim is in the whole value, negative; None: one unit for all data
    event_dim: int
    support: Tensor  # (V,)


class Units(NamedTuple):
    """The independent rows of a model: those of the one plate around every site, or a single one."""

    structure: Structure
    num: int
    scale: float  # of the data plate's subsample


def read_units(nodes: dict[str, Any]) -> Units:
    """The units of a trace's sample sites; refuses a scale of the user's."""
    stacks = [{f.name: f for f in site["cond_indep_stack"] if f.vectorized} for site in nodes.values()]
    # a batch dim that no plate declares takes its place all the same
    depths = [len(site["fn"].batch_shape) for site in nodes.values()]
    nesting = max([*depths, *(-f.dim for stack in stacks for f in stack.values())], default=0)
    shared = set(stacks[0]).intersection(*stacks) if stacks else set()
    plate = DATA_PLATE if DATA_PLATE in shared else next(iter(shared)) if len(shared) == 1 else None
    frame = stacks[0][plate] if plate is not None else None
    scale = 1.0 if frame is None else (frame.full_size or frame.size) / frame.size
    for name, site in nodes.items():
        own = torch.as_tensor(site["scale"] / scale)
        if not torch.allclose(own, torch.ones_like(own)):
            raise UnsupportedModelError(
                f"site '{name}' is scaled by {own.flatten()[0].item():g}, so the sum over states is no probability: "
                "pass all rows of its plate, and no poutine.scale"
            )
    dim = frame.dim if frame is not None else 0
    structure = Structure(nesting, plate or "", dim, frame is not None, frozenset(), frozenset())
    return Units(structure, frame.size if frame is not None else 1, scale)


def read_site(name: str, site: dict[str, Any], structure: Structure) -> Site:
    """A latent site's coordinates and values."""
    event_dim = site["fn"].event_dim
    shape = list(site["value"].shape)
    axis = structure.dim - event_dim if structure.local else None
    if axis is not None:
        del shape[axis]
    return Site(tuple(shape), axis, event_dim, support(name, site["fn"]))


def support(name: str, fn: Distribution) -> Tensor:
    """The values of one coordinate (V,)."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    kind = type(fn).__name__
    if isinstance(fn, MaskedDistribution):
        raise UnsupportedModelError(f"the distribution of '{name}' is masked: write poutine.mask around the site")
    if not fn.has_enumerate_support or fn.event_shape:
        rule = "has no finite list of numbers" if getattr(fn.support, "is_discrete", False) else "is continuous"
        raise UnsupportedModelError(
            f"enumeration needs Bernoulli, Categorical or Binomial sites, and '{name}' ({kind}) {rule}: "
            "use log_marginal(pair, x, k)"
        )
    try:
        return fn.enumerate_support(expand=False).reshape(-1)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"'{name}' ({kind}) has not the same values in every state: give it one total_count"
        ) from error
