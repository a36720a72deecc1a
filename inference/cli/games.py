"""Every choice of a game, as config.json holds it, and the players that it describes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inference.adversarial.virtual import virtual_batch_norm
from inference.cli.folder import command_line
from inference.cli.runs import installed
from ppl_models import Discriminator, Generator
from ppl_models.dcgan import DCGANDiscriminator, DCGANGenerator
from ppl_models.lapgan import LAPGAN

__all__ = ["REFERENCE", "GameRun", "Part"]

REFERENCE = 64  # rows of the reference batch of virtual batch norm
PLAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "gan": (Generator, Discriminator),
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
}


class Part(NamedTuple):
    """One game of two players: the whole run, or a level of its pyramid, trained in a folder of its own."""

    name: str  # of the folder; "" for the run's
    level: int  # 0 is the finest
    generator: Any
    discriminator: Any

    @property
    def heading(self) -> str:
        """The level by its size, or nothing."""
        size = self.name.removeprefix("level")
        return f"{size} x {size}" if size else ""


@dataclass
class GameRun:
    """Every choice of a game, as config.json holds it."""

    game: str
    data: str
    generator: dict[str, Any]  # arguments of the generator's class
    discriminator: dict[str, Any]
    loss: str
    epochs: int
    batch_size: int
    lr: float
    lr_final: float
    seed: int
    sd: float | None = None  # of a toy's modes
    points: int = 102_400  # drawn of a toy to learn from
    image_shape: list[int] | None = None  # (C, H, W) of images
    steps: int | None = None  # that were asked for: epochs are as many as they need
    lr_g: float | None = None  # of the generator, where it is another one
    beta1: float = 0.5
    beta2: float = 0.999
    r1: float = 0.0
    gradient_penalty: float = 0.0
    pack: int = 1
    d_steps: int = 1
    smoothing: list[float] | None = None
    freeze: str = "off"
    freeze_at: list[float] | None = None
    norm: str = "none"  # of the layers that have one: batch, virtual or none
    feature_matching: float = 0.0
    historical_averaging: float = 0.0
    average: float | None = None
    labels: bool = False
    precision: str = "32-true"
    threads: int = 0
    checkpoint_epochs: int = 1
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False
    command: str = field(default_factory=command_line)
    versions: dict[str, str] = field(default_factory=installed)

    def build(self, real: Tensor | None = None, y: Tensor | None = None) -> tuple[Any, list["Part"]]:
        """The generator of full samples and the parts of the game, in their order, untrained; by the run's seed.

        real: rows (N, D) and y (N,) of the data, which virtual batch norm takes its reference from; without, its
        statistics are to be restored.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if self.game == "lapgan":
                whole: Any = LAPGAN(**self.generator)
                levels = reversed(range(whole.levels))
                parts = [Part(f"level{whole.shapes[k][1]}", k, *whole.level(k)) for k in levels]
            else:
                make_g, make_d = PLAYERS[self.game]
                whole = make_g(**self.generator)
                parts = [Part("", 0, whole, make_d(**self.discriminator))]
            if self.norm == "virtual":
                self._refer(whole, parts, real, y)
        return whole, parts

    def rows(self, whole: Any, part: "Part", x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        """What a part learns from: rows (N, D) or a level's band of them, its low-pass images, classes (N,)."""
        classes = (y,) if self.labels and y is not None else ()
        if self.game != "lapgan":
            return (x, *classes)
        chunks = [whole.rows(few, part.level) for few in x.split(5000)]
        return (*(torch.cat(column) for column in zip(*chunks, strict=True)), *classes)

    def _refer(self, whole: Any, parts: list["Part"], real: Tensor | None, y: Tensor | None) -> None:
        """Make batch norms virtual: noise is a generator's reference, data a discriminator's."""
        size = REFERENCE * self.pack
        if real is None:
            real, y = torch.zeros(size, whole.x_dim), torch.zeros(size, dtype=torch.int64)
        chosen = torch.randperm(len(real))[:size]
        for part in parts:
            x, *given = self.rows(whole, part, real[chosen], None if y is None else y[chosen])
            virtual_batch_norm(part.generator, part.generator.noise(REFERENCE), *(c[:REFERENCE] for c in given))
            if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in part.discriminator.modules()):
                virtual_batch_norm(part.discriminator, x.reshape(REFERENCE, -1), *given)

    @property
    def title(self) -> str:
        """The game's name in the literature."""
        return self.game.upper()

    @property
    def stabilisers(self) -> str:
        """What keeps the game stable, in words."""
        words = [
            f"R1 {self.r1:g}" if self.r1 else "",
            f"gradient penalty {self.gradient_penalty:g}" if self.gradient_penalty else "",
            f"packs of {self.pack}" if self.pack > 1 else "",
            f"{self.d_steps} steps of D to one of G" if self.d_steps > 1 else "",
            f"labels smoothed to {', '.join(f'{s:g}' for s in self.smoothing)}" if self.smoothing else "",
            f"freezes on {self.freeze}" if self.freeze != "off" else "",
            f"{self.norm} batch norm".replace("batch batch", "batch") if self.norm != "none" else "",
            "feature matching" if self.feature_matching else "",
            "minibatch discrimination" if self.discriminator.get("minibatch_kernels") else "",
            "spectral norm" if self.discriminator.get("spectral_norm") else "",
            "historical averaging" if self.historical_averaging else "",
            f"weights averaged at {self.average:g}" if self.average else "",
        ]
        return ", ".join(word for word in words if word) or "none"
