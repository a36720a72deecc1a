"""Penalties on the slope of the discriminator: what keeps its gradient useful where it is sure of itself.

Each is a term that is added to the discriminator's loss: `penalty(a, real, fake, a_real) -> ()` with a(x) the logits
of rows x. They differentiate twice, at about the cost of another step of the discriminator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inference.errors import RunError

__all__ = ["GradientPenalty", "Penalty", "R1"]


class Penalty(Protocol):
    """A term of the discriminator's loss."""

    needs_slope: bool  # whether it takes the gradient of `a_real` itself, for which `real` must ask for gradients

    def __call__(self, logits: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, a_real: Tensor) -> Tensor:
        """The term () of rows real and fake (N, D); a_real (N,) are the logits of the real ones, computed already."""
        ...


@dataclass(frozen=True)
class R1:
    """gamma/2 E_p |grad_x a(x)|^2, zero at equilibrium, where the game converges locally with it [mescheder2018].

    Raises:
        RunError: gamma is not above 0 and finite.
    """

    gamma: float = 1.0
    needs_slope = True

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise RunError(f"R1's gamma is above 0 and finite, got {self.gamma}: R1(1.0), or leave it out")

    def __call__(self, logits: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, a_real: Tensor) -> Tensor:
        """Of real rows alone."""
        (slope,) = torch.autograd.grad(a_real.sum(), real, create_graph=True)
        return 0.5 * self.gamma * slope.square().sum() / len(a_real)


@dataclass(frozen=True)
class GradientPenalty:
    """weight E (|grad_x a(x)| - 1)^2 on lines between real and generated rows, for `Wasserstein` [gulrajani2017].

    Raises:
        RunError: weight is not above 0 and finite.
    """

    weight: float = 10.0
    needs_slope = False

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise RunError(f"the gradient penalty's weight is above 0 and finite, got {self.weight}: 10 is the paper's")

    def __call__(self, logits: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, a_real: Tensor) -> Tensor:
        """Between each real row and the generated one beside it."""
        share = torch.rand(len(real), 1, dtype=real.dtype, device=real.device)
        between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
        (slope,) = torch.autograd.grad(logits(between).sum(), between, create_graph=True)
        return self.weight * (slope.norm(dim=1) - 1.0).square().mean()
