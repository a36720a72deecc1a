"""The folder of a run: claimed before its first byte, config.json first, taken away again where nothing was learnt."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

__all__ = ["CONFIG", "claimed", "command_line", "write_config"]

CONFIG = "config.json"


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the run's folder, or refuse one that holds anything; without a checkpoint at the end, take it away again."""
    from inference.comparison.saving import check_free
    from inference.training.run import CHECKPOINT, METRICS

    check_free(out, f"choose another --out, or go on with `ppl train --resume {out}`")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        if not any(out.rglob(CHECKPOINT)):
            with suppress(OSError):  # the first error is the one to tell
                (out / CONFIG).unlink(missing_ok=True)
                (out / METRICS).unlink(missing_ok=True)
                for folder in ("tensorboard", "frames"):
                    shutil.rmtree(out / folder, ignore_errors=True)
                for folder in made:
                    folder.rmdir()
        raise


def write_config(out: Path, run: Any) -> None:
    """Write every choice of a run, a dataclass."""
    from inference.training.checkpoint import write_text

    write_text(out / CONFIG, json.dumps(asdict(run), indent=1) + "\n")


def command_line() -> str:
    """The command that runs now, as it was typed."""
    return " ".join(["ppl", *sys.argv[1:]])
