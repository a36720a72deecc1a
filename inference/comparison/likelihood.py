"""The likelihood of each datum under each draw, which leave-one-out cross-validation is made of [vehtari2017loo].

    log p(x_n | h_s),   sites marked for enumeration summed out:   log sum_z p(x_n, z_n | h_s)

A site that Gibbs draws, and that is not marked, is held at its draw: that is another question than with it summed out.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from inference.comparison.completion import Sites, read_sites
from inference.errors import UnsupportedModelError
from inference.types import Draws
from inference.weights import PARTICLES

__all__ = ["log_likelihood"]

_VALUES = 2**21  # of all sites held at once


class _Likelihood(NamedTuple):
    """A model on its data, and the observed sites it has."""

    program: Callable[..., Any]
    data: tuple[Any, ...]
    sites: Sites
    shapes: dict[str, torch.Size]  # observed site -> its batch shape


def log_likelihood(program: Callable[..., Any], draws: Draws, *data: Any) -> dict[str, Tensor]:
    """Log p of each observed site's elements given each draw, in nats: site -> (C, S, *the plates' sizes).

    Observed sites that depend on enumerated ones come together, as one entry under their joined names, an element for
    each element of the plates that hold all of them.

    Args:
        program: the Pyro model.
        draws: of all its latent sites; those of enumerated ones are not used.
        data: its arguments.

    Raises:
        UnsupportedModelError: enumerated sites that Pyro cannot sum out.
    """
    sites = read_sites(program, data)
    names = sites.latent.keys() - sites.enumerated
    flat = {name: draws.values[name].flatten(0, 1) for name in names}
    n, shape = draws.log_p[..., 0].numel(), draws.log_p.shape[:2]
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        what = _Likelihood(program, data, sites, _observed(program, data))
        width = max(1, *(s.numel() for s in sites.latent.values()), *(x.numel() for x in data if torch.is_tensor(x)))
        step = max(2, _VALUES // width) if _at_once(what, _rows(flat, slice(0, 2)), min(n, 2)) else 1
        parts = [_many(what, _rows(flat, slice(i, i + step)), min(step, n - i), step > 1) for i in range(0, n, step)]
    return {name: torch.cat([part[name] for part in parts]).unflatten(0, shape) for name in parts[0]}


def _observed(program: Callable[..., Any], data: tuple[Any, ...]) -> dict[str, torch.Size]:
    """The sites that hold data: no factor statement, no deterministic site."""
    trace: Any = prune_subsample_sites(poutine.trace(program).get_trace(*data))
    nodes = trace.nodes
    return {name: nodes[name]["fn"].batch_shape for name in trace.observation_nodes if _is_data(nodes[name])}


def _is_data(site: Any) -> bool:
    return not site["infer"].get("_deterministic") and type(site["fn"]).__name__ != "Unit"


def _at_once(what: _Likelihood, values: dict[str, Tensor], n: int) -> bool:
    """Whether two draws at once give what each of them gives alone."""
    alone = [_many(what, _rows(values, slice(i, i + 1)), 1, False) for i in range(n)]
    try:
        both = _many(what, values, n, True)
    except (RuntimeError, ValueError, IndexError):
        return False
    wanted = {name: torch.cat([one[name] for one in alone]) for name in alone[0]}
    return all(torch.allclose(both[name], wanted[name], rtol=1e-4, atol=1e-4) for name in wanted)


def _many(what: _Likelihood, values: dict[str, Tensor], n: int, together: bool) -> dict[str, Tensor]:
    """Site -> (n, *plates): of n draws in one run of the model, or of a single one."""
    sites, plates = what.sites, nullcontext()
    if together:
        plates = pyro.plate(PARTICLES, n, dim=-1 - sites.nesting)
        placed = {
            name: value.reshape(n, *[1] * (sites.nesting - sites.depth[name]), *value.shape[1:])
            for name, value in values.items()
        }
    else:
        placed = {name: value[0] for name, value in values.items()}

    def program(*data: Any) -> None:
        with plates:
            what.program(*data)

    held: Any = poutine.condition(program, data=placed)
    if sites.enumerated:
        held = poutine.enum(held, first_available_dim=-1 - sites.nesting - together)
    trace: Any = prune_subsample_sites(poutine.trace(held).get_trace(*what.data))
    trace.compute_log_prob()
    terms = {name: trace.nodes[name]["log_prob"] for name in what.shapes}
    if not sites.enumerated:
        return {name: term.reshape(n, *what.shapes[name]) for name, term in terms.items()}
    return _summed(trace, what, n)


def _summed(trace: Any, what: _Likelihood, n: int) -> dict[str, Tensor]:
    """The same with the enumerated sites summed out of the observed ones that depend on them."""
    trace.pack_tensors()
    symbols, nodes = trace.plate_to_symbol, trace.nodes
    summed = {nodes[name]["infer"]["_enumerate_symbol"] for name in what.sites.enumerated}
    found: dict[str, Tensor] = {}
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    joined, common = [], None
    for name in [name for name in nodes if name in what.shapes or name in what.sites.enumerated]:
        term: Any = nodes[name]["packed"]["log_prob"]
        frames = {f.name: f for f in nodes[name]["cond_indep_stack"] if f.vectorized}
        if name in what.shapes and summed.isdisjoint(term._pyro_dims):
            found[name] = nodes[name]["log_prob"].reshape(n, *what.shapes[name])
            continue
        joined += [name] if name in what.shapes else []
        common = frames if common is None else {key: f for key, f in common.items() if key in frames}
        factors.setdefault(frozenset(symbols[key] for key in frames), []).append(term)
    if factors and joined:
        assert common is not None
        try:
            total = contract_to_tensor(factors, summed, target_ordinal=frozenset(symbols[key] for key in common))
        except (ValueError, NotImplementedError) as error:
            raise UnsupportedModelError(
                f"the enumerated sites cannot be summed out of {', '.join(joined)} ({' '.join(str(error).split())}): "
                "use fewer plates between them"
            ) from error
        sizes = [f.size for f in sorted(common.values(), key=lambda f: f.dim) if f.name != PARTICLES]
        value = packed.unpack(total, trace.symbol_to_dim)
        found[_together(joined)] = value.reshape(n, *sizes)
    return found


def _together(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"


def _rows(values: Mapping[str, Tensor], index: Any) -> dict[str, Tensor]:
    return {name: value[index] for name, value in values.items()}
