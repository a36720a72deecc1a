"""The report page of a game, and its animation: what lies in DIR, drawn."""

import json
import shlex
from pathlib import Path
from typing import Any

import torch

from inference.cli.game_data import GameData, read_data
from inference.cli.game_folder import Loaded, load_game, open_game
from inference.cli.game_words import loss_of
from inference.cli.games import GameRun
from inference.cli.image_pictures import image_pictures
from inference.cli.runs import read_metrics
from inference.cli.snapshots import conditions_of, drawable, frames_in, points_frame, read_frame
from inference.comparison.figures import image_grid, png_bytes, write_atomic
from inference.comparison.game_pictures import Frame, Mixture, animation, toy_picture, window_of
from inference.comparison.game_report import Level, Picture, Snapshot, write_game
from inference.errors import CheckpointError, RunError

__all__ = ["game_samples", "write_game_page"]

MOST = 14  # snapshots on the page; a run that was resumed to more epochs has more


def write_game_page(out: Path, device: str) -> Path:
    """Write DIR/report.html and DIR/animation.gif from what lies in DIR."""
    run = open_game(out)
    game = load_game(out, run)
    found = read_data(run)
    histories = [read_metrics(out / part.name) for part in game.parts]
    shown = [_snapshots(out / part.name, found) for part in game.parts]
    film = None
    if any(shown):
        film = animation([
            (f"{part.heading + ', ' if part.heading else ''}{words}", _film_frame(path, found))
            for part in game.parts for words, path in _few(out / part.name)
        ])  # fmt: skip
        write_atomic(out / "animation.gif", film)
    loss, smoothing = loss_of(run)
    rest = loss.equilibrium() if smoothing is None else loss.equilibrium(smoothing.targets)
    write_game(
        out / "report.html",
        title=f"{run.title} on {Path(found.name).name}",
        summary={
            "data": f"{Path(found.name).name}{'' if found.toy is None else f', sd {found.toy.sd:g}'}",
            "loss": run.loss.replace("-", " "),
            "stabilisers": run.stabilisers,
            "parameters": game.parameters,
            "epochs": sum(len(history) for history in histories),
            "steps": sum(history[-1]["step"] for history in histories if history),
            "CPU-seconds": round(sum(each["cpu_seconds"] for each in game.notes), 1),
            "seconds": round(sum(each["seconds"] for each in game.notes), 1),
            "device": device,
        },
        config=dict(run.__dict__),
        levels=[
            Level(part.heading, history, freezes, frames)
            for part, history, freezes, frames in zip(game.parts, histories, game.freezes, shown, strict=True)
        ],
        rest=rest._replace(g_loss=None) if run.feature_matching else rest,
        pictures=_pictures(run, game, found),
        evaluation=_evaluation(out),
        evaluate=f"ppl evaluate {shlex.quote(str(out))}",
        film=film,
    )
    return out / "report.html"


def game_samples(out: Path, n: int, seed: int) -> bytes:
    """A PNG file of n samples: images as a grid, points over the density they are to have."""
    run = open_game(out)
    x = load_game(out, run).generator.generate(n, seed, *conditions_of(run, n)).cpu()
    if run.image_shape is not None:
        return png_bytes(image_grid(x.reshape(-1, *run.image_shape), max(1, round(n**0.5))))
    found = read_data(run)
    if not drawable(found):
        raise RunError(f"rows of {found.x.shape[1]} numbers are neither images nor points of a plane: nothing to draw")
    real = found.x.numpy()
    return toy_picture(Frame(x.numpy(), None), window_of(real), _mixture(found), real)


def _evaluation(out: Path) -> dict[str, Any] | None:
    path = out / "evaluation.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): delete it and run `ppl evaluate {out}`") from None


def _mixture(found: GameData) -> Mixture | None:
    """The density of a toy, as the pictures take it."""
    return None if found.toy is None else Mixture(found.toy.means.numpy(), found.toy.sd)


def _few(out: Path) -> list[tuple[str, Path]]:
    """At most `MOST` of a run's frames, the first and the last among them: words and files."""
    every = frames_in(out)
    chosen = {round(i) for i in torch.linspace(0, len(every) - 1, min(len(every), MOST)).tolist()} if every else ()
    return [(f"step {step:,}", path) for i, (step, path) in enumerate(every) if i in chosen]


def _snapshots(out: Path, found: GameData) -> list[Snapshot]:
    shown = []
    for words, path in _few(out):
        if path.suffix == ".png":
            shown.append(Snapshot(words, path.read_bytes()))
        else:
            shown.append(Snapshot(words, *_drawn(read_frame(path), found, inches=2.2)))
    return shown


def _film_frame(path: Path, found: GameData) -> bytes:
    """A frame of the animation: larger than those of the strip, and light."""
    if path.suffix == ".png":
        return path.read_bytes()
    return toy_picture(read_frame(path), window_of(found.x.numpy()), _mixture(found), found.x.numpy(), inches=4)


def _drawn(frame: Frame, found: GameData, inches: float) -> tuple[bytes, bytes]:
    """A frame's picture for a light page and for a dark one."""
    real = found.x.numpy()
    light, dark = (
        toy_picture(frame, window_of(real), _mixture(found), real, dark=dark, inches=inches) for dark in (False, True)
    )
    return light, dark


def _pictures(run: GameRun, game: Loaded, found: GameData) -> list[Picture]:
    """The survey's Figure 8 of points, samples of images."""
    generator = game.generator
    if found.image_shape is None:
        if not drawable(found):
            return []
        frame = points_frame(run, found, generator, game.parts[0].discriminator)
        return [Picture("Density, D and samples", _caption(run, found, frame), *_drawn(frame, found, inches=5))]
    return image_pictures(run, generator, found)


def _caption(run: GameRun, found: GameData, frame: Frame) -> str:
    words = "The survey's Figure 8. "
    if found.x.shape[1] == 1:
        words += "The data's density, a histogram of samples, D, and the best D for these samples, p / (p + g)."
    else:
        words += "Blue circles: three standard deviations about the data's modes. " if found.toy else "Blue: data. "
        words += "Dots: samples. Tinted: D(x), blue where it takes x for data, orange where for a sample."
    if frame.decision is None:
        return words + " There is no D(x) to draw: this one judges rows by the others of their batch, or their class."
    if run.pack > 1:
        words += f" D judges packs of {run.pack}; drawn is its mean logit beside data and samples."
    return words
