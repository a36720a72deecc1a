"""`ppl train ssvae` and `ppl train m1m2`: their options and defaults; running.py and stacked.py do the rest."""

from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli import options as o
from inference.cli.app import FEW_LABELS, guarded, train_app

__all__ = ["m1m2", "ssvae"]

Labels = Annotated[str, typer.Option(help="rows whose labels are seen: a number, 0, or all")]
LabelSeed = Annotated[int | None, typer.Option(help="of the draw of these rows; --seed by default")]
Unbalanced = Annotated[bool, typer.Option("--unbalanced", help="draw them without regard to class")]
LabelledBatch = Annotated[int, typer.Option(help="labelled rows in a step, beside --batch-size unlabelled ones")]
Alpha = Annotated[float, typer.Option(help="weight of the classification term: alpha N / L a labelled row")]
Share = Annotated[str, typer.Option(help="labelled rows weigh as they do in a batch, or in the data: batch or data")]
Dropout = Annotated[float, typer.Option(help="share of the classifier's hidden units left out in training")]
Shift = Annotated[
    str, typer.Option(help="pixels by which each visit moves an image, at most; auto: 2 from 28 pixels a side, else 0")
]
Objective = Annotated[str, typer.Option(help="elbo or iwae; labels are summed out in both")]
ZDim = Annotated[int, typer.Option(help="dimensions of the style")]
Hidden = Annotated[str, typer.Option(help="units of the encoders' hidden layers; the decoder mirrors them")]
Activation = Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")]


@train_app.command(rich_help_panel=FEW_LABELS)
@guarded
def ssvae(
    data: o.Data,
    out: o.Out,
    labels: Labels,
    label_seed: LabelSeed = None,
    unbalanced: Unbalanced = False,
    labelled_batch: LabelledBatch = 100,
    alpha: Alpha = 50.0,
    share: Share = "batch",
    objective: Objective = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    z_dim: ZDim = 50,
    hidden: Hidden = "500",
    activation: Activation = "relu",
    shift: Shift = "auto",
    dropout: Dropout = 0.0,
    likelihood: Annotated[str, typer.Option(help="bernoulli or gaussian")] = "bernoulli",
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 30,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.0,
    adam_eps: o.AdamEps = 1e-8,
    clip_norm: o.ClipNorm = None,
    kl_warmup: o.KlWarmup = 0,
    device: o.Device = "auto",
    precision: o.Precision = "32-true",
    compile: o.Compile = "auto",
    threads: o.Threads = 0,
    checkpoint_epochs: o.CheckpointEpochs = 1,
    checkpoint_minutes: o.CheckpointMinutes = 10.0,
    tensorboard: o.Tensorboard = False,
) -> None:
    """Train a semi-supervised VAE, M2 of Kingma et al. 2014: few labels, many images."""
    from inference.cli.few_labels import number_of_labels, pixels
    from inference.cli.running import draws, integers, start
    from inference.cli.runs import Run

    run = Run(
        model="ssvae",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation, "dropout": dropout,
            "likelihood": likelihood,
        },
        labels=number_of_labels(labels), label_seed=seed if label_seed is None else label_seed,
        balanced=not unbalanced, labelled_batch=labelled_batch, alpha=alpha,
        share=share, shift=pixels(shift),
        data=data, binarize=binarize, objective=objective, k=draws(objective, k),
        gradient="plain", epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final, seed=seed,
        weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm, kl_warmup=kl_warmup, precision=precision,
        compile=compile, threads=threads, checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes,
        tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device)


@train_app.command(rich_help_panel=FEW_LABELS)
@guarded
def m1m2(
    data: o.Data,
    out: o.Out,
    labels: Labels,
    m1: Annotated[
        Path | None, typer.Option(help="a run of `ppl train vae` on the same data; by default trained first, in OUT/m1")
    ] = None,
    m1_epochs: Annotated[int, typer.Option(help="M1 trained first: passes over the data")] = 50,
    m1_kl_weight: Annotated[
        float, typer.Option(help="M1 trained first: weight of its regulariser; below 1 codes keep classes apart")
    ] = 0.1,
    m1_z_dim: Annotated[int, typer.Option(help="M1 trained first: dimensions of the code")] = 50,
    m1_hidden: Annotated[str, typer.Option(help="M1 trained first: units of the encoder's hidden layers")] = "500,500",
    m1_activation: Annotated[str, typer.Option(help="M1 trained first")] = "softplus",
    label_seed: LabelSeed = None,
    unbalanced: Unbalanced = False,
    labelled_batch: LabelledBatch = 100,
    alpha: Alpha = 5.0,
    share: Share = "data",
    objective: Objective = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    z_dim: ZDim = 50,
    hidden: Hidden = "500",
    activation: Activation = "relu",
    dropout: Dropout = 0.5,
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 30,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.0,
    adam_eps: o.AdamEps = 1e-8,
    clip_norm: o.ClipNorm = None,
    kl_warmup: o.KlWarmup = 0,
    device: o.Device = "auto",
    precision: o.Precision = "32-true",
    compile: o.Compile = "auto",
    threads: o.Threads = 0,
    checkpoint_epochs: o.CheckpointEpochs = 1,
    checkpoint_minutes: o.CheckpointMinutes = 10.0,
    tensorboard: o.Tensorboard = False,
) -> None:
    """Train M1+M2 of Kingma et al. 2014: a VAE of the images, then an M2 of its codes."""
    from inference.cli.few_labels import number_of_labels
    from inference.cli.running import draws, integers
    from inference.cli.runs import Run
    from inference.cli.stacked import start_stacked

    both: dict[str, Any] = {
        "data": data, "binarize": binarize, "batch_size": batch_size, "lr": lr, "lr_final": lr_final, "seed": seed,
        "weight_decay": weight_decay, "adam_eps": adam_eps, "clip_norm": clip_norm, "precision": precision,
        "compile": compile, "threads": threads, "checkpoint_epochs": checkpoint_epochs,
        "checkpoint_minutes": checkpoint_minutes, "tensorboard": tensorboard,
    }  # fmt: skip
    first = Run(
        model="vae",
        options={"z_dim": m1_z_dim, "hidden": integers("m1-hidden", m1_hidden), "activation": m1_activation},
        objective="elbo", k=1, gradient="dreg", epochs=m1_epochs, kl_weight=m1_kl_weight, **both,
    )  # fmt: skip
    run = Run(
        model="m1m2",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation, "dropout": dropout,
        },
        labels=number_of_labels(labels), label_seed=seed if label_seed is None else label_seed,
        balanced=not unbalanced, labelled_batch=labelled_batch, alpha=alpha,
        share=share,
        objective=objective, k=draws(objective, k), gradient="plain",
        epochs=epochs, kl_warmup=kl_warmup, **both,
    )  # fmt: skip
    start_stacked(run, out, m1=first if m1 is None else m1, device=device)
