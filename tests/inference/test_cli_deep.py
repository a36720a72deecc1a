"""`ppl train dlgm|iwae2|draw` and what follows: pages, films, imputations, what each layer is good for, refusals."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from inference.cli import deep_pictures, imputations, main
from inference.cli import runs as runs_on_disk
from inference.cli.deep_pictures import boxes_of
from inference.cli.imputations import error_words, fill_in, imputation_sheet, random_mask, square_mask
from inference.cli.sites import site_lines
from inference.comparison.sheets import HIDDEN, RED
from inference.errors import RunError
from inference.mcmc.imputation import Imputed
from ppl_models import DRAW, VAE, data
from ppl_models.attention import Window
from ppl_models.data import Batches
from tests.inference.test_cli import files, ppl, refused  # noqa: F401  (ppl is a fixture)

SMALL = "--data digits --threads 1 --epochs 2 --batch-size 500 --compile off".split()
DEEP = ["train", "dlgm", *SMALL, *"--z-dims 3,2 --hidden 8/- --guide chain --noise learned --dream-epochs 0".split()]
DRAWING = ["train", "draw", *SMALL, *"--glimpses 4 --z-dim 2 --units 8 --read 2 --write 3".split()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run of each model, written by the command in this process."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}
    for name, words in (("dlgm", DEEP), ("draw", DRAWING)):
        runs[name] = folder / name
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(sys, "argv", ["ppl", *words, "--out", str(runs[name])])
            main()
        assert not stop.value.code
    return runs


@pytest.fixture
def run(trained, tmp_path, request) -> Path:
    """A copy of one of them."""
    return Path(shutil.copytree(trained[request.param], tmp_path / "run"))


def pictures(page: str) -> list[str]:
    """The headings of a page's figures."""
    return re.findall(r"<figcaption><h3>(.*?)</h3>", page)


def test_a_deep_model_is_shown_by_layers(trained):
    config = json.loads((trained["dlgm"] / "config.json").read_text())
    assert config["options"] | {"z_dims": [3, 2], "hidden": [[8], []], "guide": "chain"} == config["options"]
    page = (trained["dlgm"] / "report.html").read_text()
    shown = pictures(page)
    assert shown[-5:] == ["Random samples", "Reconstructions", "Imputations", "z1, 3 units, next to the data",
                          "z2, 2 units"]  # fmt: skip
    assert page.count('<source media="(prefers-color-scheme: dark)"') == 2 and "64-8-3-2" in page


def test_draw_is_shown_by_glimpses(trained):
    page = (trained["draw"] / "report.html").read_text()
    assert pictures(page)[-3:] == ["Images being drawn", "Images being read and drawn", "Imputations"]
    assert "reads through 2 x 2, writes through 3 x 3" in page and "red: the window that is written" in page


@pytest.mark.parametrize("run", ["dlgm", "draw"], indirect=True)
def test_evaluate_says_what_each_site_is_good_for(ppl, run):  # noqa: F811
    deep = json.loads((run / "config.json").read_text())["model"] == "dlgm"
    said = ppl("evaluate", run, "--k", "1,5", "--images", 40, *(["--ais", 4] if deep else []))
    assert said.code == 0, said.err
    result = json.loads((run / "evaluation.json").read_text())
    sites = result["sites"]
    assert list(sites) == (["z1", "z2"] if deep else ["z1", "z2", "z3", "z4"])
    assert [site["units"] for site in sites.values()] == ([3, 2] if deep else [2] * 4)
    assert result["active_units"] == sum(site["active"] for site in sites.values())
    assert result["units"] == sum(site["units"] for site in sites.values())
    assert ("Annealed importance sampling, 4 steps" in said.out) == (result["ais"] is not None) == deep
    for line in site_lines(sites):
        assert line in said.out
    page = (run / "report.html").read_text()
    assert "<th>active units</th>" in page and ("KL of each latent site" in page) == (not deep)


def test_words_of_sites():
    def site(active, kl, units=5):
        return {"active": active, "units": units, "kl": kl}

    assert site_lines({"z1": site(2, 1.0)}) == ["active units: 2 of 5", "KL: 1.00 nats"]
    assert site_lines({"z1": site(2, 1.0), "z2": site(1, 0.25, 4)}) == [
        "active units: 3 of 9; 2 of 5 in z1, 1 of 4 in z2", "KL: 1.25 nats; 1.00 in z1, 0.25 in z2",
    ]  # fmt: skip
    many = {f"z{t}": site(t, t / 2) for t in (9, 10, 11, 12)}
    assert site_lines(many) == [
        "active units: 42 of 20; from z9 to z12: 9, 10, 11, 12",
        "KL: 21.00 nats; from z9 to z12: 4.50, 5.00, 5.50, 6.00",
    ]


def test_a_film_shows_images_being_drawn_and_pauses(ppl, trained):  # noqa: F811
    assert ppl("sample", trained["draw"], "-n", 9, "--out", "new/s.gif").code == 0
    with Image.open("new/s.gif") as film:
        frames = [(frame.info["duration"], np.asarray(frame.convert("RGB")).astype(int))
                  for frame in ImageSequence.Iterator(film)]  # fmt: skip
    assert len(frames) == 5 and [time for time, _ in frames] == [400] * 4 + [2000]
    near_red = [(np.abs(pixels - RED).sum(-1) < 60).any() for _, pixels in frames]
    assert near_red == [True] * 4 + [False]
    assert ppl("sample", trained["draw"], "-n", 9, "--out", "s.png").code == 0
    assert ppl("sample", trained["dlgm"], "-n", 9, "--out", "d.png").code == 0


def test_only_draw_makes_films(ppl, trained):  # noqa: F811
    refused(ppl("sample", trained["dlgm"], "--out", "new/s.gif"), "no run of draw: pass --out new/s.png")
    refused(ppl("sample", trained["draw"], "--out", "s.gif", "-n", 0), "images is at least 1, got 0")
    assert not Path("new").exists()


def test_a_frame_runs_through_the_outermost_lines_of_a_window():
    """Pixel 0 lies between 0 and 1 of the picture, its middle at 0.5."""
    ones = torch.ones(2, 3)
    window = Window(x=3 * ones, y=2 * ones, stride=2 * ones, deviation=ones, intensity=ones, side=4 * ones)
    boxes = boxes_of(window, torch.zeros(2, 3, 64))
    assert boxes.shape == (2, 3, 4) and boxes[1, 2].tolist() == [1.5, 0.5, 5.5, 4.5]
    assert np.isnan(boxes_of(None, torch.zeros(2, 3, 64))).all()


def test_without_attention_there_are_frames_alone(monkeypatch):
    model = DRAW(64, (1, 8, 8), glimpses=3, z_dim=2, units=4)
    kept = []
    monkeypatch.setattr(
        deep_pictures, "framed", lambda x, boxes, *more: kept.append(boxes) or np.zeros((9, 99, 3), "uint8")
    )
    found = deep_pictures.drawing_pictures(model, (1, 8, 8), 0, torch.rand(2, 64).round())
    assert all(np.isnan(boxes).all() for boxes in kept)
    assert [caption for _, caption, _ in found] == [
        "From the prior, step by step.", "Test images, and below each what has been drawn of it.",
    ]  # fmt: skip


def test_masks_hide_what_they_say():
    mask = random_mask(50, (3, 4, 5), 0.3, seed=1)
    hidden = mask.missing.reshape(50, 3, 20)
    assert (hidden.sum(-1) == 6).all() and torch.equal(hidden[:, 0], hidden[:, 2])
    often = hidden[:, 0].float().mean(0)  # each pixel in its turn: 0.3, 0.065 its standard error
    assert 0.05 < often.min() < often.max() < 0.6
    assert mask.words == "30 % of the pixels missing"
    assert torch.equal(mask.missing, random_mask(50, (3, 4, 5), 0.3, seed=1).missing)
    for share, count in ((0.001, 1), (0.999, 19)):  # never none, never all
        assert (random_mask(5, (1, 4, 5), share, 0).missing.sum(1) == count).all()
    square = square_mask(2, (1, 8, 5), 3).missing.reshape(2, 8, 5)
    rows, columns = square[1].nonzero().unbind(1)
    assert square.sum() == 18 and (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 4, 1, 3)
    with pytest.raises(RunError, match="hides all of an image of 8 x 5 at 8 pixels a side, got 8: take one of 1 ... 7"):
        square_mask(2, (1, 8, 5), 8)


def test_each_mask_has_its_own_chains():
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)).round()
    masks = [random_mask(5, (1, 8, 8), 0.3, 0), square_mask(5, (1, 8, 8), 4)]
    found = fill_in(VAE(64, 2, (4,)), x, masks, steps=9, seed=0)
    assert found.steps == [1, 2, 3, 4, 6, 9] and len(found.found) == 2
    for mask, one in zip(masks, found.found, strict=True):
        assert one.path.shape == (6, 5, 64) and one.accepted.shape == (5,)
        for filled in (one.x, one.mean, *one.path):
            assert torch.equal(filled[~mask.missing], x[~mask.missing])
            assert not torch.equal(filled[mask.missing], x[mask.missing])


def filled(x: torch.Tensor, mean: torch.Tensor, share: float = 0.5) -> imputations.Filled:
    mask = random_mask(len(x), (1, 8, 8), share, seed=0)
    return imputations.Filled([mask], [1, 7], [Imputed(x, mean, torch.stack([mean, x]), torch.ones(len(x)))])


def test_errors_are_those_of_missing_pixels(trained):
    run = runs_on_disk.open_run(trained["dlgm"])
    x = (torch.rand(20, 64, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    guess = torch.where(random_mask(20, (1, 8, 8), 0.5, seed=0).missing, 0.8 * x + 0.1, 1 - x)  # elsewhere all wrong
    (line,) = error_words(run, x, filled(x, guess), torch.full((64,), 0.25))
    wrong = x[random_mask(20, (1, 8, 8), 0.5, seed=0).missing].mean()
    nats = -(wrong * np.log(0.25) + (1 - wrong) * np.log(0.75))
    assert "50 % of the pixels missing, errors a pixel: 0.105 +- 0.000 nats, 0.0 % wrong" in line
    assert f"mean {nats:.3f} +- " in line and line.endswith(f"nats, {100 * wrong:.1f} % wrong.")
    run.options["likelihood"] = "gaussian"
    (line,) = error_words(run, x, filled(x, guess), torch.full((64,), 0.5))
    assert line.endswith("root mean square error 0.1000; by the training images' mean root mean square error 0.5000.")


def test_the_picture_shows_what_is_given_the_path_the_mean_and_the_truth():
    x = torch.ones(3, 64)
    sheet = imputation_sheet(x, filled(x, torch.zeros(3, 64)), (1, 8, 8), n=2)
    strips, cells = 2 * 17, sheet[34:]
    assert sheet.shape == (strips + 2 * 43 - 3, 5 * 43 - 3, 3)
    columns = [cells[:, i * 43 : i * 43 + 40] for i in range(5)]
    blue = (columns[0][:40] == (HIDDEN * 255).round()).all(-1)
    assert blue.mean() == 0.5
    levels = [int(column[20, 20, 0]) for column in columns[1:]]
    assert levels == [0, 255, 0, 255]  # the path at two steps, the mean, the truth


@pytest.mark.parametrize("name", ["dlgm", "draw"])
def test_impute_prints_the_errors_and_draws_the_picture(ppl, trained, name):  # noqa: F811
    words = ("impute", trained[name], "--steps", 6, "-n", 2, "--images", 30, "--seed", 3)
    said = ppl(*words, "--missing", "0.4", "--square", 3, "--out", "new/i.png")
    assert said.code == 0, said.err
    first, second, where = said.out.splitlines()
    assert first.startswith("40 % of the pixels missing, errors a pixel: ") and second.startswith(
        "a square of 3 pixels"
    )
    assert where == "new/i.png"
    run = runs_on_disk.open_run(trained[name])
    pair, _ = runs_on_disk.load_model(trained[name], run)
    x = runs_on_disk.test_rows(run, 30, 3).x
    masks = [random_mask(30, (1, 8, 8), 0.4, 3), square_mask(30, (1, 8, 8), 3)]
    found = fill_in(pair, x, masks, 6, 3)
    assert error_words(run, x, found, data.digits()[0].x.mean(0)) == [first, second]
    assert found.steps == [1, 2, 3, 4, 6]
    with Image.open("new/i.png") as picture:
        assert np.array_equal(np.asarray(picture), imputation_sheet(x, found, (1, 8, 8), 2))
    assert len(ppl(*words, "--out", "i.png").out.splitlines()) == 4  # three shares without being asked


IMPUTE = {
    "nothing missing": (["--missing", "0"], "shares of the pixels above 0 and below 1, got 0: pass 0.3,0.5,0.7"),
    "all missing": (["--missing", "0.3,1"], "above 0 and below 1, got 1"),
    "no number": (["--missing", "a third"], "shares with commas, such as 0.3,0.5,0.7, got 'a third'"),
    "all in the square": (["--square", "8"], "hides all of an image of 8 x 8 at 8 pixels a side, got 8"),
    "no square": (["--square", "0"], "a side, got 0: take one of 1 ... 7"),
    "no steps": (["--steps", "0"], "--steps is at least 1, got 0"),
    "too many shown": (["-n", "40", "--images", "30"], "some of the 30 images, got -n 40"),
    "too many images": (["--images", "1000"], "has 297 test images"),
    "no picture": (["--out", "x.jpg"], "--out names a PNG file"),
}


@pytest.mark.parametrize(("options", "words"), IMPUTE.values(), ids=IMPUTE.keys())
def test_imputations_that_cannot_be_are_refused(ppl, trained, tmp_path, options, words):  # noqa: F811
    refused(ppl("impute", trained["dlgm"], "--out", "new/i.png", *options), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run", ["dlgm"], indirect=True)
def test_what_has_no_guide_of_x_alone_or_no_engines_is_refused(ppl, run):  # noqa: F811
    refused(ppl("compare", run), "holds a run of 'dlgm', which has no engines here: name a run of vae or sbn")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"model": "cvae"}))
    refused(
        ppl("impute", run, "--out", "i.png"), "a run of cvae, whose guide reads more than x: name a run of vae, dlgm"
    )


BAD = {
    "no layers": (DEEP, "--z-dims=", "--z-dims takes whole numbers with commas, such as 200,200, got ''"),
    "a layer of nothing": (DEEP, "--z-dims 3,0", "at least 1, got 0"),
    "sizes that do not chain": (DEEP, "--z-dims 3,2,2", "hidden names the units below each layer, 3 tuples"),
    "hidden": (DEEP, "--hidden 8/a", "--hidden takes the units below each latent layer, .* got '8/a'"),
    "guide": (DEEP, "--guide up", "unknown guide 'up': choose .*chain"),
    "posterior": (DEEP, "--posterior full", "unknown posterior 'full': choose"),
    "ladder of rank one": (DEEP, "--guide ladder --posterior rank_one", "ladder"),
    "noise": (DEEP, "--noise white", "unknown noise 'white': choose"),
    "activation": (DEEP, "--activation sin", "unknown activation 'sin'"),
    "objective": (DEEP, "--objective rws", "unknown objective 'rws': choose elbo or iwae"),
    "no glimpses": (DRAWING, "--glimpses 0", "glimpses is at least 1, got 0"),
    "a glimpse larger than the image": (DRAWING, "--read 9", "read=9 is larger than the image of 8 x 8: at most 8"),
    "a window larger than the image": (DRAWING, "--write 12", "write=12 is larger than the image of 8 x 8"),
    "no glimpse": (DRAWING, "--read 0", "read is at least 1, got 0"),
    "likelihood": (DRAWING, "--likelihood poisson", "unknown likelihood 'poisson'"),
}


@pytest.mark.parametrize(("train", "options", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_option_is_one_sentence_and_leaves_nothing(ppl, tmp_path, train, options, words):  # noqa: F811
    refused(ppl(*train, "--out", "new/run", *options.split()), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("train", [DEEP, DRAWING], ids=["dlgm", "draw"])
def test_stopped_in_mid_epoch_and_resumed_a_run_is_the_same_bit_for_bit(ppl, monkeypatch, train):  # noqa: F811
    monkeypatch.setattr("inference.cli.page.deep_pictures", lambda *_: [])
    monkeypatch.setattr("inference.cli.page.code_pictures", lambda *_: [])
    assert ppl(*train, "--out", "whole").code == 0
    epoch = Batches.epoch

    def stopping(self, number, seed):
        for i, batch in enumerate(epoch(self, number, seed)):
            if (number, i) == (1, 1):
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "epoch", stopping)
        said = ppl(*train, "--out", "half")
    assert said.code == 130 and "ppl train --resume half" in " ".join(said.err.split())
    assert len(Path("half/metrics.jsonl").read_text().splitlines()) == 1
    assert ppl("train", "--resume", "half").code == 0
    ours, theirs = (load_file(Path(name, "checkpoint.safetensors")) for name in ("half", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "iwae2 --k 3",
        "dlgm --z-dims 4 --hidden 8 --likelihood gaussian --binarize none",
        "dlgm --z-dims 4,3,1 --hidden 8/8/8 --guide ladder --noise learned --kl-warmup 1",
        "dlgm --z-dims 4,3 --hidden 8/8 --guide parallel --posterior rank_one --objective iwae --patience 2",
        "draw --glimpses 2 --z-dim 2 --units 8 --objective iwae",
        "draw --glimpses 14 --z-dim 2 --units 8 --write 8 --likelihood gaussian --binarize none",
    ],
)
def test_the_other_options(ppl, words):  # noqa: F811
    said = ppl("train", *words.split(), *SMALL, "--out", "run")
    assert said.code == 0, said.err
    assert ppl("evaluate", "run", "--k", "1,4", "--images", 20).code == 0
    assert ppl("impute", "run", "--images", 20, "--steps", 3, "--out", "i.png").code == 0


def test_help_groups_the_models_and_their_options(ppl):  # noqa: F811
    said = ppl("train", "--help")
    order = [said.out.index(words) for words in ("Models with a bound", " dlgm ", " draw ", "Games of", "Few labels")]
    assert order == sorted(order)
    said = ppl("train", "dlgm", "--help")
    order = [
        said.out.index(words) for words in ("--z-dims", "Learning", "--batch-size", "Machine and files", "--devices")
    ]
    assert order == sorted(order)


def test_files_of_the_runs_are_left_as_they_were(ppl, trained):  # noqa: F811
    before = files(trained["draw"])
    ppl("sample", trained["draw"], "--out", "s.gif", "-n", 4)
    ppl("impute", trained["draw"], "--out", "i.png", "--images", 8, "--steps", 2)
    assert files(trained["draw"]) == before
