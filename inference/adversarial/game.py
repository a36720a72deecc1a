"""A game of two players: one step is a move of the discriminator and then one of the generator [goodfellow2014].

    D: tell the batch x from fakes G(z):    a gradient step on loss.discriminator(a(x), a(G(z))) + penalties
    G: have the fakes taken for real:       a gradient step on loss.generator(a(G(z)))

with a(x) the discriminator's logits; one batch of fakes serves both moves. Every stabiliser is an object that the game
takes or leaves; what it needs to remember (who is frozen, running means, reference batches) is part of the game's
state, so that a resumed game goes on as if it had never stopped.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inference.adversarial.freezing import PLAYERS, Freeze, Freezer, FreezeRule, Readings
from inference.adversarial.losses import Loss, NonSaturating, Targets
from inference.adversarial.moves import Moves, check_fit
from inference.adversarial.past import AveragedWeights, History
from inference.adversarial.penalties import Penalty
from inference.adversarial.stabilisers import FeatureMatching, HistoricalAveraging, LabelSmoothing
from inference.adversarial.virtual import refresh, virtual_layers
from inference.errors import CheckpointError, NonFiniteError, RunError
from inference.training.checkpoint import flatten_optimizer, restore, unflatten_optimizer

__all__ = ["Adversarial", "GameInfo"]


class GameInfo(NamedTuple):
    """What one step saw: losses of both players, each () and in the loss's own units (nats for cross entropy)."""

    loss: Tensor  # d_loss + g_loss
    d_loss: Tensor  # without penalties
    g_loss: Tensor
    d_real: Tensor  # mean of D(x) on the batch, in [0, 1] where the loss has probabilities
    d_fake: Tensor  # mean of D(G(z))
    accuracy: Tensor  # share of rows, real and generated in equal parts, that the discriminator tells right
    d_frozen: Tensor  # 0 or 1
    g_frozen: Tensor
    penalty: Tensor


class Adversarial:
    """Train a generator against a discriminator: a Stepper for `fit`, whose batches are (x, *conditions).

    Args:
        generator: a module with `noise(n)` -> z (n, Z), a draw from p(z), and `forward(z, *conditions)` -> x (n, D).
        discriminator: a module, (x, *conditions) -> logits (N,); `features` (N, F) where they are to be matched.
        opt_g, opt_d: a torch optimiser of each player's parameters.
        loss: NonSaturating(), Minimax(), LeastSquares(), Wasserstein(), Hinge().
        penalties: terms of the discriminator's loss: R1(gamma), GradientPenalty().
        smoothing: what the discriminator is told instead of 1 and 0: LabelSmoothing().
        freeze: who stops learning and when: FreezeOnAccuracy(), FreezeOnLoss(), FreezeSchedule().
        feature_matching: another aim of the generator: FeatureMatching().
        history: pull both players towards their own past: HistoricalAveraging(weight).
        pack: rows that the discriminator judges together, beside one another: (N, D) -> (N / pack, pack D). A
            generator without variety is then found out [lin2018]. Rows that are left over are left out.
        d_steps: moves of the discriminator to one of the generator.
        average: decay of a running mean of the generator's weights, 0.999 for example; `best` then holds it.

    Raises:
        RunError: an optimiser holds other parameters than its player's, or options that cannot work together.
        ShapeError (at the first step): what the generator makes does not fit the data or the discriminator.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        opt_g: torch.optim.Optimizer,
        opt_d: torch.optim.Optimizer,
        loss: Loss = NonSaturating(),  # noqa: B008
        *,
        penalties: Sequence[Penalty] = (),
        smoothing: LabelSmoothing | None = None,
        freeze: FreezeRule | None = None,
        feature_matching: FeatureMatching | None = None,
        history: HistoricalAveraging | None = None,
        pack: int = 1,
        d_steps: int = 1,
        average: float | None = None,
    ):
        self.generator, self.discriminator = generator, discriminator
        self.d_steps = d_steps
        self.optimizers: Sequence[torch.optim.Optimizer] = [opt_d, opt_g]
        if smoothing is not None and not loss.has_targets:
            raise RunError(f"{type(loss).__name__} has no labels to smooth: take NonSaturating, or leave smoothing out")
        if d_steps < 1 or pack < 1:
            raise RunError(f"d_steps and pack are at least 1, got {d_steps} and {pack}: leave them out")
        if feature_matching is not None and not callable(getattr(discriminator, "features", None)):
            raise RunError(
                f"feature matching needs the discriminator's features(x) -> (N, F), and {type(discriminator).__name__} "
                "has no such method: add it, forward being a head on it"
            )
        for name, player, optimizer in zip(PLAYERS, (discriminator, generator), self.optimizers, strict=True):
            own = {id(p) for p in player.parameters() if p.requires_grad}
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if own != held:
                raise RunError(
                    f"opt_{name[0]} holds other parameters than the {name}'s: pass Adam({name}.parameters(), 2e-4)"
                )
        self.moves = Moves(generator, discriminator, loss, tuple(penalties), feature_matching, pack,
                           Targets() if smoothing is None else smoothing.targets)  # fmt: skip
        self.steps = 0
        self._freezer = Freezer(freeze)
        self._averaged = None if average is None else AveragedWeights(generator, average)
        self._history = [] if history is None else [History(p, history.weight) for p in (discriminator, generator)]
        self._g_loss = torch.tensor(math.nan)  # of the generator's last move, where it has not one at every step
        self._make: Callable[..., Any] = generator
        self._judge: Callable[..., Any] = self.moves.discriminator
        self._of_d = [p for p in discriminator.parameters() if p.requires_grad]
        self._autocast: Callable[[], Any] = nullcontext
        self._fabric: Any = None
        self._ready = False

    @property
    def averaged(self) -> nn.Module | None:
        """The generator of averaged weights, where there is one."""
        return None if self._averaged is None else self._averaged.network

    @property
    def best(self) -> nn.Module:
        """The generator to draw from: that of averaged weights, or the trained one itself."""
        return self.generator if self.averaged is None else self.averaged

    @property
    def freezes(self) -> list[Freeze]:
        """Who did not learn, and when."""
        return self._freezer.freezes

    def setup(self, fabric: Any) -> None:
        """Take the device, precision and processes of a Lightning Fabric."""
        self._fabric = fabric
        for module in [self.generator, self.discriminator, *([] if self.averaged is None else [self.averaged])]:
            fabric.to_device(module)
        self._autocast = fabric.autocast

    def init(self, *batch: Any) -> None:
        """Check that data, generator and discriminator fit; the caller's RNG is left as it was."""
        if self._ready:
            return
        check_fit(self.moves, *batch)
        for past in self._history:
            past.start()
        if self._fabric is not None and self._fabric.world_size > 1:
            self._make, self._judge = map(self._fabric.setup_module, (self.generator, self.moves.judging()))
        self._ready = True

    def step(self, *batch: Any) -> GameInfo:
        """One move of each player; raises NonFiniteError, the player untouched, where its loss is NaN or infinite."""
        if not self._ready:
            self.init(*batch)
        frozen = self._freezer.decide(self.steps)
        x, conditions = self.moves.whole_packs(batch)
        turn = (self.steps + 1) % self.d_steps == 0 or self.steps == 0  # of the generator
        with torch.set_grad_enabled(turn and not frozen.generator), self._autocast():
            refresh(self.moves.virtual_g, self.generator)
            fake = self._make(self.generator.noise(len(x)), *conditions)  # pyright: ignore[reportCallIssue]
        d = self._move(0, frozen.discriminator, self._judge, x, fake.detach(), *conditions)
        if turn:
            self._g_loss = self._through(frozen.generator, fake, x, *conditions)
        self.steps += 1
        _, d_loss, d_real, d_fake, accuracy, penalty = (value.detach() for value in d)
        info = GameInfo(
            d_loss + self._g_loss, d_loss, self._g_loss, d_real, d_fake, accuracy,
            torch.tensor(float(frozen.discriminator)), torch.tensor(float(frozen.generator)), penalty,
        )  # fmt: skip
        if self._freezer.rule is not None:
            self._read(info)
        return info

    def _through(self, frozen: bool, *rows: Tensor) -> Tensor:
        """The generator's move and its loss: the gradient passes through the discriminator, not into it."""
        for parameter in self._of_d:
            parameter.requires_grad_(False)
        try:
            (loss,) = self._move(1, frozen, self.moves.generator, *rows)
        finally:
            for parameter in self._of_d:
                parameter.requires_grad_(True)
        if self._averaged is not None and not frozen:
            self._averaged.follow(self.generator)
        return loss.detach()

    def _move(self, i: int, frozen: bool, losses: Callable[..., Any], *rows: Tensor) -> tuple[Tensor, ...]:
        """What `losses` finds of the rows, and a step of player i on the first of it unless it is frozen."""
        with torch.set_grad_enabled(not frozen), self._autocast():
            found = losses(*rows)
        if found[0].device.type == "cpu" and not math.isfinite(found[0].item()):
            remedy = "lower its learning rate, or hold the discriminator back by penalties=(R1(1.0),)"
            if not bool(torch.isfinite(rows[0]).all()):
                remedy = "the data hold NaN or infinity" if i == 0 else "the generator makes NaN or infinity"
            raise NonFiniteError(
                f"the {PLAYERS[i]}'s loss is {float(found[0].detach())} at step {self.steps + 1}: {remedy}"
            )
        if not frozen:
            self.optimizers[i].zero_grad(set_to_none=True)
            found[0].backward()
            if self._history:
                self._history[i].pull()
            self.optimizers[i].step()
        return found

    def _read(self, info: GameInfo) -> None:
        seen = Readings(float(info.d_loss), float(info.g_loss), float(info.accuracy))
        if self._fabric is not None and self._fabric.world_size > 1:  # all processes must freeze the same player
            shared = self._fabric.all_reduce(torch.tensor(seen, dtype=torch.float64, device=self._fabric.device))
            seen = Readings(*shared.tolist())
        self._freezer.read(seen)

    def words(self, means: dict[str, float]) -> str:
        """How the game stands, for the progress bar, of the means of an epoch so far."""
        d, g, right = (means.get(name, math.nan) for name in ("d_loss", "g_loss", "accuracy"))
        return f"losses D {d:.2f}, G {g:.2f}, D right {right:.0%}"

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Of both players, and of the averaged generator."""
        return {f"{name}.{n}": p for name, module in self._modules() for n, p in module.named_parameters()}

    def named_buffers(self) -> dict[str, Tensor]:
        """Of both players and of the averaged generator, and the means of historical averaging."""
        buffers = {f"{name}.{n}": b for name, module in self._modules() for n, b in module.named_buffers()}
        for name, past in zip(PLAYERS, self._history, strict=False):
            buffers |= {f"history.{name}.{i}": mean for i, mean in enumerate(past.means)}
        return buffers

    def _modules(self) -> list[tuple[str, nn.Module]]:
        averaged = [] if self.averaged is None else [("averaged", self.averaged)]
        return [("generator", self.generator), ("discriminator", self.discriminator), *averaged]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Both players, their optimisers, and all that the stabilisers remember."""
        with torch.no_grad():  # the statistics of the weights as they are now, for whoever draws from the checkpoint
            for _, module in self._modules():
                refresh(virtual_layers(module), module)
        tensors = {f"parameter.{name}": p.detach() for name, p in self.named_parameters().items()}
        tensors |= {f"buffer.{name}": b for name, b in self.named_buffers().items()}
        tensors["last.g_loss"] = self._g_loss
        packed, groups = flatten_optimizer(self.optimizers)
        return tensors | packed, {
            "steps": self.steps,
            "optimizers": groups,
            **self._freezer.state(),
            "updates": [past.count for past in self._history] + ([self._averaged.count] if self._averaged else []),
        }

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take up a state in place; `init` must have run.

        Raises:
            CheckpointError: names or shapes differ, or the checkpoint is no game's.
        """
        restore(self, tensors)
        if "freezes" not in meta or len(meta["optimizers"]) != len(self.optimizers):
            raise CheckpointError("the checkpoint is not one of a game of two players: train anew")
        unflatten_optimizer(self.optimizers, tensors, meta["optimizers"])
        self.steps = meta["steps"]
        self._freezer.load_state(meta)
        counters = [*self._history, *([self._averaged] if self._averaged else [])]
        for counter, count in zip(counters, meta["updates"], strict=True):
            counter.count = count
        self._g_loss = tensors["last.g_loss"].to(next(self.generator.parameters()).device)
