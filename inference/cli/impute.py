"""`ppl impute`: missing pixels of test images filled in by guide and model in turn, as one PNG and a line a mask."""

from pathlib import Path
from typing import Annotated

import typer

from inference.cli.app import app, guarded

__all__ = ["impute"]

MODELS = ("vae", "dlgm", "draw", "sbn")  # those with a guide of x alone
IMAGES = 200


@app.command()
@guarded
def impute(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help=f"a run of {', '.join(MODELS)}, of images")],
    out: Annotated[Path, typer.Option(help="the PNG file to write")],
    missing: Annotated[
        str | None, typer.Option(help="shares of the pixels that are missing at random; 0.3,0.5,0.7 without --square")
    ] = None,
    square: Annotated[int | None, typer.Option(help="a missing square in the middle, of so many pixels a side")] = None,
    steps: Annotated[int, typer.Option(help="of the Markov chain")] = 100,
    n: Annotated[int, typer.Option("-n", help="images in the picture")] = 8,
    images: Annotated[
        int | None, typer.Option(help="test images, drawn by --seed, that the errors are means over: 200")
    ] = None,
    seed: Annotated[int, typer.Option(help="of images, masks and draws")] = 0,
) -> None:
    """Fill in missing pixels of test images, z ~ q(z | x) and x_missing ~ p(x | z) in turn (Rezende et al. 2014).

    Prints the error of the missing pixels' probabilities, beside that of the training images' mean.
    """
    from inference.cli.bars import Bars
    from inference.cli.imputations import error_words, fill_in, imputation_sheet, random_mask, square_mask
    from inference.cli.runs import load_model, open_run, test_rows
    from inference.cli.sample import check_png
    from inference.comparison.figures import save_png
    from inference.errors import RunError
    from ppl_models import data

    check_png(out, n)
    run = open_run(run_dir)
    if run.model not in MODELS:
        raise RunError(
            f"{run_dir} holds a run of {run.model}, whose guide reads more than x: name a run of {', '.join(MODELS)}"
        )
    shape = tuple(run.options["image_shape"])
    if shape[1] < 2:
        raise RunError(f"{run_dir} is a run of rows that are no images: nothing to draw")
    pair, _ = load_model(run_dir, run)
    x = test_rows(run, min(IMAGES, len(test_rows(run, None, seed).x)) if images is None else images, seed).x
    if n > len(x):
        raise RunError(f"the picture shows some of the {len(x)} images, got -n {n}: lower it or raise --images")
    shares = [] if missing is None and square is not None else _shares(missing or "0.3,0.5,0.7")
    masks = [random_mask(len(x), shape, share, seed + i) for i, share in enumerate(shares)]
    masks += [] if square is None else [square_mask(len(x), shape, square)]
    with Bars() as bars:
        label = f"{len(x)} images, {len(masks)} mask{'s' if len(masks) > 1 else ''}, {steps} steps"
        filled = fill_in(pair, x, masks, steps, seed, lambda step: bars.at(label, step, steps))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(imputation_sheet(x, filled, shape, n), out)
    train, _ = data.load(run.data, seed=run.seed)
    for line in error_words(run, x, filled, train.x.mean(0)):
        typer.echo(line)
    typer.echo(str(out))


def _shares(words: str) -> list[float]:
    from inference.errors import RunError

    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise RunError(f"--missing takes shares with commas, such as 0.3,0.5,0.7, got '{words}'") from None
