"""`ppl compare` of classic models, networks and one's own, `ppl train` of one's own: what they write and refuse."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.inference.test_cli import Ppl, files, ppl, refused  # noqa: F401  (ppl is a fixture)

OWN = Path(__file__).parents[2] / "examples" / "own_model"
CARS = [f"{OWN / 'cars.py'}:model", "--data", OWN / "cars.csv"]
NET = """network n { }
variable rain { type discrete [ 2 ] { yes, no }; }
variable wet { type discrete [ 2 ] { yes, no }; }
probability ( rain ) { table 0.2, 0.8; }
probability ( wet | rain ) { (yes) 0.9, 0.1; (no) 0.1, 0.9; }
"""


def rows(out: Path) -> dict[str, dict]:
    return {row["engine"]: row for row in json.loads((out / "rows.json").read_text())["rows"]}


def test_eight_schools_against_quadrature(ppl, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    said = ppl("compare", "eight_schools", "--methods", "advi", "--budget", 1, "--out", out)
    assert said.code == 0, said.err
    assert set(files(out)) == {"comparison.nc", "report.html", "rows.json"}
    found = rows(out)
    assert list(found) == ["advi", "quadrature"]
    assert found["quadrature"]["log_evidence"] == pytest.approx(-31.311347, abs=1e-6)
    assert found["quadrature"]["verdict"] == "trust" and found["quadrature"]["error_z"] < 4
    assert found["advi"]["whole"] and found["advi"]["gap"] > 0
    page = (out / "report.html").read_text()
    assert "of all data together" in page and "Means and widths against the reference" in page
    assert all(len(line) <= 80 for line in said.out.splitlines() if str(tmp_path) not in line)


def test_without_a_folder_nothing_is_written(ppl, tmp_path):  # noqa: F811
    said = ppl("compare", "eight_schools_centred", "--methods", "advi", "--budget", 0.3)
    assert said.code == 0 and "Nothing was written: add --out" in said.out
    assert not list(tmp_path.iterdir())


def test_a_model_of_ones_own_with_a_guide_of_ones_own(ppl, tmp_path):  # noqa: F811
    words = ["--guide", f"{OWN / 'cars.py'}:guide", "--methods", "guide", "--budget", 1, "--out", tmp_path / "out"]
    said = ppl("compare", *CARS, *words)
    assert said.code == 0, said.err
    found = rows(tmp_path / "out")
    assert list(found) == ["guide", "long"] and found["long"]["r_hat"] < 1.01 and found["long"]["divergences"] < 20
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert content["coordinates"] == {"compared": 4, "of": 4} and content["data"] == 50
    assert content["notes"]["guide"].endswith("cars.py:guide")
    assert "distance_at_20" in (tmp_path / "out" / "report.html").read_text()


def test_a_discrete_model_of_ones_own_needs_no_numpyro(ppl, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text(
        "import pyro\nfrom pyro.distributions import Bernoulli, Normal\n\n"
        "def model(y):\n    with pyro.plate('data', len(y)):\n"
        "        h = pyro.sample('h', Bernoulli(0.3))\n        pyro.sample('y', Normal(2 * h, 1.0), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"N": 3, "y": [0, 1, 2]}')
    words = ["mine.py:model", "--data", "y.json", "--methods", "gibbs", "--out", "out"]
    said = ppl("compare", *words)
    assert said.code == 0, said.err
    found = rows(tmp_path / "out")
    assert list(found) == ["gibbs", "exact"] and found["gibbs"]["verdict"] == "trust"
    # P(h = 1 | y) in closed form
    y = np.array([0.0, 1.0, 2.0])
    odds = 0.3 / 0.7 * np.exp(-0.5 * (y - 2) ** 2 + 0.5 * y**2)
    log_p = np.log(0.7 * np.exp(-0.5 * y**2) + 0.3 * np.exp(-0.5 * (y - 2) ** 2)) - 0.5 * np.log(2 * np.pi)
    assert odds[1] == pytest.approx(0.3 / 0.7)
    assert found["exact"]["log_evidence"] == pytest.approx(log_p.mean(), abs=1e-5)


def test_a_network_of_a_bif_file_given_evidence(ppl, tmp_path):  # noqa: F811
    (tmp_path / "rain.bif").write_text(NET)
    (tmp_path / "seen.json").write_text('{"wet": "yes"}')
    said = ppl("compare", "rain.bif", "--data", "seen.json", "--out", "out")
    assert said.code == 0, said.err
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert content["notes"]["evidence"] == "wet = yes" and content["rows"][0]["verdict"] == "trust"
    assert rows(tmp_path / "out")["exact"]["log_evidence"] == pytest.approx(np.log(0.2 * 0.9 + 0.8 * 0.1), abs=1e-6)


def test_variables_that_a_certain_one_ties_together_are_drawn_jointly(ppl, tmp_path):  # noqa: F811
    """Either = rain OR hose: single updates could not move the three."""
    hose = "variable hose { type discrete [ 2 ] { yes, no }; }\nvariable either { type discrete [ 2 ] { yes, no }; }\n"
    tables = "probability ( hose ) { table 0.3, 0.7; }\nprobability ( either | rain, hose ) { (yes, yes) 1, 0; "
    tables += "(yes, no) 1, 0; (no, yes) 1, 0; (no, no) 0, 1; }\n"
    (tmp_path / "or.bif").write_text(NET + hose + tables)
    said = ppl("compare", "or.bif", "--out", "out")
    assert said.code == 0, said.err
    assert rows(tmp_path / "out")["gibbs"]["verdict"] == "trust"


def test_a_class_of_ones_own_is_trained_and_goes_on(ppl, tmp_path):  # noqa: F811
    x = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, extra=np.zeros(3))
    words = [f"{OWN / 'factors.py'}:FactorAnalysis", "--data", "x.npz", "--batch-size", 20, "--out", "out"]
    said = ppl("train", *words, "--epochs", 2, "--lr", 0.01)
    assert said.code == 0, said.err
    assert set(files(tmp_path / "out")) == {"config.json", "metrics.jsonl", "checkpoint.safetensors", "report.html"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "FactorAnalysis on x.npz" in page and "held-out rows" in page and "ppl evaluate" not in page
    assert ppl("train", "--resume", "out", "--epochs", 3).code == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3 and losses[2] < losses[0]
    refused(ppl("evaluate", "out"), "holds a run of .*factors.py:FactorAnalysis, whose bounds are on its page")
    refused(ppl("train", *words), "exists and is not empty")


def test_a_run_that_went_on_is_the_run_that_never_stopped(ppl, tmp_path):  # noqa: F811
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32))
    words = [f"{OWN / 'factors.py'}:FactorAnalysis", "--data", "x.npz", "--lr", 1e-3, "--lr-final", 1e-3]
    assert ppl("train", *words, "--epochs", 3, "--out", "whole").code == 0
    assert ppl("train", *words, "--epochs", 1, "--out", "parts").code == 0
    assert ppl("train", "--resume", "parts", "--epochs", 3).code == 0
    runs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["loss"] for line in run] for run in runs]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eight_school"], "there is no model and no folder 'eight_school': did you mean 'eight_schools'"),
        (["eight_schools", "--methods", "gobbs"], "unknown method 'gobbs': choose some of guide,advi"),
        (
            ["eight_schools", "--methods", "gibbs"],
            "'gibbs' does not take a model of continuous latents: choose",
        ),
        (["eight_schools", "--methods", "hmc-gibbs"], "choose some of advi,fullrank,iwae,nuts,nuts-pyro$"),
        (["eight_schools", "--methods", "guide"], "no guide of its own"),
        (["eight_schools", "--guide", "a.py:guide"], "--guide is of a program of your own"),
        (["eight_schools", "--budget", "0"], "--budget is above 0"),
        (["eight_schools", "--data", "y.json"], "eight_schools needs 'sigma', and the data have y"),
        (["eight_schools", "--out", "full"], "exists and is not empty"),
        (["mine.py:model"], "needs data: add --data"),
        (["mine.py", "--data", "y.json"], "names no object: write FILE.py:NAME"),
        (["mine.py:number", "--data", "y.json"], "is a int: name a function"),
        (["mine.py:model", "--data", "y.json"], r"NameError: .*\(line 4 of mine.py\)"),
        (
            ["mine.py:good", "--data", "y.json", "--guide", "mine.py:model"],
            "mine.py:model fails on the data, Name",
        ),
        (["mine.py:none", "--data", "y.json"], "has no 'none'"),
        (["none.bif"], "there is no file none.bif"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(ppl, tmp_path, words, says):  # noqa: F811
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "mine.py").write_text(
        "import pyro\nfrom pyro.distributions import Normal\ndef model(y):\n    return nothing\nnumber = 3\n"
        "def good(y):\n    m = pyro.sample('m', Normal(0.0, 1.0))\n"
        "    with pyro.plate('data', len(y)):\n        pyro.sample('y', Normal(m, 1.0), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1, 2]}')
    refused(ppl("compare", *words), says)
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"full", "mine.py", "y.json"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mine.py:model", "--data", "y.json", "--out", "new"], "lacks a model or a guide"),
        (["mine.py:Empty", "--data", "y.json", "--out", "new"], "mine.py:Empty needs 'size'"),
        (["mine.py:Loose", "--data", "y.json", "--out", "new"], "the model has no data plate"),
        (["mine.py:Loose", "--data", "y.json", "--out", "new", "--objective", "x"], "unknown objective 'x'"),
        (["mine.py:Loose", "--data", "y.json", "--out", "new", "--epochs", "0"], "--epochs is at least 1"),
        (["mine.py:Loose", "--data", "none.json", "--out", "new"], "there is no file none.json"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_and_leaves_nothing(ppl, tmp_path, words, says):  # noqa: F811
    (tmp_path / "mine.py").write_text(
        "import pyro\nfrom pyro.distributions import Delta, Normal\nfrom torch import nn\n"
        "def model(y):\n    pass\n"
        "class Empty:\n    def __init__(self, size):\n        pass\n"
        "class Loose(nn.Module):\n    def model(self, y):\n        m = pyro.sample('m', Normal(0.0, 1.0))\n"
        "        for i, each in enumerate(y):\n            pyro.sample(f'y{i}', Normal(m, 1.0), obs=each)\n"
        "    def guide(self, y):\n        pyro.sample('m', Normal(0.0, 1.0))\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1, 2, 3]}')
    refused(ppl("train", *words), says)
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", "y.json"}


@pytest.mark.slow
def test_a_real_network(ppl, tmp_path):  # noqa: F811
    folder = Path(os.environ.get("PPL_DATA", "")) / "bif"
    if not (folder / "cancer.bif.gz").is_file():
        pytest.skip("PPL_DATA names no folder with networks")
    said = ppl("compare", folder / "cancer.bif.gz")
    assert said.code == 0 and "Bayesian network cancer" in said.out
