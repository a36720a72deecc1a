"""What a game learns from: points of a toy whose density is known, or the images (or rows) of a data set."""

from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.cli.games import REFERENCE, GameRun
from inference.errors import RunError
from ppl_models import data as datasets

__all__ = ["TOYS", "GameData", "read_data", "settle"]

TOYS = {"ring": datasets.ring, "grid": datasets.grid, "line": datasets.line}
TEST_SEED = 1_000_003  # of a toy's points to judge by: other ones than those learnt from


class GameData(NamedTuple):
    """Rows to learn from and rows to judge by."""

    x: Tensor  # (N, D)
    y: Tensor | None  # (N,) classes
    test: Tensor  # (M, D)
    toy: Any = None  # a Mixture
    image_shape: tuple[int, int, int] | None = None  # of images; None of points
    name: str = ""  # "cifar10-subset" where only a part of cifar10 is here


def read_data(run: GameRun) -> GameData:
    """The data of a game by its name or path; points of a toy are drawn by the run's seed."""
    if run.data in TOYS:
        toy = TOYS[run.data]() if run.sd is None else TOYS[run.data](sd=run.sd)
        return GameData(
            toy.sample(run.points, run.seed), None, toy.sample(10_000, run.seed + TEST_SEED), toy, None, toy.name
        )
    try:
        train, test = datasets.load(run.data, seed=run.seed)
    except datasets.DataError as error:
        close = get_close_matches(run.data, TOYS, 1)
        if close and run.game == "gan":
            raise RunError(f"no data set or file called '{run.data}': did you mean '{close[0]}'?") from None
        raise error
    shape = train.image_shape
    # some test sets lie in the order of their classes, and parts of this one are to stand for the whole
    order = torch.randperm(len(test.x), generator=torch.Generator().manual_seed(0))
    return GameData(train.x, train.y, test.x[order], None, shape if min(shape[1:]) > 1 else None, train.name)


def settle(run: GameRun, found: GameData) -> None:
    """Fill in what the data decide: sizes, classes, epochs; refuse what does not fit them."""
    n = len(found.x)
    if run.sd is not None and found.toy is None:
        raise RunError(f"--sd is of the toys {', '.join(TOYS)}, and the data are {run.data}: leave it out")
    if run.labels and found.y is None:
        raise RunError(f"--labels needs classes, and {run.data} has none: leave it out, or take mnist for example")
    run.batch_size = min(run.batch_size, n // run.pack * run.pack)
    if run.batch_size % run.pack:
        raise RunError(
            f"--pack {run.pack} does not divide --batch-size {run.batch_size}: pass --batch-size "
            f"{max(1, run.batch_size // run.pack) * run.pack}"
        )
    if run.norm == "virtual" and n < REFERENCE * run.pack:
        raise RunError(
            f"virtual batch norm takes {REFERENCE * run.pack} rows of reference, and {run.data} has {n}: --norm batch"
        )
    if run.labels:
        assert found.y is not None
        classes = {"n_classes": int(found.y.max()) + 1}
        run.generator |= classes
        if run.game != "lapgan":
            run.discriminator |= classes
    run.image_shape = None if found.image_shape is None else list(found.image_shape)
    if run.game == "gan":
        run.generator |= {"x_dim": found.x.shape[1], "bounded": found.toy is None}
        run.discriminator |= {"x_dim": found.x.shape[1], "pack": run.pack}
        if found.toy is not None:  # of any size, and so brought to zero mean and unit size inside
            moments = {"mean": found.x.mean().item(), "scale": found.x.std().item()}
            run.generator |= moments
            run.discriminator |= moments
    else:
        if found.image_shape is None:
            raise RunError(f"`ppl train {run.game}` takes images, and {run.data} holds rows: try `ppl train gan`")
        run.generator |= {"image_shape": list(found.image_shape)}
        if run.game == "dcgan":
            run.discriminator |= {"image_shape": list(found.image_shape), "pack": run.pack}
    if run.steps is not None:
        run.epochs = -(-run.steps // (n // run.batch_size))
