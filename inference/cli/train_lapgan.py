"""`ppl train lapgan`: its options and recipe; playing.py does the rest, level by level."""

from typing import Annotated, Any

import typer

from inference.cli import game_options as g
from inference.cli import options as o
from inference.cli.app import GAMES, guarded, train_app

__all__ = ["lapgan"]

# docs/lapgan.md
PYRAMID: dict[str, Any] = {
    "z_dim": 100, "channels": 16, "levels": 3, "batch_size": 64, "lr": 1e-3, "lr_final": 1e-5, "epochs": 28,
    "average": 0.999, "norm": "batch",
}  # fmt: skip


@train_app.command(rich_help_panel=GAMES)
@guarded
def lapgan(
    data: Annotated[str, typer.Option(help="cifar10, ..., or a folder of images")],
    out: o.Out,
    levels: Annotated[int | None, typer.Option(help="of the pyramid: 3 for 32, 16 and 8 pixels")] = None,
    labels: g.Labels = False,
    loss: g.Loss = None,
    r1: g.R1 = None,
    gradient_penalty: g.GradientPenalty = None,
    d_steps: g.DSteps = None,
    smoothing: g.Smoothing = None,
    freeze: g.Freeze = "off",
    freeze_at: g.FreezeAt = None,
    norm: Annotated[str | None, typer.Option(help="of the generators: batch or virtual (a reference batch)")] = None,
    feature_matching: g.FeatureMatching = 0.0,
    historical_averaging: g.HistoricalAveraging = 0.0,
    average: g.Average = None,
    z_dim: Annotated[int | None, typer.Option(help="dimensions of the coarsest level's noise")] = None,
    channels: Annotated[
        int | None, typer.Option(help="of the finest level; each coarser one has twice as many")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the data, of each level")] = None,
    steps: Annotated[int | None, typer.Option(help="in their place steps of each level")] = None,
    batch_size: g.BatchSize = None,
    lr: g.Lr = None,
    lr_g: g.LrG = None,
    lr_final: g.LrFinal = None,
    beta1: g.Beta1 = None,
    beta2: g.Beta2 = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    devices: o.Devices = 1,
    strategy: o.Strategy = "auto",
    precision: o.Precision = "32-true",
    threads: o.Threads = 0,
    checkpoint_epochs: o.CheckpointEpochs = 1,
    checkpoint_minutes: o.CheckpointMinutes = 10.0,
    tensorboard: o.Tensorboard = False,
) -> None:
    """Train a LAPGAN (Denton et al. 2015), a game for each level of a Laplacian pyramid, coarse to fine."""
    given = locals()  # every option by its name
    from inference.cli.playing import play
    from inference.errors import RunError

    if norm not in (None, "batch", "virtual"):
        raise RunError(f"the generators of a LAPGAN have batch norm, got --norm {norm}: choose batch or virtual")
    play(g.game_run("lapgan", given, PYRAMID), out, device=device, devices=devices, strategy=strategy)
