"""A game on disk: config.json says how to build its players, checkpoint.safetensors holds what they learned."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from inference.cli.folder import CONFIG
from inference.cli.games import GameRun, Part
from inference.errors import CheckpointError
from inference.training.checkpoint import load, restore
from inference.training.run import CHECKPOINT

__all__ = ["Loaded", "is_game", "load_game", "open_game"]


class Loaded(NamedTuple):
    """What the checkpoints of a game hold."""

    generator: Any  # the one to draw from: of averaged weights, where there are some
    parts: list[Part]
    notes: list[dict[str, Any]]  # of each part: epoch, history, seconds
    freezes: list[list[tuple[str, int, int | None]]]  # of each part
    parameters: int


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


def load_game(out: Path, run: GameRun, partly: bool = False) -> Loaded:
    """The trained players of a game; `partly`, of those parts that have been begun."""
    whole, parts = run.build()
    begun = [part for part in parts if (out / part.name / CHECKPOINT).exists()] if partly else parts
    notes, freezes = [], []
    for part in begun:
        path = out / part.name / CHECKPOINT
        if part.name and not path.exists():
            raise CheckpointError(f"the level {part.heading} of {out} is not trained yet: `ppl train --resume {out}`")
        tensors, meta = load(path)
        best = "averaged" if any(name.startswith("parameter.averaged.") for name in tensors) else "generator"
        for name, player in ((best, part.generator), ("discriminator", part.discriminator)):
            restore(_Player(player), _of(name, tensors))
            player.eval()
        try:
            notes.append(meta["run"])
            freezes.append([tuple(each) for each in meta["stepper"]["freezes"]])
        except KeyError as error:
            raise CheckpointError(f"{path} is not of a game ({error} is missing): train anew") from None
    size = sum(p.numel() for part in begun for player in part[2:] for p in player.parameters())
    return Loaded(whole.eval(), begun, notes, freezes, size)


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
