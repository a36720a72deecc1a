"""Learning by Gibbs sampling [neal1992]: the gradient of log p(x, h) at draws h of the posterior, no guide, no bound.

    d/dtheta log p(x) = E_{p(h | x)} [d/dtheta log p(x, h)]        (Fisher's identity)

Every datum has chains of its own that live as long as the learner: a step takes them up where the datum's last visit
left them, sweeps, and follows the gradient at their new state. While the parameters move slowly the chains stay near
the posterior; their lag is the method's only bias.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from inference.errors import CheckpointError, NonFiniteError, RunError, ShapeError, UnsupportedModelError
from inference.mcmc.layered import prior, sweep, tables
from inference.mcmc.layered_tables import binary
from inference.pair import Pair, as_pair
from inference.training.checkpoint import flatten_optimizer, restore, unflatten_optimizer
from inference.types import Layered

__all__ = ["GibbsLearning", "LearningInfo"]


class LearningInfo(NamedTuple):
    """What one step saw.

    `loss` () is the mean of -log p(x, h) over data and chains, in nats per datum. It estimates no bound: in
    equilibrium its mean is -log p(x) plus the entropy of p(h | x), so it lies above the negative log-likelihood.
    `moved` () is the fraction of hidden units that the step's sweeps changed.
    """

    loss: Tensor
    moved: Tensor


class GibbsLearning:
    """Train a layered sigmoid belief network with persistent Gibbs chains, as a Stepper for `fit`.

    A batch ends with the numbers of its rows, by which their chains are found:
    `data.Batches((x, torch.arange(len(x))))`. Chains start from the prior. A guide's parameters, if the pair has a
    guide, get no gradient and stay as they are.

    Args:
        pair: a network with `layers()` and `top_bias` (`SigmoidBeliefNetwork`), or a pair that has one.
        optimizer: a torch optimiser of its parameters.
        sweeps: of each chain in a step.
        chains: of each datum; the gradient is their mean.

    Raises:
        UnsupportedModelError: the network tells nothing of its layers.
        ShapeError: sweeps or chains below 1.
    """

    def __init__(self, pair: Any, optimizer: torch.optim.Optimizer, *, sweeps: int = 1, chains: int = 1):
        for name, value in (("sweeps", sweeps), ("chains", chains)):
            if value < 1:
                raise ShapeError(f"{name} is at least 1, got {name}={value}: GibbsLearning(..., {name}=1)")
        self.pair, self.network = _network(pair)
        self.optimizers: Sequence[torch.optim.Optimizer] = [optimizer]
        self.sweeps, self.chains, self.steps = sweeps, chains, 0
        width = sum(len(weight) for weight, _ in self.network.layers())
        self._h = torch.zeros(0, chains, width, dtype=torch.uint8)  # (M, C, H), M the largest row number seen, plus 1
        self._started = torch.zeros(0, dtype=torch.bool)  # (M,)

    def setup(self, fabric: Any) -> None:
        """Move the network to the fabric's device; raises RunError for several processes."""
        if fabric.world_size > 1:
            raise RunError(
                f"learning by Gibbs sampling keeps its chains in one process, got {fabric.world_size}: pass devices=1"
            )
        for module in self.pair.modules():
            fabric.to_device(module)

    def init(self, *batch: Any) -> None:
        """Look at a batch; raises ShapeError where it does not end with row numbers."""
        _split(batch)

    def step(self, *batch: Any) -> LearningInfo:
        """Sweep the chains of the batch's rows (x (N, D), index (N,)), and one update of the parameters.

        Raises:
            ShapeError, UnsupportedModelError: a batch without row numbers, or data that are not the network's.
            NonFiniteError: parameters or log p are NaN or infinite.
        """
        x, index = _split(batch)
        h, moved = self._advance(x, index)
        layers = h.to(self.network.top_bias).split([len(weight) for weight, _ in self.network.layers()], -1)
        loss = -log_joint(self.network, layers, x.to(self.network.top_bias)).mean()
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(f"the loss is {float(loss.detach())} at step {self.steps + 1}")
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.steps += 1
        return LearningInfo(loss.detach(), moved)

    def _advance(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Sweep the chains of some rows: their hidden units (C, N, H), and the fraction that moved."""
        net, rows = tables(self.network), index.cpu()
        data = binary(net, x)
        start, seed = torch.randint(2**62, (2,)).tolist()  # of the RNG that `fit` seeds and a checkpoint holds
        self._grow(int(rows.max()) + 1)
        new = rows[~self._started[rows]]
        first = torch.from_numpy(prior(net, len(new) * self.chains, start))
        self._h[new], self._started[new] = first.view(len(new), *self._h.shape[1:]), True
        before = self._h[rows].transpose(0, 1).contiguous()
        h = before.clone()
        sweep(net, data, h.view(-1, h.shape[-1]).numpy(), seed=seed, burn=self.sweeps)
        self._h[rows] = h.transpose(0, 1)
        return h, (h != before).double().mean()

    def _grow(self, size: int) -> None:
        more = size - len(self._h)
        if more > 0:
            self._h = torch.cat([self._h, self._h.new_zeros(more, *self._h.shape[1:])])
            self._started = torch.cat([self._started, self._started.new_zeros(more)])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, buffers, optimiser and the chains of every row."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.pair.named_parameters().items()}
        tensors |= {f"buffer.{name}": b for name, b in self.pair.named_buffers().items()}
        tensors |= {"chains.h": self._h, "chains.started": self._started}
        packed, groups = flatten_optimizer(self.optimizers)
        return tensors | packed, {"steps": self.steps, "optimizers": groups}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take up a state in place; raises CheckpointError where it is of another network or method."""
        restore(self.pair, tensors)
        if "chains.h" not in tensors or tensors["chains.h"].shape[1:] != self._h.shape[1:]:
            raise CheckpointError(
                f"the checkpoint holds no Gibbs chains of {self.chains} x {self._h.shape[2]} units a row: "
                "train anew, or with the run's own options"
            )
        unflatten_optimizer(self.optimizers, tensors, meta["optimizers"])
        self._h, self._started = tensors["chains.h"].clone(), tensors["chains.started"].clone()
        self.steps = meta["steps"]


def log_joint(network: Layered, h: Sequence[Tensor], x: Tensor) -> Tensor:
    """Log p(x, h) in nats, differentiable in the parameters: h = (h1, h2, ...), each (..., N, H_l), x (N, D)."""
    total = h[-1].new_zeros(())
    logits = [*(above @ weight + bias for above, (weight, bias) in zip(h, network.layers(), strict=True))]
    for value, a in zip((x, *h), (*logits, network.top_bias), strict=True):
        a, value = torch.broadcast_tensors(a, value)
        total = total - binary_cross_entropy_with_logits(a, value, reduction="none").sum(-1)
    return total


def _network(pair: Any) -> tuple[Pair, Layered]:
    found = as_pair(pair) if not isinstance(pair, nn.Module) or hasattr(pair, "guide") else Pair(pair, pair, owner=pair)
    for candidate in (found.owner, getattr(found.model, "__self__", None)):
        if isinstance(candidate, Layered):
            return found, candidate
    raise UnsupportedModelError(
        f"learning by Gibbs sampling needs a network with layers() and top_bias, got {type(pair).__name__}: "
        "pass a SigmoidBeliefNetwork, or train the pair with SVI"
    )


def _split(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    if len(batch) == 2:
        x, index = batch
        if index.shape == x.shape[:1] and not index.is_floating_point() and not bool((index < 0).any()):
            return x, index
    raise ShapeError(
        "a batch of learning by Gibbs sampling is rows (N, D) and their numbers (N,), whole and from 0, got shapes "
        f"{[tuple(part.shape) for part in batch]}: pass data.Batches((x, torch.arange(len(x))))"
    )
