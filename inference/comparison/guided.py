"""A guide as an engine: train it on the data with the model held still, draw from it, and keep log p and log q.

    h_s ~ q(. | x),   log w_s = log p(x, h_s) - log q(h_s | x)

With `resample=K` each draw is one of K, chosen by weight. Its log q is then that of the whole experiment, so that
log p - log q = log 1/K sum_k w_k: its mean is the bound of K particles, and its k-hat that of these averages
[cremer2017].
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine

from inference.comparison.compare import model_of
from inference.comparison.drawing import draw, vectorises
from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.pair import Pair, as_pair, is_latent
from inference.types import Draws, Estimate, Objective
from inference.vi.objectives import IWAE, TraceELBO, TraceEnumELBO
from inference.vi.svi import SVI
from inference.weights import weigh

__all__ = ["Guided", "automatic", "full_rank"]


@dataclass(frozen=True)
class Guided:
    """Draws from a guide, after training it on the data.

    Sites that the model alone enumerates are summed out, and have no draws here; a model without a data plate has one
    weight for all its data. Programs that cannot take several draws at once run one by one.

    Args:
        objective: the bound that the guide is trained on; None draws from the guide as it is.
        steps: of Adam, each on all the data; the model's own parameters stay as they are.
        seconds: of training at most, if given.
        lr: Adam's learning rate at the start; it falls to a hundredth on a straight line, over steps or seconds.
        num_samples: draws of each chain.
        chains: guides' draws are independent, so one chain is enough.
        resample: draw K and keep one, by importance weight; 1 keeps what comes.
        guide: `guide(model, *data)` makes the guide, or a pair of it with the model: `automatic`, `full_rank`,
            `MeanField`; None takes the pair's own, and leaves it as it was.

    Raises:
        ShapeError: a number below 1.
        RunError: seconds or lr that are not positive.
        UnsupportedModelError (when called): a site that the guide enumerates, which has no draws.
    """

    objective: Objective | None = TraceELBO(num_particles=5)
    steps: int = 500
    seconds: float | None = None
    lr: float = 1e-2
    num_samples: int = 1000
    chains: int = 1
    resample: int = 1
    guide: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "num_samples", "chains", "resample"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} is at least 1, got {name}={getattr(self, name)}: Guided(num_samples=1000)")
        if not self.lr > 0 or (self.seconds is not None and not self.seconds > 0):
            raise RunError(f"lr and seconds are above 0, got lr={self.lr}, seconds={self.seconds}: Guided(lr=1e-2)")

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Train, draw, and put the guide's parameters back."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pair = as_pair(pair, whole=True) if self.guide is None else _made(self.guide, pair, data)
            structure = pair.structure(*data)
            if structure.guide_enum:
                raise UnsupportedModelError(
                    "the guide enumerates a site, which then has no draws: let it sample the site, or leave it to the "
                    "model alone"
                )
            with _kept(pair):
                many = vectorises(pair, data)
                start = time.perf_counter()
                steps = 0 if self.objective is None else self._train(pair, data, many)
                trained = time.perf_counter() if steps else start
                with torch.no_grad(), pair.evaluating():
                    values, log_p, log_q = draw(pair, data, self.chains * self.num_samples, self.resample, many)
                done = time.perf_counter()
        particles = getattr(self.objective, "k", getattr(self.objective, "num_particles", 1))
        shape = (self.chains, self.num_samples)
        return Draws(
            {name: value.reshape(*shape, *value.shape[1:]) for name, value in values.items()},
            log_p.reshape(*shape, -1),
            log_q.reshape(*shape, -1),
            seconds=done - trained,
            warmup_seconds=trained - start,
            evaluations=steps * particles + self.chains * self.num_samples * self.resample,
        )

    def _train(self, pair: Pair, data: tuple[Any, ...], vectorised: bool) -> int:
        """Train the guide's parameters; the number of steps."""
        objective = _fitting(self.objective, bool(pair.structure(*data).model_enum), vectorised)
        seconds = math.inf if self.seconds is None else self.seconds
        start = time.perf_counter()
        rest = pair.model_parameters(*data)
        for parameter in rest:
            parameter.requires_grad_(False)
        try:
            svi = SVI(pair, objective, lambda parameters: torch.optim.Adam(parameters, self.lr), compile=False)
            for step in range(self.steps):
                svi.init(*data)
                share = max(step / self.steps, (time.perf_counter() - start) / seconds)
                if share > 1:
                    break
                svi.optimizers[0].param_groups[0]["lr"] = self.lr * (1 - 0.99 * share)
                svi.step(*data)
            return svi.steps
        finally:
            for parameter in rest:
                parameter.requires_grad_(True)


def automatic(model: Any, *data: Any) -> Any:
    """A guide for a model that has none: `MeanField` for binary latents, Pyro's AutoNormal for continuous ones.

    Sites that the model enumerates are left to it.

    Raises:
        UnsupportedModelError: both kinds of site, or discrete ones that are not binary.
    """
    from pyro.infer.autoguide import AutoNormal, init_to_median

    from inference.vi.mean_field import MeanField

    sampled, summed = _sites(model, data)
    if any(site["fn"].support.is_discrete for site in sampled.values()):
        return MeanField(model, *data)
    return AutoNormal(poutine.block(model, hide=summed), init_loc_fn=init_to_median)


def full_rank(model: Any, *data: Any) -> Any:
    """Pyro's AutoMultivariateNormal, one normal with all covariances over all continuous latents, unconstrained.

    Raises:
        UnsupportedModelError: a discrete latent that the model does not enumerate.
    """
    from pyro.infer.autoguide import AutoMultivariateNormal, init_to_median

    sampled, summed = _sites(model, data)
    discrete = [name for name, site in sampled.items() if site["fn"].support.is_discrete]
    if discrete:
        raise UnsupportedModelError(
            f"a normal guide has no discrete latents, and '{discrete[0]}' is one: mark it "
            "infer={'enumerate': 'parallel'} to sum it out"
        )
    return AutoMultivariateNormal(poutine.block(model, hide=summed), init_loc_fn=init_to_median)


def _sites(model: Any, data: tuple[Any, ...]) -> tuple[dict[str, Any], list[str]]:
    """The model's latent sites that a guide samples, and the names of those that the model enumerates."""
    with torch.random.fork_rng(), torch.no_grad():
        trace: Any = poutine.trace(model).get_trace(*data)
    latent = {name: site for name, site in trace.nodes.items() if is_latent(site)}
    summed = [name for name, site in latent.items() if site["infer"].get("enumerate") == "parallel"]
    return {name: site for name, site in latent.items() if name not in summed}, summed


class _OneByOne:
    """The importance-weighted bound of k particles that run one after the other."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        each = [weigh(pair, batch, 1) for _ in range(self.k)]
        bound = torch.cat([w.log_w for w in each]).logsumexp(0) - math.log(self.k)
        value = bound.sum() / each[0].rows
        return Estimate(-value, value.detach())


def _fitting(objective: Any, enumerated: bool, vectorised: bool) -> Any:
    """The objective in the form that a model can take: enumerated sites summed out, particles one by one."""
    if enumerated and isinstance(objective, TraceELBO):
        objective = TraceEnumELBO(objective.num_particles)
    if not vectorised and isinstance(objective, TraceELBO | TraceEnumELBO):
        return replace(objective, num_particles=1)
    return _OneByOne(objective.k) if not vectorised and isinstance(objective, IWAE) else objective


def _made(make: Callable[..., Any], model: Any, data: tuple[Any, ...]) -> Pair:
    """The pair of a model and the guide that `make` makes for it."""
    program = model_of(model)
    guide = make(program, *data)
    if hasattr(guide, "model") and hasattr(guide, "guide"):
        return as_pair(guide, whole=True)
    return Pair(program, guide, whole=True)


@contextmanager
def _kept(pair: Pair) -> Iterator[None]:
    """Put every parameter back at the end."""
    before = {name: parameter.detach().clone() for name, parameter in pair.named_parameters().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in pair.named_parameters().items():
                if name in before:
                    parameter.copy_(before[name])
