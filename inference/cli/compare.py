"""`ppl compare`: one model learnt by several methods, its posterior drawn by several engines; one page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from inference.cli.app import app, guarded
from inference.cli.bars import Bars
from inference.errors import RunError

__all__ = ["compare"]


@app.command()
@guarded
def compare(
    target: Annotated[str, typer.Argument(metavar="sbn|DIR", help="sbn, or a folder that `ppl train sbn` wrote")],
    data: Annotated[str | None, typer.Option(help="with sbn: a name from `ppl data`, or a path")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the page; new or empty; of a run: DIR/compare")] = None,
    hidden: Annotated[str, typer.Option(help="with sbn: units of the hidden layers, from the data up")] = "12",
    methods: Annotated[
        str | None, typer.Option(help="with sbn: some of svi,iwae,rws,gibbs,exact; all by default")
    ] = None,
    budget: Annotated[float, typer.Option(help="with sbn: seconds of learning for each method")] = 10.0,
    images: Annotated[int, typer.Option(help="test images whose posteriors are compared")] = 30,
    seed: Annotated[int, typer.Option(help="of weights, batches, images and draws")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch its own choice")] = 1,
) -> None:
    """Compare VI, Gibbs sampling and enumeration on one model: which to trust, and what it cost."""
    import torch

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
        result = _learnt(data, hidden, methods, budget, images, seed)
    elif data is not None or methods is not None:
        raise RunError(f"--data and --methods are of `ppl compare sbn`; {target} has its own: leave them out")
    else:
        out = Path(target) / "compare" if out is None else out
        check_free(out)
        from inference.cli.compare_run import trained

        result = trained(Path(target), images, seed)
    page = result.save(out)
    _print(result)
    typer.echo(f"{out / 'rows.json'}\n{out / 'comparison.nc'}\n{page}: the report")


def _learnt(data: str, hidden: str, methods: str | None, budget: float, images: int, seed: int) -> Any:
    """Learn by each method, then compare engines on the model that learnt best."""
    import torch

    from inference.cli import methods as known
    from inference.cli.running import integers
    from inference.comparison.compare import compare
    from inference.comparison.learning import learn
    from ppl_models import SigmoidBeliefNetwork
    from ppl_models import data as datasets

    layers = integers("hidden", hidden)
    names = known.settled(methods, sum(layers))
    if not 0 < budget < float("inf"):
        raise RunError(f"--budget is above 0 seconds, got {budget}: pass for example --budget 10")
    train, test = datasets.load(data, seed=seed)
    grey = not bool(((train.x == 0) | (train.x == 1)).all())
    generator = torch.Generator().manual_seed(seed)
    # drawn once for all: every method and every engine sees the same pixels
    train_x, test_x = (datasets.binarize(each.x, generator) if grey else each.x for each in (train, test))
    test_x = test_x[torch.randperm(len(test_x), generator=generator)]
    if images > len(test_x):
        raise RunError(f"{data} has {len(test_x)} test images, fewer than the {images} asked for: lower --images")

    def make() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SigmoidBeliefNetwork((train_x.shape[1], *layers), mean=train_x.mean(0))

    make()  # refuses layers that cannot be, before anything is learnt
    evaluate, estimate = known.evaluation(test_x, sum(layers), seed)
    with Bars() as bars:
        curves = learn(
            make,
            known.learners(names, train_x),
            evaluate,
            budget=budget,
            seed=seed,
            estimate=estimate,
            on_time=lambda name, used: bars.at(f"learning: {name}", used, budget),
        )
        best = max(curves, key=lambda curve: curve.points[-1].log_p)
        made, reference = known.engines(names, sum(layers))
        told = bars.counter("engines", made)
        result = compare(best.model, test_x[:images], made, reference=reference, seed=seed, on_engine=told)
    notes = {
        "model": f"sigmoid belief network {train_x.shape[1]}-{'-'.join(map(str, layers))}, as {best.method} learnt it",
        "pixels": "binarised once, by seed" if grey else "static",
    }
    title = f"Sigmoid belief network on {data}: which engine to trust"
    return result._replace(title=title, learning=curves, notes=notes)


def _print(result: Any) -> None:
    from rich.console import Console

    Console().print(result)
