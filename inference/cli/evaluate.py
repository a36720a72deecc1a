"""`ppl evaluate`: bounds on log p(x) of a trained run's test images, for several k at once, and by annealing."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from inference.cli.app import app, guarded

__all__ = ["evaluate"]


@app.command()
@guarded
def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that `ppl train` wrote")],
    k: Annotated[
        str | None, typer.Option(help="draws for each image, with commas; 1,5,50,5000, or 1,5,50 of a model of labels")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="test images, drawn at random by --seed; all by default, or 1000 of a model of labels"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the choice of images and of the draws")] = 0,
    dreams: Annotated[
        int, typer.Option(help="first teach a copy of the guide on so many batches of the model's own draws")
    ] = 0,
    ais: Annotated[
        int, typer.Option(help="annealed importance sampling as well, in so many steps: 500, for example")
    ] = 0,
    chains: Annotated[int, typer.Option(help="with --ais: chains of each image")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    against: Annotated[Path | None, typer.Option(help="an evaluated run to compare with, image by image")] = None,
    others: Annotated[
        bool, typer.Option("--baselines", help="of a model of labels: other classifiers on the same labels as well")
    ] = False,
    with_parzen: Annotated[
        bool, typer.Option("--parzen", help="of a game: the Parzen log-likelihood as well, which cannot rank models")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print evaluation.json instead of the table")] = False,
) -> None:
    """Bound log p(x) on test images by importance sampling, in nats per image; judge a game's samples beside data.

    Writes DIR/evaluation.json.
    """
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from inference.cli.annealed import annealed
    from inference.cli.deep_pictures import DEEP
    from inference.cli.game_folder import is_game
    from inference.cli.judged import evaluate_game
    from inference.cli.labelled import baselines, classification, own_posterior
    from inference.cli.page import write_page
    from inference.cli.paired import paired, save_bounds
    from inference.cli.running import integers, make_fabric
    from inference.cli.runs import load_model, open_run, test_rows
    from inference.cli.sites import sites_in_use
    from inference.comparison.diagnostics import khat
    from inference.errors import RunError
    from inference.evidence.active import active_units
    from inference.evidence.ais import AIS
    from inference.evidence.importance import bound_per_datum, importance_weights, summarise
    from inference.evidence.proposal import tune_guide
    from inference.training.checkpoint import write_text

    if is_game(run_dir):
        of_bounds = {"k": k is not None, "ais": ais != 0, "dreams": dreams != 0, "against": against is not None,
                     "baselines": others}  # fmt: skip
        evaluate_game(
            run_dir, images=images, seed=seed, device=device, with_parzen=with_parzen, as_json=as_json,
            refused=of_bounds,
        )  # fmt: skip
        return
    run = open_run(run_dir)
    if with_parzen:
        raise RunError(f"--parzen goes with games, and this is a run of {run.model}, which has a bound: leave it out")
    ks = sorted(set(integers("k", k or ("1,5,50,5000" if run.labels is None else "1,5,50"))))
    if ks[0] < 1:
        raise RunError(f"k is at least 1, got {ks[0]}: pass for example --k 1,5,50,5000")
    if against is not None and not (against / "evaluation.json").is_file():
        raise RunError(f"{against} has not been evaluated: run `ppl evaluate {against}` with the same images first")
    if run.labels is None and others:
        raise RunError(f"--baselines go with a model of labels, and this is a run of {run.model}: leave it out")
    if run.labels is not None and (dreams or ais):
        raise RunError("--dreams and --ais go with models without labels, whose latents they move: leave them out")
    pair, _ = load_model(run_dir, run)
    if run.labels is not None and images is None:  # a draw costs as many times more as there are classes
        images = min(1000, len(test_rows(run, None, seed).x))
    test = test_rows(run, images, seed)
    fabric = make_fabric(device, 1, "auto", "32-true", 0)
    fabric.to_device(pair.owner)
    if dreams < 0:
        raise RunError(f"--dreams is at least 0, got {dreams}: pass for example --dreams 8000")
    if ais < 0:
        raise RunError(f"--ais is at least 0, got {ais}: pass for example --ais 500")
    data = tuple(part.to(fabric.device) for part in run.rows(test.x))
    annealing = AIS(steps=ais, chains=chains) if ais else None
    start, cpu = time.perf_counter(), time.process_time()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        proposal = pair
        if dreams:
            task = bar.add_task("the guide learns from the model's draws", total=dreams)
            proposal = tune_guide(
                pair, tuple(part[:100] for part in data), dreams, seed=seed,
                on_step=lambda step, task=task: bar.update(task, completed=step),
            )  # fmt: skip
        task = bar.add_task(f"{len(test.x)} images, {ks[-1]} draws each", total=len(test.x))
        log_w = importance_weights(
            proposal, data, ks[-1], seed=seed, on_rows=lambda rows: bar.update(task, completed=rows)
        )
    tails = torch.as_tensor(khat(log_w.numpy()))
    active = None
    code = pair.owner.encode if run.labels is None else pair.owner.style
    units = code(*(part[:1] for part in data)).shape[-1]
    sites = sites_in_use(pair, data, seed) if run.model in DEEP and len(test.x) > 1 else None
    if sites is not None:
        active = sum(site["active"] for site in sites.values())
    elif len(test.x) > 1:  # one image has neither a variance of its means nor a standard error
        active, _ = active_units(lambda x: code(*run.rows(x.to(fabric.device))).cpu(), test.x)
    rows, bounds = [], {each: bound_per_datum(log_w, each) for each in ks}
    for each in ks:
        nats = summarise(bounds[each], each)
        se = nats.se if nats.num_data > 1 else None
        rows.append({"k": each, "mean": nats.mean, "se": se, "images": nats.num_data})
    rows[-1]["khat"] = None if tails.isnan().all() else float(tails.median())
    result = {
        "data": run.variant,
        "evidence": run.evidence,
        "objective": run.bound,
        "seed": seed,
        "dreams": dreams,
        "rows": rows,
        "ais": None,
        "active_units": active,
        "units": units,
        **({} if sites is None else {"sites": sites}),
        "khat_median": rows[-1]["khat"],
        "khat_above_0.7": None if tails.isnan().all() else float((tails > 0.7).double().mean()),
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    per_image: dict[int | str, torch.Tensor] = {**bounds}
    if run.labels is not None:
        result["labels"] = classification(pair.owner, run)
        result["labels"]["posterior"] = own_posterior(pair, test._replace(x=data[0]), ks[-1], seed)
        result["labels"]["baselines"] = baselines(pair.owner, run) if others else None
    if annealing is not None:
        result["ais"], per_image["ais"] = annealed(proposal, data, bounds, annealing, seed)
    save_bounds(run_dir, per_image)
    if against is not None:
        result["against"] = paired(result, bounds, against)
    write_text(run_dir / "evaluation.json", json.dumps(result, indent=1, allow_nan=False, default=str) + "\n")
    page = write_page(run_dir, device=str(fabric.device))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    _table(result)
    typer.echo(f"{run_dir / 'evaluation.json'}\n{page}: the report")


def _table(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    from inference.cli.annealed import words
    from inference.cli.labelled import label_lines, other_lines
    from inference.cli.sites import site_lines

    table = Table(title=f"{result['data']}: bound on {result['evidence']}, nats per image (seed {result['seed']})")
    for heading in ("k", "L_k", "standard error", "images"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        se = "-" if row["se"] is None else f"{row['se']:.3f}"
        table.add_row(str(row["k"]), f"{row['mean']:.3f}", se, str(row["images"]))
    console = Console()
    console.print(table)
    if "labels" in result:
        for line in label_lines(result["labels"]) + other_lines(result["labels"]):
            console.print(line, soft_wrap=True, highlight=False)
    if result["dreams"]:
        console.print(f"proposal: the guide after {result['dreams']} batches of the model's own draws")
    if result["active_units"] is not None:
        total = [f"active units: {result['active_units']} of {result['units']}"]
        for line in site_lines(result["sites"]) if "sites" in result else total:
            console.print(line, soft_wrap=True)
    if result["khat_median"] is not None:
        share = result["khat_above_0.7"]
        console.print(f"Pareto k-hat: median {result['khat_median']:.2f}, above 0.7 for {share:.0%} of the images")
    for line in [] if result["ais"] is None else words(result["ais"], result["evidence"]):
        console.print(line, soft_wrap=True, highlight=False)
    if "against" in result:
        other = result["against"]
        console.print(
            f"L_{other['k']} less that of {other['run']}, paired: {other['difference']:+.3f} +- {other['se']:.3f} nats"
        )
