"""The `ppl` command: what it writes and prints, and one sentence with the remedy for everything that can go wrong."""

import base64
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import inference
from inference.cli import main
from inference.cli import runs as runs_on_disk
from inference.training.checkpoint import load, save
from ppl_models import data

PPL = str(Path(sysconfig.get_path("scripts"), "ppl"))
TRAIN = "train vae --hidden 16 --z-dim 2 --threads 1".split()


class Said(NamedTuple):
    code: int
    out: str
    err: str


Ppl = Callable[..., Said]


@pytest.fixture
def ppl(tmp_path, monkeypatch, capfd) -> Ppl:
    """Run the command in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["ppl", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Said(int(stop.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two epochs, written by the command itself."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    done = subprocess.run(
        [PPL, *TRAIN, "--data", "digits", "--epochs", "2", "--out", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{out / 'report.html'}: the report" in done.stdout
    assert "epoch 2/2" in done.stderr and "nats" in done.stderr  # the progress bar
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(said: Said, words: str) -> None:
    """One line on standard error that matches, nothing on standard output, an exit code of 1."""
    assert said.code == 1, said
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(words, line), line


# -- what works --------------------------------------------------------------------------------------------------------


def test_train_writes_the_run(trained):
    assert set(files(trained)) == {"config.json", "metrics.jsonl", "checkpoint.safetensors", "report.html"}
    config = json.loads((trained / "config.json").read_text())
    assert config["options"] | {"z_dim": 2, "hidden": [16], "x_dim": 64} == config["options"]
    assert (config["binarize"], config["epochs"], config["command"].split()[:3]) == (
        "dynamic",
        2,
        ["ppl", "train", "vae"],
    )
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(row["loss"] == pytest.approx(-row["reg"] - row["rec"], rel=1e-5) for row in rows)
    page = (trained / "report.html").read_text()
    assert "Latent manifold" in page and "Reconstructions" in page


def test_evaluate_bounds_rise_with_k_and_the_page_names_them(ppl, run):
    said = ppl("evaluate", run, "--k", "1,5,50", "--images", 40)
    assert said.code == 0, said.err
    result = json.loads((run / "evaluation.json").read_text())
    assert [(row["k"], row["images"]) for row in result["rows"]] == [(1, 40), (5, 40), (50, 40)]
    means = [row["mean"] for row in result["rows"]]
    assert means == sorted(means)
    assert all(row["se"] > 0 for row in result["rows"])
    assert 0 <= result["active_units"] <= result["units"] == 2
    assert result["khat_median"] == result["rows"][-1]["khat"]
    assert f"{means[-1]:.3f}" in said.out and "standard error" in said.out
    page = (run / "report.html").read_text()
    assert "(k = 50)" in page and "Evaluated" in page
    assert not list(run.glob(".*"))


def test_a_guide_taught_by_dreams_gives_another_bound_and_the_run_stays(ppl, run):
    before = (run / "checkpoint.safetensors").read_bytes()
    words = ("evaluate", run, "--k", "1,50", "--images", 40, "--json")
    plain, tuned, again = (json.loads(ppl(*words, *more).out) for more in ((), ("--dreams", 30), ("--dreams", 30)))
    assert plain["rows"] != tuned["rows"] == again["rows"]
    assert (plain["dreams"], tuned["dreams"]) == (0, 30)
    assert plain["active_units"] == tuned["active_units"]
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_evaluate_as_json_prints_the_file(ppl, run):
    said = ppl("evaluate", run, "--k", "1,4", "--images", 10, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == json.loads((run / "evaluation.json").read_text())
    again = json.loads(ppl("evaluate", run, "--k", "1,4", "--images", 10, "--json").out)
    other = json.loads(ppl("evaluate", run, "--k", "1,4", "--images", 10, "--json", "--seed", 1).out)
    assert again["rows"] == json.loads(said.out)["rows"] != other["rows"]


def test_one_image_has_a_bound_and_no_standard_error(ppl, run):
    said = ppl("evaluate", run, "--k", "3", "--images", 1)
    assert said.code == 0, said.err
    result = json.loads((run / "evaluation.json").read_text())
    assert result["rows"][0]["se"] is result["active_units"] is None


def test_images_are_drawn_by_seed_and_are_not_the_first(trained):
    run = runs_on_disk.open_run(trained)
    run.binarize = "none"
    whole = data.digits()[1].x
    chosen = [runs_on_disk.test_rows(run, 40, seed).x for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    at = [int((whole == row).all(1).nonzero()[0]) for row in chosen[0]]
    assert max(at) >= 100
    assert at != sorted(at)


def test_sample_writes_a_picture(ppl, trained):
    assert ppl("sample", trained, "-n", 9, "--out", "new/s.png").code == 0
    with Image.open("new/s.png") as image:
        assert min(image.size) >= 3 * 8
    first = Path("new/s.png").read_bytes()
    ppl("sample", trained, "-n", 9, "--out", "same.png")
    ppl("sample", trained, "-n", 9, "--out", "other.png", "--seed", 1)
    assert Path("same.png").read_bytes() == first != Path("other.png").read_bytes()


def test_data_lists_what_there_is(ppl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = ppl("data")
    assert said.code == 0
    for entry in data.available():
        assert entry.name in said.out


def test_resume_gives_a_finished_run_more_epochs(ppl, run):
    said = ppl("train", "--resume", run, "--epochs", 3)
    assert said.code == 0, said.err
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert runs_on_disk.open_run(run).epochs == 3


def test_ones_own_images_and_the_other_options(ppl, tmp_path):
    np.save("mine.npy", np.random.default_rng(0).random((30, 4, 4), dtype=np.float32))
    words = "--objective iwae --k 3 --gradient dreg --likelihood gaussian --activation relu --batch-size 10 --epochs 2"
    more = "--clip-norm 5 --kl-warmup 1 --patience 2 --device cpu --seed 4"
    said = ppl(*TRAIN, "--data", "mine.npy", *words.split(), *more.split(), "--out", "deep/er/run")
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in Path("deep/er/run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and "valid" in rows[0]
    assert ppl("evaluate", "deep/er/run", "--k", "2").code == 0


def test_iwae_after_epochs_on_the_elbo(ppl):
    words = "--objective iwae --k 3 --elbo-epochs 1 --epochs 2 --data digits --out run"
    assert ppl(*TRAIN, *words.split()).code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert ["reg" in row for row in rows] == [True, False]  # only the ELBO has two parts
    assert "after 1 epochs of the ELBO" in Path("run/report.html").read_text()


def test_at_the_end_the_guide_alone_learns_on_dreams(ppl):
    from safetensors.torch import load_file

    words = "--data digits --epochs 30 --checkpoint-epochs 5 --seed 3"
    for more in ("", "--dream-epochs 0"):
        assert ppl(*TRAIN, *words.split(), *more.split(), "--out", f"run{more[-1:]}").code == 0
    histories = [
        [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()] for run in ("run", "run0")
    ]
    assert [len(rows) for rows in histories] == [31, 30]
    assert [row["loss"] for row in histories[0][:30]] == [row["loss"] for row in histories[1]]
    ours, theirs = (load_file(Path(run, "checkpoint.safetensors")) for run in ("run", "run0"))
    same = {name: torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("parameter.")}
    assert all(equal == name.startswith("parameter.decoder") for name, equal in same.items()), same
    assert "then the guide on dreams for 1 epochs" in Path("run/report.html").read_text()


@pytest.mark.parametrize(
    "more", ["--hidden 12", "--hidden 12,6 --objective rws --guide-hidden 8", "--hidden 12 --objective nvil"]
)
def test_a_sigmoid_belief_network_from_training_to_pictures(ppl, more):
    said = ppl("train", "sbn", "--data", "digits", *more.split(), "--epochs", 2, "--threads", 1, "--out", "sbn")
    assert said.code == 0, said.err
    assert ppl("evaluate", "sbn", "--k", "1,20", "--images", 40).code == 0
    result = json.loads(Path("sbn/evaluation.json").read_text())
    assert result["units"] == 12 and result["rows"][0]["mean"] < result["rows"][1]["mean"] < 0
    assert ppl("sample", "sbn", "--out", "s.png").code == 0
    page = Path("sbn/report.html").read_text()
    assert "Random samples" in page and "Latent manifold" not in page


def test_the_report_holds_its_pictures(trained):
    page = (trained / "report.html").read_text()
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_help_is_quick_because_it_imports_no_torch(tmp_path):
    done = subprocess.run([sys.executable, "-X", "importtime", PPL, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("train", "evaluate", "sample", "data"))
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "pyro", "numpy", "matplotlib", "arviz", "sklearn", "lightning_fabric"}


def test_every_public_name_is_there():
    for name in inference.__all__:
        assert getattr(inference, name).__module__.startswith("inference.")
    assert sorted(name for names in inference._MODULES.values() for name in names) == sorted(inference.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = inference.Nothing


# -- bad input to train: refused before the folder of the run is made --------------------------------------------------

OPTIONS = {
    "unknown data set": ("--data digit", "no data set or file called 'digit': did you mean 'digits'"),
    "missing file": ("--data none.npy", "no data set or file called 'none.npy': .* give the path"),
    "k = 0": ("--k 0", "--k is at least 1, got 0: "),
    "k = 0 of iwae": ("--objective iwae --k 0", "--k is at least 1, got 0: "),
    "z_dim = 0": ("--z-dim 0", "z_dim is at least 1, got 0: "),
    "hidden = 0": ("--hidden 8,0", "hidden is at least 1, got 0: "),
    "hidden in words": ("--hidden a,b", "--hidden takes whole numbers with commas, such as 200,200, got 'a,b'"),
    "objective": ("--objective elbow", "unknown objective 'elbow': choose elbo or iwae"),
    "gradient": ("--objective iwae --gradient best", "'plain' or 'dreg', got 'best'"),
    "activation": ("--activation sigmoidal", "unknown activation 'sigmoidal': choose one of tanh"),
    "likelihood": ("--likelihood poisson", "unknown likelihood 'poisson': choose bernoulli or gaussian"),
    "device": ("--device tpu", "unknown device 'tpu': choose cpu, cuda or auto"),
    "precision": ("--precision 8", "unknown precision '8': choose"),
    "binarisation": ("--binarize maybe", "unknown binarisation 'maybe': choose auto, dynamic or none"),
    "dynamic on binary": ("--data bars --binarize dynamic", "binary already.*leave --binarize out"),
    "strategy": ("--strategy sideways", "(?i)strategy"),
    "devices": ("--devices 0", "--devices is at least 1"),
    "epochs": ("--epochs 0", "--epochs is at least 1, got 0: "),
    "batch size": ("--batch-size 0", "--batch-size is at least 1, got 0: "),
    "patience": ("--patience 0", "--patience is at least 1, got 0: "),
    "checkpoint epochs": ("--checkpoint-epochs 0", "--checkpoint-epochs is at least 1, got 0: "),
    "checkpoint minutes": ("--checkpoint-minutes -1", "--checkpoint-minutes is at least 0, got -1.0: "),
    "kl warm-up": ("--kl-warmup -1", "--kl-warmup is at least 0, got -1: "),
    "elbo epochs": ("--objective iwae --elbo-epochs -1", "--elbo-epochs is at least 0, got -1: "),
    "dream epochs": ("--dream-epochs -1", "--dream-epochs is at least 0, got -1: "),
    "more than all epochs": (
        "--objective iwae --epochs 3 --elbo-epochs 4",
        "--elbo-epochs is at most --epochs, 3, got 4: ",
    ),
    "dreams of two": ("--dream-epochs 1 --devices 2", "--dream-epochs run in one process, got --devices 2: "),
    "elbo before elbo": ("--elbo-epochs 3", "--elbo-epochs come before another objective: add --objective iwae"),
    "weight decay": ("--weight-decay -1", "--weight-decay is at least 0, got -1.0: "),
    "input dropout": ("--input-dropout 1", r"input_dropout is a share in \[0, 1\), got 1.0: "),
    "clip norm": ("--clip-norm 0", "--clip-norm is above 0, got 0.0: "),
    "learning rate": ("--lr 0", "learning rates are above 0, got --lr 0.0"),
    "learning rate nan": ("--lr nan", "learning rates are above 0, got --lr nan"),
    "conv": ("--conv --likelihood poisson", "unknown likelihood"),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS.keys())
def test_a_bad_option_is_one_sentence_and_leaves_nothing(ppl, tmp_path, options, words):
    said = ppl(*TRAIN, "--data", "bars", "--out", "new/run", *options.split())
    refused(said, words)
    assert list(tmp_path.iterdir()) == []


SBN_OPTIONS = {
    "grey pixels": ("--data digits --binarize none", "takes pixels of 0 and 1, and digits is grey: --binarize dynamic"),
    "no hidden units": ("--data bars --hidden 0", "each at least 1, got .*, 0. "),
    "hidden in the guide": ("--data bars --guide-hidden 0", "guide_hidden=0"),
}


@pytest.mark.parametrize(("options", "words"), SBN_OPTIONS.values(), ids=SBN_OPTIONS.keys())
def test_a_bad_option_of_a_belief_network(ppl, tmp_path, options, words):
    refused(ppl("train", "sbn", "--out", "run", *options.split()), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(ppl, tmp_path):
    refused(ppl(*TRAIN, "--data", "bars", "--out", "run", "--device", "cuda"), "no CUDA device.*pass --device cpu")
    assert list(tmp_path.iterdir()) == []


def rows(*values: float) -> np.ndarray:
    x = np.full((10, 4, 4), 0.5, np.float32)
    x[3, 1, : len(values)] = values
    return x


ARRAYS = {
    "above 1": (rows(255.0), "mine.npy: pixels must be inside .0, 1., and row 3 .*: divide by 255"),
    "below 0": (rows(-1.0), "pixels must be inside .0, 1., and row 3 .*: images in .-1, 1. want"),
    "NaN": (rows(np.nan), "pixels must be finite, and row 3 holds nan or inf: repair or drop that row"),
    "one image": (rows()[:1], "a data set of 1 image cannot be trained on or split: give at least 2"),
    "no image": (rows()[:0], "a data set of 0 images cannot be used: give at least"),
    "words": (np.array([["a", "b"]] * 3), "mine.npy"),
}


@pytest.mark.parametrize(("array", "words"), ARRAYS.values(), ids=ARRAYS.keys())
def test_bad_data_is_one_sentence_and_leaves_nothing(ppl, tmp_path, array, words):
    np.save("mine.npy", array)
    refused(ppl(*TRAIN, "--data", "mine.npy", "--out", "run"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04half"])
def test_a_damaged_file_of_data(ppl, tmp_path, content):
    for name in ("mine.npy", "mine.npz"):
        Path(name).write_bytes(content)
        refused(ppl(*TRAIN, "--data", name, "--out", "run"), name)
    assert not Path("run").exists()


def test_an_existing_folder_is_left_as_it_is(ppl, run):
    before = files(run)
    refused(ppl(*TRAIN, "--data", "bars", "--out", run), "is not empty: choose another --out, or .*--resume")
    assert files(run) == before
    Path("file").write_text("mine")
    refused(ppl(*TRAIN, "--data", "bars", "--out", "file"), "file exists and is not empty: choose another --out")
    assert Path("file").read_text() == "mine"


def test_an_existing_empty_folder_is_fine_and_stays_when_training_fails(ppl):
    Path("run").mkdir()
    said = ppl(*TRAIN, "--data", "bars", "--out", "run", "--epochs", 1, "--lr", 1e38, "--lr-final", 1e38)
    assert said.code == 1
    assert files(Path("run")) == {}
    assert ppl(*TRAIN, "--data", "bars", "--out", "run", "--epochs", 1).code == 0


@pytest.mark.parametrize("out", ["file/run", "/proc/1/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_made(ppl, tmp_path, out):
    if out.startswith("/proc") and not Path("/proc/1").is_dir():
        pytest.skip("no /proc")
    Path("file").write_text("mine")
    refused(ppl(*TRAIN, "--data", "bars", "--out", out), "choose another folder with --out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_run(ppl, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # config.json fits, the checkpoint does not
    try:
        said = ppl(*TRAIN, "--data", "bars", "--out", "new/run", "--epochs", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.code == 1
    assert "checkpoint.safetensors cannot be written" in said.err and "free space or choose" in said.err
    assert len([line for line in said.err.splitlines() if "error" in line]) == 1
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def test_a_full_disk_at_the_first_file_leaves_no_run(ppl, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)
    refused(ppl(*TRAIN, "--data", "bars", "--out", "new/run"), "No space left on device: free space")
    assert list(tmp_path.iterdir()) == []


def test_a_nan_is_one_sentence(ppl, tmp_path):
    said = ppl(*TRAIN, "--data", "bars", "--out", "run", "--epochs", 2, "--lr", 1e38, "--lr-final", 1e38)
    assert said.code == 1
    (line,) = [line for line in said.err.splitlines() if "error" in line]
    assert re.search(r"the loss is (nan|-?inf) at step \d+, .*: lower the learning rate .*no checkpoint yet", line)
    assert list(tmp_path.iterdir()) == []


def test_words_that_contradict_each_other(ppl, run, tmp_path):
    before = files(run)
    refused(ppl("train"), "name a model .* or a run to go on with")
    refused(ppl("train", "--resume", run, "vae", "--data", "bars", "--out", "x"), "--resume goes on with a run")
    refused(ppl("train", "--epochs", 3, "vae", "--data", "bars", "--out", "x"), "come after the model's name")
    refused(ppl("train", "--resume", run, "--epochs", 0), "--epochs is at least 1, got 0")
    assert files(run) == before
    assert not Path("x").exists()


def test_two_processes_say_an_error_once(ppl, tmp_path):
    refused(ppl(*TRAIN, "--data", "none.npy", "--out", "run", "--devices", 2, "--strategy", "ddp"), "no data set")
    Path("run").mkdir()
    Path("run/file").touch()
    refused(ppl(*TRAIN, "--data", "bars", "--out", "run", "--devices", 2, "--strategy", "ddp"), "is not empty")


# -- bad input to evaluate, sample and resume --------------------------------------------------------------------------

EVALUATE = {
    "dreams": ("--dreams -1", "--dreams is at least 0, got -1: "),
    "k = 0": ("--k 0,5", "k is at least 1, got 0: pass"),
    "k in words": ("--k few", "--k takes whole numbers with commas"),
    "no image": ("--images 0", "the number of images is at least 1, got 0: pass"),
    "too many images": ("--images 298", "digits has 297 test images, fewer than the 298 asked for: lower --images"),
    "device": ("--device tpu", "unknown device 'tpu': choose"),
}


@pytest.mark.parametrize(("options", "words"), EVALUATE.values(), ids=EVALUATE.keys())
def test_bad_options_of_evaluate(ppl, trained, options, words):
    before = files(trained)
    refused(ppl("evaluate", trained, *options.split()), words)
    assert files(trained) == before


def edit(run: Path, **changes: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        (config["options"] if name in config["options"] else config)[name] = value
    (run / "config.json").write_text(json.dumps(config))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    tensors, meta = load(path)
    save(path, {f"parameter.other.{i}": t for i, t in enumerate(tensors.values())}, meta)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another z_dim": (lambda run: edit(run, z_dim=3), "another model: .* there and .* here: build"),
    "another depth": (lambda run: edit(run, hidden=[16, 16]), "another model: .*: build the model"),
    "another likelihood": (lambda run: edit(run, likelihood="gaussian"), "another model: 'log_scale' is missing"),
    "unknown model": (lambda run: edit(run, model="gan"), "a run of 'gan', unknown here: vae"),
    "options that are none": (lambda run: edit(run, options={"depth": 1}), "config.json describes no model"),
    "words for a number": (lambda run: edit(run, z_dim="two"), "config.json describes no model"),
    "checkpoint of another model": (lambda run: foreign(run / "checkpoint.safetensors"), "another model"),
    "truncated": (lambda run: truncate(run / "checkpoint.safetensors"), "truncated or of another kind; train anew"),
    "no checkpoint": (lambda run: (run / "checkpoint.safetensors").unlink(), "there is no checkpoint at .*: name"),
    "no config": (lambda run: (run / "config.json").unlink(), "holds no run .*: name a folder that `ppl train`"),
    "damaged config": (lambda run: truncate(run / "config.json"), "config.json is damaged .*: train anew"),
    "no folder": (shutil.rmtree, "holds no run .*: name a folder that `ppl train`"),
}


@pytest.mark.parametrize("command", ["evaluate", "sample", "resume"])
@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT.keys())
def test_a_folder_that_holds_no_such_run(ppl, run, spoil, words, command):
    spoil(run)
    before = files(run)
    said = {
        "evaluate": lambda: ppl("evaluate", run, "--k", 2, "--images", 5),
        "sample": lambda: ppl("sample", run, "--out", "s.png"),
        "resume": lambda: ppl("train", "--resume", run, "--epochs", 3),
    }[command]()
    refused(said, words)
    assert files(run) == before
    assert not Path("s.png").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.json"])
def test_damaged_notes_of_a_run(ppl, run, name):
    (run / name).write_text('{"half')
    words = "metrics.jsonl is damaged .*resume" if name == "metrics.jsonl" else "evaluation.json is damaged .*: delete"
    said = ppl("train", "--resume", run) if name == "evaluation.json" else ppl("evaluate", run, "--k", 2)
    assert said.code == 1
    assert re.search(words, said.err)
    assert "Traceback" not in said.err


def test_a_full_disk_leaves_the_old_evaluation(ppl, run, monkeypatch):
    assert ppl("evaluate", run, "--k", 2, "--images", 5).code == 0
    before = files(run)
    monkeypatch.setattr(os, "replace", no_space)
    said = ppl("evaluate", run, "--k", 3, "--images", 5)
    refused(said, "No space left on device: free space")
    assert files(run) == before


def test_bad_options_of_sample(ppl, trained, tmp_path):
    refused(ppl("sample", trained, "-n", 0, "--out", "s.png"), "the number of images is at least 1, got 0: pass")
    refused(ppl("sample", trained, "--out", "s.jpg"), r"--out names a PNG file, got s.jpg: pass --out s.png")
    refused(ppl("sample", trained, "--out", ""), "--out names a PNG file")
    Path("file").touch()
    refused(ppl("sample", trained, "--out", "file/s.png"), "choose another folder with --out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_debug_shows_the_traceback(tmp_path):
    words = [PPL, "evaluate", "none"]
    plain, debug = (subprocess.run([*words, *more], capture_output=True, text=True) for more in ([], ["--debug"]))
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr.startswith("error: none holds no run") and plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr and "CheckpointError: none holds no run" in debug.stderr


@pytest.mark.parametrize("words", [["nothing"], ["train", "vae"], ["train", "vae", "--epochs", "few"]])
def test_words_that_typer_refuses(ppl, words):
    said = ppl(*words)
    assert said.code == 2
    assert "Usage: " in said.err and "Traceback" not in said.err


def test_ctrl_c_outside_training_is_one_sentence(ppl, trained, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs_on_disk, "open_run", stop)
    said = ppl("evaluate", trained)
    assert (said.code, said.out, said.err) == (130, "", "stopped by the user\n")


def test_two_runs_are_compared_image_by_image(ppl, tmp_path):
    options = ("--data", "digits", "--epochs", "1", "--hidden", "8", "--z-dim", "2", "--threads", "1")
    for name, seed in (("a", "0"), ("b", "1")):
        assert ppl("train", "vae", *options, "--seed", seed, "--out", tmp_path / name).code == 0
    evaluate = ("--k", "1,20", "--images", "30")
    failed = ppl("evaluate", tmp_path / "a", *evaluate, "--against", tmp_path / "b")
    assert failed.code == 1 and "has not been evaluated" in failed.err
    assert ppl("evaluate", tmp_path / "b", *evaluate).code == 0
    assert ppl("evaluate", tmp_path / "a", *evaluate, "--against", tmp_path / "b").code == 0
    a, b = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab")
    assert a["against"]["k"] == 20
    assert a["against"]["difference"] == pytest.approx(a["rows"][1]["mean"] - b["rows"][1]["mean"], abs=1e-9)
    assert 0 < a["against"]["se"] < a["rows"][1]["se"]
    other = ppl("evaluate", tmp_path / "a", "--k", "20", "--images", "20", "--against", tmp_path / "b")
    assert other.code == 1 and "evaluated on other images" in other.err
