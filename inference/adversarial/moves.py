"""The two moves of a game as losses of a batch and of fakes, and the check that its three parts fit one another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inference.adversarial.losses import Loss, Targets
from inference.adversarial.penalties import Penalty
from inference.adversarial.stabilisers import FeatureMatching
from inference.adversarial.virtual import refresh, virtual_layers
from inference.errors import RunError, ShapeError
from inference.pair import evaluating

__all__ = ["Moves", "check_fit"]


class Moves:
    """Both losses of a game, functions of a batch; packing is done here."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        penalties: Sequence[Penalty],
        matching: FeatureMatching | None,
        pack: int,
        targets: Targets,
    ):
        self.g: Any = generator
        self.d: Any = discriminator
        self.loss, self.penalties, self.matching, self.pack, self.targets = loss, penalties, matching, pack, targets
        self.virtual_g, self.virtual_d = virtual_layers(generator), virtual_layers(discriminator)

    def whole_packs(self, batch: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A batch (x, *conditions) less the rows that fill no pack."""
        if self.pack > 1 and len(batch) > 1:
            raise RunError("packing is for data without conditions, whose rows are alike: pass pack=1")
        rows = len(batch[0]) // self.pack * self.pack
        if rows == 0:
            raise RunError(f"a pack is of {self.pack} rows, and the batch has {len(batch[0])}: raise batch_size")
        return batch[0][:rows], tuple(part[:rows] for part in batch[1:])

    def packed(self, x: Tensor) -> Tensor:
        """(N, D) -> (N / pack, pack D): rows beside one another."""
        return x if self.pack == 1 else x.reshape(len(x) // self.pack, -1)

    def discriminator(self, x: Tensor, fake: Tensor, *conditions: Tensor) -> tuple[Tensor, ...]:
        """Loss with penalties, loss, mean score on real and on generated rows, accuracy, penalty: () each."""
        refresh(self.virtual_d, self.d)
        real, fake = self.packed(x), self.packed(fake)
        if torch.is_grad_enabled() and any(penalty.needs_slope for penalty in self.penalties):
            real = real.detach().requires_grad_()
        a_real, a_fake = self.d(real, *conditions), self.d(fake, *conditions)
        loss = self.loss.discriminator(a_real, a_fake, self.targets)
        penalty = loss.new_zeros(())
        if torch.is_grad_enabled():  # a frozen player is measured, and slopes are for learning
            for term in self.penalties:
                penalty = penalty + term(lambda rows: self.d(rows, *conditions), real, fake, a_real)
        with torch.no_grad():
            level = self.loss.undecided(a_real, a_fake)
            right = 0.5 * ((a_real > level).to(loss).mean() + (a_fake < level).to(loss).mean())
            seen = self.loss.score(a_real).mean(), self.loss.score(a_fake).mean()
        return loss + penalty, loss, *seen, right, penalty

    def generator(self, fake: Tensor, x: Tensor, *conditions: Tensor) -> tuple[Tensor]:
        """The generator's loss () of its fakes; of x the features alone. Weights of the discriminator are constants."""
        refresh(self.virtual_d, self.d)
        fake = self.packed(fake)
        if self.matching is None:
            return (self.loss.generator(self.d(fake, *conditions)),)
        loss = self.matching(self.d.features(self.packed(x), *conditions), self.d.features(fake, *conditions))
        if self.matching.adversarial:
            loss = loss + self.matching.adversarial * self.loss.generator(self.d(fake, *conditions))
        return (loss,)

    def judging(self) -> nn.Module:
        """The discriminator's move as a module of it, so that a strategy of several processes can wrap it."""
        return _Judging(self)


class _Judging(nn.Module):
    """The discriminator's move, with the parameters and buffers that it learns."""

    def __init__(self, moves: Moves):
        super().__init__()
        self.discriminator = moves.d
        self.__dict__["moves"] = moves  # no module, so that the generator is not registered

    def forward(self, *rows: Tensor) -> tuple[Tensor, ...]:
        return self.__dict__["moves"].discriminator(*rows)


def check_fit(moves: Moves, *batch: Any) -> None:
    """Refuse data, generator and discriminator whose shapes do not fit, or a batch norm with nothing to average.

    Raises:
        RunError, ShapeError: the sentence names both shapes.
    """
    x, conditions = moves.whole_packs(batch)
    for name, player in (("generator", moves.g), ("discriminator", moves.d)):
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in player.modules()) and len(x) <= moves.pack:
            raise RunError(
                f"the {name} has batch norm, which has nothing to average in a batch of one: raise batch_size, or make "
                "it virtual_batch_norm(network, reference)"
            )
    if not callable(getattr(moves.g, "noise", None)):
        raise RunError(
            f"{type(moves.g).__name__} has no noise(n), a draw z (n, Z) from its prior: give it that method, "
            "`return torch.randn(n, self.z_dim)` for example"
        )
    # running means of batch norm stay as they are
    with evaluating(moves.g, moves.d), torch.random.fork_rng(), torch.no_grad():
        fake = _call("generator", moves.g, moves.g.noise(len(x)), conditions)
        if fake.shape != x.shape:
            raise ShapeError(
                f"the generator makes rows of shape {tuple(fake.shape)} and the data have {tuple(x.shape)}: "
                f"build it with x_dim={x[0].numel()}"
            )
        logits = _call("discriminator", moves.d, moves.packed(fake), conditions)
        if logits.shape != (len(x) // moves.pack,):
            raise ShapeError(
                f"the discriminator gives one logit a row, ({len(x) // moves.pack},), got {tuple(logits.shape)}: "
                "squeeze its output"
            )


def _call(name: str, player: nn.Module, rows: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    try:
        return player(rows, *conditions)
    except (RuntimeError, ValueError, IndexError) as error:
        takes = getattr(player, "x_dim" if name == "discriminator" else "z_dim", "another size")
        shapes = ", ".join(str(tuple(part.shape)) for part in (rows, *conditions))
        given = "what the generator makes" if name == "discriminator" else "its noise"
        raise ShapeError(
            f"the {name} takes rows of {takes}, and {given} has shape {shapes}: "
            f"make their sizes equal; a pack of rows lies beside one another ({error})"
        ) from None
