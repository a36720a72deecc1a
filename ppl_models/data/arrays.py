"""Files of one's own: .npy, .npz and folders of images, brought to flat float images in [0, 1].

uint8 is divided by 255, except that an array of nothing but 0 and 1 is taken as binary images; bool is 0 and
1; floats must already be inside [0, 1]. Arrays are (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C), C being
1, 3 or 4 (if both ends fit, the last axis is the channels). Nothing is unpickled.
"""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from ppl_models.data.dataset import DataError, Dataset, dataset

__all__ = ["LAYOUTS", "read_folder", "read_npy", "read_npz", "to_dataset", "unit"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
_CHANNELS = (1, 3, 4)
# names of the arrays in an .npz: training images, their labels, test images, their labels; only the first is
# needed
LAYOUTS = (
    ("x", "y", "x_test", "y_test"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train", "train_labels", "test", "test_labels"),
    ("images", "labels", "test_images", "test_labels"),
)

Part = tuple[np.ndarray, np.ndarray | None]  # images, labels


def unit(images: np.ndarray, binary: bool) -> np.ndarray:  # (N, ...) -> (N, ...) float32
    """Bring images to float32, uint8 divided by 255 unless `binary` says that they hold 0 and 1."""
    floats = images.astype(np.float32)
    if images.dtype == np.uint8 and not binary:
        floats /= 255.0
    return floats


def to_dataset(part: Part, name: str, least: int = 2, binary: bool | None = None) -> Dataset:
    """Fold arrays of any accepted shape into a `Dataset`. Raises DataError."""
    images, labels = part
    if images.dtype.kind not in "buif":
        raise DataError(f"{name}: images must be uint8, bool or float, got {images.dtype}: convert them")
    if images.ndim == 2:
        side = int(np.sqrt(images.shape[1]) + 0.5)
        shape = (1, side, side) if side * side == images.shape[1] else (1, 1, images.shape[1])
    elif images.ndim == 3:
        shape = (1, *images.shape[1:])
    elif images.ndim == 4 and images.shape[3] in _CHANNELS:
        images = np.moveaxis(images, 3, 1)
        shape = images.shape[1:]
    elif images.ndim == 4 and images.shape[1] in _CHANNELS:
        shape = images.shape[1:]
    else:
        raise DataError(
            f"{name}: images must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4, "
            f"got {images.shape}: reshape the array"
        )
    if labels is not None and labels.dtype.kind not in "bui":
        raise DataError(
            f"{name}: labels must be integers, got {labels.dtype}: give the class of each image as 0, 1, ..."
        )
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    flat = images.reshape(len(images), int(np.prod(shape)))
    x = torch.from_numpy(unit(flat, is_binary(images) if binary is None else binary))
    y = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return dataset(x, y, (int(shape[0]), int(shape[1]), int(shape[2])), name, least)


def is_binary(images: np.ndarray) -> bool:
    """Tell whether uint8 images hold only 0 and 1: divided by 255 they would be as good as black."""
    return images.dtype == np.uint8 and images.size > 0 and bool(images.max() <= 1)


def read_npy(path: Path) -> np.ndarray:
    """Read one array. Raises DataError: missing, empty, truncated, not .npy, or of Python objects."""
    array = _load(path)
    if isinstance(array, np.ndarray):
        return array
    array.close()
    raise DataError(f"{path} is not an .npy file but an archive of arrays: name it .npz")


def read_npz(path: Path) -> tuple[Part, Part | None]:
    """Read (train, test or None) by the names in `LAYOUTS`, for instance x [, y] or train [, test]."""
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise DataError(f"{path} is not an .npz file but a single array: name it .npy")
    with archive:
        keys = sorted(archive.files)
        layout = next((names for names in LAYOUTS if names[0] in keys), None)
        if layout is None:
            wanted = ", ".join(names[0] for names in LAYOUTS)
            raise DataError(f"{path} holds the arrays {keys}, none of which is the images ({wanted}): rename one")
        try:
            x, y, x_test, y_test = (archive[name] if name in keys else None for name in layout)
        except Exception:  # a damaged member: zipfile, zlib and numpy each raise their own
            raise DataError(f"{path} is damaged or holds Python objects: save plain arrays with numpy.savez") from None
    assert x is not None
    return (x, y), None if x_test is None else (x_test, y_test)


def _load(path: Path) -> np.ndarray | NpzFile:
    if not path.is_file():
        raise DataError(f"{path} is missing: check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: save the array again with numpy.save or numpy.savez")
    try:
        # from memory, because numpy leaves a damaged .npz open; no pickles, because they could run code
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except Exception:  # numpy's own sentence may advise allow_pickle=True, so it is not passed on
        raise DataError(
            f"{path} is truncated, not numpy's format, or holds Python objects: "
            "save plain arrays again with numpy.save or numpy.savez"
        ) from None


def read_folder(path: Path) -> tuple[Part, Part | None]:
    """Read images of one size; sub-folders are classes, numbered in the order of their names.

    With the sub-folders train and test each of them is read so, and the classes are those of train.
    Raises DataError: no images, two sizes, a file that is not an image or not of 8 bits.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder: check the path")
    if (path / "train").is_dir() and (path / "test").is_dir():
        classes = _classes(path / "train")
        return _read_images(path / "train", classes), _read_images(path / "test", classes)
    return _read_images(path, _classes(path)), None


def _classes(path: Path) -> list[str]:
    return sorted(f.name for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images_in(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith("."))


def _read_images(path: Path, classes: list[str]) -> Part:  # -> (N, H, W) or (N, H, W, 3) uint8, (N,) or None
    from PIL import Image

    if strange := sorted(set(_classes(path)) - set(classes)):
        raise DataError(f"{path} has the class {strange[0]!r}, which the training images lack: add it there or drop it")
    files = _images_in(path)
    labels = None
    if classes:
        if files:
            raise DataError(
                f"{path} holds both images ({files[0].name}) and folders ({classes[0]}): keep one of the two"
            )
        inside = [(f, label) for label, c in enumerate(classes) if (path / c).is_dir() for f in _images_in(path / c)]
        files, labels = [f for f, _ in inside], np.array([label for _, label in inside], np.int64)
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))}): check the path")
    arrays: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{file} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
                # alpha is dropped; a palette may hold colours, so it counts as colour
                arrays.append(np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")))
        except (OSError, SyntaxError) as error:  # SyntaxError: Pillow on a broken PNG
            raise DataError(f"{file} is not an image that Pillow can read ({error}): repair or remove it") from None
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            sizes = [f"{a.shape[1]} x {a.shape[0]}" for a in (arrays[0], arrays[-1])]
            raise DataError(
                f"all images must have one size, and {files[0]} is {sizes[0]} while {file} is {sizes[1]}: "
                "resize or crop them first"
            )
    if any(a.ndim == 3 for a in arrays):
        arrays = [a if a.ndim == 3 else np.repeat(a[:, :, None], 3, axis=2) for a in arrays]
    return np.stack(arrays), labels
