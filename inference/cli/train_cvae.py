"""`ppl train cvae`: its options and defaults; running.py does the rest."""

from typing import Annotated

import typer

from inference.cli import options as o
from inference.cli.app import WITH_A_BOUND, guarded, train_app

__all__ = ["cvae"]


@train_app.command(rich_help_panel=WITH_A_BOUND)
@guarded
def cvae(
    data: o.Data,
    out: o.Out,
    condition: Annotated[str, typer.Option(help="what is given: upper, lower, left, right (half) or quadrant")],
    quadrants: Annotated[int, typer.Option(help="with --condition quadrant: how many are given, 1, 2 or 3")] = 1,
    objective: Annotated[str, typer.Option(help="elbo or iwae")] = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    elbo_epochs: Annotated[
        int | None, typer.Option(help="with iwae: epochs on the ELBO first; half of all by default")
    ] = None,
    z_dim: Annotated[int, typer.Option(help="latent dimensions")] = 50,
    hidden: Annotated[
        str, typer.Option(help="units of the hidden layers of guide and prior; the decoder mirrors them")
    ] = "200,200",
    activation: Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")] = "tanh",
    likelihood: Annotated[str, typer.Option(help="bernoulli or gaussian")] = "bernoulli",
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 40,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.01,
    adam_eps: o.AdamEps = 1e-4,
    clip_norm: o.ClipNorm = None,
    kl_warmup: o.KlWarmup = 0,
    patience: o.Patience = None,
    device: o.Device = "auto",
    devices: o.Devices = 1,
    strategy: o.Strategy = "auto",
    precision: o.Precision = "32-true",
    compile: o.Compile = "auto",
    threads: o.Threads = 0,
    checkpoint_epochs: o.CheckpointEpochs = 1,
    checkpoint_minutes: o.CheckpointMinutes = 10.0,
    tensorboard: o.Tensorboard = False,
) -> None:
    """Train a conditional VAE (Sohn et al. 2015): the rest of an image given a part of it."""
    from inference.cli.running import draws, integers, start
    from inference.cli.runs import Run

    if elbo_epochs is None:
        elbo_epochs = epochs // 2 if objective == "iwae" else 0
    run = Run(
        model="cvae",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation, "likelihood": likelihood,
        },
        data=data, condition=condition, quadrants=quadrants, binarize=binarize, objective=objective,
        k=draws(objective, k), elbo_epochs=elbo_epochs,
        gradient="dreg", epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final,
        seed=seed, weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm, kl_warmup=kl_warmup,
        patience=patience, precision=precision, compile=compile, threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device, devices=devices, strategy=strategy)
