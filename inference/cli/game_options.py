"""The options that the commands of games share, each written once; None stands for the recipe of the data at hand."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

if TYPE_CHECKING:
    from inference.cli.games import GameRun

__all__ = [
    "Average", "BatchSize", "Beta1", "Beta2", "DSteps", "Epochs", "FeatureMatching", "Freeze", "FreezeAt",
    "GradientPenalty", "HistoricalAveraging", "Labels", "Loss", "Lr", "LrFinal", "LrG", "MinibatchDiscrimination",
    "Norm", "Pack", "R1", "Smoothing", "SpectralNorm", "Steps", "game_run",
]  # fmt: skip

Loss = Annotated[str | None, Option(help="nonsaturating, minimax, least-squares, wasserstein or hinge")]
R1 = Annotated[
    float | None, Option(help="weight of the slope of D at data, of toys in units of their scale; 0 for none")
]
GradientPenalty = Annotated[
    float | None, Option(help="weight of (slope of D - 1)^2 between data and samples; 10 with wasserstein, else 0")
]
Pack = Annotated[int | None, Option(help="rows that D judges together (PacGAN)")]
DSteps = Annotated[int | None, Option(help="steps of D to one of G; 5 with wasserstein, else 1")]
Smoothing = Annotated[
    str | None, Option(help="what D is told of data instead of 1, and of samples instead of 0: 0.9 or 0.9,0.1")
]
Freeze = Annotated[str, Option(help="stop the player that is ahead, by accuracy or loss; off")]
FreezeAt = Annotated[
    str | None,
    Option(help="with --freeze: where D freezes and thaws, and G too: 0.85,0.7,0.3,0.45 of accuracy, 0.5,0.9 of loss"),
]
Norm = Annotated[str | None, Option(help="batch norm: batch, virtual (by a reference batch) or none")]
FeatureMatching = Annotated[
    float, Option(help="weight of matching the means of D's features, which takes the place of G's loss; 0 for none")
]
MinibatchDiscrimination = Annotated[int, Option(help="closenesses to the rest of the batch that D sees; 0 for none")]
HistoricalAveraging = Annotated[float, Option(help="weight of the pull towards the players' past; 0 for none")]
SpectralNorm = Annotated[bool, Option("--spectral-norm", help="divide D's weights by their largest singular value")]
Average = Annotated[
    float | None, Option(help="draw from a running mean of G's weights, with this decay: 0.999; 0 for none")
]
Beta1 = Annotated[float | None, Option(help="Adam's first moment's decay")]
Beta2 = Annotated[float | None, Option(help="Adam's second moment's decay")]
Lr = Annotated[float | None, Option(help="Adam's learning rate at the start, of both players")]
LrG = Annotated[float | None, Option(help="of the generator, where it is another one; it falls in proportion")]
LrFinal = Annotated[float | None, Option(help="and at the end; it falls on a straight line")]
BatchSize = Annotated[int | None, Option(help="rows in a step")]
Epochs = Annotated[int | None, Option(help="passes over the data")]
Steps = Annotated[int | None, Option(help="in their place steps: as many epochs as hold so many")]
Labels = Annotated[bool, Option("--labels", help="both players see the class: samples of each by choice")]

PLAIN: dict[str, Any] = {
    "loss": "nonsaturating", "r1": 0.0, "gradient_penalty": 0.0, "pack": 1, "d_steps": 1, "norm": "none",
    "average": None, "beta1": 0.5, "beta2": 0.999, "lr": 2e-4, "lr_final": 2e-4, "batch_size": 100, "epochs": 20,
    "z_dim": 100, "fourier": "none", "g_activation": "relu",
}  # fmt: skip


def game_run(game: str, given: dict[str, Any], recipe: dict[str, Any]) -> "GameRun":
    """A game of the options given by name; None is filled in from the recipe, and from the plainest game after that."""
    from inference.cli.game_words import numbers
    from inference.cli.games import GameRun
    from inference.errors import RunError

    if given["steps"] is not None and given["epochs"] is not None:
        raise RunError("--steps and --epochs are two ways to say how long: leave one of them out")
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    usual = PLAIN | recipe
    if given["epochs"] is not None:
        usual.pop("steps", None)
    if given["loss"] == "wasserstein":  # its critic needs a bounded slope, and to be ahead
        usual |= {"gradient_penalty": 10.0, "d_steps": 5, "r1": 0.0}
    if given["labels"]:
        usual["pack"] = 1
    if given["lr"] is not None:  # falls in the recipe's proportion
        usual["lr_final"] *= given["lr"] / usual["lr"]
        usual.pop("lr_g", None)
    filled = usual | chosen
    filled["average"] = filled["average"] or None
    filled["smoothing"] = numbers("smoothing", given["smoothing"])
    filled["freeze_at"] = numbers("freeze-at", given["freeze_at"])
    players = {"gan": _mlp, "dcgan": _convolutions, "lapgan": _pyramid}[game](filled)
    own = {name: filled[name] for name in GameRun.__dataclass_fields__ if name in filled}
    return GameRun(**{**own, "game": game, "generator": players[0], "discriminator": players[1]})


def _mlp(of: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the fully connected players."""
    from inference.cli.running import integers

    hidden = {name: integers(name.replace("_", "-"), of[name]) for name in ("g_hidden", "d_hidden")}
    fourier = [] if of["fourier"] == "none" else integers("fourier", of["fourier"])
    norm = {"none": None}.get(of["norm"], "batch")
    return (
        {"z_dim": of["z_dim"], "hidden": hidden["g_hidden"], "activation": of["g_activation"], "norm": norm},
        {"hidden": hidden["d_hidden"], "fourier": fourier, **_steadied(of)},
    )


def _convolutions(of: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the convolutional players; a D whose slope is bounded has no batch norm, which would undo it."""
    norm = {"none": None}.get(of["norm"], "batch")
    bounded = of["spectral_norm"] or of["gradient_penalty"] > 0
    return (
        {"z_dim": of["z_dim"], "channels": of["channels"], "norm": norm},
        {"channels": of["d_channels"] or of["channels"], "norm": None if bounded else norm, **_steadied(of)},
    )


def _pyramid(of: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the whole pyramid."""
    return {name: of[name] for name in ("levels", "z_dim", "channels")}, {}


def _steadied(of: dict[str, Any]) -> dict[str, Any]:
    return {"spectral_norm": of["spectral_norm"], "minibatch_kernels": of["minibatch_discrimination"]}
