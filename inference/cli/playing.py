"""The one path of a game, new or resumed: check every word, read the data, build, play, write the page."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import typer

from inference.adversarial.game import Adversarial
from inference.adversarial.penalties import R1, GradientPenalty
from inference.adversarial.stabilisers import FeatureMatching, HistoricalAveraging
from inference.cli.folder import CONFIG, claimed, write_config
from inference.cli.game_data import GameData, read_data, settle
from inference.cli.game_page import write_game_page
from inference.cli.game_words import check, freeze_of, loss_of
from inference.cli.games import GameRun, load_game
from inference.cli.running import make_fabric
from inference.cli.snapshots import Snapshots
from inference.errors import RunError
from inference.training.fit import Saving, fit, linear
from ppl_models import data as datasets

__all__ = ["make_game", "play"]


def play(
    run: GameRun, out: Path, *, device: str, devices: int = 1, strategy: str = "auto", resume: bool = False
) -> None:
    """The one path of a new game and a resumed one: everything is checked before the first byte is written."""
    check(run)
    if resume:
        load_game(out, run)  # refuses another game's checkpoint before anything is written
    fabric = make_fabric(device, devices, strategy, run.precision, run.threads)
    found = read_data(run)
    settle(run, found)
    if run.batch_size // devices % run.pack:
        raise RunError(f"--pack {run.pack} does not divide the {run.batch_size // devices} rows of each of --devices")
    game = make_game(run, found)
    batches = datasets.Batches(
        (found.x, found.y) if run.labels and found.y is not None else found.x, run.batch_size, drop_last=True
    )
    if run.steps is not None and not resume:
        typer.echo(f"{run.steps} steps are {run.epochs} epochs of {len(batches)} steps", err=True)
    snapshots = Snapshots(out, run, found, game)
    with nullcontext() if resume or not fabric.is_global_zero else claimed(out):
        if fabric.is_global_zero:
            write_config(out, run)
        fabric.launch()  # the last thing: an error before it is one process's error, said once
        if not resume and fabric.is_global_zero:
            snapshots.take(0)
        fit(
            game, batches, run.epochs, run.seed,
            saving=Saving(out, run.checkpoint_epochs, run.checkpoint_minutes, run.tensorboard),
            resume=resume, schedule=linear(run.lr_final / run.lr), fabric=fabric, progress=True,
            on_epoch=snapshots,
        )  # fmt: skip
    if fabric.is_global_zero:
        page = write_game_page(out, device=str(fabric.device))
        typer.echo(f"{out / CONFIG}: the run\n{page}: the report")


def make_game(run: GameRun, found: GameData) -> Adversarial:
    """Both players, untrained, and the game between them."""
    generator, discriminator = run.build(found.x, found.y)
    loss, smoothing = loss_of(run)

    def adam(player: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(player.parameters(), run.lr, betas=(run.beta1, run.beta2), fused=True)

    return Adversarial(
        generator, discriminator, adam(generator), adam(discriminator), loss,
        penalties=[
            *([R1(run.r1)] if run.r1 else []),
            *([GradientPenalty(run.gradient_penalty)] if run.gradient_penalty else []),
        ],
        smoothing=smoothing,
        freeze=freeze_of(run),
        feature_matching=FeatureMatching(run.feature_matching) if run.feature_matching else None,
        history=HistoricalAveraging(run.historical_averaging) if run.historical_averaging else None,
        pack=run.pack, d_steps=run.d_steps, average=run.average,
    )  # fmt: skip
