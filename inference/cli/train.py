"""`ppl train`: a command a model, each the list of its options and defaults; running.py does the rest."""

from pathlib import Path
from typing import Annotated

import typer

from inference.cli import options as o
from inference.cli.app import WITH_A_BOUND, guarded, train_app
from inference.errors import RunError

__all__ = ["sbn", "train", "vae"]


@train_app.callback(invoke_without_command=True)
@guarded
def train(
    context: typer.Context,
    resume: Annotated[Path | None, typer.Option(help="folder of a run to go on with")] = None,
    epochs: Annotated[int | None, typer.Option(help="with --resume: train to this many epochs")] = None,
    device: Annotated[str, typer.Option(help="with --resume: cpu, cuda or auto")] = "auto",
) -> None:
    """Train a model: `ppl train vae --data digits --out runs/a`; go on: `ppl train --resume runs/a`."""
    if resume is not None:
        from inference.cli.game_folder import is_game, open_game
        from inference.cli.playing import play
        from inference.cli.running import start
        from inference.cli.runs import open_run
        from inference.cli.stacked import resume_stacked
        from inference.cli.train_own import is_own_run, resume_own

        if context.invoked_subcommand is not None:
            raise RunError(f"--resume goes on with a run and takes no model: `ppl train --resume {resume}` alone")
        if is_own_run(resume):
            resume_own(resume, epochs)
            return
        if is_game(resume):
            game = open_game(resume)
            game.epochs = game.epochs if epochs is None else epochs
            play(game, resume, device=device, resume=True)
            return
        run = open_run(resume)
        run.epochs = run.epochs if epochs is None else epochs
        if run.m1 is not None:
            resume_stacked(run, resume, device=device)
            return
        start(run, resume, device=device, resume=True)
    elif epochs is not None or device != "auto":
        raise RunError("--epochs and --device come after the model's name: `ppl train vae --epochs 10 ...`")
    elif context.invoked_subcommand is None:
        raise RunError("name a model (`ppl train vae --help`) or a run to go on with (`ppl train --resume DIR`)")


@train_app.command(rich_help_panel=WITH_A_BOUND)
@guarded
def vae(
    data: o.Data,
    out: o.Out,
    objective: Annotated[str, typer.Option(help="elbo or iwae")] = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    elbo_epochs: Annotated[
        int | None, typer.Option(help="with iwae: epochs on the ELBO first; half of all by default")
    ] = None,
    dream_epochs: Annotated[
        int | None,
        typer.Option(help="then more, of the guide alone, on the model's draws too; by default one in 30 of --epochs"),
    ] = None,
    gradient: Annotated[str, typer.Option(help="of iwae: dreg, plain, or auto: dreg unless there is dropout")] = "auto",
    z_dim: Annotated[int, typer.Option(help="latent dimensions")] = 50,
    hidden: Annotated[
        str, typer.Option(help="units of the encoder's hidden layers; the decoder mirrors them")
    ] = "200,200",
    activation: Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")] = "tanh",
    likelihood: Annotated[str, typer.Option(help="bernoulli or gaussian")] = "bernoulli",
    conv: Annotated[bool, typer.Option(help="convolutional networks; --hidden CHANNELS,UNITS")] = False,
    input_dropout: Annotated[float, typer.Option(help="share of pixels hidden from the encoder in training")] = 0.0,
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 600,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.01,
    adam_eps: o.AdamEps = 1e-4,
    clip_norm: o.ClipNorm = None,
    kl_weight: o.KlWeight = 1.0,
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
    """Train a variational autoencoder (Kingma & Welling 2014) on images."""
    from inference.cli.running import draws, integers, start
    from inference.cli.runs import Run

    if elbo_epochs is None:
        elbo_epochs = epochs // 2 if objective == "iwae" else 0
    if dream_epochs is None:
        dream_epochs = epochs // 30 if devices == 1 else 0
    run = Run(
        model="vae",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation,
            "likelihood": likelihood, "conv": conv, "input_dropout": input_dropout,
        },
        data=data, binarize=binarize, objective=objective,
        k=draws(objective, k),
        elbo_epochs=elbo_epochs, dream_epochs=dream_epochs,
        gradient=gradient, epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final,
        seed=seed, weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm,
        kl_weight=kl_weight, kl_warmup=kl_warmup, patience=patience, precision=precision, compile=compile,
        threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device, devices=devices, strategy=strategy)


@train_app.command(rich_help_panel=WITH_A_BOUND)
@guarded
def sbn(
    data: o.Data,
    out: o.Out,
    objective: Annotated[str, typer.Option(help="rws, iwae (VIMCO), elbo (leave-one-out), nvil or disarm")] = "iwae",
    k: Annotated[int | None, typer.Option(help="samples per datum: 5; for nvil and disarm 1")] = None,
    hidden: Annotated[str, typer.Option(help="units of the hidden layers, from the data up")] = "200",
    guide_hidden: Annotated[
        int | None, typer.Option(help="units of a hidden layer in the guide's networks; linear without")
    ] = None,
    autoregressive: Annotated[bool, typer.Option(help="units of the guide see those before them")] = False,
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 280,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.0,
    adam_eps: o.AdamEps = 1e-8,
    clip_norm: o.ClipNorm = None,
    kl_warmup: o.KlWarmup = 0,
    patience: o.Patience = None,
    device: o.Device = "auto",
    devices: o.Devices = 1,
    strategy: o.Strategy = "auto",
    compile: o.Compile = "auto",
    threads: o.Threads = 0,
    checkpoint_epochs: o.CheckpointEpochs = 1,
    checkpoint_minutes: o.CheckpointMinutes = 10.0,
    tensorboard: o.Tensorboard = False,
) -> None:
    """Train a sigmoid belief network (Neal 1992) on binary images."""
    from inference.cli.running import integers, start
    from inference.cli.runs import Run

    run = Run(
        model="sbn",
        options={
            "hidden": integers("hidden", hidden), "guide_hidden": guide_hidden, "autoregressive": autoregressive,
        },
        data=data, binarize=binarize, objective=objective,
        k=(1 if objective in ("nvil", "disarm") else 5) if k is None else k, gradient="plain", epochs=epochs,
        batch_size=batch_size, lr=lr, lr_final=lr_final, seed=seed, weight_decay=weight_decay, adam_eps=adam_eps,
        clip_norm=clip_norm, kl_warmup=kl_warmup, patience=patience, compile=compile, threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device, devices=devices, strategy=strategy)
