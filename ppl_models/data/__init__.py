"""Data sets as pairs (train, test) of `Dataset`, and `Batches` that walk through them.

    from ppl_models import data
    train, test = data.mnist()
    for (x,) in data.Batches(train.x, 100, binarize=True).epoch(0, seed=1):
        ...

`load` takes a name or a path, `available` lists the names. Nothing is read or downloaded at import. A file is
looked for in the folder named by the environment variable PPL_DATA, then in the download cache, then at its
URL, and its checksum is compared every time.
"""

from ppl_models.data.batches import Batches
from ppl_models.data.codes import Codes, standardised
from ppl_models.data.dataset import DataError, Dataset, binarize, hold_out
from ppl_models.data.labels import Interleave, split_labels
from ppl_models.data.loading import Entry, available, load
from ppl_models.data.named import (
    bars,
    binarized_mnist,
    caltech101_silhouettes,
    cifar10,
    digits,
    fashion_mnist,
    mnist,
    omniglot,
)
from ppl_models.data.parts import ImageParts, SplitBatches, image_parts
from ppl_models.data.stacked import stacked_mnist
from ppl_models.data.toys import Mixture, grid, line, ring

__all__ = [
    "Batches",
    "Codes",
    "DataError",
    "Dataset",
    "Entry",
    "ImageParts",
    "Interleave",
    "Mixture",
    "SplitBatches",
    "available",
    "bars",
    "binarize",
    "binarized_mnist",
    "caltech101_silhouettes",
    "cifar10",
    "digits",
    "fashion_mnist",
    "grid",
    "hold_out",
    "image_parts",
    "line",
    "load",
    "mnist",
    "omniglot",
    "ring",
    "split_labels",
    "stacked_mnist",
    "standardised",
]
