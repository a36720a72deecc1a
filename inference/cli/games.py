"""A game on disk: config.json says how to build both players, checkpoint.safetensors holds what they learned."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inference.adversarial.virtual import virtual_batch_norm
from inference.cli.folder import CONFIG, command_line
from inference.cli.runs import installed
from inference.errors import CheckpointError
from inference.training.checkpoint import load, restore
from inference.training.run import CHECKPOINT
from ppl_models import Discriminator, Generator
from ppl_models.dcgan import DCGANDiscriminator, DCGANGenerator

__all__ = ["GameRun", "Loaded", "is_game", "load_game", "open_game"]

REFERENCE = 64  # rows of the reference batch of virtual batch norm
PLAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "gan": (Generator, Discriminator),
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
}


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
    points: int = 0  # drawn of a toy to learn from
    image_shape: list[int] | None = None  # (C, H, W) of images
    steps: int | None = None  # that were asked for: epochs are as many as they need
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

    def build(self, real: Tensor | None = None, y: Tensor | None = None) -> tuple[nn.Module, nn.Module]:
        """Generator and discriminator, untrained; the seed decides their first weights.

        real: rows (N, D) and y (N,) of the data, which virtual batch norm takes its reference from; without, its
        statistics are to be restored.
        """
        make_g, make_d = PLAYERS[self.game]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            generator, discriminator = make_g(**self.generator), make_d(**self.discriminator)
            if self.norm == "virtual":
                self._refer(generator, discriminator, real, y)
        return generator, discriminator

    def _refer(self, generator: Any, discriminator: Any, real: Tensor | None, y: Tensor | None) -> None:
        """Make batch norms virtual: noise is the generator's reference, data the discriminator's."""
        if real is None:
            real, y = torch.zeros(REFERENCE * self.pack, generator.x_dim), torch.zeros(REFERENCE, dtype=torch.int64)
        chosen = torch.randperm(len(real))[: REFERENCE * self.pack]
        conditions = () if not self.labels or y is None else (y[chosen],)
        virtual_batch_norm(generator, generator.noise(REFERENCE), *conditions)
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules()):
            virtual_batch_norm(discriminator, real[chosen].reshape(-1, self.pack * real.shape[1]), *conditions)

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


class Loaded(NamedTuple):
    """What a checkpoint of a game holds."""

    generator: Any  # the one to draw from: of averaged weights, where there are some
    discriminator: Any
    notes: dict[str, Any]  # epoch, history, seconds
    freezes: list[tuple[str, int, int | None]]
    parameters: int  # of both players


def is_game(out: Path) -> bool:
    """Whether a folder holds a game of `ppl train gan`, `dcgan` or `lapgan`."""
    try:
        return (out / CONFIG).is_file() and "game" in json.loads((out / CONFIG).read_text())
    except (ValueError, TypeError):
        return False


def open_game(out: Path) -> GameRun:
    """The game in a folder that `is_game`."""
    path = out / CONFIG
    try:
        raw = json.loads(path.read_text())
        run = GameRun(**{f.name: raw[f.name] for f in fields(GameRun) if f.name in raw})
        run.build()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} describes no game ({error}): restore it, or train anew") from None
    return run


def load_game(out: Path, run: GameRun) -> Loaded:
    """The trained players of a game."""
    tensors, meta = load(out / CHECKPOINT)
    generator, discriminator = run.build()
    best = "averaged" if any(name.startswith("parameter.averaged.") for name in tensors) else "generator"
    for name, player in ((best, generator), ("discriminator", discriminator)):
        restore(_Player(player), _of(name, tensors))
        player.eval()
    try:
        freezes = [tuple(each) for each in meta["stepper"]["freezes"]]
        notes = meta["run"]
    except KeyError as error:
        raise CheckpointError(f"{out / CHECKPOINT} is not of a game ({error} is missing): train anew") from None
    size = sum(p.numel() for player in (generator, discriminator) for p in player.parameters())
    return Loaded(generator, discriminator, notes, freezes, size)


def _of(player: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters and buffers of one player, by their own names."""
    kinds = {f"{kind}.{player}.": kind for kind in ("parameter", "buffer")}
    return {
        f"{kind}.{name.removeprefix(prefix)}": value
        for name, value in tensors.items()
        for prefix, kind in kinds.items()
        if name.startswith(prefix)
    }


class _Player:
    """A module as `restore` takes it."""

    def __init__(self, module: nn.Module):
        self.module = module

    def named_parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def named_buffers(self) -> dict[str, Tensor]:
        return dict(self.module.named_buffers())
