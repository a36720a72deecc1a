"""What the engines of HMC and NUTS hand their backends, and get back."""

from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Settings", "Trajectory"]


class Settings(NamedTuple):
    """A run of either algorithm."""

    algorithm: str  # "HMC" or "NUTS"
    warmup_steps: int
    num_samples: int
    target_accept: float
    dense_mass: bool
    shape: dict[str, Any]  # of a trajectory: max_tree_depth, or trajectory_length
    progress: bool


class Trajectory(NamedTuple):
    """C chains of S states in unconstrained space, and what they cost."""

    u: Tensor  # (C, S, D)
    energy: Tensor  # (C, S) U(u), nats
    stats: dict[str, Tensor]  # (C, S) each: energy, steps, acceptance, diverging, step_size
    seconds: float
    warmup_seconds: float
    compile_seconds: float
    evaluations: int  # of U and its gradient
