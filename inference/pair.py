"""A model and a guide as one object, with a parameter store of their own and their plates read once.

Pyro keeps every `pyro.param` in one global store, so two programs in one process collide. A `Pair` runs its programs
inside a store of its own. `Pair.structure` runs them once on a batch and reads what every engine needs to know: how
deep the plates nest, which plate holds the data, which sites are enumerated, and whether each datum has latents of its
own.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from inference.errors import RunError, UnsupportedModelError

__all__ = [
    "Pair", "Structure", "as_pair", "evaluating", "is_latent", "is_stochastic", "refuse_dropout", "refuse_untrained",
]  # fmt: skip

DATA_PLATE = "data"

# Stores of class-based pairs, so that every engine that is handed the same object sees the same parameters.
_STORES: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


class Structure(NamedTuple):
    """What one run of a pair shows of its plates and sites."""

    nesting: int  # plates use the dims -1 ... -nesting
    plate: str  # the data plate's name; "" where all data are one unit
    dim: int  # its dim, negative; 0 without a plate
    local: bool  # every latent site lies inside the data plate: one weight for each datum
    model_enum: frozenset[str]  # sites summed out of the model: marked for enumeration, absent from the guide
    guide_enum: frozenset[str]  # sites of the guide marked for enumeration


def is_stochastic(site: dict[str, Any]) -> bool:
    """Whether a trace's node is a sample site proper, and not a plate's choice of a subsample."""
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def is_latent(site: dict[str, Any]) -> bool:
    """Whether a trace's node is an unobserved sample site."""
    return is_stochastic(site) and not site["is_observed"]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Within it the modules evaluate, and afterwards those parts of them that were learning learn again."""
    training = [part for root in modules for part in root.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class Pair:
    """A model/guide pair as the engines see it.

    Args:
        model: a Pyro program of the data.
        guide: a Pyro program of the same arguments that samples the model's latent sites.
        owner: the object they are methods of, if any; its parameters belong to the pair.
        whole: take a model without a data plate as well, all its data as one unit with one weight.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], owner: Any = None, *, whole: bool = False):
        self.model, self.guide, self.owner, self.whole = model, guide, owner, whole
        self._structures: dict[Any, Structure] = {}
        empty: dict[str, Any] = {"params": {}, "constraints": {}}
        self._store: Any = empty if owner is None else _store_of(owner, empty)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Within it `pyro.param` reads and writes this pair's own store."""
        with pyro.get_param_store().scope(self._store):
            yield

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable leaf by name: of the modules, and of the pair's store (unconstrained)."""
        found: dict[str, nn.Parameter] = {}
        seen: set[int] = set()
        for prefix, root in self._roots():
            for name, parameter in root.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    found[prefix + name] = parameter
        for name, parameter in self._store["params"].items():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found["store." + name] = parameter
        return found

    def model_parameters(self, *data: Any) -> list[nn.Parameter]:
        """The parameters that log p(x, h) depends on, h held fixed: those it shares with the guide too."""
        parameters = [parameter for parameter in self.named_parameters().values() if parameter.requires_grad]
        with self.scope(), pyro.validation_enabled(False), torch.random.fork_rng():
            with torch.no_grad():
                drawn = poutine.trace(self.guide).get_trace(*data)
            log_p: Any = poutine.trace(poutine.replay(self.model, trace=drawn)).get_trace(*data).log_prob_sum()
        if not log_p.requires_grad:
            return []
        found = torch.autograd.grad(log_p, parameters, allow_unused=True)
        return [parameter for parameter, gradient in zip(parameters, found, strict=True) if gradient is not None]

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the pair's modules evaluate: no dropout, running means stay."""
        return evaluating(*self.modules())

    def owns_parameters(self) -> bool:
        """Whether a program has called pyro.param or pyro.module: parameters that only this pair's store holds."""
        return bool(self._store["params"])

    def named_buffers(self) -> dict[str, Tensor]:
        """Buffers of the pair's modules (running means and the like) by name."""
        return {prefix + name: buffer for prefix, root in self._roots() for name, buffer in root.named_buffers()}

    def modules(self) -> list[nn.Module]:
        """The modules that the pair is made of."""
        return [root for _, root in self._roots()]

    def _roots(self) -> list[tuple[str, nn.Module]]:
        """Modules and the prefix of their names; a method, as in `(vae.model, vae.guide)`, stands for its module."""
        if self.owner is not None:
            roots = [("", self.owner)]
        else:
            parts = (("model.", self.model), ("guide.", self.guide))
            roots = [(prefix, getattr(part, "__self__", part)) for prefix, part in parts]
        return [(prefix, root) for prefix, root in roots if isinstance(root, nn.Module)]

    def structure(self, *batch: Any) -> Structure:
        """Plates and sites of the pair on such a batch; run once for each kind of batch, the RNG left as it was."""
        key = tuple(_kind(arg, batch[0]) for arg in batch)
        if key not in self._structures:
            kept = {name: buffer.clone() for name, buffer in self.named_buffers().items()}
            with torch.random.fork_rng(), torch.no_grad(), self.scope(), pyro.validation_enabled(True):
                guide_trace = poutine.trace(self.guide).get_trace(*batch)
                model_trace = poutine.trace(poutine.replay(self.model, trace=guide_trace)).get_trace(*batch)
            for name, buffer in self.named_buffers().items():
                if name in kept:
                    buffer.copy_(kept[name])  # a look at the sites is no step: running means stay
            self._structures[key] = _read(model_trace, guide_trace, self.whole)
        return self._structures[key]


def as_pair(pair: Any, *, whole: bool = False) -> Pair:
    """The `Pair` of an object with `.model` and `.guide`, of a tuple (model, guide), or of a Pair itself."""
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, tuple) and len(pair) == 2 and all(callable(part) for part in pair):
        return Pair(*pair, whole=whole)
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if callable(model) and callable(guide):
        return Pair(model, guide, owner=pair, whole=whole)
    raise UnsupportedModelError(
        f"a pair has .model(*data) and .guide(*data), got {type(pair).__name__}: pass such an object or (model, guide)"
    )


def refuse_dropout(pair: Pair, what: str, instead: str) -> None:
    """Refuse noise inside the networks for an estimator that runs the guide twice and takes both runs for one."""
    for module in pair.modules():
        for part in module.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
                raise UnsupportedModelError(
                    f"{what} runs the guide twice, and dropout would differ between the two: use {instead}, or no "
                    "dropout"
                )


def refuse_untrained(given: Any, pair: Pair) -> None:
    """Refuse a tuple of programs that made parameters of their own when they ran just now: nothing has trained them."""
    if isinstance(given, tuple) and pair.owns_parameters():
        raise RunError("a tuple (model, guide) has no trained pyro.param: pass svi.pair, or one Pair to both")


def _kind(arg: Any, first: Any) -> Any:
    """What of an argument may switch sites on and off: a flag or a word, labels for all rows or some or none."""
    if not isinstance(arg, Tensor):
        return arg if isinstance(arg, bool | str) else type(arg)
    rows = arg.shape[:1]
    short = isinstance(first, Tensor) and rows < first.shape[:1]
    return arg.ndim, short, rows == (0,)


def _store_of(owner: Any, empty: dict[str, Any]) -> dict[str, Any]:
    try:
        return _STORES.setdefault(owner, empty)
    except TypeError:  # no weak reference or no hash: a SimpleNamespace, a dataclass
        return vars(owner).setdefault("_pair_store", empty)


def _read(model_trace: Any, guide_trace: Any, whole: bool) -> Structure:
    model_sites = {name: site for name, site in model_trace.nodes.items() if is_stochastic(site)}
    guide_sites = {name: site for name, site in guide_trace.nodes.items() if is_stochastic(site)}
    latents = {name for name, site in model_sites.items() if is_latent(site)}
    marked = {
        name
        for sites in (guide_sites, model_sites)
        for name, site in sites.items()
        if is_latent(site) and site["infer"].get("enumerate") == "parallel"
    }
    missing = latents - guide_sites.keys() - marked
    if missing:
        raise UnsupportedModelError(
            f"the guide lacks the model's latent site {_names(missing)}: sample it in the guide, "
            "or mark it infer={'enumerate': 'parallel'} to sum it out"
        )
    extra = {
        name
        for name, site in guide_sites.items()
        if is_latent(site) and not site["infer"].get("is_auxiliary") and name not in latents
    }
    if extra:
        raise UnsupportedModelError(
            f"the guide samples {_names(extra)}, which is no latent site of the model: "
            "rename it, or mark it infer={'is_auxiliary': True}"
        )
    every = [*model_sites.values(), *guide_sites.values()]
    frames = {f.name: f for site in every for f in site["cond_indep_stack"] if f.vectorized}
    plate = _data_plate(model_sites, frames, whole)
    inside = [any(f.name == plate for f in site["cond_indep_stack"]) for site in every]
    model_enum = frozenset((latents & marked) - guide_sites.keys())
    return Structure(
        nesting=max((-f.dim for f in frames.values()), default=0),
        plate=plate,
        dim=frames[plate].dim if plate else 0,
        local=bool(plate) and all(inside),
        model_enum=model_enum,
        guide_enum=frozenset(marked & guide_sites.keys()),
    )


def _data_plate(model_sites: dict[str, Any], frames: dict[str, Any], whole: bool) -> str:
    if DATA_PLATE in frames:
        return DATA_PLATE
    stacks = [
        {f.name for f in site["cond_indep_stack"] if f.vectorized}
        for site in model_sites.values()
        if site["is_observed"] and not site["infer"].get("_deterministic")
    ]
    common = set.intersection(*stacks) if stacks else set()
    if len(common) == 1:
        return common.pop()
    if whole:
        return ""
    raise UnsupportedModelError(
        "the model has no data plate, so nothing says which rows are independent: "
        'put its observed sites inside `with pyro.plate("data", len(x), dim=-1):`'
    )


def _names(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
