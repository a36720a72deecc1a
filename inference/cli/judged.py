"""`ppl evaluate` of a game: what can be said of its samples, beside what the same measure says of data.

Points of known density: modes, share of high quality, reverse KL. Images: the Frechet distance in a classifier's
features, how sure the classifier is, and whether samples are copies of training rows (docs/judging_samples.md).
"""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from inference.adversarial.modes import mode_coverage
from inference.adversarial.neighbours import memorisation
from inference.adversarial.parzen import parzen
from inference.adversarial.samples import judge_samples, stacked_modes
from inference.cli.game_data import GameData, read_data
from inference.cli.game_folder import load_game, open_game
from inference.cli.games import GameRun
from inference.cli.judge import judge_for
from inference.cli.running import make_fabric
from inference.cli.snapshots import conditions_of
from inference.errors import RunError
from inference.training.checkpoint import write_text

__all__ = ["evaluate_game", "judge", "save_judgement"]

TOY_SAMPLES = (2_500, 10_000)
IMAGES, STACKED, COPIES = 10_000, 26_000, 1_000  # samples for distances, for modes, for copies


def evaluate_game(
    out: Path, *, images: int | None, seed: int, device: str, with_parzen: bool, as_json: bool, refused: dict[str, bool]
) -> None:
    """Judge a game's samples; writes DIR/evaluation.json and the page anew. refused: options of bounds, if given."""
    from inference.cli.game_page import write_game_page

    given = [f"--{name}" for name, is_given in refused.items() if is_given]
    if given:
        raise RunError(f"{', '.join(given)} belong to bounds on log p(x), which a game does not have: leave them out")
    if images is not None and images < 2:
        raise RunError(f"the number of samples to judge is at least 2, got {images}: pass --images 10000")
    run = open_game(out)
    game = load_game(out, run)
    found = read_data(run)
    if found.toy is not None and (images is not None or with_parzen):
        raise RunError(f"the density of {run.data} is known, and its samples are counted: leave --images, --parzen out")
    fabric = make_fabric(device, 1, "auto", "32-true", 0)
    fabric.to_device(game.generator)
    result = judge(run, game.generator, found, seed, images, with_parzen)
    save_judgement(out, result)
    page = write_game_page(out, device=str(fabric.device))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    _table(result)
    typer.echo(f"{out / 'evaluation.json'}\n{page}: the report")


def save_judgement(out: Path, result: dict[str, Any]) -> None:
    """Write DIR/evaluation.json."""
    write_text(out / "evaluation.json", json.dumps(result, indent=1, allow_nan=False) + "\n")


def judge(
    run: GameRun, generator: Any, found: GameData, seed: int, images: int | None = None, with_parzen: bool = False
) -> dict[str, Any]:
    """What evaluation.json says: figures of samples and of data, sentences."""
    start = time.perf_counter()

    def samples(n: int) -> Tensor:
        return generator.generate(n, seed, *conditions_of(run, n)).cpu()

    result: dict[str, Any] = {
        "data": found.name,
        "seed": seed,
        "headline": "",
        "warnings": [],
        "figures": [],
        "notes": [],
    }
    if found.toy is not None:
        _points(result, samples(TOY_SAMPLES[-1]), found)
    else:
        n = min(images or IMAGES, len(found.test))
        classifier = None if found.image_shape is None else judge_for(run.data)
        with Console(stderr=True).status("samples are drawn and judged"):  # on a terminal, some 10 to 60 seconds
            if found.image_shape is not None:
                _classified(result, run, classifier, samples, found, n)
            _copies(result, samples(min(n, COPIES)), found)
            if with_parzen:
                _parzen(result, samples(n), found)
    result["seconds"] = round(time.perf_counter() - start, 2)
    return result


def _figure(name: str, value: float | None, real: float | None, words: str, unit: str = "") -> dict[str, Any]:
    def finite(x: float | None) -> float | None:
        return None if x is None or x != x else x

    return {"name": name, "value": finite(value), "real": finite(real), "unit": unit, "words": words}


def _points(result: dict[str, Any], x: Tensor, found: GameData) -> None:
    """Modes, high quality and reverse KL, of few samples as papers report it and of many."""
    toy = found.toy
    for n in TOY_SAMPLES:
        ours, true = (mode_coverage(rows[:n], toy.means, toy.sd) for rows in (x, found.test))
        of = f"of {n:,} samples"
        result["figures"] += [
            _figure(f"modes, {of}", ours.modes, true.modes,
                    f"with a sample within three standard deviations, of {ours.of}"),
            _figure(f"high quality, {of}", 100 * ours.high_quality, 100 * true.high_quality,
                    "samples within three standard deviations of a mode", "%"),
            _figure(f"reverse KL, {of}", ours.reverse_kl, true.reverse_kl,
                    "how uneven the modes are; log of their number where there is but one", "nats"),
        ]  # fmt: skip
        if n == TOY_SAMPLES[0]:
            result["headline"] = (
                f"{ours.modes} of {ours.of} modes, {100 * ours.high_quality:.1f} % of {n:,} samples of high quality "
                f"({100 * true.high_quality:.1f} % of true points)."
            )
            if ours.collapse:
                result["warnings"].append(f"{ours.collapse[0].upper()}{ours.collapse[1:]}.")


def _classified(result: dict[str, Any], run: GameRun, classifier: Any, samples: Any, found: GameData, n: int) -> None:
    """What the data's own classifier says, where the data have classes."""
    if classifier is None:
        result["notes"].append("The data have no classes, so that no classifier of them can judge the samples.")
        return
    x, test, train = samples(n), found.test, found.x
    each = ""
    if run.data == "stacked_mnist":
        many, real = (stacked_modes(classifier, rows) for rows in (samples(STACKED), found.x[:STACKED]))
        result["figures"] += [
            _figure("modes", many.modes, real.modes, f"of {many.of}, by classified digits, {many.num:,} samples"),
            _figure("reverse KL", many.reverse_kl, real.reverse_kl, "to all modes alike", "nats"),
        ]  # fmt: skip
        result["headline"] = f"{many.modes:,} of {many.of:,} modes in {many.num:,} samples. "
        if many.modes < 0.95 * many.of:
            result["warnings"].append(f"Mode collapse: {many.of - many.modes:,} of {many.of:,} modes have no sample.")
        x, test, train = (rows.reshape(3 * len(rows), -1) for rows in (x, test, train[: len(test)]))
        each = ", each channel by itself"
    found_by = judge_samples(classifier, x, test, train)
    result["figures"] += [
        _figure("Frechet distance", found_by.frechet, found_by.frechet_floor,
                f"in features of a classifier of these data (not the FID), to {found_by.num:,} test images{each}"),
        _figure("confidence", 100 * found_by.confidence, 100 * found_by.real_confidence,
                "mean probability of the likeliest class", "%"),
        _figure("confident", 100 * found_by.confident, 100 * found_by.real_confident,
                "images whose likeliest class has over 0.9", "%"),
        _figure("class entropy", found_by.class_entropy, found_by.real_class_entropy,
                f"of the classes predicted; {torch.tensor(len(found_by.classes)).log():.2f} where all are as frequent",
                "nats"),
    ]  # fmt: skip
    result["headline"] += (
        f"Frechet distance {found_by.frechet:.2f} in the classifier's features (training images "
        f"{found_by.frechet_floor:.2f}), confidence {100 * found_by.confidence:.1f} % (test images "
        f"{100 * found_by.real_confidence:.1f} %)."
    )
    if found_by.class_entropy < 0.7 * found_by.real_class_entropy:
        result["warnings"].append("Mode collapse: the classifier finds some classes far more often than in the data.")


def _copies(result: dict[str, Any], x: Tensor, found: GameData) -> None:
    """Whether samples are nearer to the training rows than held-out rows are."""
    copied = memorisation(x, found.test[:COPIES], found.x)
    result["figures"] += [
        _figure("nearer to training rows", 100 * copied.nearer, 50.0,
                f"samples that are so than a held-out row, by chance 50 ± {200 * copied.se:.0f}; 100 where they are "
                "copies; blurred samples raise it too", "%"),
        _figure("distance ratio", copied.ratio, 1.0, "of medians to the nearest training row; 0 for copies"),
    ]  # fmt: skip
    if copied.ratio < 0.5:
        result["warnings"].append("Samples lie far nearer to training rows than held-out rows do: look for copies.")


def _parzen(result: dict[str, Any], x: Tensor, found: GameData) -> None:
    half = min(1_000, len(found.test) // 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = parzen(x, found.test[:half], found.test[half:])
        true = parzen(found.x[: len(x)], found.test[:half], found.test[half:])
    result["figures"].append(
        _figure("Parzen log-likelihood", ours.mean, true.mean,
                f"± {ours.se:.1f}, width {ours.sigma:.3g}; it cannot rank models", "nats")
    )  # fmt: skip
    result["notes"] += [
        "The Parzen log-likelihood is what early papers reported. It cannot rank models: a codebook of k-means beats "
        "true data by it.",
        *(f"Parzen: {each.message}." for each in said),
    ]


def _table(result: dict[str, Any]) -> None:
    from rich.table import Table

    def number(row: dict[str, Any], key: str) -> str:
        value = row[key]
        written = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        return f"{written} {row['unit']}" if value is not None and row["unit"] else written

    table = Table(title=f"{result['data']}: samples beside data (seed {result['seed']})")
    for heading in ("figure", "samples", "data", "what it says"):
        table.add_column(heading, justify="right" if heading in ("samples", "data") else "left")
    for row in result["figures"]:
        table.add_row(row["name"], number(row, "value"), number(row, "real"), row["words"])
    console = Console()
    console.print(table)
    for line in (*result["warnings"], *result["notes"]):
        console.print(line, soft_wrap=True, highlight=False)
