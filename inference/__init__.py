"""Engines that train, sample and judge Pyro model/guide pairs."""

from inference.evidence.importance import active_units, importance_weights, log_marginal
from inference.pair import Pair
from inference.training.fit import Saving, exponential, fit
from inference.vi.objectives import IWAE, TraceELBO, TraceEnumELBO
from inference.vi.svi import SVI
from inference.weights import log_weights

__all__ = [
    "IWAE",
    "SVI",
    "Pair",
    "Saving",
    "TraceELBO",
    "TraceEnumELBO",
    "active_units",
    "exponential",
    "fit",
    "importance_weights",
    "log_marginal",
    "log_weights",
]
