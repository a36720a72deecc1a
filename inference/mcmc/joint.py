"""The log-joint of a Pyro program as a function of its latent values, a term a site, many states in one run.

    log p(x, z) = sum over sites s of log p(s | what s depends on)

Latent values are put into the program and nothing is drawn. A value (C, *site shape) holds C chains; one with a second
dim before it, (J, C, *site shape), holds J candidates for each chain. Both come left of the program's own plates, so
that a site that the candidates do not reach is computed once.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.ops.provenance import ProvenanceTensor, get_provenance
from torch import Tensor

from inference.errors import RunError, ShapeError
from inference.mcmc.scoring import Score, changing, log_prob
from inference.mcmc.sites import Plate, Site, read_site
from inference.pair import Pair, as_pair, is_stochastic

__all__ = ["MODES", "LogJoint", "read", "summed"]

# How candidates and chains go through the program: as they are, every latent with both dims, or one state after another
MODES = ("broadcast", "expand", "loop")


@dataclass(frozen=True, eq=False)
class LogJoint:
    """A program, its arguments, and what one run showed of its sites; `read` makes one."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    sites: dict[str, Site]
    nesting: int  # the program's own dims are -1 ... -nesting
    data: Plate | None  # the plate whose elements have latents of their own, if there is one
    contexts: tuple[Callable[[], Any], ...] = ()  # to run it in: its own parameters, its modules in evaluation mode
    mode: str = MODES[0]

    @property
    def latents(self) -> list[Site]:
        """The latent sites, in the program's order."""
        return [site for site in self.sites.values() if not site.observed]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the program is the density that it stands for: no gradients, no checks, no dropout."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(pyro.validation_enabled(False))
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def terms(
        self,
        values: dict[str, Tensor],
        wanted: Iterable[str] | None = None,
        score: Callable[[Any], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The terms log p(s | ...) of the wanted sites, in nats: (J or 1, C or 1, *dims of the program).

        To be called inside `running`, which costs as much as a small program does.

        Args:
            values: every latent, (C, *site shape) or (J, C, *site shape).
            wanted: names of sites; None: all.
            score: what to compute of a site's message; `log_prob` unless told otherwise.

        Raises:
            UnsupportedModelError: the program's sites change with the values of its latents.
        """
        names = frozenset(self.sites if wanted is None else wanted)
        lead = [v.shape[: v.dim() - len(self.sites[name].shape)] for name, v in values.items()]
        j = max((shape[0] for shape in lead if len(shape) == 2), default=1)
        c = lead[0][-1] if lead else 1
        if self.mode == "loop":
            states = [self._run(self._one(values, i, k), names, score) for i in range(j) for k in range(c)]
            stacks = {name: torch.stack([self.padded(state[name], 0) for state in states]) for name in names}
            return {name: stack.reshape(j, c, *stack.shape[1:]) for name, stack in stacks.items()}
        arranged = {}
        for name, v in values.items():
            site = self.sites[name]
            if self.mode == "expand" and v.dim() == len(site.shape) + 1:
                v = v.expand(j, *v.shape)
            ones = (1,) * (self.nesting - site.batch)
            arranged[name] = v.reshape(v.shape[: v.dim() - len(site.shape)] + ones + site.shape)
        return {name: self.padded(term, 2) for name, term in self._run(arranged, names, score).items()}

    def log_p(self, terms: dict[str, Tensor]) -> Tensor:
        """All terms as log p(x, z) of each chain and datum, in nats: (C, N), or (C, 1) without data of their own."""
        keep = () if self.data is None else (self.data,)
        total: Any = 0.0
        for term in terms.values():
            total = total + summed(term, keep).to(torch.float64)[0]
        return total if self.data is not None else total.unsqueeze(-1)

    def draw(self) -> dict[str, Tensor]:
        """One draw of the latents from the prior, inside `running`: (*site shape) each; uses the caller's RNG."""
        trace: Any = poutine.trace(self.model).get_trace(*self.args)
        values = {site.name: trace.nodes[site.name]["value"] for site in self.latents if site.name in trace.nodes}
        if len(values) < len(self.latents):
            raise changing(set(self.sites) - set(values))
        return values

    def traced(self, values: dict[str, Tensor], score: Callable[[Any], Tensor] = log_prob) -> dict[str, frozenset[str]]:
        """The latents that each site's score is computed from, to be called inside `running`.

        values: one state, (*site shape) each. Empty where a call of the program takes no tensor subclass.
        """
        marked: dict[str, Any] = {name: ProvenanceTensor(v, frozenset({name})) for name, v in values.items()}
        try:
            found = self._run(marked, frozenset(self.sites), score)
        except (RuntimeError, TypeError, AttributeError, NotImplementedError):
            return {}
        return {name: get_provenance(term) for name, term in found.items()}

    def _one(self, values: dict[str, Tensor], j: int, c: int) -> dict[str, Tensor]:
        def pick(name: str, v: Tensor) -> Tensor:
            return v[j, c] if v.dim() == len(self.sites[name].shape) + 2 else v[c]

        return {name: pick(name, v) for name, v in values.items()}

    def _run(self, values: dict[str, Tensor], wanted: frozenset[str], score: Any) -> dict[str, Tensor]:
        record = Score(self.sites, values, wanted, score or log_prob)
        self.execute(record)
        return record.found

    def execute(self, record: Score) -> None:
        """Run the program under a messenger that puts values in; refuses a program whose sites come and go."""
        with record:
            self.model(*self.args)
        missing = (record.values.keys() | record.wanted) - record.seen
        if missing:
            raise changing(missing)

    def padded(self, term: Tensor, lead: int) -> Tensor:
        """A term with `lead` dims before the program's own."""
        if term.dim() > lead + self.nesting:
            raise ShapeError(f"a term has {term.dim()} dims where {lead + self.nesting} were expected")
        return term.reshape((1,) * (lead + self.nesting - term.dim()) + term.shape)


def summed(term: Tensor, plates: Iterable[Plate], by: Callable[..., Tensor] = torch.sum) -> Tensor:
    """A term (J, C, *dims) reduced over every dim of the program but those of `plates`: (J, C, *E)."""
    keep = {plate.dim for plate in plates}
    for dim in range(2 - term.dim(), 0):
        if dim not in keep:
            term = by(term, dim, keepdim=True)
    return term.squeeze([dim for dim in range(2 - term.dim(), 0) if dim not in keep])


def read(model_or_pair: Any, args: tuple[Any, ...]) -> LogJoint:
    """Run a program once and read its sites and plates; the RNG is left as it was.

    Args:
        model_or_pair: a Pyro program, or a pair, whose model is taken.
        args: its arguments.

    Raises:
        UnsupportedModelError: a subsampled plate, a discrete latent whose support is infinite, a latent Delta.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """
    if callable(model_or_pair) and not hasattr(model_or_pair, "model"):
        pair = Pair(model_or_pair, model_or_pair)
        contexts = (pair.evaluating,)  # a plain program's parameters are in Pyro's own store
    else:
        pair = as_pair(model_or_pair)
        contexts = (pair.scope, pair.evaluating)
    model = pair.model
    joint = LogJoint(model, args, {}, 0, None, contexts)
    with torch.random.fork_rng(), joint.running(), pyro.validation_enabled(True):
        trace: Any = poutine.trace(model).get_trace(*args)
    if isinstance(model_or_pair, tuple) and pair.owns_parameters():
        raise RunError("a tuple (model, guide) has no trained pyro.param: pass svi.pair, or an object with both")
    nodes = {
        name: node
        for name, node in trace.nodes.items()
        if is_stochastic(node) and not node["infer"].get("_deterministic")
    }
    sites = {name: read_site(node) for name, node in nodes.items()}
    nesting = max((site.batch for site in sites.values()), default=0)
    return LogJoint(model, args, sites, nesting, _data_plate(sites), contexts)


def _data_plate(sites: dict[str, Site]) -> Plate | None:
    """The plate that holds every site, the data's by name where there are several."""
    common = set.intersection(*(set(site.plates) for site in sites.values())) if sites else set()
    named = [plate for plate in common if plate.name == "data"]
    return (named or sorted(common, key=lambda plate: plate.dim) or [None])[0]
