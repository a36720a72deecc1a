"""`ppl train gan` and `ppl train dcgan`: their options and recipes; playing.py does the rest."""

from typing import Annotated, Any

import typer

from inference.cli import game_options as g
from inference.cli import options as o
from inference.cli.app import GAMES, guarded, train_app

__all__ = ["dcgan", "gan"]

ZDim = Annotated[int | None, typer.Option(help="dimensions of the noise")]

# of points of known density: docs/ring.md
TOY: dict[str, Any] = {
    "pack": 2, "r1": 0.1, "z_dim": 8, "g_hidden": "128,128,128,128", "g_activation": "tanh", "d_hidden": "128,128",
    "fourier": "1,2,4,8", "batch_size": 256, "lr": 2e-3, "lr_g": 3e-3, "lr_final": 2e-6, "beta2": 0.99, "steps": 6000,
    "average": 0.999,
}  # fmt: skip
# of images and other rows
ROWS: dict[str, Any] = {
    "g_hidden": "256,512", "d_hidden": "512,256", "lr_final": 2e-6, "epochs": 50, "norm": "batch", "average": 0.999,
}  # fmt: skip
# of images by convolutions: docs/gan.md
CONVOLUTIONS: dict[str, Any] = {
    "z_dim": 64, "channels": 32, "batch_size": 64, "lr": 2e-3, "lr_final": 1e-5, "epochs": 26, "average": 0.999,
    "norm": "batch",
}  # fmt: skip
STACKED = CONVOLUTIONS | {"channels": 24, "pack": 2, "epochs": 28}  # of a thousand modes


@train_app.command(rich_help_panel=GAMES)
@guarded
def gan(
    data: Annotated[
        str, typer.Option(help="ring, grid or line, points of known density; a name from `ppl data`; or a file")
    ],
    out: o.Out,
    sd: Annotated[float | None, typer.Option(help="of a toy: standard deviation of its modes")] = None,
    points: Annotated[int, typer.Option(help="of a toy: points to learn from")] = 102_400,
    labels: g.Labels = False,
    loss: g.Loss = None,
    r1: g.R1 = None,
    gradient_penalty: g.GradientPenalty = None,
    pack: g.Pack = None,
    d_steps: g.DSteps = None,
    smoothing: g.Smoothing = None,
    freeze: g.Freeze = "off",
    freeze_at: g.FreezeAt = None,
    norm: g.Norm = None,
    feature_matching: g.FeatureMatching = 0.0,
    minibatch_discrimination: g.MinibatchDiscrimination = 0,
    historical_averaging: g.HistoricalAveraging = 0.0,
    spectral_norm: g.SpectralNorm = False,
    average: g.Average = None,
    z_dim: ZDim = None,
    g_hidden: Annotated[str | None, typer.Option(help="units of the generator's hidden layers")] = None,
    d_hidden: Annotated[str | None, typer.Option(help="units of the discriminator's hidden layers")] = None,
    fourier: Annotated[
        str | None, typer.Option(help="frequencies of sines of the data that the discriminator sees, or none")
    ] = None,
    g_activation: Annotated[str | None, typer.Option(help="relu, leaky_relu, tanh, ... of the generator")] = None,
    epochs: g.Epochs = None,
    steps: g.Steps = None,
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
    """Train a GAN of fully connected players (Goodfellow et al. 2014) on points or images."""
    given = locals()  # every option by its name
    from inference.cli.game_data import TOYS
    from inference.cli.playing import play

    run = g.game_run("gan", given, TOY if data in TOYS else ROWS)
    play(run, out, device=device, devices=devices, strategy=strategy)


@train_app.command(rich_help_panel=GAMES)
@guarded
def dcgan(
    data: Annotated[str, typer.Option(help="mnist, stacked_mnist, cifar10, ..., or a folder of images")],
    out: o.Out,
    labels: g.Labels = False,
    loss: g.Loss = None,
    r1: g.R1 = None,
    gradient_penalty: g.GradientPenalty = None,
    pack: g.Pack = None,
    d_steps: g.DSteps = None,
    smoothing: g.Smoothing = None,
    freeze: g.Freeze = "off",
    freeze_at: g.FreezeAt = None,
    norm: g.Norm = None,
    feature_matching: g.FeatureMatching = 0.0,
    minibatch_discrimination: g.MinibatchDiscrimination = 0,
    historical_averaging: g.HistoricalAveraging = 0.0,
    spectral_norm: g.SpectralNorm = False,
    average: g.Average = None,
    z_dim: ZDim = None,
    channels: Annotated[int | None, typer.Option(help="of the finest hidden layer; coarser ones double")] = None,
    d_channels: Annotated[int, typer.Option(help="those of the discriminator, where they differ")] = 0,
    epochs: g.Epochs = None,
    steps: g.Steps = None,
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
    """Train a DCGAN (Radford et al. 2016) on images of 28, 32 or 64 pixels a side."""
    given = locals()  # every option by its name
    from inference.cli.playing import play

    run = g.game_run("dcgan", given, STACKED if data == "stacked_mnist" else CONVOLUTIONS)
    play(run, out, device=device, devices=devices, strategy=strategy)
