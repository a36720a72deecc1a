"""A Pyro program and its data as a potential on unconstrained space: what HMC needs, and nothing of Pyro left in it.

    U(u) = -log p(x, T(u)) - log |dT/du|,   z = T(u)

Every latent site has a bijector T from the reals onto its support; all of them share one vector u (D,). Enumerated
sites are summed out of p as Pyro's own evaluator does, so that log p is the marginal of what is left. Parameters,
`pyro.param` or a module's, are constants. The program sees each latent in the precision of its prior's draws; u has the
widest of them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ComposeTransform, IndependentTransform
from torch.utils._pytree import tree_leaves

from inference.errors import RunError, UnsupportedModelError
from inference.pair import Pair, as_pair, is_latent, is_stochastic

__all__ = ["Latent", "Potential", "is_identity", "read_potential"]


class Latent(NamedTuple):
    """A continuous latent site and its bijector."""

    name: str
    shape: torch.Size  # of the site's value
    free: torch.Size  # of its unconstrained twin
    like: Tensor  # dtype and device of the prior's draws
    at: slice  # of the vector u
    transform: Any  # T: unconstrained -> constrained


@dataclass(frozen=True, eq=False)
class Potential:
    """The potential of a program given its data; `read_potential` makes one, calling it gives U(u) in nats."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    latents: tuple[Latent, ...]
    like: Tensor  # dtype and device of u
    contexts: tuple[Callable[[], Any], ...] = ()  # to run the program in: its parameters, its modules evaluating
    nesting: int | None = None  # depth of the plates, where sites are enumerated
    moving: bool = False  # a support depends on other latents, so that T is known within the program alone

    @property
    def size(self) -> int:
        """D, the length of u."""
        return self.latents[-1].at.stop

    def __call__(self, u: Tensor) -> Tensor:
        """U (), nats, of u (D,)."""
        push, log_joint = self._run(u)
        return -log_joint - push.log_det

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The values T(u), (*lead, *site shape) each, of u (*lead, D), and log |dT/du| (*lead)."""
        lead = u.shape[:-1]
        if self.moving:  # a run of the program for each state
            runs = [self._run(row)[0] for row in u.reshape(-1, self.size)]
            values = {
                site.name: torch.stack([run.values[site.name] for run in runs]).reshape(*lead, *site.shape)
                for site in self.latents
            }
            return values, torch.stack([run.log_det for run in runs]).reshape(lead)
        values, log_det = {}, u.new_zeros(lead)
        for site in self.latents:
            free = u[..., site.at].reshape((*lead, *site.free))
            values[site.name] = value = site.transform(free)
            if not is_identity(site.transform):
                log_det = log_det + site.transform.log_abs_det_jacobian(free, value).reshape((*lead, -1)).sum(-1)
        return values, log_det

    def _run(self, u: Tensor) -> tuple["_Push", Tensor]:
        """One run at T(u), and its log p(x, z) ()."""
        free = {site.name: u[site.at].reshape(site.free).to(site.like) for site in self.latents}
        push = _Push(lambda name, *_: free.get(name))
        program = push(self.model)
        if self.nesting is not None:
            program = poutine.enum(program, first_available_dim=-1 - self.nesting)
        with self.running():
            trace: Any = poutine.trace(program).get_trace(*self.args)
            if len(push.values) < len(self.latents):
                raise _unsteady(next(site.name for site in self.latents if site.name not in push.values))
            if self.nesting is None:
                return push, trace.log_prob_sum()
            return push, TraceEinsumEvaluator(trace, True, self.nesting).log_prob(trace)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the program is the density that it stands for: its own parameters, no checks, no dropout."""
        with ExitStack() as stack:
            stack.enter_context(pyro.validation_enabled(False))
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def start(self, generator: torch.Generator, tries: int = 100, among: int = 10) -> Tensor:
        """A state u (D,) to start from: the likeliest of a few, uniform on (-2, 2) as in Stan; U and dU/du are finite.

        A chain that starts hundreds of nats worse than its neighbours may find a mode of no weight, and stay.

        Raises:
            UnsupportedModelError: no such state among `tries` draws.
        """
        found: list[tuple[float, Tensor]] = []
        for _ in range(tries):
            u = (4 * torch.rand(self.size, generator=generator, dtype=torch.float64) - 2).to(self.like)
            energy, gradient = self.gradient(u)
            if math.isfinite(energy) and bool(torch.isfinite(gradient).all()):
                found.append((energy, u))
                if len(found) == among:
                    break
        if not found:
            raise UnsupportedModelError(
                f"the log joint or its gradient was infinite or NaN at each of {tries} states drawn from (-2, 2) in "
                "unconstrained space: see that the data lie in the likelihood's support, and scale them to about 1"
            )
        return min(found, key=lambda state: state[0])[1]

    def gradient(self, u: Tensor) -> tuple[float, Tensor]:
        """U and dU/du (D,) at u (D,)."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            energy = self(u)
            (gradient,) = torch.autograd.grad(energy, u)
        return float(energy.detach()), gradient


def read_potential(model_or_pair: Any, args: tuple[Any, ...]) -> Potential:
    """Run a program twice and read its latents, their bijectors and its plates; the RNG is left as it was.

    Args:
        model_or_pair: a Pyro program, or a pair, whose model is taken.
        args: its arguments.

    Raises:
        UnsupportedModelError: a discrete latent that is not enumerated; a support without a bijector; a subsampled
            plate; no continuous latent.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """
    model, contexts = _program(model_or_pair, args)
    empty = Potential(model, args, (), torch.empty(0), contexts)
    with torch.random.fork_rng(), torch.no_grad(), empty.running(), pyro.validation_enabled(True):
        torch.manual_seed(0)
        runs = [_Push(lambda _, shape, fn: (4 * torch.rand(shape) - 2).to(_like(fn, args))) for _ in range(2)]
        first, _ = (cast(Any, poutine.trace(run(model)).get_trace(*args)) for run in runs)
    frames = [f for site in first.nodes.values() if is_stochastic(site) for f in site["cond_indep_stack"]]
    for frame in frames:
        if frame.vectorized and frame.full_size not in (None, frame.size):
            raise UnsupportedModelError(
                f"plate '{frame.name}' is subsampled ({frame.size} of {frame.full_size}), so the target would change "
                "from step to step: give it all rows"
            )
    discrete = [site for site in first.nodes.values() if is_latent(site) and site["fn"].support.is_discrete]
    for site in discrete:
        if site["infer"].get("enumerate") != "parallel":
            raise UnsupportedModelError(
                f"HMC and NUTS draw continuous latents, and '{site['name']}' is discrete: mark it "
                "infer={'enumerate': 'parallel'} to sum it out, or draw it by Gibbs"
            )
    latents: list[Latent] = []
    for name, transform in runs[0].transforms.items():
        shape, free = runs[0].values[name].shape, runs[0].free[name]
        begin = latents[-1].at.stop if latents else 0
        at = slice(begin, begin + free.numel())
        latents.append(Latent(name, shape, free.shape, free.new_empty(0), at, transform))
    if not latents:
        raise UnsupportedModelError(
            "HMC and NUTS draw continuous latents, and the model has none: draw by Gibbs, or enumerate by Exact()"
        )
    again = runs[1].transforms
    moving = any(not _same(site.transform, again.get(site.name), runs[0].free[site.name]) for site in latents)
    depth = max((-f.dim for f in frames if f.vectorized), default=0) if discrete else None
    like = torch.cat([site.like for site in latents])
    return Potential(model, args, tuple(latents), like, contexts, depth, moving)


class _Push(Messenger):
    """Put T(u) in the place of each continuous latent, T as its support says where the program stands."""

    def __init__(self, free: Callable[[str, torch.Size, Any], Tensor | None]):
        super().__init__()
        self._free = free
        self.values: dict[str, Tensor] = {}
        self.free: dict[str, Tensor] = {}
        self.transforms: dict[str, Any] = {}
        self.log_det: Any = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["is_observed"] or not is_stochastic(msg) or fn.support.is_discrete:
            return
        try:
            transform = biject_to(fn.support)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"the support of '{name}', {fn.support}, has no bijector from the reals, so HMC cannot move on it: "
                "draw from a distribution on the reals and transform it in the model"
            ) from None
        free = self._free(name, transform.inverse_shape(fn.shape()), fn)
        if free is None:
            raise _unsteady(name)
        value = transform(free)
        if not is_identity(transform):
            self.log_det = self.log_det + transform.log_abs_det_jacobian(free, value).sum()
        self.values[name], self.free[name], self.transforms[name] = value, free, transform
        msg["value"], msg["is_observed"] = value, True


def _like(fn: Any, args: tuple[Any, ...]) -> Tensor:
    """An empty tensor of the dtype and device of a prior's draws; of the data, where a flat prior has none."""
    try:
        return fn().new_empty(0)
    except NotImplementedError:
        leaves = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        return next(leaves, torch.empty(0)).new_empty(0)


def _unsteady(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the latent site '{name}' comes and goes with the values of others, so there is no one space to move in: "
        "sample it always, and mask it where it has no part"
    )


def is_identity(transform: Any) -> bool:
    """Whether T(u) = u, as for a support that is all reals."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts


def _same(transform: Any, other: Any, free: Tensor) -> bool:
    """Whether two bijectors agree at one state."""
    return other is not None and torch.allclose(transform(free), other(free), equal_nan=True)


def _program(model_or_pair: Any, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Callable[[], Any], ...]]:
    """The model of a program or a pair, and the contexts in which its parameters are its own."""
    if callable(model_or_pair) and not hasattr(model_or_pair, "model"):
        pair = Pair(model_or_pair, model_or_pair)
        return model_or_pair, (pair.evaluating,)  # a plain program's parameters are in Pyro's own store
    pair = as_pair(model_or_pair)
    if isinstance(model_or_pair, tuple):
        with torch.random.fork_rng(), torch.no_grad(), pair.scope(), pair.evaluating():
            pair.model(*args)
        if pair.owns_parameters():
            raise RunError("a tuple (model, guide) has no trained pyro.param: pass svi.pair, or an object with both")
    return pair.model, (pair.scope, pair.evaluating)
