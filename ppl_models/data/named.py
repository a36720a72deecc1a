"""The named data sets: each function returns a pair (train, test) of `Dataset`.

Grey images (digits, mnist, fashion_mnist, omniglot, cifar10) are in [0, 1] and want `Batches(...,
binarize=True)` under a Bernoulli likelihood; static ones (bars, binarized_mnist, caltech101_silhouettes) are
0 and 1 already. Figures in nats may be compared only within one of the two: binarized_mnist and binarised
mnist are different data sets.
"""

import warnings
from pathlib import Path

import numpy as np
import torch

from ppl_models.data import arrays, formats
from ppl_models.data.dataset import DataError, Dataset, check, dataset, hold_out, seeds
from ppl_models.data.sources import fetch, found

__all__ = [
    "CIFAR_SUBSET",
    "bars",
    "binarized_mnist",
    "caltech101_silhouettes",
    "cifar10",
    "digits",
    "fashion_mnist",
    "is_cifar_subset",
    "mnist",
    "omniglot",
]

_CIFAR = "cifar10/cifar-10-binary.tar.gz"
_TEST_CLASSES = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # images of each digit in MNIST's test set
CIFAR_SUBSET = ("cifar10/data_batch_1.bin.xz", "cifar10/test_batch_first1000.bin.xz")


def digits() -> tuple[Dataset, Dataset]:
    """Load scikit-learn's 8 x 8 digits, grey (value / 16), with labels: 1500 and 297, split once for all."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits comes with scikit-learn, which is not installed: pip install scikit-learn") from None
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)  # numpy keeps this stream for ever, the newer ones it may not
    x = torch.from_numpy((images[order] / 16.0).astype(np.float32))
    y = torch.from_numpy(labels[order].astype(np.int64))
    shape = (1, 8, 8)
    return dataset(x[:1500], y[:1500], shape, "digits"), dataset(x[1500:], y[1500:], shape, "digits")


def bars(n: int = 1000, size: int = 4, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Draw the bars problem: n binary images of size x size to train on, and n more to test on.

    Each of the 2 * size bars (rows and columns) is on with probability 1 / size, independently; a pixel is on
    if its row or its column is. Raises DataError if n < 2 or size < 2.
    """
    if n < 2 or size < 2:
        raise DataError(
            f"bars needs n >= 2 images and size >= 2, got n={n}, size={size}: pass for example n=1000, size=4"
        )
    generator = torch.Generator().manual_seed(seeds(seed)[0])
    on = torch.rand(2 * n, 2, size, generator=generator) < 1.0 / size
    x = (on[:, 0, :, None] | on[:, 1, None, :]).reshape(2 * n, size * size).float()
    return dataset(x[:n], None, (1, size, size), "bars"), dataset(x[n:], None, (1, size, size), "bars")


def mnist() -> tuple[Dataset, Dataset]:
    """Load MNIST, grey: 60000 and 10000 images of 28 x 28 with labels 0 to 9."""
    return _idx("mnist", "train"), _idx("mnist", "t10k")


def fashion_mnist() -> tuple[Dataset, Dataset]:
    """Load Fashion-MNIST, grey: 60000 and 10000 images of 28 x 28 with labels 0 to 9."""
    return _idx("fashion_mnist", "train"), _idx("fashion_mnist", "t10k")


def _idx(name: str, part: str) -> Dataset:
    image_file, label_file = (f"{name}/{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    x, y = formats.read_idx(fetch(image_file)), formats.read_idx(fetch(label_file))
    if x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
        raise DataError(
            f"{image_file} and {label_file} must hold (N, 28, 28) images and N labels, "
            f"got {x.shape} and {y.shape}: these are not the files of one set, fetch both again"
        )
    return _grey(x, y, (1, 28, 28), name)


def _grey(x: np.ndarray, y: np.ndarray, shape: tuple[int, int, int], name: str) -> Dataset:  # x: (N, ...) uint8
    flat = torch.from_numpy(x.reshape(len(x), -1).astype(np.float32)).div_(255.0)
    return dataset(flat, torch.from_numpy(y.astype(np.int64)), shape, name, least=1)


def binarized_mnist(valid: bool = False) -> tuple[Dataset, Dataset]:
    """Load MNIST as binarised once by Salakhutdinov and Murray (2008): 50000 and 10000 images of 28 x 28.

    The files have no labels. The test images are in the order of their classes: so theirs are known, and a part
    of them is no sample of the whole. `valid` gives the 10000 images of the official validation file in place of
    test, which are in no order.
    """
    train, test = (
        formats.read_amat(fetch(f"{stem}.amat.gz", f"{stem}.amat"))
        for stem in (f"binarized_mnist/binarized_mnist_{part}" for part in ("train", "valid" if valid else "test"))
    )
    ordered = not valid and len(test) == sum(_TEST_CLASSES)
    y = np.repeat(np.arange(10), _TEST_CLASSES) if ordered else None
    return _static(train, None, "binarized_mnist"), _static(test, y, "binarized_mnist")


def _static(x: np.ndarray, y: np.ndarray | None, name: str) -> Dataset:  # x: (N, 784) of 0 and 1
    labels = None if y is None else torch.from_numpy(y)
    return dataset(torch.from_numpy(x.astype(np.float32)), labels, (1, 28, 28), name, least=1)


def caltech101_silhouettes(valid: bool = False) -> tuple[Dataset, Dataset]:
    """Load Caltech-101 silhouettes (Marlin et al. 2010), static, object = 1: 4100 and 2307 images of 28 x 28.

    Labels are 0 to 100. `valid` gives the 2264 official validation images in place of test.
    """
    parts = formats.read_caltech(fetch("caltech101_silhouettes/caltech101_silhouettes_28_split1.mat"))
    name = "caltech101_silhouettes"
    return _static(*parts["train"], name), _static(*parts["val" if valid else "test"], name)


def cifar10() -> tuple[Dataset, Dataset]:
    """Load CIFAR-10: 50000 and 10000 images of 3 x 32 x 32, values / 255, labels 0 to 9.

    If only data_batch_1.bin.xz and test_batch_first1000.bin.xz are here, those 10000 and 1000 images are
    returned with a UserWarning, under the name "cifar10-subset".
    """
    name = "cifar10"
    if is_cifar_subset():
        name = "cifar10-subset"
        warnings.warn(
            "only a part of CIFAR-10 is here, one fifth of the training set and the first 1000 test images: "
            "results on it must not be quoted as CIFAR-10 test figures",
            UserWarning,
            stacklevel=2,
        )
        train, test = (formats.read_cifar(fetch(file)) for file in CIFAR_SUBSET)
    else:
        train, test = formats.read_cifar_tar(fetch(_CIFAR))
    return _grey(*train, (3, 32, 32), name), _grey(*test, (3, 32, 32), name)


def is_cifar_subset() -> bool:
    """Tell whether `cifar10` would return the subset: its files are here and the whole archive is not."""
    return found(_CIFAR) is None and all(found(file) for file in CIFAR_SUBSET)


def omniglot(seed: int = 0) -> tuple[Dataset, Dataset]:
    """Load Omniglot, averaged down from 105 x 105 to 28 x 28, grey, ink = 1: 19280 and 13180 drawings.

    A label is the character: 0 to 963 (the background set) to train on, 964 to 1622 (the evaluation set) to
    test on. This is Lake's data, not the 28 x 28 file of Burda et al. (2016): nats on the two are not
    comparable.

    Instead of the two published zips, a file omniglot.npz of one's own may lie in the folder of the data set:
    arrays (N, 105, 105) of uint8 0 and 255, of 0 and 1 or of bool, under the names `train` and `test` (or
    another of `ppl_models.data.arrays.LAYOUTS`, such as `images` and `labels`; without a test part a tenth is
    held out by `seed`). Which of ink and paper is dark is decided by the majority, ink being the rarer.
    """
    own = found("omniglot/omniglot.npz")
    if own is None:
        first, first_y = formats.read_omniglot(fetch("omniglot/images_background.zip"))
        second, second_y = formats.read_omniglot(fetch("omniglot/images_evaluation.zip"))
        return _drawings(first, first_y), _drawings(second, second_y + first_y.max() + 1)
    train, test = arrays.read_npz(own)
    for images, _ in (train, test or train):
        if images.ndim != 3 or images.shape[1:] != (105, 105) or images.dtype.kind not in "buif":
            raise DataError(
                f"{own}: omniglot images must be numbers of shape (N, 105, 105), "
                f"got {images.dtype} {images.shape}: pack the published drawings as they are"
            )
    if test is None:
        return hold_out(_drawings(*train, own, least=2), 0.1, seed)
    return _drawings(*train, own, least=2), _drawings(*test, own)


def _drawings(images: np.ndarray, labels: np.ndarray | None, path: Path | None = None, least: int = 1) -> Dataset:
    """Scale, turn ink into 1 and average (N, 105, 105) down to (N, 28 * 28)."""
    from PIL import Image

    name = "omniglot" if path is None else str(path)
    pages = arrays.unit(images, arrays.is_binary(images))
    check(torch.from_numpy(pages).flatten(1), name, least=1)  # before the clip below could hide a wrong scale
    if pages.mean() > 0.5:
        pages = 1.0 - pages
    # a box filter is the mean over the 3.75 x 3.75 pixels that one pixel covers: values stay inside [0, 1]
    small = [np.asarray(Image.fromarray(page).resize((28, 28), Image.Resampling.BOX)) for page in pages]
    x = np.stack(small).reshape(len(pages), 784)
    x = np.clip(x, 0.0, 1.0)  # the mean may round to a hair above 1
    folded = arrays.to_dataset((x, labels), name, least)
    return folded._replace(name="omniglot")
