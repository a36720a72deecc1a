"""The classifier that judges samples: trained once, kept, found again, and nothing where there are no labels."""

import numpy as np
import pooch
import pytest
import torch

from inference.cli import judge as judges
from inference.cli.judge import judge_for

WHOLE = judges.VISITS


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of the test's own, and a short training."""
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(judges, "VISITS", 2_000)
    return tmp_path / "cache" / "ppl-models" / "judges"


@pytest.fixture
def halves(tmp_path):
    """Images with a bright left or a bright right half, with a test part: separable."""
    rng = np.random.default_rng(0)
    y = np.arange(500) % 2
    x = 0.4 * rng.random((500, 6, 6))
    x[y == 0, :, :3] += 0.5
    x[y == 1, :, 3:] += 0.5
    np.savez(tmp_path / "halves.npz", x=x[:400], y=y[:400], x_test=x[400:], y_test=y[400:])
    return str(tmp_path / "halves.npz")


def test_it_is_trained_once_and_kept(cache, halves, monkeypatch, capsys):
    rng = torch.get_rng_state()
    first = judge_for(halves)
    assert torch.equal(torch.get_rng_state(), rng)
    said = capsys.readouterr().err
    assert "once, to judge its samples" in said and "right on 100.0 % of 100 test images" in said
    (file,) = cache.iterdir()
    assert file.name.startswith("halves-") and file.name.endswith("-recipe1.safetensors")
    monkeypatch.setattr(judges, "_train", lambda *_: pytest.fail("trained again"))
    again = judge_for(halves)
    assert first is not None and again is not None
    said = capsys.readouterr().err
    assert "training" not in said and "right on 100.0 %" in said
    x = torch.rand(5, 36)
    assert torch.equal(first.logits(x), again.logits(x))


def test_test_images_of_other_classes_are_not_counted_as_errors(tmp_path, monkeypatch, capsys):
    """As with omniglot, whose test characters are none of the training set's."""
    monkeypatch.setattr(judges, "_train", lambda *_: None)
    x = np.random.default_rng(0).random((20, 6, 6))
    np.savez(tmp_path / "own.npz", x=x[:10], y=np.arange(10) % 2, x_test=x[10:], y_test=2 + np.arange(10))
    judge_for(str(tmp_path / "own.npz"))
    assert "whose test images are of other classes" in capsys.readouterr().err


def test_other_data_get_a_classifier_of_their_own(cache, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(judges, "_train", lambda judge, train: trained.append(train.name))
    x, y = np.random.default_rng(0).random((40, 6, 6)), np.arange(40) % 3
    np.savez(tmp_path / "own.npz", x=x, y=y)
    first = judge_for(str(tmp_path / "own.npz"))
    assert first is not None and first.n_classes == 3
    np.savez(tmp_path / "own.npz", x=x, y=(y + 1) % 3)
    judge_for(str(tmp_path / "own.npz"))
    assert len(trained) == 2 == len(list(cache.iterdir()))


def test_no_labels_no_judge(cache, tmp_path, capsys):
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).random((20, 6, 6)))
    assert judge_for(str(tmp_path / "plain.npy")) is None
    assert "plain.npy has no labels of two classes or more" in capsys.readouterr().err
    np.savez(tmp_path / "one.npz", x=np.random.default_rng(0).random((20, 6, 6)), y=np.zeros(20, int))
    assert judge_for(str(tmp_path / "one.npz")) is None
    assert not cache.exists()


def test_a_damaged_file_is_made_anew_and_a_closed_cache_is_said(cache, halves, monkeypatch, capsys):
    monkeypatch.setattr(judges, "_train", lambda *_: None)
    judge_for(halves)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:100])
    judge_for(halves)
    assert file.stat().st_size == len(good)
    file.unlink()
    cache.rmdir()
    cache.write_text("no folder")
    assert judge_for(halves) is not None
    assert "cannot be kept" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mnist", 98.5), ("cifar10", 60.0)])
@pytest.mark.filterwarnings("ignore:only a part of CIFAR-10")
def test_it_is_right_often_enough(name, least, monkeypatch, capsys):
    monkeypatch.setattr(judges, "VISITS", WHOLE)
    judge_for(name)
    assert float(capsys.readouterr().err.split("right on ")[1].split(" %")[0]) >= least
    if name == "mnist":
        judge_for("stacked_mnist")
        assert "training" not in capsys.readouterr().err
