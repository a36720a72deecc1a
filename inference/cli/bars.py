"""Progress bars of `ppl compare`."""

from collections.abc import Callable
from typing import Any

__all__ = ["Bars"]


class Bars:
    """A progress bar for each stage, on standard error; nothing where it is no terminal."""

    def __enter__(self) -> "Bars":
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def at(self, words: str, done: float, total: float) -> None:
        """Show how much of a stage is done."""
        if words not in self._tasks:
            self._tasks[words] = self._progress.add_task(words, total=total)
        self._progress.update(self._tasks[words], completed=min(done, total))

    def counter(self, words: str, names: Any) -> Callable[[str], None]:
        """What `compare` calls before each engine."""
        seen: list[str] = []

        def told(name: str) -> None:
            seen.append(name)
            self._progress.update(self._tasks[words], description=f"{words}: {name}", completed=len(seen) - 1)

        self.at(words, 0, len(names))
        return told
