"""Every joint state of a model's discrete latents, numbered, and log p(x, h) of any of them.

    h = (h_1, ..., h_C),   state s = 0 ... V_1 V_2 ... V_C - 1 in mixed radix, the last coordinate fastest
    log p(x_n, h_s) for a chunk of states s and all data n at once: the states ride in the particle plate

A coordinate is one element of a latent site: of one datum, where every site lies in the data plate (all data then go
through the same states), and of the whole model elsewhere, which is one unit. A latent that a mask takes out of the
model keeps its coordinate, and its V values share the probability evenly.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from inference.errors import RunError, UnsupportedModelError
from inference.evidence.layered import layered_joint, layered_net
from inference.evidence.sites import read_site, read_units, support
from inference.pair import Pair, as_pair, is_latent, is_stochastic
from inference.types import Layered
from inference.weights import Layout, log_prob, per_unit, run

__all__ = ["MAX_STATES", "Joint", "States"]

MAX_STATES = 2**20
# bytes of a chunk's widest tensor in float64, which stays near the cores; a model holds some ten of them at once
_BYTES = 2**24


class Joint(NamedTuple):
    """Log p(x, h) of K states and N units, and what a sum over states would count too often."""

    log_p: Tensor  # (K, N) nats
    log_free: Any  # (1 or K, 1 or N), or 0.0: log of the number of joint values of the latents under a mask


class States:
    """The joint states of a model's latents given data.

    Args:
        model: a Pyro program with finite discrete latents, or a pair, whose model is taken.
        data: its arguments.

    Raises:
        UnsupportedModelError: no latent, a continuous one, one without a finite support, more than 2^20 states, a
            scaled site, rows that depend on one another, a program that does not run with many states at once.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """

    def __init__(self, model: Any, data: tuple[Any, ...]):
        plain = callable(model) and not hasattr(model, "model")
        self._pair = Pair(model, model) if plain else as_pair(model)
        self._data = data
        self._store = nullcontext if plain else self._pair.scope  # a plain program's parameters are in Pyro's own store
        with torch.random.fork_rng(), torch.no_grad(), self._store(), self._pair.evaluating():
            with pyro.validation_enabled(True):
                nodes: dict[str, Any] = dict(poutine.trace(self._pair.model).get_trace(*data).nodes)
        if isinstance(model, tuple) and self._pair.owns_parameters():
            raise RunError("a tuple (model, guide) has no trained pyro.param: pass svi.pair, or one Pair to both")
        sampled = {name: node for name, node in nodes.items() if is_stochastic(node)}
        # the plates' choice of rows, held fixed in every later run
        self._rows = {n: node["value"] for n, node in nodes.items() if node["type"] == "sample" and n not in sampled}
        self._structure, self.units, self._scale = read_units(sampled)
        latents = {name: node for name, node in sampled.items() if is_latent(node)}
        self.sites = {name: read_site(name, node, self._structure) for name, node in latents.items()}
        self.sizes = tuple(len(site.support) for site in self.sites.values() for _ in range(math.prod(site.shape)))
        self.total = math.prod(self.sizes)
        self._check_size()
        self.device = next(iter(self.sites.values())).support.device
        self._net: Layered | None = None
        self._check_units(layered_net(self._pair.owner, data, self.sites))
        width = max(node["value"].numel() for node in sampled.values())
        if self._net is not None:
            width = max(self.units, width // self.units)
        self.chunk = max(4, _BYTES // (8 * max(width, len(self.sizes))))

    def digits(self, index: Tensor) -> dict[str, Tensor]:
        """Which of its values each coordinate has in the states `index`: (...) -> site -> (..., *unit shape)."""
        sizes = torch.tensor(self.sizes, device=index.device)
        strides = torch.cat([sizes[1:].flip(0).cumprod(0).flip(0), sizes.new_ones(1)])
        every = index.unsqueeze(-1) // strides % sizes
        parts = every.split([math.prod(site.shape) for site in self.sites.values()], -1)
        shapes = [index.shape + site.shape for site in self.sites.values()]
        return {name: part.reshape(s) for name, part, s in zip(self.sites, parts, shapes, strict=True)}

    def values(self, index: Tensor) -> dict[str, Tensor]:
        """The latents' values in the states `index`: (...) -> site -> (..., *unit shape)."""
        return {name: self.sites[name].support[digit] for name, digit in self.digits(index).items()}

    def place(self, name: str, value: Tensor, extra: int = 0) -> Tensor:
        """Units to where the site has them: (..., N, *unit shape, *extra dims) -> (..., *site shape, *extra dims)."""
        site = self.sites[name]
        at = -1 - len(site.shape) - extra
        return value.squeeze(at) if site.axis is None else value.movedim(at, site.axis - extra)

    def chunks(self, what: str) -> Iterator[Tensor]:
        """The numbers of all states, chunk by chunk, with a progress bar after two seconds."""
        for start in tqdm(range(0, self.total, self.chunk), what, delay=2, leave=False, disable=None):
            yield torch.arange(start, min(self.total, start + self.chunk), device=self.device)

    def joint(self, index: Tensor) -> Joint:
        """Log p(x, h) of the states `index` (K,), differentiable in the model's parameters."""
        if self._net is not None:
            h = self.values(index)
            return Joint(layered_joint(self._net, [h[f"h{level}"] for level in range(1, len(h) + 1)], *self._data), 0.0)
        return self._run(index.unsqueeze(1))

    def _run(self, index: Tensor) -> Joint:
        """Log p(x, h) by the model itself, each unit in a state of its own: index (K, N), or (K, 1) for all alike."""
        k, nesting, values = len(index), self._structure.nesting, dict(self._rows)
        for name, value in self.values(index).items():
            site = self.sites[name]
            value = self.place(name, value.expand(k, self.units, *site.shape))
            values[name] = value.reshape(k, *[1] * (nesting + site.event_dim + 1 - value.dim()), *value.shape[1:])
        model = poutine.condition(self._pair.model, data=values)
        with torch.random.fork_rng(), self._store(), self._pair.evaluating(), pyro.validation_enabled(False):
            trace = run(model, self._data, k, self._structure)
        data_dim = self._structure.dim if self._structure.local else None
        layout = Layout(-1 - nesting if k > 1 else None, data_dim, self._structure.plate, self._scale)
        log_p, log_free = torch.zeros(()), 0.0
        for name, node in trace.nodes.items():
            if is_stochastic(node):
                term = log_prob(node, layout)
                log_p = log_p + per_unit(term, layout)
                if name in self.sites:
                    log_free = log_free + self._log_free(name, node, term, layout)
        return Joint(log_p.expand(k, self.units), log_free)

    def _log_free(self, name: str, node: dict[str, Any], term: Tensor, layout: Layout) -> Any:
        values = support(name, node["fn"])
        if not torch.equal(values, self.sites[name].support):
            raise UnsupportedModelError(
                f"site '{name}' has other values in some states: give it one support, "
                "and probability 0 where a value cannot be"
            )
        if node["mask"] is None:
            return 0.0
        each = math.log(len(values)) * node["fn"].event_shape.numel()
        kept = torch.as_tensor(node["mask"], device=term.device).expand(term.shape)
        return per_unit(torch.where(kept, 0.0, each).to(term), layout)

    def _check_size(self) -> None:
        if not self.sites:
            raise UnsupportedModelError("the model has no latent site to sum over: log p(x) is its own log_prob")
        if self.total > MAX_STATES:
            unit = "of each datum" if self._structure.local else "of all data together (no plate holds every site)"
            raise UnsupportedModelError(
                f"enumeration takes at most 2^20 states, got 2^{math.log2(self.total):.4g} joint states of "
                f"{len(self.sizes)} discrete values {unit}: use log_marginal(pair, x, k) or Gibbs()"
            )

    @torch.no_grad()
    def _check_units(self, net: Layered | None) -> None:
        """Two runs of four states: rows must not see one another's latents, and the fast way must agree."""
        four = (torch.arange(1, 5, device=self.device) * 0.618 * self.total).long() % self.total
        shifted = (torch.arange(4, device=four.device).unsqueeze(1) + torch.arange(self.units, device=four.device)) % 4
        alike = self._run(four.unsqueeze(1)).log_p
        if not _close(self._run(four[shifted]).log_p, alike.gather(0, shifted)):
            raise UnsupportedModelError(
                f"rows of plate '{self._structure.plate}' depend on the latents of other rows: "
                "leave the plate out, so that all rows are one unit"
            )
        self._net = net
        if net is not None and not _close(self.joint(four).log_p, alike):
            self._net = None


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = math.sqrt(torch.finfo(a.dtype).eps)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)
