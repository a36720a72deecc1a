"""`ppl train FILE.py:CLASS --data ...`: a class of the user's own with a model and a guide, learnt like any other.

The arguments of `model` are read by name from the file (`inference.cli.own`); those as long as the first are rows and
come in batches, the rest stay as they are. A tenth of the rows is held out: its bound is on the page.
"""

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli import options as o
from inference.cli.app import guarded, train_app
from inference.cli.folder import CONFIG, claimed, command_line, write_config
from inference.cli.running import check_numbers, draws
from inference.errors import CheckpointError, RunError

__all__ = ["OwnRun", "is_own_run", "own", "resume_own"]

HELD_OUT = 0.1
KS = (1, 50, 500)  # of the bounds on the held-out rows


@dataclass
class OwnRun:
    """Every choice of a run of a model of one's own, as config.json holds it."""

    own: str  # FILE.py:CLASS
    data: str
    objective: str = "elbo"
    k: int = 1
    epochs: int = 100
    batch_size: int = 100
    lr: float = 3e-3
    lr_final: float = 3e-5
    seed: int = 0
    threads: int = 1  # small networks lose more to a second thread than they gain
    command: str = field(default_factory=command_line)


@train_app.command("own", hidden=True)
@guarded
def own(
    target: Annotated[str, typer.Argument(metavar="FILE.py:CLASS", help="a class with methods model and guide")],
    data: Annotated[str, typer.Option(help="a .json, .csv or .npz file with the model's arguments by name")],
    out: o.Out,
    objective: Annotated[str, typer.Option(help="elbo or iwae")] = "elbo",
    k: Annotated[int | None, typer.Option(help="samples per datum: 1 for elbo, 5 for iwae")] = None,
    epochs: o.Epochs = 100,
    batch_size: o.BatchSize = 100,
    lr: o.Lr = 3e-3,
    lr_final: o.LrFinal = 3e-5,
    seed: o.Seed = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch its own choice")] = 1,
) -> None:
    """Train a model of your own: `ppl train my_model.py:MyModel --data data.npz --out runs/mine`."""
    k = draws(objective, k)
    _start(OwnRun(target, data, objective, k, epochs, batch_size, lr, lr_final, seed, threads), out)


def is_own_run(out: Path) -> bool:
    """Whether a folder holds a run of a model of one's own."""
    path = out / CONFIG
    try:
        return path.is_file() and "own" in json.loads(path.read_text())
    except ValueError:
        return False


def resume_own(out: Path, epochs: int | None) -> None:
    """Go on with a run, perhaps to more epochs."""
    try:
        run = OwnRun(**json.loads((out / CONFIG).read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{out / CONFIG} is damaged ({error}): train anew into another folder") from None
    run.epochs = run.epochs if epochs is None else epochs
    _start(run, out, resume=True)


def _start(run: OwnRun, out: Path, resume: bool = False) -> None:
    """The one path of a new run and a resumed one."""
    import torch

    from inference.training.fit import Saving, fit, linear
    from inference.training.run import CHECKPOINT
    from inference.vi.svi import SVI
    from ppl_models.data import Batches

    _check(run)
    if run.threads:
        torch.set_num_threads(run.threads)
    pair, rows = _made(run)
    rows, held_out = _split(rows, run.seed)
    batches = Batches(rows, min(run.batch_size, len(rows[0])))
    svi = SVI(pair, _objective(run, pair, rows), lambda parameters: torch.optim.Adam(parameters, run.lr))
    svi.pair.structure(*(part[:2] for part in rows))  # what cannot be is said before the first byte is written
    with nullcontext() if resume else claimed(out):
        write_config(out, run)
        history = fit(
            svi, batches, run.epochs, run.seed,
            saving=Saving(out), resume=resume, schedule=linear(run.lr_final / run.lr), progress=True,
        )  # fmt: skip
    page = _page(run, out, svi.pair, history, held_out, len(rows[0]))
    typer.echo(f"{out / CHECKPOINT}: the parameters\n{page}: the report")


def _made(run: OwnRun) -> tuple[Any, tuple[Any, ...]]:
    """The pair, its constants put in place, and the tensors of its rows."""
    import torch

    from inference.cli.own import arguments, load_object, read_data, settle, told

    table = read_data(Path(run.data))
    made = load_object(run.own)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        try:
            made = made(**arguments(made, table, run.own)) if isinstance(made, type) else made
        except RunError:
            raise
        except Exception as error:
            raise RunError(f"{run.own} cannot be made, {told(error, None)}: mend it; --debug shows more") from error
    if not (callable(getattr(made, "model", None)) and callable(getattr(made, "guide", None))):
        raise RunError(f"{run.own} lacks a model or a guide: name a class with both methods")
    named = arguments(made.model, table, run.own)
    values = settle(made.model, named, run.own)
    first = next((value for value in values if torch.is_tensor(value) and value.dim()), None)
    if first is None:
        raise RunError(f"{run.own} takes no array from the data, so there are no rows to learn from: add one")
    is_row = [torch.is_tensor(value) and value.dim() > 0 and len(value) == len(first) for value in values]
    if all(is_row):
        return made, values
    return _filled(made, values, is_row), tuple(value for value, row in zip(values, is_row, strict=True) if row)


def _filled(made: Any, values: tuple[Any, ...], is_row: list[bool]) -> Any:
    """A pair of the rows alone; the other arguments are put in their places."""
    from inference.pair import Pair

    def of_rows(program: Any) -> Any:
        def run(*rows: Any) -> Any:
            batch = iter(rows)
            return program(*(next(batch) if row else value for value, row in zip(values, is_row, strict=True)))

        return run

    return Pair(of_rows(made.model), of_rows(made.guide), made)


def _split(rows: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Rows to learn from, and those held out."""
    import torch

    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(HELD_OUT * len(order)))
    if len(order) <= cut:
        raise RunError(f"there are {len(order)} rows, and a tenth is held out: give it two at least")
    return tuple(part[order[cut:]] for part in rows), tuple(part[order[:cut]] for part in rows)


def _objective(run: OwnRun, pair: Any, rows: tuple[Any, ...]) -> Any:
    from inference.pair import as_pair
    from inference.vi.objectives import IWAE, TraceELBO, TraceEnumELBO

    if run.objective == "iwae":
        return IWAE(run.k)
    structure = as_pair(pair).structure(*(part[:2] for part in rows))
    return (TraceEnumELBO if structure.model_enum or structure.guide_enum else TraceELBO)(num_particles=run.k)


def _page(run: OwnRun, out: Path, pair: Any, history: Any, held_out: tuple[Any, ...], n: int) -> Path:
    from inference.comparison.report import write_run

    evaluation = _evaluation(pair, held_out, run.seed)
    last = history[-1] if history else {}
    write_run(
        out / "report.html",
        title=f"{run.own.rpartition(':')[2]} on {Path(run.data).name}",
        summary={
            "data": Path(run.data).name,
            "rows": n,
            "objective": f"{run.objective.upper()}{f', k = {run.k}' if run.k > 1 else ''}",
            "parameters": sum(p.numel() for p in pair.named_parameters().values()),
            "epochs": len(history),
            "steps": last.get("step", 0),
            "CPU-seconds": round(last.get("cpu_seconds", 0.0), 1),
        },
        config=asdict(run),
        history=history,
        evaluation=evaluation,
        noun="held-out rows",
    )
    return out / "report.html"


def _evaluation(pair: Any, held_out: tuple[Any, ...], seed: int) -> list[dict[str, Any]] | None:
    """Bounds on log p of the held-out rows; None where latents are shared by all rows."""
    import torch

    from inference.evidence.importance import bound_per_datum, summarise
    from inference.weights import weigh

    if not pair.structure(*held_out).local:
        return None
    with torch.random.fork_rng(), torch.no_grad(), pair.evaluating():
        torch.manual_seed(seed)
        log_w = torch.cat([weigh(pair, held_out, 1).log_w for _ in range(KS[-1])])
    nats = [summarise(bound_per_datum(log_w, k), k) for k in KS]
    rows = [{"k": each.k, "mean": each.mean, "se": each.se, "images": each.num_data} for each in nats]
    return [row | {"se": row["se"] if row["images"] > 1 else None} for row in rows]


def _check(run: OwnRun) -> None:
    if run.objective not in ("elbo", "iwae"):
        raise RunError(f"unknown objective '{run.objective}': choose elbo or iwae")
    check_numbers(run, {"epochs": 1, "k": 1, "batch_size": 1, "threads": 0})
