"""`ppl train m1m2`: M1 first, as a run of its own in OUT/m1 or one that is given; then M2 on its codes."""

from pathlib import Path
from typing import Any

from inference.cli.few_labels import split
from inference.cli.folder import claimed, write_config
from inference.cli.running import check, make_fabric, make_objective, settle, start
from inference.cli.runs import Run, load_model, open_run
from inference.errors import RunError
from inference.training.run import CHECKPOINT
from ppl_models import data

__all__ = ["resume_stacked", "start_stacked"]

M1 = "m1"  # the folder of M1's run in that of the whole


def start_stacked(run: Run, out: Path, *, m1: Path | Run, device: str) -> None:
    """Train M1, unless `m1` is the folder of a trained one, then M2; both are checked before the first byte."""
    make_fabric(device, 1, "auto", run.precision, run.threads)
    train, _ = data.load(run.data, seed=run.seed)
    first, model = (m1, None) if isinstance(m1, Run) else _trained(m1, run)
    for each in (run, first):
        check(each)
        settle(each, train)
    split(run, train)
    for each in (run, first):
        make_objective(each, len(train.x))
    run.options["m1"], run.binarize = first.options, first.binarize
    run.m1 = M1 if model is None else str(m1)
    run.build()
    with claimed(out):
        if model is None:
            write_config(out, run)
            model = _first(first, run, out, device)
        start(run, out, device=device, m1=data.standardised(model, train.x))


def resume_stacked(run: Run, out: Path, *, device: str) -> None:
    """Go on with M1 or with M2, whichever the run was at."""
    if (out / CHECKPOINT).exists():
        start(run, out, device=device, resume=True, m1=load_model(out, run)[0].owner.m1)
    else:
        model = _first(open_run(out / M1), run, out, device, resume=True)
        train, _ = data.load(run.data, seed=run.seed)
        start(run, out, device=device, m1=data.standardised(model, train.x))


def _first(m1: Run, run: Run, out: Path, device: str, resume: bool = False) -> Any:
    """Train M1; the model."""
    try:
        start(m1, out / M1, device=device, resume=resume)
    except KeyboardInterrupt as stop:  # it is the whole that can be gone on with
        raise KeyboardInterrupt(str(stop).replace(f"{out / M1}`", f"{out}`")) from None
    return _trained(out / M1, run)[1]


def _trained(folder: Path, run: Run) -> tuple[Run, Any]:
    """The run and the model in M1's folder; refuses what cannot be M1 of this run."""
    m1 = open_run(folder)
    if m1.model != "vae":
        raise RunError(f"M1 is a VAE, and {folder} holds a run of {m1.model}: give one of `ppl train vae`")
    if m1.data != run.data:
        raise RunError(f"{folder} was trained on {m1.data}, and this run is on {run.data}: give an M1 of the same data")
    pair, notes = load_model(folder, m1)
    epochs = m1.epochs + m1.dream_epochs
    if notes["epoch"] < epochs and m1.patience is None:
        raise RunError(f"{folder} has had {notes['epoch']} of its {epochs} epochs: `ppl train --resume {folder}` first")
    return m1, pair.owner
