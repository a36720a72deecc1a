"""A pair's log joint of each datum on unconstrained, whitened coordinates, with its gradient: what HMC moves on.

    g(y) = log p(x, z) + log |dz / dy|,    z = T(m + s y)

T maps real numbers to each site's support; m and s are the moments of draws of the guide (or of the prior), datum by
datum. So the normal N(0, I) in y is near the posterior where the guide is, and one step size fits all coordinates.

A layer's normal p(z_1 | z_2) = N(l(z_2), diag t(z_2)^2) may hold a unit much closer to l than the unit's own spread.
Such a unit is moved relative to it, z_1 = l + t (m + s y): each unit of each datum in the way whose independent normals
are nearer to the guide's draws, which is that of less entropy, log sd(z_1) or log sd((z_1 - l) / t) + E[log t].
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, Normal, biject_to

from inference.capture.potential import is_identity
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, is_stochastic
from inference.weights import PARTICLES, Layout, layout_of, log_prob, per_unit

__all__ = ["Density", "read_density"]

LEAST_SD = 1e-4  # of a coordinate that a guide holds still


class Latent(NamedTuple):
    """A latent site in unconstrained coordinates."""

    transform: Any  # None: the site is unconstrained
    rest: tuple[int, ...]  # of one datum: inner plates and event
    axis: int  # of the data plate in the whole value, negative
    ones: int  # dims of size one that Pyro puts between particles and the site's own plates
    hangs: bool  # a normal whose location or scale hangs on other latents

    @property
    def size(self) -> int:
        """Numbers of one datum."""
        return torch.Size(self.rest).numel()

    def flat(self, value: Tensor) -> Tensor:
        """A value (K, *its dims) as (K, N, size)."""
        return value.movedim(self.axis, 1).reshape(len(value), -1, self.size)

    def shaped(self, flat: Tensor) -> Tensor:
        """And back."""
        return flat.reshape(*flat.shape[:2], *(1,) * self.ones, *self.rest).movedim(1, self.axis)


class Density:
    """g of K particles of N data at once; `read_density` makes one. To be used inside `running()`."""

    def __init__(self, pair: Pair, data: tuple[Any, ...], latents: dict[str, Latent], layout: Layout):
        self.pair, self.data, self.latents, self.layout = pair, data, latents, layout
        self.sizes = [latent.size for latent in latents.values()]
        self.mean: Any = 0.0  # (N, F)
        self.sd: Any = 1.0  # (N, F)
        self.relative: Any = None  # (N, F) units that move relative to their normal; None where no normal hangs on any

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the programs run without checks and dropout, and parameters take no gradient."""
        asked = [p for p in self.pair.named_parameters().values() if p.requires_grad]
        with ExitStack() as stack:
            for context in (self.pair.scope(), pyro.validation_enabled(False), self.pair.evaluating()):
                stack.enter_context(context)
            for parameter in asked:
                parameter.requires_grad_(False)  # else every gradient would be that of the weights, too
            try:
                yield
            finally:
                for parameter in asked:
                    parameter.requires_grad_(True)

    @torch.no_grad()
    def whiten(self, start: str, draws: int) -> None:
        """Set m, s and what is relative by draws of the "guide" or the "prior"; uses the current RNG."""
        with pyro.plate(PARTICLES, draws, dim=self.layout.particles):
            trace: Any = poutine.trace(self.pair.guide if start == "guide" else self.pair.model).get_trace(*self.data)
        values = {name: trace.nodes[name]["value"] for name in self.latents}
        if any(latent.hangs for latent in self.latents.values()):
            self.relative = None
            z, (loc, scale) = self.unconstrained(values), self._normals(values)
            self.relative = ((z - loc) / scale).std(0).log() + scale.log().mean(0) < z.std(0).log()
        z = self.unconstrained(values)
        self.mean, self.sd = z.mean(0), z.std(0).clamp(min=LEAST_SD)

    def unconstrained(self, values: dict[str, Tensor]) -> Tensor:
        """The sites' values, (K, *their dims) each, as one tensor (K, N, F) of m + s y."""
        parts = []
        for name, latent in self.latents.items():
            parts.append(latent.flat(values[name] if latent.transform is None else latent.transform.inv(values[name])))
        z = torch.cat(parts, -1)
        if self.relative is None:
            return z
        loc, scale = self._normals(values)
        return torch.where(self.relative, (z - loc) / scale, z)

    @torch.no_grad()
    def _normals(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Location and scale (K, N, F) of the normals that hang on other latents; 0 and 1 elsewhere."""
        with pyro.plate(PARTICLES, len(next(iter(values.values()))), dim=self.layout.particles):
            trace: Any = poutine.trace(poutine.condition(self.pair.model, data=values)).get_trace(*self.data)
        locs, scales = [], []
        for name, latent in self.latents.items():
            value, base = values[name], _normal(trace.nodes[name]["fn"])
            loc, scale = (base.loc, base.scale) if latent.hangs else (torch.zeros_like(value), torch.ones_like(value))
            locs.append(latent.flat(loc.expand(value.shape)))
            scales.append(latent.flat(scale.expand(value.shape)))
        return torch.cat(locs, -1), torch.cat(scales, -1)

    def repeated(self, values: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        """One value of each site, (*its dims), as that of K particles."""
        return {
            name: values[name].expand(k, *(1,) * latent.ones, *values[name].shape)
            for name, latent in self.latents.items()
        }

    def whitened(self, values: dict[str, Tensor]) -> Tensor:
        """The sites' values as y (K, N, F)."""
        return (self.unconstrained(values) - self.mean) / self.sd

    def values(self, y: Tensor) -> dict[str, Tensor]:
        """The sites' values with the data's dim second: (K, N, *the rest of a datum) each."""
        return {name: value.movedim(self.latents[name].axis, 1) for name, value in self.sites(y)[0].items()}

    def sites(self, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values, (K, *their dims) each, and log |dz / dy| (K or 1, N), at y (K, N, F)."""
        if self.relative is None:
            return self._placed(y)
        trace, log_det = self._run(y)
        return {name: trace.nodes[name]["value"] for name in self.latents}, log_det

    def _placed(self, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """T(m + s y), and log |dz / dy|, as if nothing were relative."""
        values, log_det = {}, torch.log(self.sd).sum(-1).unsqueeze(0)
        parts = (self.mean + self.sd * y).split(self.sizes, -1)
        for (name, latent), part in zip(self.latents.items(), parts, strict=True):
            real = latent.shaped(part)
            values[name] = real if latent.transform is None else latent.transform(real)
            if latent.transform is not None:
                term = latent.transform.log_abs_det_jacobian(real, values[name])
                log_det = log_det + per_unit(term, self.layout)
        return values, log_det

    def _run(self, y: Tensor) -> tuple[Any, Tensor]:
        """The model's trace at y, and log |dz / dy|."""
        values, log_det = self._placed(y)
        held: Any = poutine.condition(self.pair.model, data=values)
        if self.relative is not None:
            masks = self.relative.unsqueeze(0).split(self.sizes, -1)
            both = zip(self.latents.items(), masks, strict=True)
            relative = {name: latent.shaped(mask) for (name, latent), mask in both if latent.hangs}
            held = _Relative(relative)(held)
        with pyro.plate(PARTICLES, len(y), dim=self.layout.particles):
            trace: Any = poutine.trace(held).get_trace(*self.data)
        if self.relative is not None:
            for name, mask in relative.items():
                scale = _normal(trace.nodes[name]["fn"]).scale
                stretch = torch.where(mask, scale.log(), 0.0).expand(trace.nodes[name]["value"].shape)
                log_det = log_det + self.latents[name].flat(stretch).sum(-1)
        return trace, log_det

    def plain(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values of `sites` without the dims of size one: (K, *the site's own) each."""
        return {name: v.squeeze(tuple(range(1, 1 + self.latents[name].ones))) for name, v in values.items()}

    def __call__(self, y: Tensor) -> Tensor:
        """The value of g (K, N) in nats at y (K, N, F)."""
        trace, total = self._run(y)
        for site in trace.nodes.values():
            if is_stochastic(site):
                total = total + per_unit(log_prob(site, self.layout), self.layout)
        return total

    def value_and_grad(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The value of g (K, N) in nats and its gradient (K, N, F) at y (K, N, F)."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = self(y)
            (grad,) = torch.autograd.grad(value.sum(), y)
        return value.detach(), grad


def read_density(pair: Any, data: tuple[Any, ...]) -> Density:
    """The `Density` of a pair on some rows of data, not whitened yet; the caller's RNG is left as it was.

    Raises:
        ShapeError: a latent outside the data plate.
        UnsupportedModelError: a discrete latent; a support without a bijection or one that moves with another latent.
    """
    pair = as_pair(pair)
    structure = pair.structure(*data)
    if not structure.local:
        raise ShapeError("a latent site lies outside the data plate, so no datum has an evidence of its own")
    with torch.random.fork_rng(), torch.no_grad(), pair.scope(), pyro.validation_enabled(False), pair.evaluating():
        traces: list[Any] = [poutine.trace(pair.model).get_trace(*data) for _ in range(2)]
    sites = {name: site for name, site in traces[0].nodes.items() if is_stochastic(site)}
    layout, _ = layout_of(sites.values(), 2, structure)
    latents = {name: _latent(site, traces[1].nodes[name], structure) for name, site in sites.items() if is_latent(site)}
    return Density(pair, data, latents, layout)


def _latent(site: dict[str, Any], again: dict[str, Any], structure: Structure) -> Latent:
    name, fn, value = site["name"], site["fn"], site["value"]
    if fn.support.is_discrete:
        raise UnsupportedModelError(
            f"'{name}' is discrete, and Hamiltonian Monte Carlo moves on real numbers: layers of binary units (a "
            "sigmoid belief network) are annealed by Gibbs sampling, all else takes log_marginal(pair, x, k)"
        )
    try:
        transform, other = biject_to(fn.support), biject_to(again["fn"].support)
    except NotImplementedError:
        raise UnsupportedModelError(
            f"the support of '{name}', {fn.support}, has no bijection from the real numbers: use log_marginal()"
        ) from None
    base, its = _normal(fn), _normal(again["fn"])
    hangs = base is not None and not (torch.equal(base.loc, its.loc) and torch.equal(base.scale, its.scale))
    real = transform.inv(value)
    if not torch.equal(real, other.inv(value)):
        raise UnsupportedModelError(
            f"the support of '{name}' moves with another latent: write it as a function of a site of fixed support"
        )
    event = real.dim() - len(fn.batch_shape)
    axis = structure.dim - event
    rest = list(real.shape)
    del rest[axis]
    ones = structure.nesting - len(fn.batch_shape)
    return Latent(None if is_identity(transform) else transform, tuple(rest), axis, ones, hangs)


def _normal(fn: Any) -> Any:
    """The normal distribution that a site's independent values have, or None."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn if isinstance(fn, Normal) else None


class _Relative(Messenger):
    """Moves units, which are held at real numbers u, to l + t u, with l and t of their own normal."""

    def __init__(self, units: dict[str, Tensor]):
        super().__init__()
        self.units = units

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.units:
            base = _normal(msg["fn"])
            u = msg["value"]
            msg["value"] = torch.where(self.units[msg["name"]], base.loc + base.scale * u, u)
