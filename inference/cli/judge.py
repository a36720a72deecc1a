"""The classifier that judges what a generator draws of a labelled data set: trained once, kept in the download cache.

The recipe below is one for every data set, by its number of rows and the size of its images, and its seed is fixed; the
file's name holds a digest of the training data, so that changed data get a classifier of their own.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_models.classifier import ImageClassifier

__all__ = ["judge_for"]

RECIPE = 1  # part of the file's name: raise it with every change of what follows
VISITS = 140_000  # rows seen in training
BATCH, RATE, DECAY, SEED = 50, 2e-3, 0.05, 0


def judge_for(name_or_path: str) -> "ImageClassifier | None":
    """The classifier for a data set's samples, or None where it has no labels of two classes or more.

    That of stacked_mnist is MNIST's, for each channel by itself. What it is and how often it is right on test images
    goes to standard error; so does why there is none, and that it cannot be kept where the cache cannot be written.

    Raises:
        DataError: no such data set.
    """
    from inference.errors import CheckpointError
    from inference.pair import as_pair
    from inference.training.checkpoint import load, restore, save
    from ppl_models import data as datasets

    train, test = datasets.load("mnist" if name_or_path == "stacked_mnist" else name_or_path)
    if train.y is None or test.y is None or int(train.y.max()) < 1:
        _tell(f"{train.name} has no labels of two classes or more, so no classifier can judge its samples")
        return None
    judge, path = _build(train), _path(train)
    try:
        tensors, meta = load(path)
        restore(as_pair(judge), tensors)
    except CheckpointError:  # none yet, or one that cannot be read
        _tell(f"training a classifier of {train.name}, once, to judge its samples")
        _train(judge, train)
        meta = {"right": _right(judge, test)}
        tensors = {f"parameter.{name}": value.detach() for name, value in as_pair(judge).named_parameters().items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, tensors, meta)
        except OSError as error:
            _tell(f"the classifier cannot be kept and will be trained again next time ({error})")
    right = (
        "whose test images are of other classes"
        if meta["right"] is None
        else (f"right on {100 * meta['right']:.1f} % of {len(test.x)} test images")
    )
    _tell(f"judge: a classifier of {train.name}, {right}")
    return judge


def _right(judge: "ImageClassifier", test: Any) -> float | None:
    """The share of test images whose class it finds; None where it knows none of these classes, as with omniglot."""
    known = test.y < judge.n_classes
    return float((judge.predict(test.x) == test.y).double().mean()) if bool(known.any()) else None


def _path(train: Any) -> Path:
    from ppl_models.data import DataError
    from ppl_models.data.sources import cache_folder

    folder = cache_folder()
    if folder is None:
        raise DataError("keeping the classifier that judges samples needs pooch: pip install pooch")
    digest = hashlib.sha256(train.x.numpy())
    digest.update(train.y.numpy())
    file = f"{Path(train.name).stem}-{digest.hexdigest()[:12]}-recipe{RECIPE}.safetensors"
    return folder / "judges" / file


def _build(train: Any) -> "ImageClassifier":
    """An untrained one, the caller's RNG left as it was."""
    import torch

    from ppl_models.classifier import ImageClassifier

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        channels = 16 if train.image_shape[0] == 1 else 32
        return ImageClassifier(train.image_shape, int(train.y.max()) + 1, channels)


def _train(judge: "ImageClassifier", train: Any) -> None:
    """Maximum likelihood by AdamW, images moved by up to a tenth of their side, the rate falling to a hundredth."""
    import torch

    from inference import SVI, TraceELBO, fit, linear
    from ppl_models import data as datasets

    batches = datasets.Batches(
        (train.x, train.y), BATCH, shift=min(train.image_shape[1:]) // 10, image_shape=train.image_shape
    )
    optimizer = torch.optim.AdamW(judge.parameters(), RATE, weight_decay=DECAY, fused=True)
    svi = SVI(judge, TraceELBO(), optimizer, compile=False)
    fit(svi, batches, -(-VISITS // len(train.x)), SEED, schedule=linear(0.01), progress=True)


def _tell(sentence: str) -> None:
    import typer

    typer.echo(sentence, err=True)
