"""What Gibbs sampling must know of a sample site: its plates, its shape, and the finite support of a discrete one."""

from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import constraints

from inference.errors import UnsupportedModelError

__all__ = ["Plate", "Site", "read_site"]


class Plate(NamedTuple):
    """A plate as a site sees it."""

    name: str
    dim: int  # negative
    size: int


class Site(NamedTuple):
    """A sample site of the program, latent or observed."""

    name: str
    observed: bool
    plates: tuple[Plate, ...]  # from left to right
    shape: torch.Size  # of its value in one run: batch dims, event dims
    batch: int  # how many of them are batch dims
    support: Tensor | None = None  # (V, *one unit): the values of a discrete latent's unit; None for the others
    ranged: bool = False  # some elements take fewer values than the widest

    @property
    def unit(self) -> int:
        """Dims of a unit, the least that is drawn at a time: 1 for one-hot vectors, 0 for scalars."""
        return 0 if self.support is None else self.support.dim() - 1


def read_site(node: dict[str, Any]) -> Site:
    """The `Site` of a trace's node.

    Raises:
        UnsupportedModelError: its plate is subsampled; a latent without a finite support to enumerate, or a Delta.
    """
    name, fn, value = node["name"], node["fn"], node["value"]
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    for frame in frames:
        if frame.full_size not in (None, frame.size):
            raise UnsupportedModelError(
                f"plate '{frame.name}' is a subsample of {frame.size} of {frame.full_size} rows, and Gibbs sampling "
                "needs all of them: drop its subsample_size"
            )
    plates = tuple(Plate(f.name, f.dim, f.size) for f in sorted(frames, key=lambda frame: frame.dim))
    shape = torch.Size(fn.batch_shape + fn.event_shape)
    if node["is_observed"]:
        value = value if isinstance(value, Tensor) else torch.as_tensor(value)
        if value.is_floating_point() and bool(value.isnan().any()):
            raise UnsupportedModelError(
                f"site '{name}' mixes observed values with NaN: pass obs_mask=~isnan(obs) to pyro.sample, "
                f"which makes a latent '{name}_unobserved' of the missing ones"
            )
        return Site(name, True, plates, shape, len(fn.batch_shape))
    support, ranged = _support(name, fn, value)
    return Site(name, False, plates, shape, len(fn.batch_shape), support, ranged)


def _support(name: str, fn: Any, value: Tensor) -> tuple[Tensor | None, bool]:
    """The values of one unit of a discrete latent (V, *unit), and whether some elements take fewer."""
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if isinstance(base, Delta):
        raise UnsupportedModelError(
            f"the latent site '{name}' is a Delta, which only a joint move could change: use pyro.deterministic"
        )
    within: Any = fn.support
    while isinstance(within, constraints.independent):
        within = within.base_constraint
    if not within.is_discrete:
        return None, False
    if within is constraints.boolean:
        return torch.tensor([0, 1]).to(value), False
    if within is constraints.one_hot:
        return torch.eye(fn.event_shape[-1]).to(value), False
    if isinstance(within, constraints.integer_interval):
        low, high = torch.as_tensor(within.lower_bound), torch.as_tensor(within.upper_bound)
        ranged = bool((low != low.min()).any() or (high != high.max()).any())
        return torch.arange(int(low.min()), int(high.max()) + 1).to(value), ranged
    raise UnsupportedModelError(
        f"the latent site '{name}' is a {type(base).__name__} with support {within}, which cannot be enumerated: "
        "truncate it to a Categorical, or sum it out of the model"
    )
