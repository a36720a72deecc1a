"""`ppl train ssvae`: its options and defaults; running.py does the rest."""

from typing import Annotated

import typer

from inference.cli import options as o
from inference.cli.app import guarded, train_app

__all__ = ["ssvae"]

Labels = Annotated[str, typer.Option(help="rows whose labels are seen: a number, 0, or all")]
LabelSeed = Annotated[int | None, typer.Option(help="of the draw of these rows; --seed by default")]
Unbalanced = Annotated[bool, typer.Option("--unbalanced", help="draw them without regard to class")]
LabelledBatch = Annotated[int, typer.Option(help="labelled rows in a step, beside --batch-size unlabelled ones")]
Alpha = Annotated[float, typer.Option(help="weight of the classification term: alpha N / L a labelled row")]
Objective = Annotated[str, typer.Option(help="elbo or iwae; labels are summed out in both")]
ZDim = Annotated[int, typer.Option(help="dimensions of the style")]
Hidden = Annotated[str, typer.Option(help="units of the encoders' hidden layers; the decoder mirrors them")]
Activation = Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")]


@train_app.command()
@guarded
def ssvae(
    data: o.Data,
    out: o.Out,
    labels: Labels,
    label_seed: LabelSeed = None,
    unbalanced: Unbalanced = False,
    labelled_batch: LabelledBatch = 100,
    alpha: Alpha = 1.0,
    objective: Objective = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    z_dim: ZDim = 50,
    hidden: Hidden = "500",
    activation: Activation = "softplus",
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
    from inference.cli.few_labels import number_of_labels
    from inference.cli.running import integers, start
    from inference.cli.runs import Run

    run = Run(
        model="ssvae",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation, "likelihood": likelihood,
        },
        labels=number_of_labels(labels), label_seed=seed if label_seed is None else label_seed,
        balanced=not unbalanced, labelled_batch=labelled_batch, alpha=alpha,
        data=data, binarize=binarize, objective=objective, k=(5 if objective == "iwae" else 1) if k is None else k,
        gradient="plain", epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final, seed=seed,
        weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm, kl_warmup=kl_warmup, precision=precision,
        compile=compile, threads=threads, checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes,
        tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device)
