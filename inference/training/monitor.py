"""What a person sees of a run and how they stop it: the progress bar, Ctrl-C."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Bar", "Interrupted", "StopSignal", "bound_words"]


def bound_words(means: dict[str, float]) -> str:
    """How a run that climbs a bound stands, of the means of an epoch so far."""
    return f"bound {-means.get('loss', 0.0):.2f} nats"


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
    """A progress bar on standard error, with `words` on how the run stands and its speed; nothing when off."""

    def __init__(self, on: bool, epochs: int, per_epoch: int, words: Callable[[dict[str, float]], str] = bound_words):
        self.on, self.epochs, self.per_epoch, self.words = on, epochs, per_epoch, words
        self._rate = 0.0
        self._last = (time.monotonic(), 0, 0)  # when, epoch, rows seen in it

    def __enter__(self) -> "Bar":
        if self.on:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("{task.fields[words]}, {task.fields[rate]:,.0f} rows/s"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            total = self.epochs * self.per_epoch
            self._task = self._progress.add_task("", total=total, epoch=0, epochs=self.epochs, words="", rate=0.0)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on:
            self._progress.stop()

    def update(self, epoch: int, position: int, means: dict[str, float], rows: int) -> None:
        """Show `epoch` epochs and `position` batches done, the epoch's means so far, and the rows it has seen."""
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
            self._task, completed=epoch * self.per_epoch + position, epoch=min(epoch + 1, self.epochs),
            words=self.words(means), rate=self._rate,
        )  # fmt: skip
