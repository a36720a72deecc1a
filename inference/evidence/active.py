"""Active units: latents whose posterior mean moves with the data, by Burda's rule Var_x(E_q[u | x]) > 0.01.

In a deep model the guide of an upper layer hangs on draws of the lower ones, so that E_q[u | x] is an average over S of
them, and the variance over x of such an average is too large by the noise in it. Its mean is known and taken off:

    Var_x(E_q[u | x])  =  E[ Var_x(1/S sum_s m_s(x)) ]  -  E_x[ Var_s(m_s(x)) ] / S

which is the mean covariance over x of two different draws. m_s(x) is the mean of q(u | x, the draws it hangs on), not u
itself: for a layer that hangs on x alone it is E_q[u | x], and nothing is left of the noise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.errors import ShapeError
from inference.evidence.importance import device_of
from inference.pair import Structure, as_pair, is_latent
from inference.weights import run

__all__ = ["ActiveUnits", "active_units", "active_units_by_site"]

_ROWS = 200  # a run's data, so that draws * rows * the widest layer stays some MB


class ActiveUnits(NamedTuple):
    """One latent site's units: how many are active, and the variance of each unit's posterior mean over the data."""

    active: int
    units: int
    variance: Tensor  # (Z,) unbiased, so below 0 at times where a unit is not active
    se: Tensor  # (Z,) its standard error, over data and draws


@torch.no_grad()
def active_units(q_mean: Callable[[Tensor], Tensor], x: Tensor, threshold: float = 1e-2) -> tuple[int, Tensor]:
    """Latent units in use by Burda's rule: Var_x(E_q[z_d | x]) > 0.01 [burda2016].

    Args:
        q_mean: rows (n, D) -> the guide's means (n, Z).
        x: rows (N, D).
        threshold: of the variance.

    Returns:
        The number of active units, and the variance of each (Z,).
    """
    means: Sequence[Tensor] = [q_mean(part) for part in x.split(1000)]
    variance = torch.cat(list(means)).var(0)
    return int((variance > threshold).sum()), variance


@torch.no_grad()
def active_units_by_site(
    pair: Any, x: Tensor | tuple[Tensor, ...], draws: int = 20, *, threshold: float = 1e-2, seed: int = 0
) -> dict[str, ActiveUnits]:
    """Burda's rule for every latent site of a guide, such as the layers of a deep model [burda2016, sonderby2016].

    Args:
        pair: a model/guide pair whose latents all lie in the data plate.
        x: rows (N, D), or a tuple of tensors of N rows where model and guide take several.
        draws: S >= 2, of the guide for each datum.
        threshold: of the variance.
        seed: of the draws; the caller's RNG is left as it was.

    Returns:
        For each site, in the order in which the guide draws them, its `ActiveUnits`; Z are the values of the site for
        one datum. A site without a mean, such as a category, has NaN variances and no active unit.

    Raises:
        ShapeError: draws < 2, fewer than two rows, a latent site outside the data plate.
    """
    data = (x,) if isinstance(x, Tensor) else x
    pair = as_pair(pair)
    if draws < 2:
        raise ShapeError(f"active units by site take draws >= 2, whose difference shows their noise, got {draws}")
    if len(data[0]) < 2:
        raise ShapeError(f"a variance over data takes at least two rows, got {len(data[0])}: pass more of x")
    device = device_of(pair, data[0])
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with torch.random.fork_rng(), pair.evaluating(), pair.scope():
        torch.manual_seed(seed)
        for start in range(0, len(data[0]), _ROWS):
            batch = tuple(each[start : start + _ROWS].to(device) for each in data)
            structure = pair.structure(*batch)
            if not structure.local:
                raise ShapeError("a latent site lies outside the data plate, so its units do not move with a datum")
            for name, site in run(pair.guide, batch, draws, structure).nodes.items():
                if is_latent(site):
                    within, mean = torch.var_mean(_means(site, draws, structure), 0)  # both (n, Z)
                    parts.setdefault(name, []).append((within.cpu(), mean.cpu()))
    found = {}
    for name, part in parts.items():
        within, mean = (torch.cat(each).double() for each in zip(*part, strict=True))
        found[name] = _count(within, mean, draws, threshold)
    return found


def _means(site: dict[str, Any], draws: int, structure: Structure) -> Tensor:
    """The means of a site's conditional distributions, (S, N, Z): its own dims and inner plates laid flat."""
    fn = site["fn"]
    shape = [1] * (1 + structure.nesting) + list(fn.event_shape)
    shape[1 + structure.nesting - len(fn.batch_shape) : 1 + structure.nesting] = fn.batch_shape
    try:
        mean = fn.mean
    except NotImplementedError:  # such as a flow: a draw of u is an unbiased, noisier stand-in for its mean
        mean = site["value"]
    mean = mean.reshape(shape)
    mean = mean.movedim(structure.dim - fn.event_dim, 1).flatten(2)
    return mean.expand(draws, *mean.shape[1:])


def _count(within: Tensor, mean: Tensor, draws: int, threshold: float) -> ActiveUnits:
    """From each datum's variance and mean over draws, both (N, Z)."""
    n = len(mean)
    each = (mean - mean.mean(0)).square() * (n / (n - 1)) - within / draws
    variance = each.mean(0)
    return ActiveUnits(int((variance > threshold).sum()), each.shape[1], variance, each.std(0) / n**0.5)
