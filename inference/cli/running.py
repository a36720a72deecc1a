"""The one path of a run, new or resumed: check every word, read the data, build, fit, write the page."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from inference.cli.folder import CONFIG, claimed, write_config
from inference.errors import RunError

__all__ = [
    "check", "check_numbers", "draws", "integers", "is_binary", "make_fabric", "make_objective", "settle", "start",
]  # fmt: skip

DREAM_RATE = 1 / 6  # of --lr, where the guide learns alone


def start(
    run: Any,
    out: Path,
    *,
    device: str,
    devices: int = 1,
    strategy: str = "auto",
    resume: bool = False,
    m1: Any = None,
) -> None:
    """The one path of a new run and a resumed one: everything is checked before the first byte is written.

    m1: the trained first part of a stacked model, whose folder is claimed already.
    """
    import torch

    from inference.cli.few_labels import batches_of, trained_part
    from inference.cli.page import write_page
    from inference.cli.runs import load_model
    from inference.training.fit import Saving, fit
    from inference.vi.objectives import TraceELBO
    from inference.vi.svi import SVI
    from inference.vi.wake_sleep import Dreaming
    from ppl_models import data as datasets

    check(run)
    if run.dream_epochs and devices > 1:
        raise RunError(f"--dream-epochs run in one process, got --devices {devices}: leave one of them out")
    if resume:
        load_model(out, run)  # refuses another model's checkpoint before anything is written
    if run.gradient == "auto":
        # the doubly reparameterised gradient takes no dropout, and is noisy where a guide shares the model's networks
        plain = run.options.get("input_dropout") or run.options.get("guide") == "ladder"
        run.gradient = "plain" if plain else "dreg"
    fabric = make_fabric(device, devices, strategy, run.precision, run.threads)
    train_set, _ = datasets.load(run.data, seed=run.seed)
    settle(run, train_set)
    held_out = None
    if run.patience is not None:
        train_set, held_out = datasets.hold_out(train_set, 0.1, run.seed)
    model = run.build(mean=run.rows(train_set.x.mean(0))[0])
    pair = trained_part(model, m1)
    if run.labels is not None:
        batches = batches_of(run, model, train_set)
    else:
        batches = datasets.Batches(train_set.x, run.batch_size, binarize=run.binarize == "dynamic")
        if run.parts:
            batches = datasets.SplitBatches(batches, run.parts)
    objective = make_objective(run, len(train_set.x))
    before = [(TraceELBO(), run.elbo_epochs * len(batches))]
    if run.dream_epochs:
        before.append((objective, (run.epochs - run.elbo_epochs) * len(batches)))
        objective = Dreaming(objective)
    svi = SVI(
        pair,
        objective,
        lambda parameters: torch.optim.AdamW(
            parameters, run.lr, eps=run.adam_eps, weight_decay=run.weight_decay, fused=True
        ),
        clip_norm=run.clip_norm,
        kl_weight=run.kl_weight,
        kl_warmup_steps=run.kl_warmup * len(batches),
        before=before,
        compile={"auto": "auto", "on": True, "off": False}[run.compile],
    )
    with nullcontext() if resume or m1 is not None or not fabric.is_global_zero else claimed(out):
        if fabric.is_global_zero:
            write_config(out, run)
        fabric.launch()  # the last thing: an error before it is one process's error, said once
        fit(
            svi, batches, run.epochs + run.dream_epochs, run.seed,
            saving=Saving(out, run.checkpoint_epochs, run.checkpoint_minutes, run.tensorboard),
            resume=resume,
            schedule=_schedule(run, len(batches)),
            validate=None if held_out is None else _validator(svi, held_out.x, run),
            patience=run.patience,
            fabric=fabric,
            progress=True,
        )  # fmt: skip
    if fabric.is_global_zero:
        page = write_page(out, device=str(fabric.device))
        typer.echo(f"{out / CONFIG}: the run\n{page}: the report")


def check(run: Any) -> None:
    """Refuse numbers that would fail only later, in the middle of a run."""
    if run.compile not in ("auto", "on", "off"):
        raise RunError(f"--compile is auto, on or off, got {run.compile}")
    least: dict[str, int] = dict.fromkeys(("epochs", "k", "batch_size", "checkpoint_epochs", "patience"), 1)
    least |= dict.fromkeys(("checkpoint_minutes", "kl_weight", "kl_warmup", "weight_decay", "adam_eps"), 0)
    least |= dict.fromkeys(("elbo_epochs", "dream_epochs"), 0) | {"labelled_batch": 1}
    check_numbers(run, least)
    if run.elbo_epochs and run.objective == "elbo":
        raise RunError("--elbo-epochs come before another objective: add --objective iwae, or leave it out")
    if run.elbo_epochs > run.epochs:
        raise RunError(f"--elbo-epochs is at most --epochs, {run.epochs}, got {run.elbo_epochs}: lower it")
    if run.clip_norm is not None and not run.clip_norm > 0:
        raise RunError(f"--clip-norm is above 0, got {run.clip_norm}: raise it or leave it out")


def check_numbers(run: Any, least: dict[str, int]) -> None:
    """Refuse learning rates that are not above 0, and options below their least values."""
    if not (0 < run.lr < float("inf") and 0 < run.lr_final < float("inf")):
        raise RunError(f"learning rates are above 0, got --lr {run.lr} --lr-final {run.lr_final}")
    for name, bound in least.items():
        value = getattr(run, name)
        if value is not None and not value >= bound:
            raise RunError(f"--{name.replace('_', '-')} is at least {bound}, got {value}: raise it or leave it out")


def make_objective(run: Any, rows: int) -> Any:
    """The bound that the words of a run name; rows: of the training data."""
    from inference.cli.few_labels import few_label_objective
    from inference.vi.baselines import NVIL
    from inference.vi.disarm import DisARM
    from inference.vi.objectives import IWAE, TraceELBO
    from inference.vi.wake_sleep import ReweightedWakeSleep

    if run.labels is not None:
        return few_label_objective(run, rows)
    known = {"elbo": lambda: TraceELBO(num_particles=run.k), "iwae": lambda: IWAE(run.k, run.gradient)}
    if run.model == "sbn":
        known |= {
            "rws": lambda: ReweightedWakeSleep(run.k),
            "nvil": lambda: NVIL(num_particles=run.k),
            "disarm": lambda: DisARM(num_particles=run.k),
        }
    if run.objective not in known:
        *others, last = known
        raise RunError(f"unknown objective '{run.objective}': choose {', '.join(others)} or {last}")
    return known[run.objective]()


def make_fabric(device: str, devices: int, strategy: str, precision: str, threads: int) -> Any:
    """A Lightning Fabric, not launched yet."""
    import torch
    from lightning_fabric import Fabric

    from inference.training.memory import keep_freed_memory

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
    keep_freed_memory()
    accelerator: Any = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)  # type: ignore[arg-type]


def _schedule(run: Any, steps: int) -> Callable[[float], float]:
    """The rate's factor: a straight line over the epochs, and another, lower one where the guide learns alone."""
    from inference.training.fit import linear

    fall, all_steps, total = linear(run.lr_final / run.lr), run.epochs * steps, (run.epochs + run.dream_epochs) * steps

    def factor(done: float) -> float:
        step = round(done * total)
        if step < all_steps:
            return fall(step / all_steps)
        return DREAM_RATE * (1 - (step - all_steps) / (total - all_steps))

    return factor


def settle(run: Any, train_set: Any) -> None:
    """Fill in what the data decide: sizes, image shape, kind of binarisation."""
    binary = is_binary(train_set.x)
    if run.binarize == "auto":
        bernoulli = run.options.get("likelihood", "bernoulli") == "bernoulli"
        run.binarize = "static" if binary else ("dynamic" if bernoulli else "none")
    elif run.binarize == "dynamic" and binary:
        raise RunError(f"{run.data} is binary already, so there is no grey value to draw from: leave --binarize out")
    elif run.binarize == "none" and binary:
        run.binarize = "static"
    elif run.binarize == "static" and not binary:
        raise RunError(f"{run.data} is grey, so nothing fixes its binarisation: pass --binarize dynamic or none")
    elif run.binarize not in ("static", "dynamic", "none"):
        raise RunError(f"unknown binarisation '{run.binarize}': choose auto, dynamic or none")
    if run.model == "sbn" and run.binarize == "none":
        raise RunError(f"a sigmoid belief network takes pixels of 0 and 1, and {run.data} is grey: --binarize dynamic")
    if run.batch_size > len(train_set.x):
        run.batch_size = len(train_set.x)
    shape = train_set.image_shape
    run.options |= {"x_dim": train_set.x.shape[1], "image_shape": list(shape)}
    if run.labels is not None:
        run.labels = len(train_set.x) if run.labels == "all" else run.labels
        if train_set.y is None:
            raise RunError(f"{run.data} has no labels to learn from: take a data set that has, such as mnist")
        run.options |= {"n_classes": int(train_set.y.max()) + 1}
        if run.shift == "auto":  # two pixels move a digit of 28 hardly, and one of 8 by a quarter of its width
            run.shift = 2 if min(shape[1:]) >= 28 else 0
    if run.parts:
        run.options |= {"x_dim": len(run.parts.predicted), "c_dim": len(run.parts.given)}


def is_binary(x: Any) -> bool:
    """Whether all pixels are 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())


def _validator(svi: Any, x: Any, run: Any) -> Any:
    from inference.evidence.importance import log_marginal
    from ppl_models import data as datasets

    if run.binarize == "dynamic":
        import torch

        x = datasets.binarize(x, torch.Generator().manual_seed(run.seed))
    return lambda: -log_marginal(svi.pair, run.rows(x), max(run.k, 1), seed=run.seed).mean


def draws(objective: str, k: int | None) -> int:
    """Samples per datum, the option --k: by default 5 for iwae, 1 for the others."""
    return k if k is not None else 5 if objective == "iwae" else 1


def integers(name: str, words: str) -> list[int]:
    """Whole numbers with commas between them, from the option --NAME."""
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise RunError(f"--{name} takes whole numbers with commas, such as 200,200, got '{words}'") from None
