"""Checkpoints: what is saved comes back, a failed write leaves the old file, and what is no checkpoint is refused."""

import errno
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim import SGD, Adam

from inference import SVI, TraceELBO
from inference.errors import CheckpointError
from inference.training import checkpoint
from inference.training.checkpoint import FORMAT, load, save, write_text
from ppl_models import VAE

TENSORS = {"parameter.w": torch.arange(6.0).reshape(2, 3), "rng.cpu": torch.arange(4, dtype=torch.uint8)}
META = {"stepper": {"steps": 3}, "run": {"epoch": 1, "sums": {"loss": 0.1}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good checkpoint."""
    save(tmp_path / "c.safetensors", TENSORS, META)
    return tmp_path / "c.safetensors"


def trained(z_dim: int = 2, hidden: int = 5, seed: int = 0, steps: int = 3, optimizer: type = Adam) -> SVI:
    torch.manual_seed(seed)
    vae = VAE(4, z_dim=z_dim, hidden=(hidden,))
    svi = SVI(vae, TraceELBO(), optimizer(vae.parameters(), 1e-2))
    for _ in range(steps):
        svi.step(torch.rand(6, 4).round())
    return svi


def test_what_is_saved_comes_back(path):
    tensors, meta = load(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert all(tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert meta == META


def test_others_may_read_it_as_far_as_the_umask_says(path):
    write_text(path.parent / "notes", "words")
    (path.parent / "plain").touch()
    assert len({file.stat().st_mode for file in path.parent.iterdir()}) == 1


def test_tensors_that_share_memory_or_are_strided(tmp_path):
    w = torch.rand(3, 4)
    save(tmp_path / "c", {"a": w, "b": w, "c": w.T, "d": w[:, ::2], "e": torch.tensor(2.0)}, {})
    tensors, _ = load(tmp_path / "c")
    for name, value in {"a": w, "b": w, "c": w.T, "d": w[:, ::2], "e": torch.tensor(2.0)}.items():
        assert torch.equal(tensors[name], value)


@pytest.mark.parametrize("optimizer", [Adam, SGD])
def test_a_stepper_goes_on_where_another_stopped(tmp_path, optimizer):
    one = trained(optimizer=optimizer)
    tensors, meta = one.state()
    save(tmp_path / "c", tensors, meta)
    other = trained(seed=1, steps=1, optimizer=optimizer)
    other.load_state(*load(tmp_path / "c"))
    assert other.steps == one.steps == 3
    batch = torch.rand(6, 4).round()
    for svi in (one, other):
        torch.manual_seed(5)
        svi.step(batch)
    for name, value in one.state()[0].items():
        assert torch.equal(other.state()[0][name], value), name


def test_the_file_is_json_and_bytes_and_no_pickle(path):
    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    assert header["format"] == FORMAT
    assert json.loads(header["meta"]) == META
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert json.loads(raw[8 : 8 + size]).keys() == {"__metadata__", *TENSORS}
    assert len(raw) == 8 + size + sum(t.numel() * t.element_size() for t in TENSORS.values())


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half(tensors: object, name: str, metadata: object) -> None:
    Path(name).write_bytes(b"half")
    full()


@pytest.mark.parametrize("broken", [full, half])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch, broken):
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"parameter.w": torch.ones(2)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_after_the_write_leaves_the_old_file_too(path, monkeypatch, step):
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"parameter.w": torch.ones(2)}, {})
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "words")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interruption_during_the_write_leaves_the_old_file(path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save(path, TENSORS, META)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_error_of_safetensors_itself_names_the_file(path):
    resource = pytest.importorskip("resource")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a file may not grow over 4 kB: a disk that is full
    try:
        with pytest.raises(OSError, match=re.escape(str(path))):
            save(path, {"parameter.w": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def one_sentence(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    words = str(error.value)
    assert "\n" not in words
    assert ": " in words  # what is wrong: what to do
    return words


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated") as error:
        load(path)
    assert str(path) in one_sentence(error)


def test_random_bytes_are_refused(path):
    path.write_bytes(torch.randint(0, 256, (5000,)).to(torch.uint8).numpy().tobytes())
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as error:
        load(path)
    one_sentence(error)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_another_projects_safetensors_file_is_refused(path, metadata):
    save_file(TENSORS, str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match="ppl train") as error:
        load(path)
    one_sentence(error)


@pytest.mark.parametrize("metadata", [{"format": FORMAT}, {"format": FORMAT, "meta": "{half"}])
def test_a_header_without_its_json_is_refused(path, metadata):
    save_file(TENSORS, str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match="train anew") as error:
        load(path)
    one_sentence(error)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint at") as error:
            load(path)
        one_sentence(error)


def test_another_models_shapes_are_refused():
    svi = trained()
    before = {name: value.clone() for name, value in svi.state()[0].items()}
    with pytest.raises(CheckpointError, match=r"is \(\d+, \d\) there and \(\d+, \d\) here") as error:
        svi.load_state(*trained(z_dim=3).state())
    assert "another model" in one_sentence(error)
    assert all(torch.equal(value, before[name]) for name, value in svi.state()[0].items())


@pytest.mark.parametrize("lacks", [True, False])
def test_another_models_names_are_refused(lacks):
    svi = trained()
    tensors, meta = svi.state()
    tensors = dict(tensors)
    if lacks:
        tensors.pop("parameter.head.linear.bias")
    else:
        tensors["parameter.classifier.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="head.linear.bias' is missing" if lacks else "classifier.bias") as error:
        svi.load_state(tensors, meta)
    assert "another model" in one_sentence(error)


def test_a_checkpoint_without_an_optimiser_is_refused():
    tensors, meta = trained().state()
    with pytest.raises(CheckpointError, match="no optimiser"):
        trained().load_state(tensors, meta | {"optimizers": []})
