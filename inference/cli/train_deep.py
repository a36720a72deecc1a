"""`ppl train dlgm`, `iwae2` and `draw`: their options and defaults; running.py does the rest."""

from typing import Annotated

import typer

from inference.cli import options as o
from inference.cli.app import WITH_A_BOUND, guarded, train_app
from inference.errors import RunError

__all__ = ["dlgm", "draw", "iwae2"]

Z_DIMS, HIDDEN = "100,50", "200,200/100,100"  # Burda's network, 784-200-200-100-100-100-50

Objective = Annotated[str, typer.Option(help="elbo or iwae")]
K = Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")]
ElboEpochs = Annotated[int | None, typer.Option(help="with iwae: epochs on the ELBO first; 3 in 5 by default")]
DreamEpochs = Annotated[
    int | None,
    typer.Option(help="then more, of the guide alone, on the model's draws too; by default one in 30 of --epochs"),
]
KlWarmup = Annotated[
    int | None,
    o.learning(help="epochs over which the regulariser's weight rises to 1, so that upper layers stay; 1 in 10"),
]
Guide = Annotated[str, typer.Option(help="chain (Burda), parallel (Rezende) or ladder (Sonderby)")]
Posterior = Annotated[
    str, typer.Option(help="diagonal, or rank_one: precision D + u u^T, Rezende's; not with the ladder")
]
Noise = Annotated[str, typer.Option(help="deviations of the model's layers: network, of the layer above, or learned")]
Gradient = Annotated[str, typer.Option(help="of iwae: dreg, plain, or auto: dreg but for the ladder")]
Activation = Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")]
Likelihood = Annotated[str, typer.Option(help="bernoulli or gaussian")]


@train_app.command(rich_help_panel=WITH_A_BOUND)
@guarded
def dlgm(
    data: o.Data,
    out: o.Out,
    z_dims: Annotated[str, typer.Option(help="latent dimensions of each layer, from the data up")] = Z_DIMS,
    hidden: Annotated[
        str, typer.Option(help="units of the deterministic layers below each, / between layers; - for none")
    ] = HIDDEN,
    guide: Guide = "ladder",
    posterior: Posterior = "diagonal",
    noise: Noise = "network",
    activation: Activation = "tanh",
    likelihood: Likelihood = "bernoulli",
    objective: Objective = "elbo",
    k: K = None,
    elbo_epochs: ElboEpochs = None,
    dream_epochs: DreamEpochs = None,
    gradient: Gradient = "auto",
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 300,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.01,
    adam_eps: o.AdamEps = 1e-4,
    clip_norm: o.ClipNorm = None,
    kl_weight: o.KlWeight = 1.0,
    kl_warmup: KlWarmup = None,
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
    """Train a deep latent Gaussian model (Rezende et al. 2014): L layers, three guides."""
    from inference.cli.running import draws, integers, start
    from inference.cli.runs import Run

    elbo_epochs, dream_epochs, kl_warmup = _shares(epochs, objective, devices, elbo_epochs, dream_epochs, kl_warmup)
    run = Run(
        model="dlgm",
        options={
            "z_dims": integers("z-dims", z_dims), "hidden": _layers(hidden), "guide": guide, "posterior": posterior,
            "noise": noise, "activation": activation, "likelihood": likelihood,
        },
        data=data, binarize=binarize, objective=objective, k=draws(objective, k), elbo_epochs=elbo_epochs,
        dream_epochs=dream_epochs, gradient=gradient, epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final,
        seed=seed, weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm, kl_weight=kl_weight,
        kl_warmup=kl_warmup, patience=patience, precision=precision, compile=compile, threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device, devices=devices, strategy=strategy)


@train_app.command(rich_help_panel=WITH_A_BOUND)  # guarded by dlgm
def iwae2(
    data: o.Data,
    out: o.Out,
    guide: Guide = "chain",
    objective: Objective = "iwae",
    k: K = None,
    elbo_epochs: ElboEpochs = None,
    dream_epochs: DreamEpochs = None,
    gradient: Gradient = "auto",
    binarize: o.Binarize = "auto",
    epochs: o.Epochs = 300,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    weight_decay: o.WeightDecay = 0.01,
    adam_eps: o.AdamEps = 1e-4,
    clip_norm: o.ClipNorm = None,
    kl_warmup: KlWarmup = None,
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
    """Train Burda's two-layer network (2016), 784-200-200-100-100-100-50: `dlgm` in that setting, on IWAE-5."""
    dlgm(
        data, out, z_dims=Z_DIMS, hidden=HIDDEN, guide=guide, objective=objective, k=k, elbo_epochs=elbo_epochs,
        dream_epochs=dream_epochs, gradient=gradient, binarize=binarize, epochs=epochs, batch_size=batch_size, lr=lr,
        lr_final=lr_final, seed=seed, weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm,
        kl_warmup=kl_warmup, patience=patience, device=device, devices=devices, strategy=strategy,
        precision=precision, compile=compile, threads=threads, checkpoint_epochs=checkpoint_epochs,
        checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip


@train_app.command(rich_help_panel=WITH_A_BOUND)
@guarded
def draw(
    data: o.Data,
    out: o.Out,
    glimpses: Annotated[int, typer.Option(help="T, steps of drawing")] = 10,
    z_dim: Annotated[int, typer.Option(help="latent dimensions of each step")] = 100,
    units: Annotated[int, typer.Option(help="of the encoder's and of the decoder's LSTM")] = 256,
    read: Annotated[int | None, typer.Option(help="side of the window that reads; without it all of the image")] = None,
    write: Annotated[
        int | None, typer.Option(help="side of the window that writes; without it all of the image")
    ] = None,
    likelihood: Likelihood = "bernoulli",
    objective: Objective = "elbo",
    k: K = None,
    elbo_epochs: Annotated[
        int | None, typer.Option(help="with iwae: epochs on the ELBO first; half of all by default")
    ] = None,
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
    """Train DRAW (Gregor et al. 2015): an image drawn in T steps, with --read 2 --write 5 through windows."""
    from inference.cli.running import draws, start
    from inference.cli.runs import Run

    if elbo_epochs is None:
        elbo_epochs = epochs // 2 if objective == "iwae" else 0
    run = Run(
        model="draw",
        options={
            "glimpses": glimpses, "z_dim": z_dim, "units": units, "read": read, "write": write,
            "likelihood": likelihood,
        },
        data=data, binarize=binarize, objective=objective, k=draws(objective, k), elbo_epochs=elbo_epochs,
        gradient="dreg", epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final, seed=seed,
        weight_decay=weight_decay, adam_eps=adam_eps, clip_norm=clip_norm, kl_warmup=kl_warmup, patience=patience,
        precision=precision, compile=compile, threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    start(run, out, device=device, devices=devices, strategy=strategy)


def _shares(
    epochs: int, objective: str, devices: int, elbo: int | None, dream: int | None, warmup: int | None
) -> tuple[int, int, int]:
    """Of --epochs, where they are not given: those on the ELBO first, the guide's own at the end, and the warm-up."""
    if elbo is None:
        elbo = 3 * epochs // 5 if objective == "iwae" else 0
    if dream is None:
        dream = epochs // 30 if devices == 1 else 0
    return elbo, dream, epochs // 10 if warmup is None else warmup


def _layers(words: str) -> list[list[int]]:
    """The option --hidden of several layers: "200,200/100,100"; "-" is a layer without hidden units."""
    from inference.cli.running import integers

    try:
        return [[] if part.strip() == "-" else integers("hidden", part) for part in words.split("/")]
    except RunError:
        raise RunError(
            f"--hidden takes the units below each latent layer, such as 200,200/100,100, got '{words}'"
        ) from None
