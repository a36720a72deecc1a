"""`ppl sample`: images drawn from a trained run, as one PNG; of DRAW also as a GIF of how they are drawn."""

from pathlib import Path
from typing import Annotated

import typer

from inference.cli.app import app, guarded

__all__ = ["check_png", "sample"]


@app.command()
@guarded
def sample(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that `ppl train` wrote")],
    out: Annotated[Path, typer.Option(help="the PNG file to write; of DRAW, a GIF of images being drawn too")],
    n: Annotated[int, typer.Option("-n", help="number of images, or of styles")] = 64,
    seed: Annotated[int, typer.Option(help="of the draws")] = 0,
) -> None:
    """Draw z from the prior and save the mean images as a grid; of a conditional model, test images completed;
    of a model of labels, each class in -n styles; of a game its samples, points over the density they are to have.
    """
    from inference.cli.completions import completed
    from inference.cli.deep_pictures import drawing_film
    from inference.cli.game_folder import is_game
    from inference.cli.game_page import game_samples
    from inference.cli.label_pictures import by_class
    from inference.cli.page import grid
    from inference.cli.runs import load_model, open_run
    from inference.comparison.figures import save_png, write_atomic
    from inference.errors import RunError

    film = out.suffix.lower() == ".gif"
    check_png(out.with_suffix(".png") if film else out, n)
    if film and (is_game(run_dir) or open_run(run_dir).model != "draw"):
        raise RunError(
            f"a GIF shows how an image is drawn step by step, and {run_dir} is no run of draw: pass --out "
            f"{out.with_suffix('.png')}"
        )
    if is_game(run_dir):
        png = game_samples(run_dir, n, seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, png)
        typer.echo(str(out))
        return
    run = open_run(run_dir)
    pair, _ = load_model(run_dir, run)
    out.parent.mkdir(parents=True, exist_ok=True)
    if film:
        write_atomic(out, drawing_film(pair.owner, tuple(run.options["image_shape"]), n, seed))
    elif run.labels is not None:
        save_png(grid(by_class(pair.owner, n, seed), run, columns=n), out)
    else:
        x = pair.owner.generate(n, seed) if run.parts is None else completed(pair.owner, run, n, seed)
        save_png(grid(x, run, columns=max(1, round(n**0.5))), out)
    typer.echo(str(out))


def check_png(out: Path, n: int) -> None:
    """Refuse a file that is no PNG, and no images at all."""
    from inference.errors import RunError

    if n < 1:
        raise RunError(f"the number of images is at least 1, got {n}: pass -n 64")
    if out.suffix.lower() != ".png":
        remedy = out.with_suffix(".png") if out.name else out / "samples.png"
        raise RunError(f"--out names a PNG file, got {out}: pass --out {remedy}")
