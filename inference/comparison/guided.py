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
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.comparison.compare import model_of
from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.pair import Pair, Structure, as_pair, is_latent, is_stochastic
from inference.types import Draws, Objective
from inference.vi.objectives import TraceELBO
from inference.vi.svi import SVI
from inference.weights import layout_of, log_prob, per_unit, run

__all__ = ["Guided", "automatic"]

_VALUES = 2**22  # of the widest site held at once, as elsewhere


@dataclass(frozen=True)
class Guided:
    """Draws from a guide, after training it on the data.

    Args:
        objective: the bound that the guide is trained on; None draws from the guide as it is.
        steps: of Adam, each on all the data; the model's own parameters stay as they are.
        seconds: of training at most, if given.
        lr: Adam's learning rate at the start; it falls to a hundredth on a straight line.
        num_samples: draws of each chain.
        chains: guides' draws are independent, so one chain is enough.
        resample: draw K and keep one, by importance weight; 1 keeps what comes.
        guide: `guide(model, *data)` makes the guide, or a pair of it with the model: `automatic`, `MeanField`; None
            takes the pair's own, and leaves it as it was.

    Raises:
        ShapeError: a number below 1.
        RunError: seconds or lr that are not positive.
        UnsupportedModelError (when called): an enumerated site, which has no draws.
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
            pair = as_pair(pair) if self.guide is None else _made(self.guide, pair, data)
            structure = pair.structure(*data)
            if structure.model_enum or structure.guide_enum:
                raise UnsupportedModelError("an enumerated site has no draws: let the guide sample every latent site")
            with _kept(pair):
                start = time.perf_counter()
                steps = 0 if self.objective is None else self._train(pair, data)
                trained = time.perf_counter() if steps else start
                with torch.no_grad(), pair.evaluating():
                    values, log_p, log_q = _draw(pair, data, self.chains * self.num_samples, self.resample)
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

    def _train(self, pair: Pair, data: tuple[Any, ...]) -> int:
        """Train the guide's parameters; the number of steps."""
        assert self.objective is not None
        until = math.inf if self.seconds is None else time.perf_counter() + self.seconds
        rest = pair.model_parameters(*data)
        for parameter in rest:
            parameter.requires_grad_(False)
        try:
            svi = SVI(pair, self.objective, lambda parameters: torch.optim.Adam(parameters, self.lr))
            for step in range(self.steps):
                svi.init(*data)
                svi.optimizers[0].param_groups[0]["lr"] = self.lr * (1 - 0.99 * step / self.steps)
                svi.step(*data)
                if time.perf_counter() > until:
                    break
            return svi.steps
        finally:
            for parameter in rest:
                parameter.requires_grad_(True)


def automatic(model: Any, *data: Any) -> Any:
    """A guide for a model that has none: `MeanField` for binary latents, Pyro's AutoNormal for continuous ones.

    Raises:
        UnsupportedModelError: both kinds of site, or discrete ones that are not binary.
    """
    from pyro.infer.autoguide import AutoNormal

    from inference.vi.mean_field import MeanField

    with torch.random.fork_rng(), torch.no_grad():
        trace: Any = poutine.trace(model).get_trace(*data)
    latent = {name: site["fn"].support for name, site in trace.nodes.items() if is_latent(site)}
    if not any(support.is_discrete for support in latent.values()):
        return AutoNormal(model)
    return MeanField(model, *data)


def _made(make: Callable[..., Any], model: Any, data: tuple[Any, ...]) -> Pair:
    """The pair of a model and the guide that `make` makes for it."""
    guide = make(model_of(model), *data)
    return as_pair(guide) if hasattr(guide, "model") and hasattr(guide, "guide") else Pair(model_of(model), guide)


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


def _draw(
    pair: Pair, data: tuple[Any, ...], count: int, k: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:  # site -> (S, *its shape), log p (S, N), log q (S, N)
    """Draw `count` times, each of k by lot, in chunks of bounded memory."""
    structure = pair.structure(*data)
    with pair.scope(), pyro.validation_enabled(False):
        once: Any = poutine.trace(pair.guide).get_trace(*data)
        sites = {n: s for n, s in once.nodes.items() if is_latent(s) and not s["infer"].get("is_auxiliary")}
        width = max(
            site["value"].numel() for site in [*sites.values(), *({"value": x} for x in data if torch.is_tensor(x))]
        )
        chunk = max(1, _VALUES // (width * k))
        parts = []
        for start in range(0, count, chunk):
            n = min(chunk, count - start)
            drawn = run(pair.guide, data, n * k, structure)
            trace = run(poutine.replay(pair.model, trace=drawn), data, n * k, structure)
            log_p, log_q = (_total(each, n * k, structure) for each in (trace, drawn))
            values = {name: drawn.nodes[name]["value"].reshape(n * k, *s["value"].shape) for name, s in sites.items()}
            if k > 1:
                axes = {name: structure.dim - site["fn"].event_dim for name, site in sites.items()}
                values, log_p, log_q = _by_lot(values, log_p, log_q, k, axes if structure.local else None)
            parts.append((values, log_p, log_q))
    values = {name: torch.cat([part[0][name] for part in parts]) for name in sites}
    return values, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])


def _total(trace: Any, k: int, structure: Structure) -> Tensor:
    """Log-probability of a trace's sites for each of k draws and each unit, (k, N)."""
    sites = [site for site in trace.nodes.values() if is_stochastic(site)]
    layout, _ = layout_of(sites, k, structure)
    total = torch.as_tensor(sum(per_unit(log_prob(site, layout), layout) for site in sites))
    return total.expand(k, -1)


def _by_lot(
    values: dict[str, Tensor], log_p: Tensor, log_q: Tensor, k: int, axes: dict[str, int] | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Of every k draws one, by weight, each datum for itself: (S k, ...) -> (S, ...)."""
    log_p, log_q = (each.reshape(-1, k, each.shape[1]) for each in (log_p, log_q))
    log_w = log_p - log_q  # (S, K, N)
    index = torch.distributions.Categorical(logits=log_w.movedim(1, -1)).sample()  # (S, N)
    kept = {}
    for name, value in values.items():
        value = value.reshape(-1, k, *value.shape[1:])
        shape = [len(index), 1, *[1] * (value.dim() - 2)]
        if axes is not None:
            shape[axes[name]] = index.shape[1]
        at = index.reshape(shape).expand(-1, 1, *value.shape[2:])
        kept[name] = value.gather(1, at).squeeze(1)
    log_p = log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    return kept, log_p, log_p - (log_w.logsumexp(1) - math.log(k))
