"""What a game remembers of its players' weights: a running mean to draw from, and the mean that pulls them back."""

import copy

import torch
from torch import Tensor, nn

from inference.errors import RunError

__all__ = ["AveragedWeights", "History"]


class AveragedWeights:
    """A copy of a network whose weights m are an exponential mean of the trained ones theta, m += (1 - d)(theta - m).

    The decay d is at most (1 + t) / (10 + t) after t updates, so that the first weights are soon forgotten. Buffers are
    the network's own.
    """

    def __init__(self, network: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise RunError(f"the decay of averaged weights is inside (0, 1), got {decay}: 0.999, or leave it out")
        self.network, self.decay, self.count = copy.deepcopy(network).requires_grad_(False), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One step towards the network's weights of now."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for own, other in zip(self.network.parameters(), network.parameters(), strict=True):
            own.lerp_(other, 1 - decay)
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(other)
        self.count += 1


class History:
    """The mean of a player's weights over its steps so far, and the gradient 2 weight (theta - mean) towards it."""

    def __init__(self, player: nn.Module, weight: float):
        self.player, self.weight, self.count = player, weight, 0
        self.means: list[Tensor] = []

    def start(self) -> None:
        """Take the weights of now as the first of the past."""
        self.means = [p.detach().clone() for p in self._learnt()]

    @torch.no_grad()
    def pull(self) -> None:
        """Add the term's gradient to the player's, then its weights to the mean."""
        self.count += 1
        for parameter, mean in zip(self._learnt(), self.means, strict=True):
            if parameter.grad is not None:
                away = parameter - mean
                parameter.grad.add_(away, alpha=2 * self.weight)
                mean.add_(away, alpha=1 / self.count)

    def _learnt(self) -> list[nn.Parameter]:
        return [p for p in self.player.parameters() if p.requires_grad]
