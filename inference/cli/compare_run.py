"""`ppl compare DIR`: engines on a trained run's model and its test images."""

from pathlib import Path
from typing import Any

from inference.cli.bars import Bars
from inference.errors import RunError

__all__ = ["trained"]


def trained(run_dir: Path, images: int, seed: int) -> Any:
    """Compare engines on a run's model and its test images."""
    from inference.cli import methods as known
    from inference.cli.runs import load_model, open_run, test_rows
    from inference.comparison.compare import compare

    run = open_run(run_dir)
    pair, _ = load_model(run_dir, run)
    if run.model != "sbn":
        raise RunError(
            f"{run_dir} holds a run of '{run.model}', whose latents neither Gibbs nor enumeration takes: "
            "name a run of `ppl train sbn`"
        )
    units = sum(pair.owner.sizes[1:])
    made, reference = known.reference_engines(units)
    x = test_rows(run, images, seed).x
    with Bars() as bars:
        told = bars.counter("engines", made)
        result = compare(pair.owner, x, made, reference=reference, seed=seed, on_engine=told)
    sizes = "-".join(map(str, pair.owner.sizes))
    notes = {
        "model": f"sigmoid belief network {sizes}, trained by {run.bound}",
        "pixels": run.pixels,
        "run": str(run_dir),
    }
    return result._replace(title=f"Sigmoid belief network on {run.data}: which engine to trust", notes=notes)
