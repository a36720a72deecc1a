"""The shapes of the toolkit's conversations: what engines ask of a model, and what they hand on.

Everything meets at Pyro's own contract: a pair has `model(*data)` and `guide(*data)`. The NamedTuples below cross
file borders; everything else stays where it is made.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["BatchSource", "Draws", "Engine", "Estimate", "Layered", "ModelGuide", "Nats", "Objective", "Stepper"]


@runtime_checkable
class ModelGuide(Protocol):
    """Anything with a Pyro model and a Pyro guide of the same arguments."""

    model: Callable[..., Any]
    guide: Callable[..., Any]


class Estimate(NamedTuple):
    """One stochastic estimate of a bound, in nats per datum.

    `loss` () is a surrogate whose gradient estimates that of `-bound`; `bound` () is the value, detached;
    `reg` and `rec` () are its two parts where it has two: bound = reg + rec (the survey's Section 3.2).
    """

    loss: Tensor
    bound: Tensor
    reg: Tensor | None = None
    rec: Tensor | None = None


@runtime_checkable
class Layered(Protocol):
    """A sigmoid belief network in layers, as fast paths read it: sites h1, ..., hL over x."""

    top_bias: Tensor  # (H_L,) logits of the top layer

    def layers(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Weight (H above, H below) and bias (H below) of each layer, from the data up: logits = h W + b."""
        ...


class Objective(Protocol):
    """A bound to train on: TraceELBO(), TraceEnumELBO(), IWAE(k)."""

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate the bound on a batch, `beta` weighing its regulariser."""
        ...


class Stepper(Protocol):
    """What `fit` drives: SVI, a game of two players, learning by Gibbs sampling. `fit` knows nothing else of it."""

    optimizers: Sequence[torch.optim.Optimizer]

    def setup(self, fabric: Any) -> None:
        """Move to the fabric's device; called once, before the first step."""
        ...

    def init(self, *batch: Any) -> None:
        """Create whatever only a batch can create (lazy parameters), leaving the caller's RNG as it was."""
        ...

    def step(self, *batch: Any) -> Any:
        """Learn from one batch; returns a NamedTuple of scalars (tensors () or None), `loss` first."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step needs: named tensors, and what JSON holds."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take up a state; raises CheckpointError where names or shapes differ."""
        ...


class BatchSource(Protocol):
    """An epoch of batches as a pure function of (epoch, seed), so that a run can be taken up in its middle."""

    @property
    def num_rows(self) -> int:
        """The rows of an epoch."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch, in order."""
        ...

    def to(self, device: Any) -> "BatchSource":
        """The same batches on another device."""
        ...


class Draws(NamedTuple):
    """What an engine drew from a posterior: C chains of S draws, and what they cost.

    A guide's draws are independent, and carry log q beside log p; those of MCMC have no log q.
    """

    values: dict[str, Tensor]  # site -> (C, S, *the site's shape), e.g. (C, S, N, H)
    log_p: Tensor  # (C, S, N) log p(x, h) of each draw, nats; N = 1 where a latent is outside the data plate
    log_q: Tensor | None = None  # (C, S, N)
    seconds: float = 0.0  # of sampling
    warmup_seconds: float = 0.0  # of burn-in, or of training the guide
    compile_seconds: float = 0.0
    evaluations: int = 0  # of log p over all data, those of the warm-up included
    stats: dict[str, Tensor] = {}  # (C, S) each: acceptance, divergences, ...
    log_likelihood: dict[str, Tensor] = {}  # observed site -> (C, S, N) log p(x_n | h), where `compare` has added it


class Engine(Protocol):
    """A way to draw from a posterior: a frozen dataclass of settings, called on a pair (or a model) and its data."""

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        """Run it; the caller's RNG is left as it was."""
        ...


class Nats(NamedTuple):
    """A mean over data in nats, with its standard error over those data."""

    mean: float
    se: float
    num_data: int
    k: int
