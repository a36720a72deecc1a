"""`ppl evaluate --ais`: what it prints, writes and refuses."""

import json
import subprocess

import numpy as np
import pytest

from tests.inference.test_cli import PPL, Ppl, files, ppl, refused  # noqa: F401  (ppl is a fixture)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small run of each kind of model, written by the command itself."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "x.npy", (np.random.default_rng(0).random((60, 3, 3)) < 0.4).astype(np.uint8))
    common = ["--data", str(folder / "x.npy"), "--hidden", "4", "--epochs", "2", "--threads", "1", "--batch-size", "20"]
    for model, options in (("vae", ["--z-dim", "2"]), ("sbn", [])):
        words = [PPL, "train", model, *common, *options, "--out", str(folder / model)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("model", ["vae", "sbn"])
def test_annealing_stands_beside_the_bounds(ppl, runs, model):  # noqa: F811
    run = runs / model
    said = ppl("evaluate", run, "--k", "1,100", "--images", 6, "--ais", 60, "--chains", 4, "--seed", 2)
    assert said.code == 0, said.err
    content = json.loads((run / "evaluation.json").read_text())
    ais, simulated = content["ais"], content["ais"]["simulated"]
    assert (ais["steps"], ais["chains"], ais["images"], ais["above"]["k"]) == (60, 4, 6, 100)
    assert (ais["acceptance"] is None) == (model == "sbn")
    # the model is small enough for both to be log p(x) itself
    assert abs(ais["above"]["difference"]) < 0.2 and abs(simulated["gap"]) < 0.2
    assert simulated["lower"] + simulated["gap"] == pytest.approx(simulated["upper"])
    page = (run / "report.html").read_text()
    for text in (said.out, page):
        assert "Annealed importance sampling, 60 steps, 4 chains" in text and "images that the model drew" in text
    again = ppl("evaluate", run, "--k", "1,100", "--images", 6, "--ais", 60, "--chains", 4, "--seed", 2, "--json")
    assert json.loads(again.out)["ais"]["mean"] == ais["mean"]


def test_one_image_and_one_chain_have_no_standard_errors(ppl, runs):  # noqa: F811
    said = ppl("evaluate", runs / "vae", "--k", "2", "--images", 1, "--ais", 5, "--chains", 1, "--json")
    assert said.code == 0, said.err
    ais = json.loads(said.out)["ais"]
    assert ais["se"] is ais["mcse"] is ais["above"]["se"] is ais["simulated"]["se"] is None


def test_without_annealing_nothing_is_said_of_it(ppl, runs):  # noqa: F811
    said = ppl("evaluate", runs / "vae", "--k", "2", "--images", 5)
    assert said.code == 0, said.err
    assert "Annealed" not in said.out and json.loads((runs / "vae" / "evaluation.json").read_text())["ais"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ais", "-1"], "--ais is at least 0, got -1"),
        (["--ais", "10", "--chains", "0"], "chains is at least 1, got chains=0"),
    ],
)
def test_what_cannot_be_is_one_sentence(ppl, runs, options, says):  # noqa: F811
    before = files(runs / "vae")
    refused(ppl("evaluate", runs / "vae", "--images", 5, *options), says)
    assert files(runs / "vae") == before
