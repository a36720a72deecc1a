"""`load`: a data set by its name, or one's own by a path; `available`: what there is and where it is."""

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ppl_models.data import arrays, named
from ppl_models.data.dataset import DataError, Dataset, hold_out
from ppl_models.data.sources import FILES, found, where
from ppl_models.data.stacked import stacked_mnist

__all__ = ["Entry", "available", "load"]


class Entry(NamedTuple):
    """One named data set, as `ppl data` lists it."""

    name: str
    image_shape: tuple[int, int, int]  # (C, H, W)
    train: int  # number of training images
    test: int
    values: str  # "static" (0 and 1) or "grey"
    source: str  # "scikit-learn", "generated", "PPL_DATA folder", "cache", "download" or "missing"
    url: str | None


_IDX = [(f"{part}-{kind}-ubyte.gz",) for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
_AMAT = [(f"binarized_mnist_{part}.amat.gz", f"binarized_mnist_{part}.amat") for part in ("train", "test", "valid")]
# of each group of files one is needed
_NEEDS: dict[str, list[tuple[str, ...]]] = {
    "mnist": _IDX,
    "stacked_mnist": _IDX,
    "binarized_mnist": _AMAT,
    "fashion_mnist": _IDX,
    "omniglot": [("images_background.zip",), ("images_evaluation.zip",)],
    "caltech101_silhouettes": [("caltech101_silhouettes_28_split1.mat",)],
    "cifar10": [("cifar-10-binary.tar.gz",)],
}
_ORDER = ("PPL_DATA folder", "cache", "download", "missing")
_FILED = (
    ("mnist", (1, 28, 28), 60000, 10000, "grey"),
    ("stacked_mnist", (3, 28, 28), 60000, 10000, "grey"),
    ("binarized_mnist", (1, 28, 28), 50000, 10000, "static"),
    ("fashion_mnist", (1, 28, 28), 60000, 10000, "grey"),
    ("omniglot", (1, 28, 28), 19280, 13180, "grey"),
    ("caltech101_silhouettes", (1, 28, 28), 4100, 2307, "static"),
    ("cifar10", (3, 32, 32), 50000, 10000, "grey"),
)


def available() -> list[Entry]:
    """List the named data sets and where each would come from now; checksums are not compared here."""
    sklearn = "scikit-learn" if importlib.util.find_spec("sklearn") else "missing"
    rows = [
        Entry("digits", (1, 8, 8), 1500, 297, "grey", sklearn, None),
        Entry("bars", (1, 4, 4), 1000, 1000, "static", "generated", None),
    ]
    for name, shape, train, test, values in _FILED:
        folder = name.removeprefix("stacked_")  # made of MNIST's files
        groups = [tuple(f"{folder}/{file}" for file in group) for group in _NEEDS[name]]
        source = max((where(*group) for group in groups), key=_ORDER.index)  # of several files the farthest counts
        url = next(FILES[file].url for file in groups[0] if FILES[file].url)
        if name == "cifar10" and named.is_cifar_subset():
            train, test, source = 10000, 1000, where(named.CIFAR_SUBSET[0])
        if name == "omniglot" and found("omniglot/omniglot.npz"):
            source = where("omniglot/omniglot.npz")
        rows.append(Entry(name, shape, train, test, values, source, url))
    return rows


def load(name_or_path: str, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Load (train, test) of a named data set, or of an .npy, an .npz or a folder of images.

    One's own data without a test part have a tenth, at least 1 row, held out by `seed`; the formats are
    described in `ppl_models.data.arrays`. `seed` also draws `bars` and `stacked_mnist`. Raises DataError.
    """
    functions: dict[str, Callable[[], tuple[Dataset, Dataset]]] = {
        "digits": named.digits,
        "bars": lambda: named.bars(seed=seed),
        "mnist": named.mnist,
        "stacked_mnist": lambda: stacked_mnist(seed=seed),
        "binarized_mnist": named.binarized_mnist,
        "fashion_mnist": named.fashion_mnist,
        "omniglot": lambda: named.omniglot(seed=seed),
        "caltech101_silhouettes": named.caltech101_silhouettes,
        "cifar10": named.cifar10,
    }
    if name_or_path in functions:
        return functions[name_or_path]()
    path = Path(name_or_path).expanduser()
    if not name_or_path or not path.exists():
        near = difflib.get_close_matches(name_or_path, functions, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"no data set or file called {name_or_path!r}: {guess}The names are {', '.join(functions)}; "
            "or give the path of an .npy, an .npz or a folder of images"
        )
    if path.is_dir():
        train, test = arrays.read_folder(path)
    elif path.suffix == ".npy":
        train, test = (arrays.read_npy(path), None), None
    elif path.suffix == ".npz":
        train, test = arrays.read_npz(path)
    else:
        raise DataError(f"{path} is of no kind that can be read: give an .npy, an .npz or a folder of images")
    binary = arrays.is_binary(train[0])  # decided once: a test part of few pixels must not be scaled otherwise
    if test is not None:
        binary = binary and arrays.is_binary(test[0])
    first = arrays.to_dataset(train, str(path), binary=binary)
    if test is None:
        return hold_out(first, 0.1, seed)
    second = arrays.to_dataset(test, f"{path} (test)", least=1, binary=binary)
    if second.image_shape != first.image_shape:
        raise DataError(
            f"{path}: training and test images must have one shape, got {first.image_shape} and "
            f"{second.image_shape}: resize one of them"
        )
    return first, second._replace(name=first.name)
