"""A run of `fit`: its loop, and the position, sums and history that a checkpoint holds beside the stepper's state."""

import json
import time
from typing import Any

import torch

from inference.errors import NonFiniteError, RunError
from inference.training.checkpoint import load, save, write_text
from inference.training.monitor import Interrupted

__all__ = ["CHECKPOINT", "METRICS", "Run"]

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class Run:
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

    def loop(self, stop: Any, bar: Any, validate: Any, patience: Any, on_epoch: Any) -> list[dict[str, Any]]:
        """Train to the last epoch, or until patience or a signal ends it; the history."""
        try:
            return self._loop(stop, bar, validate, patience, on_epoch)
        finally:
            if self._board is not None:
                self._board.close()

    def _loop(self, stop: Any, bar: Any, validate: Any, patience: Any, on_epoch: Any) -> list[dict[str, Any]]:
        per_epoch = len(self.batches)
        # a run that its patience ended is complete: resumed, it stays as it is
        while self.epoch < self.epochs and not (patience is not None and self._stale(patience)):
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
                    bar.update(self.epoch, self.position, self._means(), self.rows)
                due = self.saving is not None and time.monotonic() - self.saved_at > 60 * self.saving.minutes
                stopping, due = self._agree(stop.requested, due)
                if stopping or due:
                    self._collect(pending, weights)
                    self.save()
                    if stopping:
                        raise Interrupted(self.epoch, self.position, self.saving.out if self.saving else None)
            self._collect(pending, weights)
            self._finish_epoch(validate, bar)
            if on_epoch is not None and self.fabric.is_global_zero:
                on_epoch(self.history[-1])
            last = self.epoch == self.epochs
            done = last or (patience is not None and self._stale(patience))
            (stopping,) = self._agree(stop.requested)
            if self.saving and (done or stopping or self.epoch % self.saving.epochs == 0):
                self.save()
            if done:
                break
            if stopping:
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

    def _agree(self, *flags: bool) -> tuple[bool, ...]:
        """The flags that any process has up: all must save or stop after the same step, else they wait for ever."""
        return flags if self.fabric.world_size == 1 else tuple(mean > 0 for mean in self._mean(*flags))

    def _mean(self, *values: float) -> list[float]:
        """The mean of each value over processes."""
        here = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        return self.fabric.all_reduce(here, reduce_op="mean").tolist()

    def _finish_epoch(self, validate: Any, bar: Any) -> None:
        self.epoch, self.position = self.epoch + 1, 0
        if self.fabric.world_size > 1:  # shares are equal, so the mean over processes is the mean over rows
            self.sums = dict(zip(self.sums, self._mean(*self.sums.values()), strict=True))
        optimizers = self.stepper.optimizers
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.epoch * len(self.batches)}
        row |= self._means()
        if validate is not None:
            with torch.random.fork_rng():
                row["valid"] = validate()
        row["lr"] = optimizers[0].param_groups[0]["lr"] if optimizers else 0.0
        row["seconds"] = round(time.perf_counter() - self.wall0, 3)
        row["cpu_seconds"] = round(time.process_time() - self.cpu0, 3)
        bar.update(self.epoch, 0, row, self.rows)
        self.sums, self.rows = {}, 0
        self.history.append(row)
        if self.saving and self.fabric.is_global_zero:
            with open(self.saving.out / METRICS, "a") as file:
                file.write(json.dumps(row) + "\n")
            if self.saving.tensorboard:
                self._log_board(row)

    def _means(self) -> dict[str, float]:
        """The epoch's means so far."""
        return {name: total / max(1, self.rows) for name, total in self.sums.items()}

    def _stale(self, patience: int) -> bool:
        losses = [row["valid"] for row in self.history]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience

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
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.saving.out / "tensorboard"))
        for name, value in row.items():
            self._board.add_scalar(name, value, row["epoch"])

    def save(self) -> None:
        """Write the checkpoint: one process writes, all wait."""
        if not self.saving:
            return
        tensors, meta = self.stepper.state()
        for name, value in tensors.items():
            # a last step can have a finite loss and leave NaN behind: the good file must survive it
            if name.startswith("parameter.") and not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"'{name.removeprefix('parameter.')}' is not finite after {self.epoch} epochs and {self.position} "
                    f"batches: lower the learning rate or clip the gradient; {self._where()}"
                )
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
