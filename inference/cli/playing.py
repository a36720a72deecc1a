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
from inference.cli.game_folder import load_game
from inference.cli.game_page import write_game_page
from inference.cli.game_words import check, freeze_of, loss_of
from inference.cli.games import GameRun, Part
from inference.cli.judged import judge, save_judgement
from inference.cli.running import make_fabric
from inference.cli.snapshots import Snapshots
from inference.errors import RunError
from inference.training.fit import Saving, fit, linear
from inference.training.run import CHECKPOINT
from ppl_models import data as datasets

__all__ = ["make_game", "play"]


def play(
    run: GameRun, out: Path, *, device: str, devices: int = 1, strategy: str = "auto", resume: bool = False
) -> None:
    """The one path of a new game and a resumed one: everything is checked before the first byte is written."""
    check(run)
    if resume:
        load_game(out, run, partly=True)  # refuses another game's checkpoint before anything is written
    fabric = make_fabric(device, devices, strategy, run.precision, run.threads)
    found = read_data(run)
    settle(run, found)
    if run.batch_size // devices % run.pack:
        raise RunError(f"--pack {run.pack} does not divide the {run.batch_size // devices} rows of each of --devices")
    whole, parts = run.build(found.x, found.y)
    games = [make_game(run, part) for part in parts]
    if run.steps is not None and not resume:
        typer.echo(f"{run.steps} steps are {run.epochs} epochs of {len(found.x) // run.batch_size} steps", err=True)
    with nullcontext() if resume or not fabric.is_global_zero else claimed(out):
        if fabric.is_global_zero:
            write_config(out, run)
        fabric.launch()  # the last thing: an error before it is one process's error, said once
        for part, game in zip(parts, games, strict=True):
            _play(run, out, whole, part, game, found, fabric)
    if fabric.is_global_zero:
        result = None
        if found.toy is not None:
            result = judge(run, whole, found, run.seed)
            save_judgement(out, result)
        page = write_game_page(out, device=str(fabric.device))
        if result:
            typer.echo("\n".join([result["headline"], *result["warnings"]]))
        typer.echo(f"{out / CONFIG}: the run\n{page}: the report")


def _play(run: GameRun, out: Path, whole: Any, part: Part, game: Adversarial, found: GameData, fabric: Any) -> None:
    """Train one part, or go on with it; the generator of full samples then has its best weights."""
    folder = out / part.name
    resume = (folder / CHECKPOINT).exists()
    batches = datasets.Batches(run.rows(whole, part, found.x, found.y), run.batch_size, drop_last=True)
    snapshots = Snapshots(folder, run, found, whole, part, game)
    if fabric.is_global_zero:
        folder.mkdir(exist_ok=True)
        if not resume:
            snapshots.take(0)
        if part.name:
            typer.echo(f"level {part.heading}:", err=True)
    try:
        fit(
            game, batches, run.epochs, run.seed + part.level,
            saving=Saving(folder, run.checkpoint_epochs, run.checkpoint_minutes, run.tensorboard),
            resume=resume, schedule=linear(run.lr_final / run.lr), fabric=fabric, progress=True, on_epoch=snapshots,
        )  # fmt: skip
    except KeyboardInterrupt as stop:  # it is the whole that can be gone on with
        raise KeyboardInterrupt(str(stop).replace(f"{folder}`", f"{out}`")) from None
    part.generator.load_state_dict(game.best.state_dict())


def make_game(run: GameRun, part: Part) -> Adversarial:
    """The game between the players of a part."""
    generator, discriminator = part.generator, part.discriminator
    loss, smoothing = loss_of(run)
    scale = run.discriminator.get("scale", 1.0)  # a toy's: it makes the slope one of data of unit size

    def adam(player: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(player.parameters(), lr, betas=(run.beta1, run.beta2), fused=True)

    return Adversarial(
        generator, discriminator, adam(generator, run.lr_g or run.lr), adam(discriminator, run.lr), loss,
        penalties=[
            *([R1(run.r1 * scale**2)] if run.r1 else []),
            *([GradientPenalty(run.gradient_penalty)] if run.gradient_penalty else []),
        ],
        smoothing=smoothing,
        freeze=freeze_of(run),
        feature_matching=FeatureMatching(run.feature_matching) if run.feature_matching else None,
        history=HistoricalAveraging(run.historical_averaging) if run.historical_averaging else None,
        pack=run.pack, d_steps=run.d_steps, average=run.average,
    )  # fmt: skip
