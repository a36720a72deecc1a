"""Engines that train, sample and judge Pyro model/guide pairs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.evidence.importance import active_units, importance_weights, log_marginal
    from inference.pair import Pair
    from inference.training.fit import Saving, fit, linear
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
    "linear",
    "fit",
    "importance_weights",
    "log_marginal",
    "log_weights",
]

# The same at run time, each module imported at the first use of its names: `ppl --help` need not wait for torch.
_MODULES = {
    "evidence.importance": ("active_units", "importance_weights", "log_marginal"),
    "pair": ("Pair",),
    "training.fit": ("Saving", "linear", "fit"),
    "vi.objectives": ("IWAE", "TraceELBO", "TraceEnumELBO"),
    "vi.svi": ("SVI",),
    "weights": ("log_weights",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"inference.{module}"), name)
    raise AttributeError(f"module 'inference' has no attribute '{name}'")
