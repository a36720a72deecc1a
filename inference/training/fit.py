"""The only epoch loop. It drives a Stepper, and knows neither ELBO nor GAN.

    for epoch: for batch: info = stepper.step(*batch)

Around that line: the device, precision and processes of Lightning Fabric, a learning-rate schedule, a progress bar, a
line of metrics an epoch, early stopping, and checkpoints from which a run goes on as if it had never stopped: batches
are a function of (epoch, seed), and the checkpoint holds the rest (parameters, optimiser, RNG, position, sums so far).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from inference.errors import RunError
from inference.training.monitor import Bar, StopSignal, bound_words
from inference.training.run import CHECKPOINT, METRICS, Run
from inference.types import BatchSource, Stepper

__all__ = ["Saving", "linear", "fit"]


@dataclass(frozen=True)
class Saving:
    """Where a run is kept and how often: after every `epochs` epochs, and after every `minutes` within one."""

    out: Path
    epochs: int = 1
    minutes: float = 10.0
    tensorboard: bool = False


def linear(final: float) -> Callable[[float], float]:
    """A schedule: the learning rate falls on a straight line to `final` times its start over the run."""
    return lambda done: 1.0 - (1.0 - final) * done


def fit(
    stepper: Stepper,
    batches: BatchSource,
    epochs: int,
    seed: int = 0,
    *,
    saving: Saving | None = None,
    resume: bool = False,
    schedule: Callable[[float], float] | None = None,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    fabric: Any = None,
    progress: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train for `epochs` passes over the batches; the caller's RNG is left as it was.

    Args:
        stepper: what learns: `SVI(...)`.
        batches: `data.Batches(...)`; a plain tensor of rows is not enough.
        epochs: passes over the data, counted from the run's start, resumed or not.
        seed: of the order of batches and of every draw.
        saving: where and how often to write `checkpoint.safetensors` and `metrics.jsonl`; without it, nothing is.
        resume: go on from the checkpoint in `saving.out`.
        schedule: factor of the learning rate as a function of the share of steps done, in [0, 1].
        validate: a loss in nats per datum, lower is better, taken after each epoch.
        patience: stop when `validate` has not improved for so many epochs.
        fabric: a launched `lightning_fabric.Fabric`; by default the CPU in one process.
        progress: show a bar; what it says of the run is the stepper's `words(means)`, if it has that method.
        on_epoch: called with the history's row after each epoch, in the first process, before its checkpoint.

    Returns:
        The history: for each epoch its number, steps, the mean of each field of the step's info weighted by rows,
        learning rate, seconds and CPU-seconds since the run's start.

    Raises:
        NonFiniteError: a loss is NaN or infinite; names the step and the last checkpoint.
        Interrupted: Ctrl-C or SIGTERM; the state is saved first where `saving` says where.
        RunError, CheckpointError: options or files that do not fit.
    """
    if epochs < 1:
        raise RunError(f"the number of epochs is at least 1, got {epochs}")
    if patience is not None and validate is None:
        raise RunError("patience needs a validation loss: pass validate=")
    if patience is not None and patience < 1:
        raise RunError(f"patience is at least 1 epoch, got {patience}: pass 10, or leave it out")
    if saving is not None:
        _check_saving(saving, resume)
    if fabric is None:
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1_000_003 * fabric.global_rank)
        run = Run(stepper, batches, epochs, seed, saving, schedule, fabric)
        stepper.setup(fabric)
        run.batches = batches = batches.to(fabric.device)
        stepper.init(*run.shard(next(iter(batches.epoch(0, seed)))))
        for optimizer in stepper.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        if resume:
            run.load()
        elif saving and fabric.is_global_zero:
            saving.out.mkdir(parents=True, exist_ok=True)
            (saving.out / METRICS).unlink(missing_ok=True)
        words = getattr(stepper, "words", bound_words)
        with StopSignal() as stop, Bar(progress and fabric.is_global_zero, epochs, len(batches), words) as bar:
            return run.loop(stop, bar, validate, patience, on_epoch)


def _check_saving(saving: Saving, resume: bool) -> None:
    if saving.epochs < 1 or saving.minutes < 0:
        raise RunError(
            f"checkpoints come after at least 1 epoch and 0 minutes, got {saving.epochs} and {saving.minutes}: "
            "pass Saving(out, epochs=1, minutes=10)"
        )
    if not resume and (saving.out / CHECKPOINT).exists():
        raise RunError(f"{saving.out} holds a run already: pass resume=True to go on with it, or another folder")
    if saving.tensorboard and find_spec("tensorboard") is None:
        raise RunError("TensorBoard is not installed: pip install 'ppl-models[tensorboard]', or leave it out")
