"""ppl_models.data: every loader on tiny files, the real ones where PPL_DATA has them, every refusal."""

import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ppl_models import data
from ppl_models.data import Batches, DataError, Dataset, arrays, formats, sources
from ppl_models.data.dataset import check

REAL = Path(os.environ["PPL_DATA"]) if "PPL_DATA" in os.environ else None


def real(folder: str) -> pytest.MarkDecorator:
    """Skip unless PPL_DATA holds this data set."""
    there = REAL is not None and (REAL / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs {folder}/ in the folder named by PPL_DATA")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PPL_DATA, an empty cache, and no network."""

    def offline(*args: object, **kwargs: object) -> str:
        raise OSError("no network in tests")

    monkeypatch.setenv("PPL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(pooch, "retrieve", offline)
    return tmp_path / "data"


def put(folder: Path, file: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file under PPL_DATA and record its checksum as the right one."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)
    source = sources.FILES.get(file, sources.Source(None, None))
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(sources.FILES, file, source._replace(checksum=checksum))


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def amat(array: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in array).encode()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def refuse(match: str, call: Callable[[], object]) -> None:
    """The call raises DataError, one sentence with the matching words and no chained traceback."""
    with pytest.raises(DataError, match=match) as info:
        call()
    assert info.value.__cause__ is None and (info.value.__context__ is None or info.value.__suppress_context__)
    assert "\n" not in str(info.value)


# ---- named data sets


def test_nothing_heavy_at_import() -> None:
    code = "import sys, ppl_models.data; print([m for m in ('sklearn', 'scipy', 'PIL', 'pooch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_digits() -> None:
    train, test = data.digits()
    assert train.x.shape == (1500, 64) and test.x.shape == (297, 64) and train.image_shape == (1, 8, 8)
    assert train.x.dtype == torch.float32 and train.y is not None and train.y.dtype == torch.int64
    assert train.x.max() == 1.0 and train.x.min() == 0.0
    assert (train.x * 16 == (train.x * 16).round()).all()
    assert test.y is not None and set(test.y.tolist()) == set(range(10))
    assert torch.equal(data.digits()[0].x, train.x)


def test_bars_are_rows_and_columns_with_the_stated_probability() -> None:
    train, test = data.bars(n=4000, size=4, seed=3)
    assert train.x.shape == test.x.shape == (4000, 16) and train.y is None and train.image_shape == (1, 4, 4)
    assert set(train.x.unique().tolist()) == {0.0, 1.0}
    image = train.x.view(-1, 4, 4).bool()
    rows, columns = image.all(2), image.all(1)
    assert torch.equal(rows[:, :, None] | columns[:, None, :], image)
    # a pixel is off if its row and its column are: 1 - (1 - 1/4)^2
    p = 1 - 0.75**2
    assert abs(train.x[:, 5].mean().item() - p) < 4 * (p * (1 - p) / 4000) ** 0.5
    assert torch.equal(data.bars(4000, 4, 3)[0].x, train.x) and not torch.equal(data.bars(4000, 4, 4)[0].x, train.x)
    assert not torch.equal(train.x, test.x)
    refuse("n >= 2", lambda: data.bars(n=1))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_data_sets(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = rng().integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    for part in ("train", "t10k"):
        put(folder, f"{name}/{part}-images-idx3-ubyte.gz", gzip.compress(idx(images)), monkeypatch)
        put(folder, f"{name}/{part}-labels-idx1-ubyte.gz", gzip.compress(idx(labels)), monkeypatch)
    train, test = data.load(name)
    assert np.allclose(train.x.numpy(), images.reshape(5, 784) / 255) and train.name == name
    assert train.y is not None and train.y.tolist() == [0, 1, 2, 3, 4] and test.image_shape == (1, 28, 28)
    entry = next(e for e in data.available() if e.name == name)
    assert entry.source == "PPL_DATA folder" and entry.values == "grey"
    put(folder, f"{name}/train-labels-idx1-ubyte.gz", gzip.compress(idx(labels[:4])), monkeypatch)
    refuse("not the files of one set", lambda: data.load(name))


@pytest.mark.parametrize("packed", [True, False])
def test_binarized_mnist_takes_either_packing(packed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = {part: rng().integers(0, 2, (n, 784), np.uint8) for part, n in (("train", 4), ("valid", 3), ("test", 2))}
    for part, array in bits.items():
        file = f"binarized_mnist/binarized_mnist_{part}.amat" + (".gz" if packed else "")
        put(folder, file, gzip.compress(amat(array)) if packed else amat(array), monkeypatch)
    train, test = data.binarized_mnist()
    assert np.array_equal(train.x.numpy(), bits["train"]) and np.array_equal(test.x.numpy(), bits["test"])
    assert train.y is None and train.x.dtype == torch.float32
    assert np.array_equal(data.binarized_mnist(valid=True)[1].x.numpy(), bits["valid"])


def cifar_bytes(labels: list[int]) -> bytes:
    return b"".join(bytes([k]) + rng().integers(0, 256, 3072, np.uint8).tobytes() for k in labels)


def test_cifar10_subset_warns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "cifar10/data_batch_1.bin.xz", lzma.compress(cifar_bytes([3, 9, 0])), monkeypatch)
    put(folder, "cifar10/test_batch_first1000.bin.xz", lzma.compress(cifar_bytes([1])), monkeypatch)
    with pytest.warns(UserWarning, match="one fifth of the training set") as record:
        train, test = data.cifar10()
    assert len(record) == 1 and train.name == test.name == "cifar10-subset"
    assert train.x.shape == (3, 3072) and train.image_shape == (3, 32, 32)
    assert train.y is not None and train.y.tolist() == [3, 9, 0]
    entry = next(e for e in data.available() if e.name == "cifar10")
    assert (entry.train, entry.test, entry.source) == (10000, 1000, "PPL_DATA folder")


def cifar_tar(names: list[str], content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar10_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    put(folder, "cifar10/cifar-10-binary.tar.gz", cifar_tar(names, cifar_bytes([7, 2])), monkeypatch)
    train, test = data.cifar10()
    assert train.x.shape == (10, 3072) and test.x.shape == (2, 3072) and train.name == "cifar10"
    assert train.y is not None and train.y.tolist() == [7, 2] * 5
    put(folder, "cifar10/cifar-10-binary.tar.gz", cifar_tar(names[:3], cifar_bytes([7])), monkeypatch)
    refuse("not CIFAR-10's binary archive", data.cifar10)


def test_caltech_is_transposed_and_inverted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.ones((28, 28), np.uint8)
    image[2, :5] = 0  # a horizontal stroke in the second row, the object being 0
    flat = np.tile(image.flatten(order="F"), (3, 1))
    parts = {f"{p}_data": flat for p in ("train", "val", "test")}
    labels = {f"{p}_labels": np.array([[1], [101], [5]], np.uint8) for p in ("train", "val", "test")}
    buffer = io.BytesIO()
    savemat(buffer, {**parts, **labels})
    file = "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat"
    put(folder, file, buffer.getvalue(), monkeypatch)
    train, test = data.caltech101_silhouettes()
    on = train.x[0].view(28, 28)
    assert on.sum() == 5 and on[2, :5].all() and test.x.shape == (3, 784)
    assert train.y is not None and train.y.tolist() == [0, 100, 4]
    buffer = io.BytesIO()
    savemat(buffer, {"X": flat})
    put(folder, file, buffer.getvalue(), monkeypatch)
    refuse("has no variable 'train_data'", data.caltech101_silhouettes)
    put(folder, file, b"<html>not found</html>", monkeypatch)
    refuse("not a .mat file", data.caltech101_silhouettes)
    buffer = io.BytesIO()
    savemat(buffer, {**parts, **labels, "val_data": flat[:, :100]})
    put(folder, file, buffer.getvalue(), monkeypatch)
    refuse(r"val must be \(N, 784\)", data.caltech101_silhouettes)


def drawing(scale: int = 255) -> np.ndarray:
    page = np.full((105, 105), scale, np.uint8)
    page[:, 30:45] = 0  # dark ink: 15 columns are 4 of the 28 at the end
    return page


def omniglot_zip(top: str, characters: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for c in range(characters):
            for drawer in (1, 2):
                name = f"{top}/Latin/character{c + 1:02}/{drawer:02}.png"
                archive.writestr(name, png(drawing()))
    return buffer.getvalue()


def test_omniglot_zips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for top, characters in (("images_background", 3), ("images_evaluation", 2)):
        put(folder, f"omniglot/{top}.zip", omniglot_zip(top, characters), monkeypatch)
    train, test = data.omniglot()
    assert train.x.shape == (6, 784) and test.x.shape == (4, 784) and train.name == "omniglot"
    assert train.y is not None and train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.y is not None and test.y.tolist() == [3, 3, 4, 4]  # other characters than those of train
    image = train.x[0].view(28, 28)
    assert torch.allclose(image[:, 8:12], torch.ones(28, 4)) and image.sum().item() == pytest.approx(112)
    put(folder, "omniglot/images_background.zip", b"PK nonsense", monkeypatch)
    refuse("not a zip of images", data.omniglot)


@pytest.mark.parametrize("kind", ["bytes", "bits", "bool", "light ink"])
def test_omniglot_npz_of_any_scale_and_polarity(kind: str, folder: Path) -> None:
    page = {
        "bytes": drawing(),
        "bits": drawing(1),
        "bool": drawing(1).astype(bool),
        "light ink": 255 - drawing(),
    }
    (folder / "omniglot").mkdir(parents=True)
    path = folder / "omniglot" / "omniglot.npz"
    np.savez(path, train=np.stack([page[kind]] * 3), test=page[kind][None])
    train, test = data.omniglot()
    assert train.x.shape == (3, 784) and test.x.shape == (1, 784) and train.y is None
    assert train.x[0].view(28, 28)[:, 8:12].min() > 0.999 and train.x[0].sum().item() == pytest.approx(112)
    np.savez(path, images=np.stack([page[kind]] * 10), labels=np.arange(10))
    train, test = data.omniglot()
    assert len(train.x) == 9 and len(test.x) == 1 and test.y is not None
    np.savez(path, train=np.stack([drawing()] * 3).astype(np.float32))
    refuse("omniglot.npz: pixels must be inside .*divide by 255", data.omniglot)
    np.savez(path, train=drawing()[None], test=drawing()[None])
    refuse("a data set of 1 image cannot be trained on", data.omniglot)
    np.savez(path, train=np.zeros((3, 28, 28)))
    refuse(r"shape \(N, 105, 105\)", data.omniglot)


@real("mnist")
def test_real_mnist() -> None:
    train, test = data.mnist()
    assert train.x.shape == (60000, 784) and test.x.shape == (10000, 784)
    assert train.y is not None and train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.x.mean().item() == pytest.approx(0.1307, abs=1e-4)


@real("binarized_mnist")
def test_real_binarized_mnist() -> None:
    train, test = data.binarized_mnist()
    assert train.x.shape == (50000, 784) and test.x.shape == (10000, 784)
    assert set(train.x[:100].unique().tolist()) == {0.0, 1.0}
    assert train.x.mean().item() == pytest.approx(0.1306, abs=1e-3)
    valid = data.binarized_mnist(valid=True)[1]
    assert valid.x.shape == (10000, 784) and not torch.equal(valid.x, test.x) and valid.y is None


@real("mnist")
@real("binarized_mnist")
def test_labels_of_the_binarized_test_images_are_those_of_the_grey_ones() -> None:
    """Each binary image is likeliest as a draw from a grey one of its own class."""
    (_, binary), (_, grey) = data.binarized_mnist(), data.mnist()
    assert binary.y is not None and grey.y is not None
    rows = torch.arange(0, 10000, 100)
    log_odds = torch.logit(grey.x.clamp(1e-3, 1 - 1e-3))  # (N, 784)
    log_p = binary.x[rows] @ log_odds.T - torch.nn.functional.softplus(log_odds).sum(1)
    assert torch.equal(grey.y[log_p.argmax(1)], binary.y[rows])


@real("cifar10")
def test_real_cifar10() -> None:
    assert REAL is not None
    if (REAL / "cifar10" / "cifar-10-binary.tar.gz").is_file():
        assert data.cifar10()[0].x.shape == (50000, 3072)
        return
    with pytest.warns(UserWarning, match="must not be quoted"):
        train, test = data.cifar10()
    assert train.x.shape == (10000, 3072) and test.x.shape == (1000, 3072)
    assert test.y is not None and test.y[:3].tolist() == [3, 8, 8]


# ---- where files come from


def test_offline_says_what_to_fetch_and_where_to_put_it(folder: Path) -> None:
    with pytest.raises(DataError) as info:
        data.mnist()
    text = str(info.value)
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in text
    assert "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609" in text
    assert str(folder / "mnist") in text and str(folder.parent / "cache" / "ppl-models" / "mnist") in text
    assert info.value.__suppress_context__ and "\n" not in text
    # of the two packings the published one is what can be fetched
    refuse("binarized_mnist_train.amat .sha256 ad693b", data.binarized_mnist)
    refuse("md5 4483e9c1", data.caltech101_silhouettes)


def test_offline_without_ppl_data_names_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPL_DATA")
    refuse("the folder named by the environment variable PPL_DATA", data.fashion_mnist)


def test_wrong_checksum_states_both(folder: Path) -> None:
    file = folder / "mnist" / "train-images-idx3-ubyte.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"truncated")
    found = hashlib.sha256(b"truncated").hexdigest()
    refuse(f"should be 440fcabf.* and is {found}", data.mnist)


def test_wrong_download_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(*args: object, **kwargs: object) -> str:
        raise ValueError("SHA256 hash of downloaded file does not match the known hash: expected a but got b.")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    refuse("expected a but got b", data.mnist)


def test_download_goes_to_the_cache_and_is_found_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"something"
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(sources.FILES, "mnist/file", sources.Source("https://example.org/file", checksum))
    calls: list[str] = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path, progressbar: bool) -> str:
        calls.append(url)
        assert known_hash == checksum
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert sources.where("mnist/file") == "download"
    path = sources.fetch("mnist/file")
    assert path == folder.parent / "cache" / "ppl-models" / "mnist" / "file"
    assert sources.fetch("mnist/file") == path and len(calls) == 1
    assert sources.where("mnist/file") == "cache"


def test_a_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "mnist/once", b"once", monkeypatch)
    before = sources._digest.cache_info()
    sources.fetch("mnist/once")
    sources.fetch("mnist/once")
    after = sources._digest.cache_info()
    assert after.misses - before.misses == 1 and after.hits - before.hits == 1


def test_available_lists_every_name(folder: Path) -> None:
    entries = {e.name: e for e in data.available()}
    assert set(entries) == {
        *("digits", "bars", "mnist", "stacked_mnist", "binarized_mnist", "fashion_mnist"),
        *("omniglot", "caltech101_silhouettes", "cifar10"),
    }
    assert entries["digits"].source == "scikit-learn" and entries["bars"].source == "generated"
    assert entries["binarized_mnist"].source == "download" and entries["binarized_mnist"].values == "static"
    assert str(entries["omniglot"].url).startswith("https://github.com/brendenlake/omniglot")


# ---- formats


BAD_FILES: list[tuple[str, Callable[[Path], object], bytes, str]] = [
    ("empty idx", formats.read_idx, b"", "is empty"),
    ("empty gzip", formats.read_idx, gzip.compress(b""), "is empty"),
    ("html as idx", formats.read_idx, b"<html>", "not an idx file"),
    ("header cut", formats.read_idx, b"\x00\x00\x08\x03\x00\x00", "truncated inside its header"),
    (
        "values cut",
        formats.read_idx,
        idx(np.zeros((2, 3), np.uint8))[:-1],
        "should hold 6 values .* and holds 5",
    ),
    (
        "gzip cut",
        formats.read_idx,
        gzip.compress(idx(np.zeros((9, 9), np.uint8)))[:-9],
        "truncated or damaged",
    ),
    (
        "amat short line",
        formats.read_amat,
        amat(np.zeros((2, 783), np.uint8)),
        "line 1: 784 values .* got 783",
    ),
    ("amat cut", formats.read_amat, amat(np.zeros((2, 784), np.uint8))[:-20], "line 2: 784 values"),
    ("amat of counts", formats.read_amat, amat(np.full((2, 784), 7)), "line 1: every value must be 0 or 1"),
    ("amat of tabs", formats.read_amat, amat(np.ones((2, 784), int)).replace(b" ", b"\t"), "one space"),
    ("cifar cut", formats.read_cifar, cifar_bytes([1])[:-1], "records of 3073 bytes .* got 3072"),
    ("cifar labels", formats.read_cifar, cifar_bytes([1, 77]), "labels must be 0 to 9, got 77"),
    ("xz cut", formats.read_cifar, lzma.compress(cifar_bytes([1]))[:-30], "truncated or damaged"),
    ("not a tar", formats.read_cifar_tar, b"x" * 2000, "not CIFAR-10's binary archive"),
    ("no images in zip", formats.read_omniglot, b"PK\x05\x06" + b"\x00" * 18, "holds no .png"),
    ("empty npy", arrays.read_npy, b"", "is empty"),
    ("text npy", arrays.read_npy, b"1 2 3", "not numpy's format"),
    ("text npz", arrays.read_npz, b"PK\x03\x04 not a zip", "truncated, not numpy's format"),
]


@pytest.mark.parametrize(("read", "content", "match"), [row[1:] for row in BAD_FILES], ids=[r[0] for r in BAD_FILES])
def test_bad_files(read: Callable[[Path], object], content: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refuse(match, lambda: read(path))


@pytest.mark.parametrize(
    "read",
    [
        *(
            formats.read_idx,
            formats.read_amat,
            formats.read_cifar,
            formats.read_cifar_tar,
            formats.read_caltech,
        ),
        *(formats.read_omniglot, arrays.read_npy, arrays.read_npz),
    ],
)
def test_missing_files(read: Callable[[Path], object], tmp_path: Path) -> None:
    refuse("is missing", lambda: read(tmp_path / "absent"))


def test_amat_names_the_bad_line_and_accepts_no_last_newline(tmp_path: Path) -> None:
    bits = rng().integers(0, 2, (3, 784))
    (tmp_path / "good").write_bytes(amat(bits)[:-1])
    assert np.array_equal(formats.read_amat(tmp_path / "good"), bits)
    bits[2, 100] = 2
    (tmp_path / "bad").write_bytes(amat(bits))
    refuse("line 3: every value must be 0 or 1, got b'2'", lambda: formats.read_amat(tmp_path / "bad"))


# ---- load: one's own files


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((20, 9), (1, 3, 3)),
        ((20, 10), (1, 1, 10)),
        ((20, 4, 5), (1, 4, 5)),
        ((20, 4, 5, 3), (3, 4, 5)),
        ((20, 3, 4, 5), (3, 4, 5)),
    ],
)
def test_load_npy_of_every_shape(shape: tuple[int, ...], image_shape: tuple[int, int, int], tmp_path: Path) -> None:
    x = rng().random(shape, np.float32)
    path = tmp_path / "mine.npy"
    np.save(path, x)
    train, test = data.load(str(path), seed=1)
    assert train.image_shape == image_shape and len(train.x) == 18 and len(test.x) == 2
    assert train.x.shape[1] == np.prod(image_shape) and train.name == str(path)
    flat = np.moveaxis(x, 3, 1) if shape[-1] == 3 else x
    both = torch.cat([train.x, test.x])
    assert torch.equal(both.sort(0).values, torch.from_numpy(flat.reshape(20, -1).copy()).sort(0).values)
    assert torch.equal(data.load(str(path), seed=1)[1].x, test.x)
    assert not torch.equal(data.load(str(path), seed=2)[1].x, test.x)


def test_load_scales_bytes_but_not_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.full((4, 4), 51, np.uint8))
    assert torch.allclose(data.load(str(path))[0].x, torch.tensor(0.2))
    np.save(path, np.ones((4, 4), np.uint8))
    assert (data.load(str(path))[0].x == 1).all()
    np.save(path, np.ones((4, 4), bool))
    assert (data.load(str(path))[0].x == 1).all()


@pytest.mark.parametrize("names", arrays.LAYOUTS)
def test_load_npz_by_the_documented_names(names: tuple[str, str, str, str], tmp_path: Path) -> None:
    x, y, x_test, y_test = names
    path = tmp_path / "a.npz"
    content = {
        x: np.full((6, 4), 255, np.uint8),
        y: np.arange(6),
        x_test: np.zeros((1, 4), np.uint8),
        y_test: [3],
    }
    np.savez(path, **content)
    train, test = data.load(str(path))
    assert train.x.shape == (6, 4) and test.x.shape == (1, 4) and (train.x == 1).all()
    assert train.y is not None and train.y.tolist() == list(range(6)) and test.y is not None
    np.savez(path, **{x: content[x], y: content[y]})
    train, test = data.load(str(path))
    assert (len(train.x), len(test.x)) == (5, 1)


def image_folder(path: Path, files: dict[str, np.ndarray]) -> str:
    for name, array in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path / name)
    return str(path)


def test_load_folder(tmp_path: Path) -> None:
    grey = np.full((4, 6), 51, np.uint8)
    train, test = data.load(image_folder(tmp_path / "flat", {f"{i}.png": grey for i in range(5)}))
    assert train.x.shape == (4, 24) and train.image_shape == (1, 4, 6) and train.y is None and len(test.x) == 1
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[..., 2] = 255
    mixed = {"cat/a.png": grey, "cat/b.png": colour, "dog/a.png": colour, "dog/b.bmp": colour}
    train, test = data.load(image_folder(tmp_path / "classes", mixed))
    assert train.image_shape == (3, 4, 6) and train.y is not None and test.y is not None
    assert sorted(torch.cat([train.y, test.y]).tolist()) == [0, 0, 1, 1]
    split = {"train/a/1.png": grey, "train/b/1.png": grey, "test/b/1.png": grey}
    train, test = data.load(image_folder(tmp_path / "split", split))
    assert len(train.x) == 2 and test.y is not None and test.y.tolist() == [1]


def test_load_folder_refusals(tmp_path: Path) -> None:
    grey = np.zeros((4, 6), np.uint8)
    path = image_folder(tmp_path / "sizes", {"a.png": grey, "b.png": grey.T.copy()})
    refuse(r"one size, and .*a.png is 6 x 4 while .*b.png is 4 x 6", lambda: data.load(path))
    (tmp_path / "none").mkdir()
    refuse("holds no images", lambda: data.load(str(tmp_path / "none")))
    both = image_folder(tmp_path / "both", {"a.png": grey, "cat/a.png": grey})
    refuse("both images", lambda: data.load(both))
    deep = image_folder(tmp_path / "deep", {"a.png": grey.astype(np.uint16)})
    refuse("more than 8 bits", lambda: data.load(deep))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_bytes(b"no image")
    refuse("not an image that Pillow can read", lambda: data.load(str(tmp_path / "text")))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "a.png").write_bytes(png(rng().integers(0, 256, (50, 50), np.uint8))[:-800])
    refuse("not an image that Pillow can read", lambda: data.load(str(tmp_path / "cut")))
    strange = image_folder(tmp_path / "strange", {"train/a/1.png": grey, "test/c/1.png": grey})
    refuse("has the class 'c'", lambda: data.load(strange))


BAD_ARRAYS: list[tuple[str, dict[str, np.ndarray], str]] = [
    (
        "one image",
        {"x": np.zeros((1, 4))},
        "a data set of 1 image cannot be trained on or split: give at least 2",
    ),
    ("no image", {"x": np.zeros((0, 4))}, "a data set of 0 images"),
    ("no pixels", {"x": np.zeros((3, 0))}, "no pixels"),
    ("bytes as floats", {"x": np.eye(4) * 255.0}, r"row 0 .*minimum 0, maximum 255\): divide by 255"),
    ("centred", {"x": np.array([[0, 0.5], [-1, 1]])}, r"row 1 .*\(x \+ 1\) / 2"),
    ("unbounded", {"x": np.array([[0, 0.5], [-300, 1]])}, "row 1 .*divide by the range"),
    ("nan", {"x": np.array([[0, 1], [0, 1], [np.nan, 0]])}, "row 2 holds nan or inf"),
    ("inf", {"x": np.array([[0, 1], [np.inf, 1]])}, "row 1 holds nan or inf"),
    ("one axis", {"x": np.zeros(4)}, r"got \(4,\): reshape"),
    ("five channels", {"x": np.zeros((4, 5, 6, 7))}, "with C of 1, 3 or 4"),
    ("words", {"x": np.array([["a", "b"]])}, "uint8, bool or float, got <U1"),
    ("objects", {"x": np.array([{}, {}])}, "Python objects"),
    ("other names", {"pixels": np.zeros((4, 4))}, r"\['pixels'\], none of which is the images"),
    ("labels short", {"x": np.zeros((4, 4)), "y": np.arange(3)}, "one label an image"),
    ("labels one-hot", {"x": np.zeros((4, 4)), "y": np.eye(4, dtype=int)}, "one label an image"),
    ("labels float", {"x": np.zeros((4, 4)), "y": np.arange(4.0)}, "labels must be integers"),
    ("other test", {"x": np.zeros((4, 4)), "x_test": np.zeros((4, 9))}, "must have one shape"),
]


@pytest.mark.parametrize(("content", "match"), [r[1:] for r in BAD_ARRAYS], ids=[r[0] for r in BAD_ARRAYS])
def test_bad_arrays(content: dict[str, np.ndarray], match: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, allow_pickle=True, **content)
    refuse(match, lambda: data.load(str(path)))


def test_files_under_the_wrong_suffix(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros((3, 3)))
    refuse("name it .npy", lambda: data.load(str(tmp_path / "a.npz")))
    with (tmp_path / "b.npy").open("wb") as file:
        np.savez(file, x=np.zeros((3, 3)))
    refuse("name it .npz", lambda: data.load(str(tmp_path / "b.npy")))
    (tmp_path / "c.csv").write_text("0,1")
    refuse("of no kind that can be read", lambda: data.load(str(tmp_path / "c.csv")))


def test_unknown_names() -> None:
    refuse("no data set or file called 'minst': did you mean 'mnist'", lambda: data.load("minst"))
    refuse(r"The names are digits, bars, .*or give the path", lambda: data.load("zzzz"))
    refuse("called ''", lambda: data.load(""))


def test_load_by_name() -> None:
    assert torch.equal(data.load("digits")[0].x, data.digits()[0].x)
    assert torch.equal(data.load("bars", seed=5)[0].x, data.bars(seed=5)[0].x)


# ---- hold_out, binarize, check


def toy(n: int) -> Dataset:
    return Dataset(torch.arange(n).float()[:, None] / n, torch.arange(n), (1, 1, 1), "toy")


def test_hold_out_partitions_rows_with_their_labels() -> None:
    train, held = data.hold_out(toy(50), 0.2, seed=1)
    assert len(train.x) == 40 and len(held.x) == 10 and train.y is not None and held.y is not None
    assert sorted(torch.cat([train.y, held.y]).tolist()) == list(range(50))
    assert torch.allclose(held.x[:, 0] * 50, held.y.float())
    again = data.hold_out(toy(50), 0.2, seed=1)[1].y
    assert again is not None and torch.equal(again, held.y)
    assert len(data.hold_out(toy(3), 0.01, 0)[1].x) == 1 and len(data.hold_out(toy(2), 0.99, 0)[0].x) == 1
    refuse("inside .0, 1., got 1.0", lambda: data.hold_out(toy(3), 1.0, 0))
    refuse("a data set of 1 image cannot be trained on or split", lambda: data.hold_out(toy(1), 0.5, 0))


def test_binarize_draws_bernoulli_of_the_grey_value() -> None:
    grey = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    draws = data.binarize(grey.expand(20000, 5).contiguous(), torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((draws.mean(0) - grey).abs() <= 4 * (grey * (1 - grey) / 20000).sqrt()).all()


def test_check_names_the_data_set() -> None:
    refuse("^somewhere: pixels must be inside", lambda: check(torch.tensor([[0.0], [2.0]]), "somewhere"))
    check(torch.tensor([[0.5]]), "a test set", least=1)


# ---- Batches


def rows_of(batches: Batches, epoch: int, seed: int) -> list[torch.Tensor]:
    return [batch[0] for batch in batches.epoch(epoch, seed)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 50])
def test_every_row_once_an_epoch(shuffle: bool, batch_size: int) -> None:
    x, y = torch.rand(30, 4), torch.arange(30)
    batches = Batches((x, y), batch_size, shuffle=shuffle)
    seen = list(batches.epoch(2, seed=1))
    assert len(seen) == len(batches) and batches.num_rows == 30
    labels = torch.cat([b[1] for b in seen])
    assert torch.equal(labels.sort().values, y) and torch.equal(torch.cat([b[0] for b in seen]), x[labels])
    assert shuffle != torch.equal(labels, y)


def test_drop_last() -> None:
    batches = Batches(torch.rand(30, 4), 7, drop_last=True)
    assert len(batches) == 4 and [len(b) for b in rows_of(batches, 0, 0)] == [7] * 4


def test_an_epoch_is_a_function_of_seed_and_epoch_alone() -> None:
    x = torch.rand(40, 16)
    for binarize in (False, True):
        first = Batches(x, 8, binarize=binarize)
        reference = torch.cat(rows_of(first, 3, seed=5))
        torch.manual_seed(99)
        rows_of(first, 0, seed=5)  # what was walked before must not matter
        state = torch.get_rng_state()
        assert torch.equal(torch.cat(rows_of(Batches(x, 8, binarize=binarize), 3, seed=5)), reference)
        assert torch.equal(torch.get_rng_state(), state)
        for epoch, seed in ((4, 5), (3, 6), (5, 3), (2, 6)):
            assert not torch.equal(torch.cat(rows_of(first, epoch, seed)), reference)
    assert torch.equal(torch.cat([b[0] for b in Batches(x, 8)]), torch.cat(rows_of(Batches(x, 8), 0, 0)))


def test_the_order_is_the_same_with_and_without_binarisation() -> None:
    y = torch.arange(40)
    labels = [torch.cat([b[1] for b in Batches((torch.rand(40, 3), y), 8, binarize=k).epoch(1, 2)]) for k in (0, 1)]
    assert torch.equal(labels[0], labels[1])


def test_dynamic_binarisation_redraws_at_every_visit() -> None:
    grey = torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0])
    x, visits, rows = grey.expand(20, 5).contiguous(), 200, 20
    batches = Batches((x, torch.arange(rows)), 6, binarize=True)
    total, first = torch.zeros(5), None
    for epoch in range(visits):
        drawn = list(batches.epoch(epoch, seed=0))
        full = torch.cat([b[0] for b in drawn])[torch.cat([b[1] for b in drawn]).argsort()]
        assert epoch == 0 or first is None or not torch.equal(full, first)
        first = full if epoch == 0 else first
        total += full.sum(0)
    n = visits * rows
    assert ((total / n - grey).abs() <= 4 * (grey * (1 - grey) / n).sqrt()).all()
    assert torch.equal(batches.tensors[0], x)


def test_to_keeps_the_settings() -> None:
    batches = Batches((torch.rand(9, 2), torch.arange(9)), 4, binarize=True, shuffle=False, drop_last=True)
    moved = batches.to("cpu")
    assert moved is not batches and (moved.batch_size, moved.shuffle, moved.drop_last) == (4, False, True)
    pairs = zip(batches.epoch(1, 1), moved.epoch(1, 1), strict=True)
    assert all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu() -> None:
    x, y = torch.rand(40, 16), torch.arange(40)
    here, there = Batches((x, y), 8, binarize=True), Batches((x, y), 8, binarize=True).to("cuda")
    for (_, a), (drawn, b) in zip(here.epoch(1, 2), there.epoch(1, 2), strict=True):
        assert drawn.is_cuda and torch.equal(a, b.cpu())
    first, second = (torch.cat([b[0] for b in there.epoch(1, 2)]) for _ in range(2))
    assert torch.equal(first, second)


def test_batches_refusals() -> None:
    x = torch.rand(4, 2)
    refuse("at least 1 row, got none", lambda: Batches(x[:0]))
    refuse("at least 1 row, got none", lambda: Batches([]))
    refuse(r"one length, got \[4, 3\]", lambda: Batches((x, torch.arange(3))))
    refuse("batch_size must be at least 1, got 0", lambda: Batches(x, 0))
    refuse("leaves nothing of 4 rows", lambda: Batches(x, 5, drop_last=True))
    refuse("got a tuple: pass train.x", lambda: Batches(data.bars(n=2)[0]))  # type: ignore[arg-type]
    refuse("first tensor of Batches.*divide by 255", lambda: Batches(x * 255, binarize=True))
    refuse("as floats, got torch.int64", lambda: Batches(torch.ones(3, 2).long(), binarize=True))


def test_labels_that_are_missing() -> None:
    train, _ = data.bars()
    with pytest.raises(data.DataError, match=r"has no labels .*digits or mnist, or save a .npz with x and y"):
        data.Batches((train.x, train.y))
