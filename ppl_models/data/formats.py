"""Parsers of the published files: path in, numpy arrays out, nothing downloaded and nothing scaled.

Every one states what it expected and what it found, because the usual causes (an interrupted download, an
HTML error page saved under the file's name, the wrong one of four files) all look like nonsense numbers
otherwise. Packing (gzip or xz) is recognised by the first bytes, not by the name. The files of one's own are
read in `arrays.py`.
"""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.data.dataset import DataError

__all__ = [
    "Pair",
    "contents",
    "read_amat",
    "read_caltech",
    "read_cifar",
    "read_cifar_tar",
    "read_idx",
    "read_omniglot",
]

Pair = tuple[np.ndarray, np.ndarray]  # images, labels

_AGAIN = "fetch it again"
_CIFAR_ROW = 1 + 3 * 32 * 32


def contents(path: Path) -> bytes:
    """Return the bytes of a file, unpacked if gzip or xz. Raises DataError: missing, empty, truncated."""
    if not path.is_file():
        raise DataError(f"{path} is missing: check the path, or {_AGAIN}")
    raw = path.read_bytes()
    try:
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        elif raw.startswith(b"\xfd7zXZ\x00"):
            raw = lzma.decompress(raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): {_AGAIN}") from None
    if not raw:
        raise DataError(f"{path} is empty: {_AGAIN}")
    return raw


def read_idx(path: Path) -> np.ndarray:  # -> (N, ...) uint8
    """Read the idx format of MNIST: bytes 0, 0, 8 (for uint8), the number of axes, lengths, values."""
    raw = contents(path)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not 1 <= raw[3] <= 4:
        raise DataError(f"{path} is not an idx file of bytes (it begins with {raw[:4].hex()}, not 000008..): {_AGAIN}")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise DataError(f"{path} is truncated inside its header ({len(raw)} of {start} bytes): {_AGAIN}")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    size = int(np.prod(shape, dtype=np.int64))
    if len(raw) - start != size:
        raise DataError(f"{path} should hold {size} values {shape} and holds {len(raw) - start}: {_AGAIN}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_amat(path: Path, width: int = 784) -> np.ndarray:  # -> (N, D) uint8 of 0 and 1
    """Read binary images as text: `width` zeros and ones a line, one space between them."""
    raw = contents(path)
    if not raw.endswith(b"\n"):
        raw += b"\n"
    text = np.frombuffer(raw, np.uint8)
    # all lines have the same length, so the text is itself an array: 80 MB are read in a tenth of a second
    if text.size % (2 * width) == 0:
        grid = text.reshape(-1, width, 2)
        values = grid[:, :, 0] - np.uint8(ord("0"))  # what comes before "0" wraps around to more than 1
        gaps = np.full(width, ord(" "), np.uint8)
        gaps[-1] = ord("\n")
        if (grid[:, :, 1] == gaps).all() and values.max() <= 1:
            return values
    for number, line in enumerate(raw.splitlines(), start=1):
        words = line.split()
        if len(words) != width:
            raise DataError(f"{path}, line {number}: {width} values are expected, got {len(words)}: {_AGAIN}")
        if bad := next((w for w in words if w not in (b"0", b"1")), None):
            raise DataError(f"{path}, line {number}: every value must be 0 or 1, got {bad[:20]!r}: {_AGAIN}")
    raise DataError(f"{path}: the values must be separated by one space and end with a newline: {_AGAIN}")


def read_cifar(path: Path) -> Pair:  # -> (N, 3072) uint8, (N,) uint8
    """Read CIFAR-10's binary form: records of 1 label and 1024 red, 1024 green, 1024 blue bytes."""
    return _cifar(contents(path), str(path))


def read_cifar_tar(path: Path) -> tuple[Pair, Pair]:
    """Read the archive cifar-10-binary.tar.gz: its five training batches and its test batch."""
    raw = contents(path)
    names = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)] + ["cifar-10-batches-bin/test_batch.bin"]
    pairs: list[Pair] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for name in names:
                member = archive.extractfile(name)  # read in memory: nothing of the archive touches the disk
                pairs.append(_cifar(member.read() if member else b"", f"{path}:{name}"))
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DataError(f"{path} is not CIFAR-10's binary archive ({error}): {_AGAIN}") from None
    images, labels = (np.concatenate(part) for part in zip(*pairs[:-1], strict=True))
    return (images, labels), pairs[-1]


def _cifar(raw: bytes, name: str) -> Pair:
    if not raw or len(raw) % _CIFAR_ROW:
        raise DataError(f"{name}: records of {_CIFAR_ROW} bytes are expected, got {len(raw)} bytes: {_AGAIN}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_ROW)
    if records[:, 0].max() > 9:
        raise DataError(f"{name}: labels must be 0 to 9, got {records[:, 0].max()} (not CIFAR-10's bytes): {_AGAIN}")
    return records[:, 1:], records[:, 0]


def read_caltech(path: Path) -> dict[str, Pair]:
    """Read the .mat of Caltech-101 silhouettes: {"train", "val", "test"} -> (N, 784) of 0 and 1, labels 0 to
    100.

    The file holds the images column by column with 0 for the object; here they are row by row and 1 is the
    object.
    """
    from scipy.io import loadmat

    raw = contents(path)
    try:
        file: dict[str, Any] = loadmat(io.BytesIO(raw))
        parts = {p: (np.asarray(file[f"{p}_data"]), np.asarray(file[f"{p}_labels"])) for p in ("train", "val", "test")}
    except KeyError as error:
        raise DataError(f"{path} has no variable {error}: take caltech101_silhouettes_28_split1.mat") from None
    except Exception as error:  # scipy raises a dozen kinds on a file that is not a .mat
        raise DataError(f"{path} is not a .mat file ({error}): {_AGAIN}") from None
    out: dict[str, Pair] = {}
    for part, (x, y) in parts.items():
        if x.ndim != 2 or x.shape[1] != 784 or y.size != len(x):
            raise DataError(f"{path}: {part} must be (N, 784) with N labels, got {x.shape} and {y.shape}: {_AGAIN}")
        if not np.isin(x, (0, 1)).all() or y.min() < 1 or y.max() > 101:
            raise DataError(f"{path}: {part} must hold 0 and 1 with labels 1 to 101, and does not: {_AGAIN}")
        images = 1 - x.astype(np.int8).reshape(-1, 28, 28).transpose(0, 2, 1)
        out[part] = (images.reshape(-1, 784).astype(np.uint8), y.reshape(-1).astype(np.int64) - 1)
    return out


def read_omniglot(path: Path) -> Pair:  # -> (N, 105, 105) uint8, 0 or 255; (N,)
    """Read images_background.zip or images_evaluation.zip; a label counts the characters in the order of
    their names.

    A file inside is set/alphabet/character/drawing.png.
    """
    from PIL import Image

    raw = contents(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith(".png") and not n.startswith("__MACOSX"))
            images = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("L")) for n in names]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a zip of images ({error}): {_AGAIN}") from None
    if bad := next((i for i, image in enumerate(images) if image.shape != (105, 105)), None):
        raise DataError(f"{path}: {names[bad]} must be 105 x 105 and is {images[bad].shape}: {_AGAIN}")
    if not images:
        raise DataError(f"{path} holds no .png files: take images_background.zip or images_evaluation.zip")
    characters = [n.rsplit("/", 1)[0] for n in names]
    return np.stack(images), np.unique(characters, return_inverse=True)[1]
