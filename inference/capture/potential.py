"""A Pyro program and its data as a potential on unconstrained space: what HMC needs, and nothing of Pyro left in it.

    U(u) = -log p(x, T(u)) - log |dT/du|,   z = T(u)

Every latent site has a bijector T from the reals onto its support; all of them share one vector u (D,). Enumerated
sites are summed out of p as Pyro's own evaluator does, so that log p is the marginal of what is left. Parameters,
`pyro.param` or a module's, are constants.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from torch import Tensor
from torch.distributions import biject_to

from inference.errors import RunError, UnsupportedModelError
from inference.pair import Pair, as_pair, is_latent, is_stochastic

__all__ = ["Latent", "Potential", "read_potential"]


class Latent(NamedTuple):
    """A continuous latent site and its bijector."""

    name: str
    shape: torch.Size  # of the site's value
    free: torch.Size  # of its unconstrained twin
    at: slice  # of the vector u
    transform: Any  # T: unconstrained -> constrained


@dataclass(frozen=True, eq=False)
class Potential:
    """The potential of a program given its data; `read_potential` makes one, calling it gives U(u) in nats."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    latents: tuple[Latent, ...]
    like: Tensor  # dtype and device of the latents
    contexts: tuple[Callable[[], Any], ...] = ()  # to run the program in: its parameters, its modules evaluating
    nesting: int | None = None  # depth of the plates, where sites are enumerated

    @property
    def size(self) -> int:
        """D, the length of u."""
        return self.latents[-1].at.stop

    def __call__(self, u: Tensor) -> Tensor:
        """U (), nats, of u (D,)."""
        values, log_det = self.constrain(u)
        return -self.log_joint(values) - log_det

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The values T(u) of u (..., D), and log |dT/du| (...)."""
        values: dict[str, Tensor] = {}
        log_det: Any = 0.0
        lead = u.shape[:-1]
        for site in self.latents:
            free = u[..., site.at].reshape((*lead, *site.free))
            values[site.name] = value = site.transform(free)
            log_det = log_det + site.transform.log_abs_det_jacobian(free, value).reshape((*lead, -1)).sum(-1)
        return values, log_det

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """U (D,) of one state, (*site shape) each."""
        return torch.cat([site.transform.inv(values[site.name]).reshape(-1) for site in self.latents])

    def log_joint(self, values: dict[str, Tensor]) -> Tensor:
        """The log joint log p(x, z) () of one state in nats, enumerated sites summed out."""
        with self.running():
            program = poutine.condition(self.model, data=values)
            if self.nesting is not None:
                program = poutine.enum(program, first_available_dim=-1 - self.nesting)
            trace: Any = poutine.trace(program).get_trace(*self.args)
            if self.nesting is None:
                return trace.log_prob_sum()
            return TraceEinsumEvaluator(trace, True, self.nesting).log_prob(trace)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the program is the density that it stands for: its own parameters, no checks, no dropout."""
        with ExitStack() as stack:
            stack.enter_context(pyro.validation_enabled(False))
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def start(self, generator: torch.Generator, tries: int = 100) -> Tensor:
        """A state u (D,) to start from, uniform on (-2, 2) as in Stan, where U and its gradient are finite.

        Raises:
            UnsupportedModelError: no such state among `tries` draws.
        """
        for _ in range(tries):
            u = (4 * torch.rand(self.size, generator=generator, dtype=torch.float64) - 2).to(self.like)
            energy, gradient = self.gradient(u)
            if math.isfinite(energy) and bool(torch.isfinite(gradient).all()):
                return u
        raise UnsupportedModelError(
            f"the log joint or its gradient was infinite or NaN at each of {tries} states drawn from (-2, 2) in "
            "unconstrained space: see that the data lie in the likelihood's support, and scale them to about 1"
        )

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
        UnsupportedModelError: a discrete latent that is not enumerated; a support without a bijector, or one that
            moves with other latents; a subsampled plate; no continuous latent.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """
    model, contexts = _program(model_or_pair, args)
    empty = Potential(model, args, (), torch.empty(0), contexts)
    with torch.random.fork_rng(), torch.no_grad(), empty.running(), pyro.validation_enabled(True):
        first: Any = poutine.trace(model).get_trace(*args)
        second: Any = poutine.trace(model).get_trace(*args)
    for frame in (f for site in first.nodes.values() if is_stochastic(site) for f in site["cond_indep_stack"]):
        if frame.vectorized and frame.full_size not in (None, frame.size):
            raise UnsupportedModelError(
                f"plate '{frame.name}' is subsampled ({frame.size} of {frame.full_size}), so the target would change "
                "from step to step: give it all rows"
            )
    latents: list[Latent] = []
    enumerated, position = False, 0
    for name, site in first.nodes.items():
        if not is_latent(site):
            continue
        if site["fn"].support.is_discrete:
            if site["infer"].get("enumerate") != "parallel":
                raise UnsupportedModelError(
                    f"HMC and NUTS draw continuous latents, and '{name}' is discrete: mark it "
                    "infer={'enumerate': 'parallel'} to sum it out, or draw it by Gibbs"
                )
            enumerated = True
            continue
        latents.append(_latent(name, site, second.nodes.get(name), position))
        position = latents[-1].at.stop
    if not latents:
        raise UnsupportedModelError(
            "HMC and NUTS draw continuous latents, and the model has none: use Gibbs or Exact()"
        )
    depth = [-f.dim for site in first.nodes.values() if is_stochastic(site) for f in site["cond_indep_stack"] if f.dim]
    like = first.nodes[latents[0].name]["value"].detach()
    return Potential(model, args, tuple(latents), like, contexts, max(depth, default=0) if enumerated else None)


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


def _latent(name: str, site: dict[str, Any], again: dict[str, Any] | None, position: int) -> Latent:
    value = site["value"]
    try:
        transform = biject_to(site["fn"].support).with_cache(0)
        free = transform.inv(value)
    except NotImplementedError:
        raise UnsupportedModelError(
            f"the support of '{name}', {site['fn'].support}, has no bijector from the reals, so HMC cannot move on it: "
            "draw from a distribution on the reals and transform it in the model"
        ) from None
    if again is not None:
        other = biject_to(again["fn"].support)(free)
        if other.shape != value.shape or not torch.allclose(other, transform(free), equal_nan=True):
            raise UnsupportedModelError(
                f"the support of '{name}' moves with other latents: draw it from a fixed support, such as "
                "Uniform(0, 1), and scale it in the model"
            )
    return Latent(name, value.shape, free.shape, slice(position, position + free.numel()), transform)
