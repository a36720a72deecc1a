"""The only epoch loop. It drives a Stepper, and knows neither ELBO nor GAN.

    for epoch: for batch: info = stepper.step(*batch)

Around that line: the device, precision and processes of Lightning Fabric, a learning-rate schedule, a progress bar, a
line of metrics an epoch, early stopping, and checkpoints from which a run goes on as if it had never stopped: the batches
are a function of (epoch, seed), and the checkpoint holds the rest (parameters, optimiser, RNG, position, partial sums).
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.errors import NonFiniteError, RunError
from inference.types import BatchSource, Stepper

from .checkpoint import load, save, write_text
from .monitor import Bar, Interrupted, StopSignal

__all__ = ["Saving", "exponential", "fit"]

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Saving:
    """Where a run is kept and how often: after every `epochs` epochs, and after every `minutes` within one."""

    out: Path
    epochs: int = 1
    minutes: float = 10.0
    tensorboard: bool = False


def exponential(final: float) -> Callable[[float], float]:
    """A schedule: the learning rate falls geometrically to `final` times its start over the run."""
    return lambda done: final**done


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
) -> list[dict[str, Any]]:
    """Train for `epochs` passes over the batches; the caller's RNG is left as it was.

    Args:
        stepper: what learns: `SVI(...)`.
        batches: `data.Batches(...)`; a plain tensor of rows is not enough.
        epochs: passes over the data, counted from the run's start, resumed or not.
        seed: of the order of batches and of every draw.
        saving: where and how often to write `checkpoint.safetensors` and `metrics.jsonl`; nothing is written without it.
        resume: go on from the checkpoint in `saving.out`.
        schedule: factor of the learning rate as a function of the share of steps done, in [0, 1].
        validate: a loss in nats per datum, lower is better, taken after each epoch.
        patience: stop when `validate` has not improved for so many epochs.
        fabric: a launched `lightning.fabric.Fabric`; by default the CPU in one process.
        progress: show a bar.

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
    if fabric is None:
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1_000_003 * fabric.global_rank)
        run = _Run(stepper, batches, epochs, seed, saving, schedule, fabric)
        stepper.setup(fabric)
        run.batches = batches = batches.to(fabric.device)
        stepper.init(*run.shard(next(iter(batches.epoch(0, seed)))))
        for optimizer in stepper.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        if resume:
            run.load()
        with StopSignal() as stop, Bar(progress and fabric.is_global_zero, epochs, len(batches)) as bar:
            return run.loop(stop, bar, validate, patience)


class _Run:
    """The loop's own state: position, sums of the epoch so far, history."""

    def __init__(self, stepper: Any, batches: Any, epochs: int, seed: int, saving: Any, schedule: Any, fabric: Any):
        self.stepper, self.batches, self.epochs, self.seed = stepper, batches, epochs, seed
        self.saving, self.schedule, self.fabric = saving, schedule, fabric
        self.epoch = self.position = 0  # epochs done; batches of the current one done
        self.sums: dict[str, float] = {}
        self.rows = 0
        self.history: list[dict[str, Any]] = []
        self.wall0, self.cpu0 = time.perf_counter(), time.process_time()
        self.saved_at = time.monotonic()
        self.saved = False
        self._board: Any = None

    def shard(self, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        """This process's rows of a batch: equal shares, so that the mean of gradients is the joint gradient."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if world == 1:
            return batch
        even = len(batch[0]) // world * world
        return tuple(part[rank:even:world] for part in batch)

    def loop(self, stop: Any, bar: Any, validate: Any, patience: Any) -> list[dict[str, Any]]:
        per_epoch = len(self.batches)
        while self.epoch < self.epochs:
            pending: dict[str, list[Any]] = {}
            weights: list[int] = []
            for index, whole in enumerate(self.batches.epoch(self.epoch, self.seed)):
                if index < self.position:
                    continue
                batch = self.shard(whole)
                if len(batch[0]) == 0:  # fewer rows than processes are left
                    self.position = index + 1
                    continue
                self._set_rate((self.epoch * per_epoch + index) / (self.epochs * per_epoch))
                try:
                    info = self.stepper.step(*batch)
                except NonFiniteError as error:
                    raise NonFiniteError(f"{error}; {self._where()}") from None
                for name, value in info._asdict().items():
                    if value is not None:
                        pending.setdefault(name, []).append(value)
                weights.append(len(batch[0]))
                self.position = index + 1
                if len(weights) == 50:
                    self._collect(pending, weights)
                    bar.update(self.epoch, self.position, self.sums.get("loss", 0.0) / max(1, self.rows), self.rows)
                due = self.saving and time.monotonic() - self.saved_at > 60 * self.saving.minutes
                if stop.requested or due:
                    self._collect(pending, weights)
                    self.save()
                    if stop.requested:
                        raise Interrupted(self.epoch, self.position, self.saving.out if self.saving else None)
            self._collect(pending, weights)
            self._finish_epoch(validate, bar)
            last = self.epoch == self.epochs
            done = last or (patience is not None and self._stale(patience))
            if self.saving and (done or stop.requested or self.epoch % self.saving.epochs == 0):
                self.save()
            if done:
                break
            if stop.requested:
                raise Interrupted(self.epoch, 0, self.saving.out if self.saving else None)
        return self.history

    def _collect(self, pending: dict[str, list[Any]], weights: list[int]) -> None:
        """Add the waiting steps to the epoch's sums: one transfer from the device for many steps."""
        if not weights:
            return
        weight = torch.tensor(weights, dtype=torch.float64)
        for name, values in pending.items():
            stacked = torch.stack([torch.as_tensor(value) for value in values]).double().cpu()
            if not bool(torch.isfinite(stacked).all()):
                raise NonFiniteError(f"'{name}' is not finite in epoch {self.epoch + 1}; {self._where()}")
            self.sums[name] = self.sums.get(name, 0.0) + float((stacked * weight).sum())
        self.rows += int(weight.sum())
        pending.clear()
        weights.clear()

    def _finish_epoch(self, validate: Any, bar: Any) -> None:
        self.epoch, self.position = self.epoch + 1, 0
        optimizers = self.stepper.optimizers
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.epoch * len(self.batches)}
        row |= {name: total / self.rows for name, total in self.sums.items()}
        if validate is not None:
            with torch.random.fork_rng():
                row["valid"] = validate()
        row["lr"] = optimizers[0].param_groups[0]["lr"] if optimizers else 0.0
        row["seconds"] = round(time.perf_counter() - self.wall0, 3)
        row["cpu_seconds"] = round(time.process_time() - self.cpu0, 3)
        bar.update(self.epoch, 0, row.get("loss", 0.0), self.rows)
        self.sums, self.rows = {}, 0
        self.history.append(row)
        if self.saving and self.fabric.is_global_zero:
            with open(self.saving.out / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
            if self.saving.tensorboard:
                self._log_board(row)

    def _stale(self, patience: int) -> bool:
        losses = [row["valid"] for row in self.history]
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def _set_rate(self, done: float) -> None:
        if self.schedule is not None:
            factor = self.schedule(done)
            for optimizer in self.stepper.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor

    def _where(self) -> str:
        if self.saved:
            return f"the last good checkpoint is {self.saving.out / CHECKPOINT}"
        return "there is no checkpoint yet"

    def _log_board(self, row: dict[str, Any]) -> None:
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise RunError("TensorBoard is not installed: pip install 'ppl-models[tensorboard]'") from None
            self._board = SummaryWriter(str(self.saving.out / "tensorboard"))
        for name, value in row.items():
            self._board.add_scalar(name, value, row["epoch"])

    def save(self) -> None:
        """Write the checkpoint: one process writes, all wait."""
        if not self.saving:
            return
        tensors, meta = self.stepper.state()
        tensors = {**tensors, "rng.cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        run = {
            "epoch": self.epoch, "position": self.position, "sums": self.sums, "rows": self.rows,
            "seed": self.seed, "history": self.history,
            "seconds": time.perf_counter() - self.wall0, "cpu_seconds": time.process_time() - self.cpu0,
        }  # fmt: skip
        if self.fabric.is_global_zero:
            save(self.saving.out / CHECKPOINT, tensors, {"stepper": meta, "run": run})
        self.fabric.barrier()
        self.saved_at, self.saved = time.monotonic(), True

    def load(self) -> None:
        """Take up the run in `saving.out` where its checkpoint left it."""
        if not self.saving:
            raise RunError("resume needs saving=Saving(out): the folder of the run to go on with")
        tensors, meta = load(self.saving.out / CHECKPOINT)
        run = meta["run"]
        if run["seed"] != self.seed:
            raise RunError(f"the run was started with seed {run['seed']}, not {self.seed}: resume with that seed")
        self.stepper.load_state(tensors, meta["stepper"])
        self.epoch, self.position = run["epoch"], run["position"]
        self.sums, self.rows, self.history = run["sums"], run["rows"], run["history"]
        self.wall0 -= run["seconds"]
        self.cpu0 -= run["cpu_seconds"]
        self.saved = True
        if self.fabric.global_rank == 0:
            torch.set_rng_state(tensors["rng.cpu"])
            if "rng.cuda" in tensors and self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng.cuda"], self.fabric.device)
            # epochs after the checkpoint will run again: their lines go
            write_text(self.saving.out / METRICS, "".join(json.dumps(row) + "\n" for row in self.history))
