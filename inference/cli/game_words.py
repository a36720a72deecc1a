"""What the words of a game's options name: losses, smoothing, rules of freezing; what cannot be is refused here."""

from inference.adversarial.freezing import FreezeOnAccuracy, FreezeOnLoss, FreezeRule
from inference.adversarial.losses import Hinge, LeastSquares, Loss, Minimax, NonSaturating, Wasserstein
from inference.adversarial.stabilisers import LabelSmoothing
from inference.cli.games import GameRun
from inference.cli.running import check_numbers
from inference.errors import RunError

__all__ = ["LOSSES", "check", "freeze_of", "loss_of", "numbers"]

LOSSES: dict[str, Loss] = {
    "nonsaturating": NonSaturating(),
    "minimax": Minimax(),
    "least-squares": LeastSquares(),
    "wasserstein": Wasserstein(),
    "hinge": Hinge(),
}


def check(run: GameRun) -> None:
    """Refuse words and numbers that would fail only later, in the middle of a run."""
    if run.loss not in LOSSES:
        raise RunError(f"unknown loss '{run.loss}': choose one of {', '.join(LOSSES)}")
    if run.norm not in ("batch", "virtual", "none"):
        raise RunError(f"unknown norm '{run.norm}': choose batch, virtual or none")
    least: dict[str, int] = dict.fromkeys(
        ("epochs", "steps", "batch_size", "pack", "d_steps", "checkpoint_epochs", "points"), 1
    )
    least |= dict.fromkeys(
        ("r1", "gradient_penalty", "feature_matching", "historical_averaging", "checkpoint_minutes"), 0
    )
    check_numbers(run, least)
    if run.lr_g is not None and not 0 < run.lr_g < float("inf"):
        raise RunError(f"learning rates are above 0, got --lr-g {run.lr_g}")
    if not (0 <= run.beta1 < 1 and 0 <= run.beta2 < 1):
        raise RunError(f"Adam's betas are at least 0 and below 1, got --beta1 {run.beta1} --beta2 {run.beta2}")
    if run.labels and run.pack > 1:
        raise RunError(f"--labels goes without packing, whose rows have no common class: pass --pack 1, not {run.pack}")
    if run.freeze_at is not None and run.freeze == "off":
        raise RunError("--freeze-at are thresholds of a rule: pass --freeze accuracy or --freeze loss with it")
    loss_of(run)
    freeze_of(run)


def loss_of(run: GameRun) -> tuple[Loss, LabelSmoothing | None]:
    """The loss that the words of a run name, and the smoothing of its labels."""
    if run.smoothing is None:
        return LOSSES[run.loss], None
    if len(run.smoothing) not in (1, 2):
        raise RunError(f"--smoothing takes one label or two, such as 0.9 or 0.9,0.1, got {len(run.smoothing)}")
    return LOSSES[run.loss], LabelSmoothing(*run.smoothing)


def freeze_of(run: GameRun) -> FreezeRule | None:
    """The rule of freezing that the words of a run name."""
    at = run.freeze_at or []
    if run.freeze == "off":
        return None
    if run.freeze not in ("accuracy", "loss"):
        raise RunError(f"unknown freeze '{run.freeze}': choose accuracy, loss or off")
    if len(at) not in (0, 2, 4):
        raise RunError(f"--freeze-at takes two numbers, freeze and thaw of D, or four, those of G too, got {len(at)}")
    if run.freeze == "accuracy":
        return FreezeOnAccuracy(*at)
    return FreezeOnLoss() if not at else FreezeOnLoss((at[0], at[1]), (at[2], at[3]) if at[2:] else None)


def numbers(name: str, words: str | None) -> list[float] | None:
    """Numbers with commas between them, from the option --NAME, or None."""
    try:
        return None if words is None else [float(word) for word in words.split(",")]
    except ValueError:
        raise RunError(f"--{name} takes numbers with commas, such as 0.9,0.1, got '{words}'") from None
