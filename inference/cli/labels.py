"""`ppl labels`: the test errors of evaluated runs against the number of labels, over draws of the labelled rows."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli.app import app, guarded

__all__ = ["labels"]


@app.command()
@guarded
def labels(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="runs of ssvae and m1m2, evaluated")],
    out: Annotated[Path, typer.Option(help="the HTML file to write")],
) -> None:
    """Compare runs with more and fewer labels: one line for each model and each of its baselines."""
    from rich.console import Console
    from rich.table import Table

    from inference.cli.runs import open_run
    from inference.comparison.labels import over_draws, write_labels
    from inference.errors import CheckpointError, RunError

    models: dict[tuple[str, int], dict[Any, float]] = {}  # of each draw of labels the error
    others: dict[tuple[str, int], dict[Any, float]] = {}
    datasets: set[str] = set()
    for folder in runs:
        run = open_run(folder)
        if run.labels is None:
            raise RunError(f"{folder} holds a run of {run.model}, which saw no labels: name runs of ssvae or m1m2")
        path = folder / "evaluation.json"
        if not path.is_file():
            raise RunError(f"{folder} has not been evaluated: run `ppl evaluate {folder}` first")
        try:
            result = json.loads(path.read_text())["labels"]
            models.setdefault((run.title, result["seen"]), {})[folder] = result["error"]
            for each in result["baselines"] or ():  # those of M2 and of M1+M2 on the same labels are the same
                draw = result["label_seed"], result["balanced"]
                others.setdefault((each["name"], result["seen"]), {})[draw] = each["error"]
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): delete it and run `ppl evaluate {folder}`") from None
        datasets.add(run.data)
    if len(datasets) > 1:
        raise RunError(f"the runs are of several data sets, {', '.join(sorted(datasets))}: name those of one")
    if out.suffix.lower() != ".html":
        raise RunError(f"--out names an HTML file, got {out}: pass --out labels.html")
    rows = over_draws({key: list(errors.values()) for key, errors in (models | others).items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    title = f"Error against the number of labels, {datasets.pop()}"
    write_labels(out, title, rows)
    table = Table(title=title)
    for heading in ("method", "labels", "draws", "error, %", "standard error"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        se = "-" if row.se is None else f"{100 * row.se:.2f}"
        table.add_row(row.method, str(row.labels), str(row.draws), f"{100 * row.mean:.2f}", se)
    Console().print(table)
    typer.echo(f"{out}: the chart")
