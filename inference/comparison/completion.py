"""What an engine leaves out of its draws, filled in: enumerated sites and deterministic ones.

NUTS and normal guides sum a mixture's assignments out; Gibbs draws them. So that both speak of the same posterior, the
sites that were summed out are drawn here from their exact conditional,

    z ~ p(z | h, x),   log p(x, h, z) = log p(x, h) + log p(z | h, x),   log q likewise

which leaves each importance weight as it was. Deterministic sites follow from the draws.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from inference.pair import DATA_PLATE, is_latent, is_stochastic
from inference.types import Draws
from inference.weights import PARTICLES, Layout, log_prob_sum

__all__ = ["Sites", "complete", "read_sites"]

_VALUES = 2**21  # of all sites held at once


class Sites(NamedTuple):
    """What one run of a model shows of its unobserved sites."""

    latent: dict[str, torch.Size]  # name -> shape
    enumerated: frozenset[str]  # latents marked to be summed out
    derived: dict[str, torch.Size]  # the same of deterministic sites
    depth: dict[str, int]  # dims of each latent that belong to plates
    nesting: int  # the plates' and undeclared dims, at most
    data_dim: int  # of the plate named "data" or the only one; 0 without
    num_data: int  # that plate's size, else the rows of the first tensor


def read_sites(program: Callable[..., Any], data: tuple[Any, ...]) -> Sites:
    """Run a model once; the RNG is left as it was."""
    with torch.random.fork_rng(), torch.no_grad():
        trace: Any = poutine.trace(program).get_trace(*data)
    nodes = {name: site for name, site in trace.nodes.items() if is_stochastic(site)}
    latent = {name: site for name, site in nodes.items() if is_latent(site)}
    derived = {name: site for name, site in nodes.items() if site["infer"].get("_deterministic")}
    enumerated = frozenset(name for name, s in latent.items() if s["infer"].get("enumerate") == "parallel")
    frames = {f.name: f for site in nodes.values() for f in site["cond_indep_stack"] if f.vectorized}
    depths = {name: site["value"].dim() - site["fn"].event_dim for name, site in latent.items()}
    nesting = max([0, *depths.values(), *(-frame.dim for frame in frames.values())])
    shapes, others = ({name: site["value"].shape for name, site in each.items()} for each in (latent, derived))
    plate = frames.get(DATA_PLATE, next(iter(frames.values())) if len(frames) == 1 else None)
    if plate is None:
        rows = next((len(x) for x in data if torch.is_tensor(x) and x.dim()), 1)
        return Sites(shapes, enumerated, others, depths, nesting, 0, rows)
    return Sites(shapes, enumerated, others, depths, nesting, plate.dim, plate.size)


def complete(program: Callable[..., Any], data: tuple[Any, ...], draws: Draws, sites: Sites, seed: int = 0) -> Draws:
    """The draws with every latent and every deterministic site of the model.

    Args:
        program: the Pyro model.
        data: its arguments.
        draws: of some of its sites, (C, S, ...).
        sites: of the model, `read_sites`.
        seed: of the draws of sites that were summed out; the caller's RNG is left as it was.
    """
    missing = [name for name in sites.latent if name not in draws.values]
    wanted = [*missing, *(name for name in sites.derived if name not in draws.values)]
    if not wanted:
        return draws
    like = next((x for x in data if torch.is_tensor(x) and x.is_floating_point()), None)
    flat = {name: value.flatten(0, 1) for name, value in draws.values.items()}
    if like is not None:  # an engine may have worked in float64
        flat = {name: value.to(like) if value.is_floating_point() else value for name, value in flat.items()}
    units = draws.log_p.shape[-1]
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        run = _Filler(program, data, sites, bool(missing), units > 1)
        step = run.chunk(flat)
        total = next(iter(flat.values())).shape[0]
        parts = [run(_rows(flat, slice(i, i + step))) for i in range(0, total, step)]
    shape = draws.log_p.shape[:2]
    values = {name: torch.cat([part[0][name] for part in parts]).unflatten(0, shape) for name in wanted}
    filled = draws._replace(values=draws.values | values)
    if not missing:
        return filled
    log_p = torch.cat([part[1] for part in parts]).reshape(*shape, units).to(draws.log_p)
    log_q = None if draws.log_q is None else draws.log_q + (log_p - draws.log_p)
    return filled._replace(log_p=log_p, log_q=log_q)


class _Filler:
    """A model that is run on many draws at once where it can be, and one by one where it cannot."""

    def __init__(self, program: Any, data: tuple[Any, ...], sites: Sites, summed: bool, local: bool):
        self.program, self.data, self.sites, self.summed, self.local = program, data, sites, summed, local
        self.together: bool | None = None

    def chunk(self, values: Mapping[str, Tensor]) -> int:
        """Draws held at once."""
        width = sum(shape.numel() for shape in [*self.sites.latent.values(), *self.sites.derived.values()])
        width = max(width, *(x.numel() for x in self.data if torch.is_tensor(x)), 1)
        return max(3, _VALUES // width)

    def __call__(self, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Sites of n draws, (n, *shape) each, and log p (n, N)."""
        n = len(next(iter(values.values())))
        if self.together is None:
            self.together = n > 1 and self._same(_rows(values, slice(0, 3)))
        if self.together:
            return self._many(values)
        each = [self._one(_rows(values, i)) for i in range(n)]
        names = each[0][0]
        return {name: torch.stack([one[0][name] for one in each]) for name in names}, torch.stack([o[1] for o in each])

    def _same(self, values: dict[str, Tensor]) -> bool:
        """Whether a few draws at once are what they are one by one."""
        try:
            found, log_p = self._many(values)
        except (RuntimeError, ValueError, IndexError):
            return False
        for i in range(len(log_p)):
            alone, alone_p = self._one(_rows(values | found, i), sample=False)
            pairs = [(log_p[i], alone_p), *((found[name][i], alone[name]) for name in self.sites.derived)]
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-2) for a, b in pairs):
                return False
        return True

    def _many(self, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        n, nesting = len(next(iter(values.values()))), self.sites.nesting
        placed = {
            name: value.reshape(n, *[1] * (nesting - self.sites.depth[name]), *value.shape[1:])
            for name, value in values.items()
        }
        trace = self._trace(placed, pyro.plate(PARTICLES, n, dim=-1 - nesting), nesting + 1, self.summed)
        found = {}
        for name, shape in (self.sites.latent | self.sites.derived).items():
            value = trace.nodes[name]["value"]
            if value.numel() == shape.numel():  # the same for every draw
                value = value.reshape(shape).expand(n, *shape)
            found[name] = value.reshape(n, *shape)
        return found, self._log_p(trace, Layout(-1 - nesting, self._data_dim, "", 1.0)).expand(n, -1)

    def _one(self, values: dict[str, Tensor], sample: bool = True) -> tuple[dict[str, Tensor], Tensor]:
        trace = self._trace(values, nullcontext(), self.sites.nesting, self.summed and sample)
        found = {name: trace.nodes[name]["value"] for name in [*self.sites.latent, *self.sites.derived]}
        return found, self._log_p(trace, Layout(None, self._data_dim, "", 1.0))[0]

    @property
    def _data_dim(self) -> int | None:
        return self.sites.data_dim if self.local else None

    def _trace(self, values: Mapping[str, Tensor], inside: Any, nesting: int, sample: bool) -> Any:
        def program(*data: Any) -> None:
            with inside:
                self.program(*data)

        known = {name: value for name, value in values.items() if name in self.sites.latent}
        held: Any = poutine.condition(program, data=known)
        if sample:
            held = infer_discrete(held, first_available_dim=-1 - nesting, temperature=1)
        return poutine.trace(held).get_trace(*self.data)

    def _log_p(self, trace: Any, layout: Layout) -> Tensor:
        return log_prob_sum(filter(is_stochastic, trace.nodes.values()), layout)


def _rows(values: Mapping[str, Tensor], index: Any) -> dict[str, Tensor]:
    return {name: value[index] for name, value in values.items()}
