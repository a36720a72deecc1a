"""The command's frame: its sub-commands, and one sentence with an exit code for whatever goes wrong."""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["FEW_LABELS", "GAMES", "WITH_A_BOUND", "app", "guarded", "main", "train_app"]

# the groups of `ppl train --help`
WITH_A_BOUND, FEW_LABELS, GAMES = "Models with a bound on log p(x)", "Few labels", "Games of two players"

_STYLE: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(
    help="Deep directed generative models: train, evaluate, sample. `--debug` shows tracebacks.", **_STYLE
)


class _Models(TyperGroup):
    """A sub-command a model; `FILE.py:CLASS` in its place names one of the user's own."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, ["own", *args] if ".py:" in args[0] else args)


train_app = typer.Typer(
    cls=_Models, help="Train a model, one of your own by FILE.py:CLASS, or go on with a run.", add_completion=False
)
app.add_typer(train_app, name="train")

_debug = False


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors of a command into one sentence on standard error and an exit code that is not 0."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches every process of a run: one speaks
                _say(str(stop) or "stopped by the user")
            raise typer.Exit(130) from None
        except OSError as error:
            if _debug:
                raise
            what = f"{error.filename}: " if error.filename else ""
            _say(f"error: {what}{error.strerror or error}: free space or choose another folder with --out")
            raise typer.Exit(1) from None
        except (ValueError, MemoryError, RuntimeError) as error:
            if _debug:
                raise
            _say(f"error: {' '.join(str(error).split())}")
            raise typer.Exit(1) from None

    return run


def _say(words: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(words, markup=False)


def _say_warnings() -> None:
    """Show what a data set or an engine warns of as a sentence, once, without the line of code it came from."""
    usual, said = warnings.showwarning, set()

    def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
        if category is not UserWarning:
            usual(message, category, *place, **more)
        elif str(message) not in said:
            said.add(str(message))
            _say(f"warning: {message}")

    warnings.showwarning = show


def main() -> None:
    """Run the `ppl` command."""
    global _debug
    _debug = "--debug" in sys.argv
    if _debug:
        sys.argv.remove("--debug")
    else:
        _say_warnings()
    # each registers its command
    from inference.cli import (  # noqa: F401
        arithmetic,
        compare,
        data,
        evaluate,
        impute,
        labels,
        sample,
        train,
        train_cvae,
        train_deep,
        train_gan,
        train_lapgan,
        train_own,
        train_ssvae,
    )  # fmt: skip

    app()
