"""log p(x) of a model that some method learnt: as an objective to learn by, and as the judge of what was learnt."""

import math
from typing import Any

import torch
from torch import Tensor

from inference.comparison.guided import Guided
from inference.evidence.marginal import exact_log_marginal
from inference.types import Estimate
from inference.vi.wake_sleep import ReweightedWakeSleep

__all__ = ["ExactEvidence", "exact_evidence", "guided_evidence"]


class ExactEvidence:
    """An objective without a guide: log p(x) by enumeration with its exact gradient, for `SVI` on small models."""

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """The value on a batch, nats per datum; there is no regulariser for `beta` to weigh."""
        value = exact_log_marginal(pair, *batch).mean()
        return Estimate(-value, value.detach())


def exact_evidence(model: Any, x: Tensor) -> Tensor:
    """Log p(x) of the rows x (N, D) by enumeration: (N,) nats."""
    with torch.no_grad():
        return exact_log_marginal(model, x)


def guided_evidence(model: Any, x: Tensor, k: int = 5000, *, steps: int = 300, seed: int = 0) -> Tensor:
    """The bound L_k on log p(x) of the rows x (N, D), from a guide trained anew on them: (N,) nats.

    Models learnt without a guide have none that fits them, and all are to be judged alike. The model is left as it was.
    """
    draws = Guided(ReweightedWakeSleep(5), steps=steps, lr=2e-2, num_samples=k)(model, x, seed=seed)
    assert draws.log_q is not None
    return (draws.log_p - draws.log_q)[0].double().logsumexp(0) - math.log(k)
