"""`ppl train gan|dcgan|lapgan` and what follows: stopped, resumed, judged, drawn, calculated with, and refused."""

import base64
import io
import json
import math
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

from inference.cli import judged
from inference.cli.game_folder import load_game, open_game
from inference.cli.runs import read_metrics
from inference.cli.snapshots import images_at
from inference.comparison.figures import image_grid, png_bytes
from ppl_models.data import Batches
from tests.inference.test_cli import files, ppl, refused  # noqa: F401  (ppl is a fixture)

SMALL = "--threads 1 --device cpu --batch-size 32 --epochs 3"
TOY = f"train gan --data ring --points 320 --g-hidden 8 --d-hidden 8 {SMALL}".split()
ROWS = f"train gan --data digits --labels --g-hidden 8 --d-hidden 8 --z-dim 4 {SMALL} --batch-size 500".split()
LAPGAN = f"train lapgan --data tiny.npz --levels 2 --channels 2 --z-dim 4 {SMALL}".split()
DCGAN = f"train dcgan --data tiny.npz --channels 2 --z-dim 4 {SMALL} --epochs 1".split()


def tiny(size: int) -> None:
    """Images of two classes, a bar at one of two heights."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 72)
    x = np.zeros((72, size, size), np.uint8)
    for image, label in zip(x, y, strict=True):
        image[size // 4 * (1 + label) :][:2] = rng.integers(150, 255)
    np.savez("tiny.npz", x=x, y=y)


class Half:
    """A classifier that goes by the brightness of an image's upper half."""

    def features(self, x):
        return x.unflatten(1, (4, -1)).mean(-1)

    def logits(self, x):
        upper, lower = x.chunk(2, 1)
        return 20 * torch.stack([upper.mean(1), lower.mean(1)], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def kept(folder, ppl) -> Callable[[str], Path]:  # noqa: F811
    """A finished run of each kind, trained once; to be left as it is."""
    commands = {"ring": (TOY, 0), "digits": (ROWS, 0), "lapgan": (LAPGAN, 16), "dcgan": (DCGAN, 28)}

    def of(name: str) -> Path:
        words, size = commands[name]
        if size:
            tiny(size)
        if not (folder / name).exists():
            said = ppl(*words, "--out", folder / name)
            assert said.code == 0, said.err
            assert f"{folder / name / 'report.html'}: the report" in said.out
        return folder / name

    return of


def same(one: Path, other: Path) -> None:
    """Two runs hold the same numbers, bit for bit: checkpoints, curves, frames."""
    checkpoints = sorted(path.relative_to(one) for path in one.rglob("checkpoint.safetensors"))
    assert checkpoints and checkpoints == sorted(p.relative_to(other) for p in other.rglob("checkpoint.safetensors"))
    for path in checkpoints:
        ours, theirs = load_file(one / path), load_file(other / path)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        curves = [[row["d_loss"] for row in read_metrics((each / path).parent)] for each in (one, other)]
        assert curves[0] == curves[1]
    frames = [{name: content for name, content in files(each).items() if "frames" in name} for each in (one, other)]
    assert frames[0] == frames[1] and frames[0]


# -- what works --------------------------------------------------------------------------------------------------------


def test_a_toy_is_trained_judged_and_drawn(kept):
    run = kept("ring")
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoint.safetensors", "report.html", "animation.gif", "evaluation.json",
        "frames",
    }  # fmt: skip
    assert [path.name for path in sorted((run / "frames").iterdir())] == [
        f"step-{step:08d}.npz" for step in (0, 10, 20, 30)
    ]
    config = json.loads((run / "config.json").read_text())
    assert (config["game"], config["pack"], config["r1"], config["average"]) == ("gan", 2, 0.1, 0.999)
    page = (run / "report.html").read_text()
    for words in (
        "Density, D and samples",
        "log 4 = 1.39",
        "How often D is right",
        "step 30",
        "Mode collapse",
        "R1 0.1",
    ):
        assert words in page, words
    assert page.count("<source media") == 1 + 4 and 'src="http' not in page
    found = json.loads((run / "evaluation.json").read_text())
    assert found["warnings"] and found["figures"][0]["real"] == 8 and found["figures"][0]["value"] < 8
    assert found["figures"][1]["real"] == pytest.approx(98.9, abs=0.7)
    with Image.open(run / "animation.gif") as film:
        assert film.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]


def test_the_generator_to_draw_from_is_that_of_averaged_weights(kept):
    tensors = load_file(kept("ring") / "checkpoint.safetensors")
    game = load_game(kept("ring"), open_game(kept("ring")))
    for name, value in game.generator.named_parameters():
        assert torch.equal(value, tensors[f"parameter.averaged.{name}"])
        assert not torch.equal(value, tensors[f"parameter.generator.{name}"])


def test_steps_are_whole_epochs(ppl):  # noqa: F811
    words = [word for word in TOY if word not in ("--epochs", "3")]
    said = ppl(*words, "--steps", 11, "--freeze", "accuracy", "--freeze-at", "0.5,0.45", "--out", "run")
    assert said.code == 0 and "11 steps are 2 epochs of 10 steps" in said.err
    assert "losses D" in said.err and "nats" not in said.err  # the progress bar
    assert len(read_metrics(Path("run"))) == 2
    page = Path("run/report.html").read_text()
    assert "Frozen: the discriminator" in page and "<rect" in page


@pytest.mark.parametrize(
    "more",
    [
        "--data line --loss wasserstein --pack 1 --minibatch-discrimination 2 --sd 0.5",
        "--data grid --loss least-squares --smoothing 0.9,0.1 --freeze loss --freeze-at 0.1,0.2,0.05,0.1",
        "--loss hinge --spectral-norm --fourier none --historical-averaging 0.1 --d-steps 2",
        "--loss minimax --feature-matching 1 --norm virtual --average 0 --lr 1e-3",
    ],
)
def test_the_other_options(ppl, more):  # noqa: F811
    assert ppl(*TOY, "--epochs", 1, *more.split(), "--out", "run").code == 0
    run = open_game(Path("run"))
    assert (run.gradient_penalty, run.r1) == ((10, 0) if run.loss == "wasserstein" else (0, 0.1))
    assert ("There is no D(x) to draw" in Path("run/report.html").read_text()) == ("minibatch" in more)


def stopped(ppl, monkeypatch, words, at: tuple[int, int], out: str):  # noqa: F811
    """Ctrl-C at a batch of an epoch; of the last game that has one."""
    epoch = Batches.epoch

    def stopping(self, number, seed):
        for i, batch in enumerate(epoch(self, number, seed)):
            if (number, i) == at:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "epoch", stopping)
        said = ppl(*words, "--out", out)
    assert said.code == 130 and f"ppl train --resume {out}`" in " ".join(said.err.split()), said


def test_stopped_and_resumed_a_game_is_the_same_bit_for_bit(ppl, monkeypatch):  # noqa: F811
    # frozen players, a virtual batch norm and averaged weights among what is to be taken up
    words = (*TOY, "--norm", "virtual", "--freeze", "accuracy", "--freeze-at", "0.5,0.45", "--d-steps", "2")
    assert ppl(*words, "--out", "whole").code == 0
    assert len(load_game(Path("whole"), open_game(Path("whole"))).freezes[0]) > 0
    stopped(ppl, monkeypatch, words, (1, 4), "half")
    assert ppl("train", "--resume", "half").code == 0
    same(Path("whole"), Path("half"))
    assert (
        json.loads(Path("whole/evaluation.json").read_text())["figures"]
        == (json.loads(Path("half/evaluation.json").read_text())["figures"])
    )


def test_a_pyramid_stopped_within_each_level_is_the_same_bit_for_bit(ppl, monkeypatch, kept):  # noqa: F811
    whole = kept("lapgan")
    stopped(ppl, monkeypatch, LAPGAN, (1, 1), "half")  # within the level of 8 pixels
    assert not Path("half/level16").exists()
    epoch, seen = Batches.epoch, []

    def stopping(self, number, seed):
        if len(self.tensors) == 2 and number == 2 and not seen:  # bands and low-pass images: the level of 16
            seen.append(number)
            signal.raise_signal(signal.SIGINT)
        yield from epoch(self, number, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "epoch", stopping)
        said = ppl("train", "--resume", "half")
    assert said.code == 130 and "ppl train --resume half`" in " ".join(said.err.split())
    refused(ppl("evaluate", "half", "--parzen", "--k", 3), "--k belong to bounds")
    assert ppl("train", "--resume", "half").code == 0
    same(whole, Path("half"))


def test_between_two_levels_a_pyramid_can_be_taken_up(ppl, kept):  # noqa: F811
    half = Path(shutil.copytree(kept("lapgan"), "half"))
    shutil.rmtree(half / "level16")
    refused(ppl("sample", half, "--out", "s.png"), "the level 16 x 16 of half is not trained yet: `ppl train --resume")
    assert ppl("train", "--resume", half).code == 0
    same(kept("lapgan"), half)


def test_a_finished_game_gets_more_epochs(ppl, kept):  # noqa: F811
    run = Path(shutil.copytree(kept("ring"), "more"))
    assert ppl("train", "--resume", run, "--epochs", 5).code == 0
    assert [row["epoch"] for row in read_metrics(run)] == [1, 2, 3, 4, 5]
    assert (run / "frames" / "step-00000050.npz").exists() and "step 50" in (run / "report.html").read_text()


def test_a_pyramid_is_shown_level_by_level(kept, ppl, monkeypatch):  # noqa: F811
    run = Path(shutil.copytree(kept("lapgan"), "run"))
    page = (run / "report.html").read_text()
    for words in ("<h3>8 x 8</h3>", "<h3>16 x 16</h3>", "Nearest training images", "Interpolations"):
        assert words in page, words
    assert "24 steps" not in page and "6 epochs" not in page.split("<main>")[0]
    monkeypatch.setattr(judged, "judge_for", lambda name: Half())
    said = ppl("evaluate", run, "--parzen", "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result == json.loads((run / "evaluation.json").read_text())
    names = [row["name"] for row in result["figures"]]
    assert names[0] == "Frechet distance" and names[-1] == "Parzen log-likelihood"
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in result["figures"])
    assert any("cannot rank models" in line for line in result["notes"])
    assert "Frechet distance" in (run / "report.html").read_text()
    assert json.loads(ppl("evaluate", run, "--parzen", "--json").out)["figures"] == result["figures"]


def test_convolutions_are_drawn_and_calculated_with(kept, ppl):  # noqa: F811
    run = kept("dcgan")
    assert ppl("sample", run, "-n", 9, "--out", "deep/s.png").code == 0
    said = ppl("arithmetic", run, "-n", 12, "--out", "sheet.png")
    assert said.code == 0 and "Pick by number" in said.err
    picks = "--plus 3,7,2 --minus 5,8,9 --to 1,2,6".split()
    for name, words in {"sum": picks, "walk": ("--between", "3,7")}.items():
        assert ppl("arithmetic", run, "-n", 12, "--out", f"{name}.png", *words).code == 0
        assert ppl("arithmetic", run, "-n", 40, "--out", f"{name}2.png", *words).code == 0
        assert Path(f"{name}.png").read_bytes() == Path(f"{name}2.png").read_bytes()  # numbers hold for every -n
    with Image.open("sum.png") as total, Image.open("walk.png") as walk:
        assert total.width < walk.width and total.height > 3 * walk.height


def test_classes_are_drawn_in_turn(kept, ppl):  # noqa: F811
    run = kept("digits")
    assert open_game(run).generator["n_classes"] == 10
    assert "the classes in turn" in (run / "report.html").read_text()
    for words in (("sample", run), ("arithmetic", run), ("arithmetic", run, "--between", "3,7")):
        assert ppl(*words, "-n", 12, "--out", "s.png").code == 0


def test_codes_of_a_vae_are_added_too(ppl):  # noqa: F811
    assert (
        ppl(*"train vae --data digits --epochs 1 --hidden 8 --z-dim 2 --threads 1 --compile off --out v".split()).code
        == 0
    )
    assert ppl(*"arithmetic v --plus 3,7,2 --minus 5,8,9 --to 1,2,6 --out s.png".split()).code == 0
    refused(ppl("evaluate", "v", "--parzen"), "--parzen goes with games, and this is a run of vae")


def test_points_of_ones_own_have_no_density_but_a_picture(ppl):  # noqa: F811
    np.save("mine.npy", np.random.default_rng(0).random((400, 2), dtype=np.float32))
    words = "train gan --data mine.npy --g-hidden 8 --d-hidden 8 --epochs 1 --threads 1 --device cpu --out run"
    assert ppl(*words.split()).code == 0
    assert "Blue: data" in Path("run/report.html").read_text()
    said = ppl("evaluate", "run", "--json")
    names = [row["name"] for row in json.loads(said.out)["figures"]]
    assert names == ["nearer to training rows", "distance ratio"]


def test_every_picture_of_a_page_opens(kept):
    for name in ("ring", "lapgan"):
        page = (kept(name) / "report.html").read_text()
        pictures = re.findall(r"data:image/(?:png|gif);base64,([A-Za-z0-9+/=]+)", page)
        assert len(pictures) > 8
        for each in pictures:
            with Image.open(io.BytesIO(base64.b64decode(each))) as image:
                image.verify()


# -- bad input: one sentence, and nothing left behind ------------------------------------------------------------------

BAD = {
    "data": ("--data rign", "no data set or file called 'rign': did you mean 'ring'"),
    "loss": ("--loss log", "unknown loss 'log': choose one of nonsaturating, minimax"),
    "norm": ("--norm layer", "unknown norm 'layer': choose batch, virtual or none"),
    "freeze": ("--freeze both", "unknown freeze 'both': choose accuracy, loss or off"),
    "thresholds": ("--freeze accuracy --freeze-at 0.5", "--freeze-at takes two numbers"),
    "thresholds of none": ("--freeze-at 0.5,0.4", "--freeze-at are thresholds of a rule"),
    "smoothing a critic": ("--loss hinge --smoothing 0.9", "Hinge has no labels to smooth"),
    "smoothing": ("--smoothing 1.2", "smoothed labels are 0 <= fake < real <= 1"),
    "no numbers": ("--smoothing much", "--smoothing takes numbers with commas"),
    "packs": ("--pack 3", "--pack 3 does not divide --batch-size 32: pass --batch-size 30"),
    "labels of points": ("--labels", "--labels needs classes, and ring has none"),
    "packs of classes": ("--labels --pack 2", "--labels goes without packing"),
    "two lengths": ("--steps 5", "--steps and --epochs are two ways"),
    "lr": ("--lr 0", "learning rates are above 0"),
    "lr of g": ("--lr-g -1", "learning rates are above 0, got --lr-g -1.0"),
    "beta": ("--beta1 1", "Adam's betas are at least 0 and below 1"),
    "sd": ("--sd 0", "the standard deviation of a mixture is finite and above 0"),
    "points": ("--points 0", "--points is at least 1"),
    "penalty": ("--r1 -1", "--r1 is at least 0, got -1.0"),
    "average": ("--average 1.5", "the decay of averaged weights is inside"),
    "reference": ("--norm virtual --points 100", "virtual batch norm takes 128 rows of reference, and ring has 100"),
    "batch norm of one": (
        "--norm batch --batch-size 1 --pack 1",
        "batch norm, which has nothing to average in a batch of",
    ),
    "a rate too high": ("--lr 1e30 --average 0 --d-steps 3", "loss is (nan|inf|-inf)"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_option_is_one_sentence_and_leaves_nothing(ppl, tmp_path, options, words):  # noqa: F811
    said = ppl(*TOY, "--out", "new/run", *options.split())
    assert said.code == 1 and said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: ") and re.search(words, line), said.err
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit(ppl, tmp_path):  # noqa: F811
    tiny(12)
    before = files(tmp_path)
    for words, sentence in {
        "lapgan --levels 4": "images of 12 x 12 cannot be halved 3 times: pass levels=3",
        "lapgan --norm none": "the generators of a LAPGAN have batch norm",
        "dcgan": "DCGAN makes images of 28, 32 or 64 pixels a side, got 12",
        "dcgan --data mine.npy": "holds rows: try `ppl train gan`",
        "dcgan --data binarized": "no data set or file called 'binarized'",
    }.items():
        model, *more = words.split()
        np.save("mine.npy", np.zeros((30, 2), np.float32))
        refused(ppl("train", model, "--data", "tiny.npz", "--out", "new/run", *more), sentence)
    Path("mine.npy").unlink()
    assert files(tmp_path) == before


def test_runs_of_another_kind_and_damaged_ones(ppl, kept, tmp_path):  # noqa: F811
    ring, images = kept("ring"), kept("lapgan")
    for words, sentence in {
        ("labels", ring, "--out", "l.html"): "holds a game .gan., which has no bound",
        ("compare", ring): "holds a game .gan., which has no bound",
        ("evaluate", ring, "--k", 5, "--ais", 9): "--k, --ais belong to bounds on log p",
        ("evaluate", ring, "--parzen"): "the density of ring is known",
        ("arithmetic", ring, "--out", "s.png"): "is a game of points, not images",
        ("arithmetic", images, "--out", "s.jpg"): "--out names a PNG file",
        ("arithmetic", images, "--out", "s.png", "--plus", "1"): "a sum takes --plus, --minus and --to, and --minus is",
        ("arithmetic", images, "--out", "s.png", "--between", "1"): "--between takes the numbers of two samples",
        (
            "arithmetic",
            images,
            "--out",
            "s.png",
            "--between",
            "1,99",
        ): "names sample 99, and the sheet has those from 0",
        (
            "arithmetic",
            images,
            "--out",
            "s.png",
            "--between",
            "1,2",
            "--to",
            "3",
        ): "--between is a walk and --to part of",
        ("sample", images, "--out", "s.png", "-n", 0): "the number of images is at least 1",
    }.items():
        refused(ppl(*words), sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.npz"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ring", "config.json"),
        ("ring", "checkpoint.safetensors"),
        ("ring", "frames/step-00000010.npz"),
        ("lapgan", "level16/checkpoint.safetensors"),
        ("lapgan", "evaluation.json"),
    ],
)
def test_a_damaged_file_is_named(ppl, kept, kind, name):  # noqa: F811
    run = Path(shutil.copytree(kept(kind), "run"))
    path = run / name
    path.write_text('{"game": "gan"' + "}" * (name == "config.json"))
    said = ppl("train", "--resume", run)
    assert said.code == 1 and said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: ") and str(path) in line


def test_a_game_of_other_networks_is_not_taken_up(ppl, kept):  # noqa: F811
    run = Path(shutil.copytree(kept("ring"), "run"))
    config = json.loads((run / "config.json").read_text())
    config["generator"]["hidden"] = [9]
    (run / "config.json").write_text(json.dumps(config))
    before = files(run)
    refused(ppl("train", "--resume", run, "--epochs", 5), "the checkpoint is of another model")
    assert files(run) == before


def test_stacked_digits_are_counted(monkeypatch):
    class Run:
        data, labels = "stacked_mnist", False

    class Digits:  # names a channel of four pixels by its largest
        def features(self, x):
            return x

        def logits(self, x):
            return torch.cat([x, x.new_zeros(len(x), 6) - 1], 1)

    class Generator:
        def generate(self, n, seed, *_):
            x = torch.zeros(n, 3, 4)
            x[torch.arange(n), :, torch.arange(n) % 2] = 1.0  # 000 and 111
            return x.flatten(1) + 0.01 * torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(judged, "judge_for", lambda name: Digits())
    real = torch.rand(3000, 12, generator=torch.Generator().manual_seed(0))
    found = judged.GameData(real[:2000], None, real[2000:], None, (3, 2, 2))
    result = judged.judge(Run(), Generator(), found, 0)  # pyright: ignore[reportArgumentType]
    rows = {row["name"]: row for row in result["figures"]}
    assert (rows["modes"]["value"], rows["modes"]["real"]) == (2, 64)
    assert rows["reverse KL"]["value"] == pytest.approx(math.log(500), abs=1e-3)
    assert "Mode collapse: 998 of 1,000 modes" in result["warnings"][0]


def test_the_last_frame_is_drawn_by_what_the_checkpoints_hold(kept):
    run = open_game(kept("lapgan"))
    game = load_game(kept("lapgan"), run)
    finest = game.parts[-1]  # on top of the coarser level's averaged weights
    x, shape = images_at(run, game.generator, finest, finest.generator)
    frame = sorted((kept("lapgan") / "level16" / "frames").iterdir())[-1]
    assert frame.read_bytes() == png_bytes(image_grid(x.reshape(-1, *shape), columns=6))
