"""`ppl train ssvae`, `ppl train m1m2` and what follows them: stopped, resumed, evaluated, drawn, and refused."""

import base64
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from inference.cli import runs as runs_on_disk
from inference.cli.few_labels import batches_of, few_label_objective
from inference.cli.label_pictures import analogies
from inference.vi.objectives import TraceEnumELBO
from inference.vi.semi_supervised import SemiSupervisedELBO
from inference.vi.svi import SVI
from ppl_models import data
from tests.inference.test_cli import Said, files, ppl, refused  # noqa: F401  (ppl is a fixture)

SMALL = "--data digits --labels 50 --epochs 2 --hidden 16 --z-dim 2 --threads 1 --compile off"
SSVAE = f"train ssvae {SMALL}".split()
M1M2 = f"train m1m2 {SMALL} --m1-epochs 2 --m1-hidden 16 --m1-z-dim 3".split()
COMMANDS = {"ssvae": SSVAE, "m1m2": M1M2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def kept(folder, ppl) -> Callable[[str], Path]:  # noqa: F811
    """A finished run of each kind, trained once; to be left as it is."""

    def of(name: str) -> Path:
        if not (folder / name).exists():
            said = ppl(*COMMANDS[name], "--out", folder / name)
            assert said.code == 0, said.err
            assert f"{folder / name / 'report.html'}: the report" in said.out
        return folder / name

    return of


@pytest.fixture(params=COMMANDS)
def run(request, kept, tmp_path) -> Path:
    """A copy of a run of each kind, to be spoilt."""
    return Path(shutil.copytree(kept(request.param), tmp_path / "run"))


def same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same numbers, bit for bit."""
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- what works --------------------------------------------------------------------------------------------------------


def test_a_run_says_which_labels_it_saw(run):
    config = json.loads((run / "config.json").read_text())
    assert [config[name] for name in ("labels", "label_seed", "balanced", "alpha")] == [50, 0, True, config["alpha"]]
    assert config["options"]["n_classes"] == 10 and config["binarize"] == "dynamic"
    page = (run / "report.html").read_text()
    assert "50 labels, drawn by seed 0" in page and "labels summed out" in page
    pictures = [base64.b64decode(each) for each in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)]
    assert "Class by style" in page and "Analogies" in page and len(pictures) == 2
    if config["model"] == "m1m2":
        assert config["m1"] == "m1" and (run / "m1" / "report.html").is_file()


def test_evaluate_finds_error_and_evidence(ppl, run):  # noqa: F811
    said = ppl("evaluate", run, "--k", "1,4", "--images", 30, "--seed", 3)
    assert said.code == 0, said.err
    result = json.loads((run / "evaluation.json").read_text())
    found = result["labels"]
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum() == found["images"] == 297
    assert found["error"] == pytest.approx(1 - float(confusion.trace()) / 297)
    assert found["low"] < found["error"] < found["high"]
    assert result["rows"][0]["mean"] <= result["rows"][1]["mean"] and result["units"] == 2
    of = runs_on_disk.open_run(run)
    pair, _ = runs_on_disk.load_model(run, of)
    test = data.digits()[1]
    label = pair.owner.classify(test.x).argmax(1)  # grey images as they are
    assert found["error"] == pytest.approx(float((label != test.y).double().mean()))
    own = found["posterior"]
    assert own["images"] == 30 and own["log_p_xy"] < result["rows"][1]["mean"] + 0.5 and own["kl"] >= 0
    assert 0 <= own["error_p"] <= 1 and 0 <= own["agreement"] <= 1
    page = (run / "report.html").read_text()
    assert "Confusion matrix" in page and page.count('<th scope="row">9</th>') == 1
    for words in ("Error of q(y | x): ", "Bound on log p(x, y): ", "50 labels seen, drawn by seed 0"):
        assert words in said.out and words in page


def test_log_p_of_image_and_label_is_the_importance_weighted_bound(ppl, run):  # noqa: F811
    from inference.evidence.importance import bound_per_datum, importance_weights

    assert ppl("evaluate", run, "--k", "6", "--images", 20).code == 0
    own = json.loads((run / "evaluation.json").read_text())["labels"]["posterior"]
    of = runs_on_disk.open_run(run)
    pair, _ = runs_on_disk.load_model(run, of)
    test = runs_on_disk.test_rows(of, 20, 0)
    assert test.y is not None
    again = bound_per_datum(importance_weights(pair, (test.x, test.y), 6, seed=0), 6)  # the same noise in every class
    assert own["log_p_xy"] == pytest.approx(float(again.mean()), abs=1e-5)


def test_labels_on_one_page(ppl, run):  # noqa: F811
    other = run.parent / "other"
    assert ppl("evaluate", run, "--k", "1", "--images", 5, "--baselines").code == 0
    found = json.loads((run / "evaluation.json").read_text())["labels"]["baselines"]
    stacked = runs_on_disk.open_run(run).model == "m1m2"
    assert len(found) == (6 if stacked else 3) and all(0 < each["error"] < 0.9 for each in found)
    shutil.copytree(run, other)
    said = ppl("labels", run, other, "--out", "deep/labels.html")
    assert said.code == 0, said.err
    page = Path("deep/labels.html").read_text()
    for method in ("M1+M2" if stacked else "M2", "nearest neighbour, on pixels", "support vectors, C = 10, on pixels"):
        assert method in page and method.split(",")[0] in said.out
    assert "<svg" in page and page.count("<tr>") == 2 + len(found)
    draws = dict(re.findall(r"([^>]*)</td><td>50</td><td>(\d)</td>", page))
    # two runs of one draw of labels: two of the model, and one of classifiers that have seen nothing else
    assert [draws.pop(" M1+M2" if stacked else " M2"), set(draws.values())] == ["2", {"1"}]


def test_means_and_standard_errors_over_draws():
    from inference.comparison.labels import over_draws

    rows = over_draws({("b", 100): [0.1, 0.2, 0.3], ("a", 1000): [0.05], ("b", 10): [0.5, 0.5]})
    assert [(row.method, row.labels, row.draws) for row in rows] == [("b", 10, 2), ("b", 100, 3), ("a", 1000, 1)]
    assert rows[1].mean == pytest.approx(0.2) and rows[1].se == pytest.approx(0.1 / 3**0.5)
    assert (rows[0].se, rows[2].se) == (0, None) and (rows[1].low, rows[1].high) == (0.1, 0.3)


def test_sample_draws_a_row_for_each_class(ppl, run):  # noqa: F811
    assert ppl("sample", run, "-n", 3, "--out", "s.png").code == 0
    with Image.open("s.png") as image:
        assert image.size[1] > 3 * image.size[0]


def test_analogies_begin_with_the_image(run):
    of = runs_on_disk.open_run(run)
    model = runs_on_disk.load_model(run, of)[0].owner
    x = data.digits()[1].x[:4]
    rows = analogies(model, x).reshape(4, 11, 64)
    assert torch.equal(rows[:, 0], x)
    z = model.style(x)
    for c in (0, 9):
        torch.testing.assert_close(rows[:, 1 + c], model.decode(torch.full((4,), c), z))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", ["--labels all --unbalanced", "--labels 0 --objective iwae --k 2"])
def test_all_labelled_and_none(ppl, name, more, kept):  # noqa: F811
    given = ("--m1", kept("m1m2") / "m1") if name == "m1m2" else ()
    words = [*COMMANDS[name], *more.split(), "--epochs", 1]
    said = ppl(*words, *given, "--out", "run")
    assert said.code == 0, said.err
    assert runs_on_disk.open_run(Path("run")).labels == (1500 if "all" in more else 0)
    assert ppl("evaluate", "run", "--k", "1", "--images", 5).code == 0


def test_the_other_options(ppl):  # noqa: F811
    more = "--label-seed 3 --shift 1 --share data --dropout 0.5 --alpha 5 --labelled-batch 10"
    kind = "--likelihood gaussian --binarize none"
    assert ppl(*SSVAE, *more.split(), *kind.split(), "--epochs", 1, "--out", "run").code == 0
    of = runs_on_disk.open_run(Path("run"))
    assert (of.label_seed, of.share, of.options["dropout"], of.pixels) == (3, "data", 0.5, "values as they are")
    assert few_label_objective(of, 1500) == SemiSupervisedELBO(5, 50 / 1500, TraceEnumELBO())
    train = data.digits()[0]
    drawn = batches_of(of, of.build(), train).epoch(0, seed=0)
    x, y = next(drawn)  # 10 labelled rows, and 100 of the others
    assert (x.shape, y.shape, of.shift) == ((110, 64), (10,), 1)
    labelled, _ = data.split_labels(train, 50, seed=3)
    assert not any(bool((row == labelled.x).all(1).any()) for row in x[10:])


# -- stopped and resumed -----------------------------------------------------------------------------------------------


def stop_at(monkeypatch, number: int) -> None:
    """Ctrl-C in the step of that number, counted from now."""
    step, count = SVI.step, iter(range(1, 10**9))

    def stopping(self, *batch):
        if next(count) == number:
            signal.raise_signal(signal.SIGINT)
        return step(self, *batch)

    monkeypatch.setattr(SVI, "step", stopping)


@pytest.mark.parametrize(("name", "steps"), [("ssvae", 17), ("m1m2", 17), ("m1m2", 47)])
def test_stopped_in_mid_epoch_and_resumed_it_is_the_same_bit_for_bit(ppl, monkeypatch, kept, name, steps):  # noqa: F811
    run = kept(name)
    with monkeypatch.context() as patched:
        stop_at(patched, steps)
        said = ppl(*COMMANDS[name], "--out", "halved")
    assert said.code == 130 and "--resume halved`" in said.err
    assert Path("halved/checkpoint.safetensors").exists() == (name == "ssvae" or steps == 47)
    said = ppl("train", "--resume", "halved")
    assert said.code == 0, said.err
    same(run, Path("halved"))
    rows = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (run, Path("halved"))]
    assert rows[0]["loss"] == rows[1]["loss"]


def test_m1_may_be_given_and_is_the_same_as_trained_first(ppl, kept):  # noqa: F811
    whole = kept("m1m2")
    said = ppl(*M1M2, "--m1", whole / "m1", "--out", "given")
    assert said.code == 0, said.err
    same(whole, Path("given"))
    assert not Path("given/m1").exists()
    again = ppl(*M1M2, "--label-seed", 1, "--m1", whole / "m1", "--out", "other")
    assert again.code == 0
    states = [load_file(folder / "checkpoint.safetensors") for folder in (Path("given"), Path("other"))]
    for key in (key for key in states[0] if key.startswith("parameter.")):
        assert torch.equal(states[0][key], states[1][key]) == key.startswith("parameter.m1."), key


def test_stopped_before_the_first_checkpoint_of_m2_the_given_m1_stays(ppl, monkeypatch, kept):  # noqa: F811
    whole = kept("m1m2")
    before = files(whole)
    with monkeypatch.context() as patched:
        patched.setattr(SVI, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        said = ppl(*M1M2, "--m1", whole / "m1", "--out", "run")
    assert said.code == 1 and said.err.endswith("error: broken\n")
    assert not Path("run").exists() and files(whole) == before


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD = {
    "below 0": ("--labels -1", "0 to 1500 of them can be labelled, got -1"),
    "above N": ("--labels 1501", "0 to 1500 of them can be labelled, got 1501"),
    "in words": ("--labels few", "--labels takes a number of rows or the word all, got 'few': pass"),
    "fewer than classes": ("--labels 9", "9 labels are fewer than the 10 classes of .*: take at least 10"),
    "a class without": ("--labels 10 --unbalanced", "has none of class .*: draw more, pass balanced=True"),
    "alpha": ("--alpha -1", "at least 0, got -1"),
    "alpha nan": ("--alpha nan", "at least 0, got nan"),
    "share": ("--share all", "unknown share 'all': choose batch or data"),
    "shift": ("--shift two", "--shift takes a number of pixels or the word auto, got 'two': pass --shift 2"),
    "batch": ("--labelled-batch 0", "--labelled-batch is at least 1, got 0: raise it"),
    "objective": ("--objective rws", "unknown objective 'rws': choose elbo or iwae"),
    "dropout": ("--dropout 1", r"dropout is a share in \[0, 1\), got 1.0"),
    "hidden": ("--hidden 0", "hidden is at least 1, got 0"),
    "no labels": ("--data bars", "has no labels"),
    "binary and dynamic": ("--data {caltech}", "a class that never occurs|class 1 never occurs"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_bad_options_leave_no_folder(ppl, name, options, words):  # noqa: F811
    if name == "m1m2" and "--shift" in options:
        pytest.skip("codes are not shifted")
    if "{caltech}" in options:
        x, y = np.random.default_rng(0).random((30, 4, 4), dtype=np.float32), np.arange(30) % 3 * 2
        np.savez("gap.npz", x=x, y=y)
        options = "--data gap.npz --labels 15"
    refused(ppl(*COMMANDS[name], *options.split(), "--out", "run"), words)
    assert not Path("run").exists()


def test_what_cannot_be_m1(ppl, run):  # noqa: F811
    def asked(m1: object, *more: object) -> Said:
        said = ppl(*M1M2, "--m1", m1, *more, "--out", "new")
        assert not Path("new").exists()
        return said

    refused(asked("nowhere"), "nowhere holds no run")
    refused(asked(run), f"M1 is a VAE, and {run} holds a run of (ssvae|m1m2): give one of `ppl train vae`")
    if (run / "m1").exists():
        config = run / "m1" / "config.json"
        text = config.read_text()
        config.write_text(text.replace('"digits"', '"bars"'))
        refused(asked(run / "m1"), "was trained on bars, and this run is on digits: give an M1 of the same data")
        config.write_text(text.replace('"epochs": 2', '"epochs": 3'))
        refused(asked(run / "m1"), "has had 2 of its 3 epochs: `ppl train --resume .*` first")


def test_what_a_model_of_labels_cannot_be_asked(ppl, run):  # noqa: F811
    before = files(run)
    refused(ppl("evaluate", run, "--ais", 5), "--dreams and --ais go with models without labels")
    refused(ppl("labels", run, "--out", "l.html"), "has not been evaluated: run `ppl evaluate")
    if (run / "m1").exists():
        refused(ppl("evaluate", run / "m1", "--baselines"), "--baselines go with a model of labels")
        refused(ppl("labels", run / "m1", "--out", "l.html"), "holds a run of vae, which saw no labels")
        (run / "checkpoint.safetensors").unlink()
        (run / "m1" / "checkpoint.safetensors").unlink()
        refused(ppl("train", "--resume", run), "there is no checkpoint at .*m1")
        before = files(run)
    assert files(run) == before
