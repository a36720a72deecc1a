"""What a person sees of a run and how they stop it: the progress bar, Ctrl-C."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["Bar", "Interrupted", "StopSignal"]


class Interrupted(KeyboardInterrupt):
    """The user stopped a run between two steps; the message says where it stands and how to go on."""

    def __init__(self, epoch: int, position: int, out: Path | None):
        where = f"stopped after {epoch} epochs and {position} batches"
        how = f"; saved: go on with `ppl train --resume {out}`" if out else "; nothing was saved: no folder was given"
        super().__init__(where + how)


class StopSignal:
    """SIGINT and SIGTERM become a request that the loop reads between steps, so no state is half-written."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        self.requested = True


class Bar:
    """A progress bar with bound and speed, on standard error; nothing when off."""

    def __init__(self, on: bool, epochs: int, per_epoch: int):
        self.on, self.epochs, self.per_epoch = on, epochs, per_epoch
        self._rate = 0.0
        self._last = (time.monotonic(), 0, 0)  # when, epoch, rows seen in it

    def __enter__(self) -> "Bar":
        if self.on:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("bound {task.fields[bound]:.2f} nats, {task.fields[rate]:,.0f} rows/s"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            total = self.epochs * self.per_epoch
            self._task = self._progress.add_task("", total=total, epoch=0, epochs=self.epochs, bound=0.0, rate=0.0)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on:
            self._progress.stop()

    def update(self, epoch: int, position: int, loss: float, rows: int) -> None:
        """Show `epoch` epochs and `position` batches done, the epoch's mean loss, and the rows it has seen."""
        if not self.on:
            return
        now = time.monotonic()
        when, last_epoch, last_rows = self._last
        new = rows - last_rows if (position and epoch == last_epoch) or not position else rows
        if now > when and new > 0:
            rate = new / (now - when)
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        self._last = (now, epoch, rows if position else 0)
        self._progress.update(
            self._task, completed=epoch * self.per_epoch + position, epoch=min(epoch + 1, self.epochs), bound=-loss,
            rate=self._rate,
        )  # fmt: skip
