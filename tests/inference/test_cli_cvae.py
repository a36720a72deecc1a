"""`ppl train cvae` and what follows it: from an image's part to its bound, its page and its completions."""

import base64
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from inference.cli import runs as runs_on_disk
from inference.cli.completions import completed, completions, reconstructed
from ppl_models import data
from ppl_models.data import SplitBatches
from tests.inference.test_cli import PPL, Said, files, ppl, refused  # noqa: F401  (ppl is a fixture)

TRAIN = "train cvae --hidden 16 --z-dim 2 --threads 1 --epochs 2 --data digits".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two epochs, written by the command itself."""
    out = tmp_path_factory.mktemp("runs") / "cvae"
    done = subprocess.run([PPL, *TRAIN, "--condition", "quadrant", "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_says_what_is_given_and_shows_completions(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["condition"], config["quadrants"]) == ("quadrant", 1)
    assert config["options"] | {"x_dim": 48, "c_dim": 16, "image_shape": [1, 8, 8]} == config["options"]
    page = (trained / "report.html").read_text()
    assert "three quadrants given one" in page and "Completions" in page and "bound on log p(x | c)" in page
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 2 and all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_evaluate_bounds_log_p_of_the_rest_given_the_part(ppl, run):  # noqa: F811
    words = ("evaluate", run, "--k", "1,5,50", "--images", 40)
    said = ppl(*words)
    assert said.code == 0, said.err
    assert "three quadrants given one: bound on log p(x | c), nats" in " ".join(said.out.split())
    result = json.loads((run / "evaluation.json").read_text())
    means = [row["mean"] for row in result["rows"]]
    assert means == sorted(means) and all(row["images"] == 40 for row in result["rows"])
    assert 0 <= result["active_units"] <= result["units"] == 2
    page = (run / "report.html").read_text()
    assert "log p(x | c) at least" in page and "log p(x) " not in page
    more = ("--dreams", 5, "--ais", 5, "--json")
    result = json.loads(ppl(*words, *more).out)
    assert result["ais"]["images"] == 40 and result["dreams"] == 5


def test_the_bound_is_the_one_of_the_model_on_its_test_rows(ppl, run):  # noqa: F811
    from inference import log_marginal

    ppl("evaluate", run, "--k", "20", "--images", 30, "--seed", 4)
    (row,) = json.loads((run / "evaluation.json").read_text())["rows"]
    of = runs_on_disk.open_run(run)
    pair, _ = runs_on_disk.load_model(run, of)
    images = runs_on_disk.test_rows(of, 30, 4).x
    parts = data.image_parts("quadrant", (1, 8, 8))
    assert row["mean"] == log_marginal(pair, parts.split(images), k=20, seed=4).mean


def test_completions_leave_what_is_given_as_it_is(trained):
    of = runs_on_disk.open_run(trained)
    model = runs_on_disk.load_model(trained, of)[0].owner
    images = runs_on_disk.test_rows(of, 3, 0).x
    rows = completions(model, of, images, draws=4).reshape(3, 7, 64)
    given, predicted = of.parts.given, of.parts.predicted
    assert torch.equal(rows[..., given], images[:, None, given].expand(3, 7, 16))
    assert bool((rows[:, 0, predicted] == 0.5).all()) and torch.equal(rows[:, -1], images)
    drawn = model.predict(images[:, given], 4, of.seed)
    assert torch.equal(rows[:, 2:6, predicted], drawn.transpose(0, 1))
    assert torch.equal(reconstructed(model, of, images)[:, given], images[:, given])
    many = completed(model, of, 400, seed=1)
    assert many.shape == (400, 64) and torch.equal(many, completed(model, of, 400, seed=1))


def test_sample_completes_test_images(ppl, trained):  # noqa: F811
    assert ppl("sample", trained, "-n", 9, "--out", "s.png").code == 0
    with Image.open("s.png") as image:
        assert min(image.size) >= 3 * 8


@pytest.mark.parametrize(
    "more",
    [
        "--condition upper --objective iwae --k 3 --elbo-epochs 1",
        "--condition left --likelihood gaussian --patience 1 --kl-warmup 1 --clip-norm 5",
        pytest.param("--condition quadrant --quadrants 3 --compile on", marks=pytest.mark.slow),
        "--condition quadrant --quadrants 3 --binarize none",
    ],
)
def test_the_other_options(ppl, more):  # noqa: F811
    said = ppl(*TRAIN, *more.split(), "--out", "run")
    assert said.code == 0, said.err
    assert ppl("evaluate", "run", "--k", "1,4", "--images", 20).code == 0


def test_stopped_in_mid_epoch_and_resumed_a_run_is_the_same_bit_for_bit(ppl, monkeypatch):  # noqa: F811
    words = (*TRAIN, "--condition", "upper", "--epochs", 3)
    assert ppl(*words, "--out", "whole").code == 0
    epoch = SplitBatches.epoch

    def stopping(self, number, seed):
        for i, batch in enumerate(epoch(self, number, seed)):
            if (number, i) == (1, 4):
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(SplitBatches, "epoch", stopping)
        said = ppl(*words, "--out", "half")
    assert said.code == 130 and "ppl train --resume half" in " ".join(said.err.split())
    assert len(Path("half/metrics.jsonl").read_text().splitlines()) == 1
    assert ppl("train", "--resume", "half").code == 0
    ours, theirs = (load_file(Path(name, "checkpoint.safetensors")) for name in ("half", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    histories = [runs_on_disk.read_metrics(Path(name)) for name in ("half", "whole")]
    assert [row["loss"] for row in histories[0]] == [row["loss"] for row in histories[1]]


BAD = {
    "condition": ("--condition top", "unknown condition 'top': choose upper, lower, left, right or quadrant"),
    "quadrants": ("--condition quadrant --quadrants 4", "1, 2 or 3 quadrants of an image are given, got 4: pass 1"),
    "quadrants of a half": ("--condition upper --quadrants 2", "goes with the condition 'quadrant', not with 'upper'"),
    "objective": ("--condition upper --objective rws", "unknown objective 'rws': choose elbo or iwae"),
    "z_dim = 0": ("--condition upper --z-dim 0", "z_dim is at least 1, got 0: "),
    "epochs": ("--condition upper --epochs 0", "--epochs is at least 1, got 0: "),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_option_is_one_sentence_and_leaves_nothing(ppl, tmp_path, options, words):  # noqa: F811
    refused(ppl(*TRAIN, "--out", "new/run", *options.split()), words)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_no_images_have_no_halves(ppl, tmp_path):  # noqa: F811
    import numpy as np

    np.save("mine.npy", np.random.default_rng(0).random((30, 6), dtype=np.float32))
    refused(ppl(*TRAIN, "--data", "mine.npy", "--condition", "upper", "--out", "run"), "has no such part: give images")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]


def test_a_condition_is_asked_for(ppl):  # noqa: F811
    said: Said = ppl(*TRAIN, "--out", "run")
    assert said.code == 2 and "--condition" in said.err


@pytest.mark.parametrize("name", ["condition", "quadrants"])
def test_a_spoilt_condition_is_refused(ppl, run, name):  # noqa: F811
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {name: "top" if name == "condition" else 7}))
    before = files(run)
    for words in (("evaluate", run, "--k", 2), ("train", "--resume", run, "--epochs", 3)):
        refused(ppl(*words), "unknown condition 'top'|1, 2 or 3 quadrants")
    assert files(run) == before
