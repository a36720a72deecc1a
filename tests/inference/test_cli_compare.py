"""`ppl compare`: what it writes and prints, and one sentence for everything that can go wrong."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.inference.test_cli import PPL, Ppl, files, ppl, refused  # noqa: F401  (ppl is a fixture)

SMALL = "--data bars --hidden 4 --budget 0.1 --images 5".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two epochs of a sigmoid belief network, written by the command itself."""
    out = tmp_path_factory.mktemp("runs") / "sbn"
    words = "train sbn --data digits --hidden 5 --epochs 2 --threads 1 --out".split()
    done = subprocess.run([PPL, *words, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_a_new_model_is_learnt_by_each_method_and_drawn_by_each_engine(ppl, tmp_path):  # noqa: F811
    said = ppl("compare", "sbn", *SMALL, "--out", tmp_path / "out", "--seed", 3)
    assert said.code == 0, said.err
    assert set(files(tmp_path / "out")) == {"comparison.nc", "report.html", "rows.json"}
    assert f"{tmp_path / 'out' / 'report.html'}: the report" in said.out
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    methods = ["svi", "iwae", "rws", "gibbs", "exact"]
    assert [row["engine"] for row in content["rows"]] == [curve["method"] for curve in content["learning"]] == methods
    assert content["rows"][-1]["verdict"] == "trust" and content["data"] == 5
    assert all(curve["points"][0]["steps"] == 0 and curve["estimate"] == "exact" for curve in content["learning"])
    # the same model at the start, whatever the method
    assert len({curve["points"][0]["log_p"] for curve in content["learning"]}) == 1
    assert all(0.1 <= curve["points"][-1]["seconds"] < 2 for curve in content["learning"])
    assert "Test log p(x) (exact)" in said.out and "learnt best in" in said.out
    assert max(map(len, said.out.splitlines()[:30])) <= 80
    assert "Learning" in (tmp_path / "out" / "report.html").read_text()


def test_methods_are_chosen_and_a_reference_is_always_there(ppl, tmp_path):  # noqa: F811
    said = ppl("compare", "sbn", *SMALL, "--methods", "iwae", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert [row["engine"] for row in content["rows"]] == ["iwae", "exact"]
    assert [curve["method"] for curve in content["learning"]] == ["iwae"]


def test_a_trained_run_is_compared_as_it_is(ppl, trained):  # noqa: F811
    before = files(trained)
    said = ppl("compare", trained, "--images", 6)
    assert said.code == 0, said.err
    content = json.loads((trained / "compare" / "rows.json").read_text())
    assert [row["engine"] for row in content["rows"]] == ["guide", "resampled", "mean field", "gibbs", "exact"]
    assert content["notes"]["run"] == str(trained) and not content["learning"]
    gap = {row["engine"]: row["gap"] for row in content["rows"]}
    assert 0 < gap["resampled"] < gap["guide"]
    # the same gap from annealing as from enumeration, and its two parts
    gaps = content["gaps"]
    assert abs(gaps["gap"]["mean"] - gap["guide"]) < 0.05
    assert gaps["amortisation"]["mean"] + gaps["approximation"]["mean"] == pytest.approx(gaps["gap"]["mean"])
    assert abs(gaps["approximation"]["mean"] - gap["mean field"]) < 0.05
    assert "because the guide is amortised" in " ".join(said.out.split())
    assert "Where the bound loses" in (trained / "compare" / "report.html").read_text()
    assert {name: text for name, text in files(trained).items() if not name.startswith("compare")} == before
    refused(ppl("compare", trained), r"compare exists and is not empty")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sbn", "--data", "digits"], "needs data and a folder"),
        (["sbn", "--out", "new"], "needs data and a folder"),
        (["sbn", *SMALL, "--methods", "svi,gobbs", "--out", "new"], "unknown method 'gobbs': choose some of svi,iwae"),
        (["sbn", *SMALL, "--methods", ",", "--out", "new"], "unknown method"),
        (["sbn", *SMALL, "--budget", "0", "--out", "new"], "--budget is above 0"),
        (["sbn", *SMALL, "--budget", "-3", "--out", "new"], "--budget is above 0"),
        (["sbn", *SMALL, "--budget", "nan", "--out", "new"], "--budget is above 0"),
        (["sbn", *SMALL, "--threads", "-1", "--out", "new"], "--threads is at least 0"),
        (["sbn", *SMALL, "--images", "0", "--out", "new"], "images is at least 1"),
        (["sbn", *SMALL, "--images", "5000", "--out", "new"], "1000 test images, fewer than the 5000"),
        (["sbn", *SMALL, "--hidden", "0", "--out", "new"], "each at least 1"),
        (["sbn", *SMALL, "--hidden", "a", "--out", "new"], "--hidden takes whole numbers"),
        (["sbn", *SMALL, "--hidden", "30", "--methods", "exact", "--out", "new"], "at most 14 hidden units, got 30"),
        (["sbn", "--data", "digitz", "--out", "new"], "did you mean 'digits'"),
        (["nowhere"], "there is no model and no folder 'nowhere': name a run's folder"),
        (["nowhere", "--data", "digits"], "there is no model and no folder 'nowhere'"),
        (["sbn", *SMALL, "--out", "full"], "exists and is not empty"),
        (["sbn", *SMALL, "--out", "full/file"], "exists and is not empty"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(ppl, tmp_path, words, says):  # noqa: F811
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    refused(ppl("compare", *words), says)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.slow
def test_a_run_of_continuous_latents_is_compared_with_hmc(ppl, tmp_path):  # noqa: F811
    np.save(tmp_path / "x.npy", (np.random.default_rng(0).random((40, 3, 3)) < 0.5).astype(np.uint8))
    run = tmp_path / "vae"
    words = ["--hidden", "4", "--z-dim", "2", "--epochs", "1", "--threads", "1"]
    assert ppl("train", "vae", "--data", tmp_path / "x.npy", *words, "--out", run).code == 0
    said = ppl("compare", run, "--images", 2)
    assert said.code == 0, said.err
    content = json.loads((run / "compare" / "rows.json").read_text())
    engines = ["guide", "resampled", "mean field", "full rank", "HMC"]
    assert [row["engine"] for row in content["rows"]] == engines
    bounds = {bound["name"]: bound["mean"] for bound in content["gaps"]["bounds"]}
    assert bounds["guide"] < bounds["mean field"] < bounds["full rank"] + 0.05 < bounds["AIS"] + 0.1
