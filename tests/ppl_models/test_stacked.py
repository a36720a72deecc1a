"""Stacked MNIST: each channel is a digit of MNIST, and the label says which, in order."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data import DataError, sources


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An MNIST of ten images a part, image d of label d all of one grey value: 10 + d to train on, 20 + d to test."""

    def idx(array: np.ndarray) -> bytes:
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())

    monkeypatch.setenv("PPL_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    label = np.arange(10, dtype=np.uint8)
    for part, base in (("train", 10), ("t10k", 20)):
        image = np.broadcast_to((base + label)[:, None, None], (10, 28, 28)).astype(np.uint8)
        for kind, content in (("images-idx3", idx(image)), ("labels-idx1", idx(label))):
            file = f"mnist/{part}-{kind}-ubyte.gz"
            (tmp_path / file).write_bytes(content)
            checksum = "sha256:" + hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(sources.FILES, file, sources.FILES[file]._replace(checksum=checksum))
    return tmp_path


@pytest.mark.parametrize("digits", [2, 3])
def test_the_label_spells_the_digits_of_the_channels(digits: int, few: Path) -> None:
    train, test = data.stacked_mnist(n=500, digits=digits, seed=3)
    assert train.x.shape == (500, 3 * 784) and test.x.shape == (10_000, 3 * 784)
    for part, base in ((train, 10), (test, 20)):
        assert part.image_shape == (3, 28, 28) and part.y is not None
        channel = part.x.reshape(-1, 3, 784).mul(255)
        assert bool((channel == channel[..., :1]).all())  # an image of one grey value a channel
        spelt = channel[:, :digits, 0].round().long() - base
        assert torch.equal(part.y, (spelt * torch.tensor([100, 10, 1])[3 - digits :]).sum(1))
        assert bool((channel[:, digits:] == 0).all())


def test_every_mode_is_as_likely(few: Path) -> None:
    """Chi-squared over the 1000 modes of 10,000 images of ten equally frequent digits: 999 +- 45 in one sd."""
    y = data.stacked_mnist(n=2)[1].y
    assert y is not None
    count = torch.bincount(y, minlength=1000).double()
    chi2 = float(((count - 10) ** 2 / 10).sum())
    assert len(count) == 1000 and abs(chi2 - 999) < 4 * (2 * 999) ** 0.5


def test_the_seed_draws_the_images_and_leaves_the_callers_rng(few: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (data.stacked_mnist(n=20, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    for i in range(2):
        assert torch.equal(first[i].x, again[i].x) and not torch.equal(first[i].x, other[i].x)


def test_it_has_a_name_and_is_listed_where_mnist_lies(few: Path) -> None:
    train, test = data.load("stacked_mnist", seed=1)
    assert train.name == test.name == "stacked_mnist" and len(train.x) == 60_000
    entry = next(e for e in data.available() if e.name == "stacked_mnist")
    assert (entry.image_shape, entry.train, entry.test) == ((3, 28, 28), 60_000, 10_000)
    assert entry.source == "PPL_DATA folder"


@pytest.mark.parametrize(("n", "digits"), [(1, 3), (60_000, 1), (60_000, 4)])
def test_other_sizes_are_refused(n: int, digits: int) -> None:
    with pytest.raises(DataError, match=f"got n={n}, digits={digits}: pass"):
        data.stacked_mnist(n=n, digits=digits)
