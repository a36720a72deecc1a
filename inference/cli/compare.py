"""`ppl compare`: one model, its posterior drawn by several engines, and one page that says which to trust."""

from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli.app import app, guarded
from inference.errors import RunError

__all__ = ["compare"]


@app.command()
@guarded
def compare(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.py:MODEL|FILE.bif|DIR",
            help="a classic model (eight_schools, gmm, hmm, ...), your own, a network, sbn, or a run of `ppl train`",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="your model's arguments by name: .json, .csv, .npz; with sbn a name, or images")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the page; new or empty; of a run: DIR/compare")] = None,
    guide: Annotated[str | None, typer.Option(help="FILE.py:GUIDE for your own model; autoguides without")] = None,
    hidden: Annotated[str, typer.Option(help="with sbn: units of the hidden layers, from the data up")] = "12",
    methods: Annotated[
        str | None,
        typer.Option(
            help="some of guide,advi,fullrank,iwae,nuts,nuts-pyro,hmc-gibbs,gibbs,exact, as the model takes them; with "
            "sbn of svi,iwae,rws,gibbs,exact; all that fit by default"
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="seconds of learning: with sbn of each method, 10; else of a guide at most, 60")
    ] = None,
    images: Annotated[int, typer.Option(help="test images whose posteriors are compared")] = 30,
    seed: Annotated[int, typer.Option(help="of weights, batches, images and draws")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch its own choice")] = 1,
) -> None:
    """Compare variational inference, Markov chains and exact answers on one model: which to trust, and what it cost."""
    import torch

    from inference.cli.compare_model import compared, is_model, unknown
    from inference.comparison.saving import check_free

    if threads < 0:
        raise RunError(f"--threads is at least 0, got {threads}: leave it out for one")
    if threads:
        torch.set_num_threads(threads)  # small networks lose more to a second thread than they gain
    if images < 1:
        raise RunError(f"the number of images is at least 1, got {images}: pass --images 30")
    if target == "sbn":
        if data is None or out is None:
            raise RunError(
                "a new comparison needs data and a folder: `ppl compare sbn --data digits --out runs/compare`"
            )
        check_free(out)
        from inference.cli.compare_sbn import learnt

        result = learnt(data, hidden, methods, 10.0 if budget is None else budget, images, seed)
    elif is_model(target):
        if out is not None:
            check_free(out)
        result = compared(target, data, guide, methods, budget, seed)
    elif not Path(target).exists():
        raise RunError(unknown(target))
    elif data is not None or methods is not None:
        raise RunError(f"{target} is a run of `ppl train`, which has its own: leave --data and --methods out")
    else:
        out = Path(target) / "compare" if out is None else out
        check_free(out)
        from inference.cli.compare_run import trained

        result = trained(Path(target), images, seed)
    page = None if out is None else result.save(out)
    _print(result)
    if out is None:
        typer.echo("Nothing was written: add --out FOLDER for the page, the rows and the draws.")
    else:
        typer.echo(f"{out / 'rows.json'}\n{out / 'comparison.nc'}\n{page}: the report")


def _print(result: Any) -> None:
    from rich.console import Console

    Console().print(result)
