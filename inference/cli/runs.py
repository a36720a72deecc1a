"""A run on disk: config.json says how to build the model, checkpoint.safetensors holds what it learned."""

import json
import platform
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from inference.cli.folder import CONFIG, command_line
from inference.errors import CheckpointError, RunError
from inference.pair import Pair, as_pair
from inference.training.checkpoint import load, restore
from inference.training.run import CHECKPOINT, METRICS
from ppl_models import DLGM, DRAW, VAE, ConditionalVAE, SemiSupervisedVAE, SigmoidBeliefNetwork, StackedVAE, data
from ppl_models.data import ImageParts

__all__ = ["Run", "installed", "load_model", "open_run", "test_rows"]


def _stacked(m1: dict[str, Any], n_classes: int, mean: Any, x_dim: int, image_shape: Any, **m2: Any) -> StackedVAE:
    """M1 of images that M1's own options describe, and an M2 of its codes."""
    m2 |= {"x_dim": m1["z_dim"], "n_classes": n_classes, "likelihood": "gaussian"}
    return StackedVAE(VAE(**m1), SemiSupervisedVAE(**m2))


MODELS = {
    "vae": VAE,
    "cvae": ConditionalVAE,
    "ssvae": SemiSupervisedVAE,
    "m1m2": _stacked,
    "dlgm": DLGM,
    "draw": DRAW,
    "sbn": lambda x_dim, hidden, **options: SigmoidBeliefNetwork((x_dim, *hidden), **options),
}


@dataclass
class Run:
    """Every choice of a training run, as config.json holds it."""

    model: str
    options: dict[str, Any]  # the model class's arguments
    data: str
    binarize: str  # "static", "dynamic" or "none"
    objective: str
    k: int
    gradient: str
    epochs: int
    batch_size: int
    lr: float
    lr_final: float
    seed: int
    weight_decay: float = 0.0
    adam_eps: float = 1e-4
    clip_norm: float | None = None
    kl_weight: float = 1.0
    kl_warmup: int = 0
    elbo_epochs: int = 0
    dream_epochs: int = 0
    patience: int | None = None
    precision: str = "32-true"
    compile: str = "auto"
    threads: int = 0
    checkpoint_epochs: int = 1
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False
    condition: str | None = None  # the part of an image that is given, where the model is one of the rest of it
    quadrants: int = 1  # of the condition "quadrant"
    labels: int | str | None = None  # rows whose labels are seen, where the model is one of labels too; or "all"
    label_seed: int = 0  # of their draw
    balanced: bool = True
    labelled_batch: int = 100
    alpha: float = 1.0  # weight of the classification term
    share: str = "batch"  # whose share of labelled rows weighs their bound: "batch" or "data"
    shift: int | str = 0  # pixels by which each visit moves an image, at most
    m1: str | None = None  # the folder that a stacked model's first part came from
    command: str = field(default_factory=command_line)
    versions: dict[str, str] = field(default_factory=lambda: installed())

    def build(self, mean: torch.Tensor | None = None) -> Any:
        """The model, untrained; the seed decides its first weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return MODELS[self.model](**self.options, mean=mean)

    @property
    def parts(self) -> ImageParts | None:
        """What is predicted of an image and what is given, for a conditional model."""
        if self.condition is None:
            return None
        return data.image_parts(self.condition, tuple(self.options["image_shape"]), self.quadrants)

    def rows(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What model and guide take of images (N, D): themselves, or x and c of a conditional model."""
        return (images,) if self.parts is None else self.parts.split(images)

    @property
    def evidence(self) -> str:
        """What the bound is a bound on."""
        return "log p(x)" if self.condition is None else "log p(x | c)"

    @property
    def title(self) -> str:
        """The model's name in the literature."""
        return {"ssvae": "M2", "m1m2": "M1+M2"}.get(self.model, self.model.upper())

    @property
    def bound(self) -> str:
        """What was maximised, in words."""
        words = {"elbo": "ELBO", "iwae": "IWAE", "rws": "reweighted wake-sleep", "nvil": "NVIL", "disarm": "DisARM"}
        words = words.get(self.objective, self.objective)
        words += f", k = {self.k}" if self.k > 1 else ""
        words += f", labels summed out, alpha = {self.alpha:g}" if self.labels is not None else ""
        words += ", doubly reparameterised gradient" if self.objective == "iwae" and self.gradient == "dreg" else ""
        words += f", its regulariser weighted {self.kl_weight:g}" if self.kl_weight != 1 else ""
        words += f", warm-up of {self.kl_warmup} epochs" if self.kl_warmup else ""
        words += f", after {self.elbo_epochs} epochs of the ELBO" if self.elbo_epochs else ""
        return words + (f", then the guide on dreams for {self.dream_epochs} epochs" if self.dream_epochs else "")

    @property
    def variant(self) -> str:
        """Data set and variant, for tables."""
        return f"{self.data}, {self.pixels}" + (f", {self.parts.words}" if self.parts else "")

    @property
    def label_words(self) -> str:
        """How many labels a model of labels saw, and which draw of them."""
        return f"{self.labels} labels{'' if self.balanced else ', not balanced'}, drawn by seed {self.label_seed}"

    @property
    def pixels(self) -> str:
        """The data variant in words."""
        words = {
            "static": "static binarisation",
            "dynamic": "dynamic binarisation",
            "none": "values as they are",
        }
        return words[self.binarize]


def open_run(out: Path) -> Run:
    """The run in a folder; refuses what `ppl train` did not write."""
    path = out / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{out} holds no run ({CONFIG} is missing): name a folder that `ppl train` wrote")
    try:
        raw = json.loads(path.read_text())
        if "game" in raw:
            raise RunError(
                f"{out} holds a game ({raw['game']}), which has no bound on log p(x): `ppl evaluate`, `ppl sample` and "
                "`ppl arithmetic` take it, this command does not"
            )
        if "own" in raw:
            raise RunError(f"{out} holds a run of {raw['own']}, whose bounds are on its page: name a run of vae or sbn")
        return Run(**{f.name: raw[f.name] for f in fields(Run) if f.name in raw})
    except RunError:
        raise
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): train anew into another folder") from None


def load_model(out: Path, run: Run) -> tuple[Pair, dict[str, Any]]:
    """The trained pair of a run, and its checkpoint's notes (history, seconds)."""
    tensors, meta = load(out / CHECKPOINT)
    if run.model not in MODELS:
        raise CheckpointError(f"{out} holds a run of '{run.model}', unknown here: {', '.join(MODELS)} are known")
    try:
        pair = as_pair(run.build())
        notes = meta["run"]
    except (TypeError, KeyError, AssertionError) as error:
        raise CheckpointError(f"{out / CONFIG} describes no model ({error}): restore it, or train anew") from None
    restore(pair, tensors)
    pair.owner.eval()
    return pair, notes


def test_rows(run: Run, n: int | None, seed: int, drawn: bool = True) -> data.Dataset:
    """Test images of a run, n of them drawn by seed, binarised as the run's own data were, or grey as they are."""
    _, test = data.load(run.data, seed=run.seed)
    generator = torch.Generator().manual_seed(seed)
    if n is not None:
        if n < 1:
            raise RunError(f"the number of images is at least 1, got {n}: pass --images 1000")
        if n > len(test.x):
            raise RunError(f"{run.data} has {len(test.x)} test images, fewer than the {n} asked for: lower --images")
        chosen = torch.randperm(len(test.x), generator=generator)[:n]
        test = test._replace(x=test.x[chosen], y=None if test.y is None else test.y[chosen])
    if run.binarize == "dynamic" and drawn:
        test = test._replace(x=data.binarize(test.x, generator))
    return test


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The history of a run, a mapping an epoch."""
    path = out / METRICS
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): `ppl train --resume {out}` writes it anew") from None


def installed() -> dict[str, str]:
    """The versions that a run was made with, as config.json holds them."""
    names = ("ppl-models", "torch", "pyro-ppl", "lightning-fabric")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
