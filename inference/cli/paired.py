"""Two evaluated runs on the same images: the difference of their bounds, image by image.

Images differ by some 25 nats, models by one or two: a paired difference has a standard error some ten times smaller
than the bounds have.
"""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from inference.errors import RunError
from inference.training.checkpoint import load, save

__all__ = ["paired", "save_bounds"]

BOUNDS = "evaluation.safetensors"


def save_bounds(run_dir: Path, bounds: dict[int | str, Tensor]) -> None:
    """Keep each image's bounds: L_k (N,) for every k, and "ais" where there is one."""
    save(run_dir / BOUNDS, {str(k): values for k, values in bounds.items()}, {})


def paired(result: dict[str, Any], bounds: dict[int, Tensor], against: Path) -> dict[str, Any]:
    """The mean difference to another run at the largest k that both have, with its standard error.

    Raises:
        RunError: the other run was evaluated on other images, or at other k.
    """
    other = json.loads((against / "evaluation.json").read_text())
    theirs, _ = load(against / BOUNDS)
    common = [k for k in sorted(bounds) if str(k) in theirs]
    same = all(other.get(name) == result[name] for name in ("data", "seed"))
    if not same or not common or len(theirs[str(common[-1])]) != len(bounds[common[-1]]):
        raise RunError(
            f"{against} was evaluated on other images: run `ppl evaluate {against}` with this --k, --images and --seed"
        )
    k = common[-1]
    difference = bounds[k] - theirs[str(k)]
    n = len(difference)
    se = float(difference.std()) / math.sqrt(n) if n > 1 else 0.0
    return {"run": str(against), "k": k, "difference": float(difference.mean()), "se": se}
