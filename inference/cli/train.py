"""`ppl train`: build the pair, its bound and its data from words; fit; write the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli.app import guarded, train_app
from inference.errors import RunError

__all__ = ["train", "vae"]


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
        from inference.cli.runs import open_run

        if context.invoked_subcommand is not None:
            raise RunError(f"--resume goes on with a run and takes no model: `ppl train --resume {resume}` alone")
        run = open_run(resume)
        run.epochs = run.epochs if epochs is None else epochs
        _train(run, resume, device=device, devices=1, strategy="auto", resume=True)
    elif epochs is not None or device != "auto":
        raise RunError("--epochs and --device come after the model's name: `ppl train vae --epochs 10 ...`")
    elif context.invoked_subcommand is None:
        raise RunError("name a model (`ppl train vae --help`) or a run to go on with (`ppl train --resume DIR`)")


@train_app.command()
@guarded
def vae(
    data: Annotated[str, typer.Option(help="a name from `ppl data`, or a .npy, .npz or folder of images")],
    out: Annotated[Path, typer.Option(help="folder for the run; must be new or empty")],
    objective: Annotated[str, typer.Option(help="elbo or iwae")] = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    elbo_epochs: Annotated[int, typer.Option(help="with iwae: train so many epochs on the ELBO first")] = 0,
    gradient: Annotated[str, typer.Option(help="of iwae: dreg, plain, or auto: dreg unless there is dropout")] = "auto",
    z_dim: Annotated[int, typer.Option(help="latent dimensions")] = 50,
    hidden: Annotated[
        str, typer.Option(help="units of the encoder's hidden layers; the decoder mirrors them")
    ] = "200,200",
    activation: Annotated[str, typer.Option(help="tanh, relu, softplus, elu or gelu")] = "tanh",
    likelihood: Annotated[str, typer.Option(help="bernoulli or gaussian")] = "bernoulli",
    conv: Annotated[bool, typer.Option(help="convolutional networks; --hidden CHANNELS,UNITS")] = False,
    binarize: Annotated[str, typer.Option(help="auto, dynamic (each visit draws grey images anew) or none")] = "auto",
    epochs: Annotated[int, typer.Option(help="passes over the data")] = 390,
    batch_size: Annotated[int, typer.Option(help="rows in a step")] = 100,
    lr: Annotated[float, typer.Option(help="Adam's learning rate at the start")] = 2e-3,
    lr_final: Annotated[float, typer.Option(help="and at the end; it falls on a straight line")] = 2e-5,
    seed: Annotated[int, typer.Option(help="of weights, batches and draws")] = 0,
    weight_decay: Annotated[float, typer.Option(help="decoupled, of every weight")] = 0.01,
    input_dropout: Annotated[float, typer.Option(help="share of pixels hidden from the encoder in training")] = 0.0,
    clip_norm: Annotated[float | None, typer.Option(help="largest norm of the gradient")] = None,
    kl_warmup: Annotated[int, typer.Option(help="epochs over which the regulariser's weight rises to 1")] = 0,
    patience: Annotated[
        int | None, typer.Option(help="stop after so many epochs without a better held-out bound")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    devices: Annotated[int, typer.Option(help="processes, one a device")] = 1,
    strategy: Annotated[str, typer.Option(help="of several processes: auto or ddp")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed")] = "32-true",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch its own choice")] = 0,
    checkpoint_epochs: Annotated[int, typer.Option(help="a checkpoint after so many epochs")] = 1,
    checkpoint_minutes: Annotated[float, typer.Option(help="and after so many minutes")] = 10.0,
    tensorboard: Annotated[bool, typer.Option(help="log to OUT/tensorboard too")] = False,
) -> None:
    """Train a variational autoencoder (Kingma & Welling 2014) on images."""
    from inference.cli.runs import Run

    run = Run(
        model="vae",
        options={
            "z_dim": z_dim, "hidden": integers("hidden", hidden), "activation": activation,
            "likelihood": likelihood, "conv": conv, "input_dropout": input_dropout,
        },
        data=data, binarize=binarize, objective=objective,
        k=(5 if objective == "iwae" else 1) if k is None else k,
        elbo_epochs=elbo_epochs, gradient=gradient, epochs=epochs, batch_size=batch_size, lr=lr, lr_final=lr_final, seed=seed,
        weight_decay=weight_decay, clip_norm=clip_norm, kl_warmup=kl_warmup, patience=patience,
        precision=precision, threads=threads,
        checkpoint_epochs=checkpoint_epochs, checkpoint_minutes=checkpoint_minutes, tensorboard=tensorboard,
    )  # fmt: skip
    _train(run, out, device=device, devices=devices, strategy=strategy, resume=False)


def _train(run: Any, out: Path, *, device: str, devices: int, strategy: str, resume: bool) -> None:
    """The one path of a new run and a resumed one: everything is checked before the first byte is written."""
    import torch

    from inference.cli.page import write_page
    from inference.cli.runs import CONFIG, load_model
    from inference.training.fit import Saving, fit, linear
    from inference.vi.objectives import TraceELBO
    from inference.vi.svi import SVI
    from ppl_models import data as datasets

    _check(run)
    if resume:
        load_model(out, run)  # refuses another model's checkpoint before anything is written
    if run.gradient == "auto":  # the doubly reparameterised gradient runs the guide twice, so it takes no dropout
        run.gradient = "plain" if run.options.get("input_dropout") else "dreg"
    objective = make_objective(run)
    fabric = make_fabric(device, devices, strategy, run.precision, run.threads)
    train_set, _ = datasets.load(run.data, seed=run.seed)
    _settle(run, train_set)
    held_out = None
    if run.patience is not None:
        train_set, held_out = datasets.hold_out(train_set, 0.1, run.seed)
    model = run.build(mean=train_set.x.mean(0))
    batches = datasets.Batches(train_set.x, run.batch_size, binarize=run.binarize == "dynamic")
    svi = SVI(
        model,
        objective,
        # Burda's eps: pixels that are hardly ever on would else take steps as long as all others
        lambda parameters: torch.optim.AdamW(parameters, run.lr, eps=1e-4, weight_decay=run.weight_decay, fused=True),
        clip_norm=run.clip_norm,
        kl_warmup_steps=run.kl_warmup * len(batches),
        warmup=TraceELBO(),
        warmup_steps=run.elbo_epochs * len(batches),
    )
    with nullcontext() if resume or not fabric.is_global_zero else _claimed(out):
        if fabric.is_global_zero:
            run.write(out)
        fabric.launch()  # the last thing: an error before it is one process's error, said once
        fit(
            svi, batches, run.epochs, run.seed,
            saving=Saving(out, run.checkpoint_epochs, run.checkpoint_minutes, run.tensorboard),
            resume=resume,
            schedule=linear(run.lr_final / run.lr),
            validate=None if held_out is None else _validator(svi, held_out.x, run),
            patience=run.patience,
            fabric=fabric,
            progress=True,
        )  # fmt: skip
    if fabric.is_global_zero:
        page = write_page(out, device=str(fabric.device))
        typer.echo(f"{out / CONFIG}: the run\n{page}: the report")


def _check(run: Any) -> None:
    """Refuse numbers that would fail only later, in the middle of a run."""
    if not (0 < run.lr < float("inf") and 0 < run.lr_final < float("inf")):
        raise RunError(f"learning rates are above 0, got --lr {run.lr} --lr-final {run.lr_final}")
    least_one = dict.fromkeys(("epochs", "k", "batch_size", "checkpoint_epochs", "patience"), 1)
    for name, bound in {**least_one, "checkpoint_minutes": 0, "kl_warmup": 0, "weight_decay": 0, "elbo_epochs": 0}.items():
        value = getattr(run, name)
        if value is not None and not value >= bound:
            raise RunError(f"--{name.replace('_', '-')} is at least {bound}, got {value}: raise it or leave it out")
    if run.elbo_epochs and run.objective == "elbo":
        raise RunError("--elbo-epochs come before another objective: add --objective iwae, or leave it out")
    if run.clip_norm is not None and not run.clip_norm > 0:
        raise RunError(f"--clip-norm is above 0, got {run.clip_norm}: raise it or leave it out")


def make_objective(run: Any) -> Any:
    """The bound that the words of a run name."""
    from inference.vi.objectives import IWAE, TraceELBO

    if run.objective == "elbo":
        return TraceELBO(num_particles=run.k)
    if run.objective == "iwae":
        return IWAE(run.k, run.gradient)
    raise RunError(f"unknown objective '{run.objective}': choose elbo or iwae")


def make_fabric(device: str, devices: int, strategy: str, precision: str, threads: int) -> Any:
    """A Lightning Fabric, not launched yet."""
    import torch
    from lightning_fabric import Fabric

    if device not in ("auto", "cpu", "cuda"):
        raise RunError(f"unknown device '{device}': choose cpu, cuda or auto")
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("this machine has no CUDA device that torch can use: pass --device cpu")
    if precision not in ("32-true", "bf16-mixed"):
        raise RunError(f"unknown precision '{precision}': choose 32-true or bf16-mixed")
    if devices < 1 or threads < 0:
        raise RunError(f"--devices is at least 1 and --threads at least 0, got {devices} and {threads}")
    if threads:
        torch.set_num_threads(threads)
    accelerator: Any = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)  # type: ignore[arg-type]


def _settle(run: Any, train_set: Any) -> None:
    """Fill in what the data decide: sizes, image shape, kind of binarisation."""
    binary = bool(((train_set.x == 0) | (train_set.x == 1)).all())
    if run.binarize == "auto":
        bernoulli = run.options.get("likelihood") == "bernoulli"
        run.binarize = "static" if binary else ("dynamic" if bernoulli else "none")
    elif run.binarize == "dynamic" and binary:
        raise RunError(f"{run.data} is binary already, so there is no grey value to draw from: leave --binarize out")
    elif run.binarize == "none" and binary:
        run.binarize = "static"
    elif run.binarize == "static" and not binary:
        raise RunError(f"{run.data} is grey, so nothing fixes its binarisation: pass --binarize dynamic or none")
    elif run.binarize not in ("static", "dynamic", "none"):
        raise RunError(f"unknown binarisation '{run.binarize}': choose auto, dynamic or none")
    if run.batch_size > len(train_set.x):
        run.batch_size = len(train_set.x)
    shape = train_set.image_shape
    run.options |= {"x_dim": train_set.x.shape[1], "image_shape": list(shape)}


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Make the run's folder, or refuse one that holds anything; without a checkpoint at the end, take it away again."""
    from inference.cli.runs import CONFIG
    from inference.training.run import CHECKPOINT, METRICS

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty: choose another --out, or go on with `ppl train --resume {out}`")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        if not (out / CHECKPOINT).exists():
            with suppress(OSError):  # the first error is the one to tell
                (out / CONFIG).unlink(missing_ok=True)
                (out / METRICS).unlink(missing_ok=True)
                shutil.rmtree(out / "tensorboard", ignore_errors=True)
                for folder in made:
                    folder.rmdir()
        raise


def _validator(svi: Any, x: Any, run: Any) -> Any:
    from inference.evidence.importance import log_marginal
    from ppl_models import data as datasets

    if run.binarize == "dynamic":
        import torch

        x = datasets.binarize(x, torch.Generator().manual_seed(run.seed))
    return lambda: -log_marginal(svi.pair, x, max(run.k, 1), seed=run.seed).mean


def integers(name: str, words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise RunError(f"--{name} takes whole numbers with commas, such as 200,200, got '{words}'") from None
