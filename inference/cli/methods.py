"""The words of `--methods`: each names a way to learn a model, and a way to draw from its posterior."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from inference.comparison.evidence import ExactEvidence, exact_evidence, guided_evidence
from inference.comparison.guided import Guided
from inference.comparison.learning import Method
from inference.errors import RunError
from inference.evidence.exact import Exact
from inference.mcmc.gibbs import Gibbs
from inference.mcmc.learning import GibbsLearning
from inference.vi.objectives import IWAE, TraceELBO
from inference.vi.svi import SVI
from inference.vi.wake_sleep import ReweightedWakeSleep
from ppl_models.data import Batches

__all__ = ["METHODS", "engines", "evaluation", "learners", "reference_engines", "settled"]

METHODS = ("svi", "iwae", "rws", "gibbs", "exact")
MOST_EXACT = 14  # hidden units: 16,384 states take a tenth of a second a step
PARTICLES = 5
LR = 5e-3  # of every method: Adam's
GUIDE_SECONDS = 2.0  # that a guide is trained on the rows of the comparison
BOUND_DRAWS, BOUND_ROWS = 5000, 50

_OBJECTIVES = {
    "svi": TraceELBO(num_particles=PARTICLES),
    "iwae": IWAE(PARTICLES),
    "rws": ReweightedWakeSleep(PARTICLES),
}


def settled(words: str | None, units: int) -> list[str]:
    """The methods asked for, or all that fit so many hidden units; refuses what is unknown or too large."""
    if words is None:
        return [name for name in METHODS if name != "exact" or units <= MOST_EXACT]
    names = [word.strip() for word in words.split(",") if word.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise RunError(f"unknown method '{(unknown or [words])[0]}': choose some of {','.join(METHODS)}")
    if "exact" in names and units > MOST_EXACT:
        raise RunError(
            f"learning by enumeration takes at most {MOST_EXACT} hidden units, got {units}: "
            "leave exact out of --methods"
        )
    return list(dict.fromkeys(names))


def learners(names: Sequence[str], x: Tensor) -> dict[str, Method]:
    """Method -> the stepper that trains a model by it, and its batches of the rows x."""

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, LR)

    def gibbs(model: Any) -> Any:
        return GibbsLearning(model, adam(model.parameters()), chains=PARTICLES)

    def svi(objective: Any) -> Callable[[Any], Any]:
        return lambda model: SVI(model, objective, adam)

    size = min(100, len(x))
    rows, numbered = Batches(x, size), Batches((x, torch.arange(len(x))), size)
    made = {name: Method(svi(objective), rows) for name, objective in _OBJECTIVES.items()}
    made |= {"gibbs": Method(gibbs, numbered), "exact": Method(svi(ExactEvidence()), rows)}
    return {name: made[name] for name in names}


def engines(names: Sequence[str], units: int, seconds: float = GUIDE_SECONDS) -> tuple[dict[str, Any], str]:
    """Method -> engine, with the reference among them, and its name."""
    made: dict[str, Any] = {
        name: Guided(_OBJECTIVES[name], steps=3000, seconds=seconds, lr=2e-2) for name in names if name in _OBJECTIVES
    }
    if "gibbs" in names:
        made["gibbs"] = Gibbs(chains=4, warmup_steps=100, num_samples=1000, thin=5)
    return _with_reference(made, units)


def reference_engines(units: int) -> tuple[dict[str, Any], str]:
    """The engines for a model that is trained already, guide and all, and the reference's name."""
    made: dict[str, Any] = {
        "guide": Guided(None),
        "resampled": Guided(None, resample=20),
        "gibbs": Gibbs(chains=4, warmup_steps=100, num_samples=1000),
    }
    return _with_reference(made, units)


def _with_reference(made: dict[str, Any], units: int) -> tuple[dict[str, Any], str]:
    if units <= MOST_EXACT:
        return made | {"exact": Exact(2000)}, "exact"
    return made | {"long": Gibbs(chains=4, warmup_steps=2000, num_samples=4000, thin=10)}, "long"


def evaluation(x: Tensor, units: int, seed: int) -> tuple[Callable[[Any], Tensor], str]:
    """The function that gives a model's log p(x) of each test datum in nats, and its name."""
    if units <= MOST_EXACT:
        return lambda model: exact_evidence(model, x), "exact"
    words = f"importance-weighted bound, k = {BOUND_DRAWS:,}"
    return lambda model: guided_evidence(model, x[:BOUND_ROWS], BOUND_DRAWS, seed=seed), words
