"""What HMC learns in its warm-up, and only there: step sizes by dual averaging, scales by the spread of the draws.

    H_m = (1 - 1 / (m + 10)) H_(m-1) + (delta - alpha_m) / (m + 10)
    log eps_m = log(10 eps_0) - sqrt(m) / 0.05 H_m,     the average with weights m^-0.75 is kept  [hoffman2014]

Chains share what they learn; independent units (N) have a step size each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["StepSize", "Warmup", "first_step_size", "next_step_size", "scales", "windows"]


class StepSize(NamedTuple):
    """Dual averaging of N step sizes."""

    current: Tensor  # (N,) to move with in the warm-up
    average: Tensor  # (N,) log of the one to keep
    error: Tensor  # (N,) H
    centre: Tensor  # (N,) log(10 eps_0)
    count: int


def first_step_size(eps: Tensor) -> StepSize:
    """Begin at eps (N,)."""
    return StepSize(eps, eps.log(), torch.zeros_like(eps), (10 * eps).log(), 0)


def next_step_size(state: StepSize, acceptance: Tensor, target: float) -> StepSize:
    """One update, by the acceptance (N,) that the current step sizes had."""
    m = state.count + 1
    error = (1 - 1 / (m + 10)) * state.error + (target - acceptance.to(state.error)) / (m + 10)
    log_eps = state.centre - m**0.5 / 0.05 * error
    weight = m**-0.75
    return StepSize(log_eps.exp(), weight * log_eps + (1 - weight) * state.average, error, state.centre, m)


def windows(warmup_steps: int) -> list[int]:
    """The steps after which the scales are learned anew, each from what came since the last one."""
    ends = [round(warmup_steps * share) for share in (0.1, 0.2, 0.4, 0.85)]
    return [b for a, b in zip(ends, ends[1:], strict=False) if b - a >= 10]


def scales(q: Tensor, slope: Tensor) -> Tensor:
    """sqrt(sd(q) / sd(slope)), each (N, D): of draws q and gradients of the log density at draws, (W, N, D).

    The first alone is the spread over all that the discrete latents do; 1 / sd(slope) alone is the one with them and
    every other number held. For independent normals both are the standard deviation. Both are taken from medians, so
    that a chain that has not arrived yet does not set the scale of all.
    """
    n = len(q)
    spread = _NORMAL * (q - q.median(0).values).abs().median(0).values
    steep = _NORMAL * slope.abs().median(0).values
    few = 5 / (n + 5)  # shrunk towards a scale of 1 where draws are few
    return (((1 - few) * spread + few) / ((1 - few) * steep + few)).sqrt()


_NORMAL = 1.4826  # a normal's standard deviation over its median distance from the middle


class Warmup:
    """Both of them, step after step, the scales window by window.

    Args:
        step_size: (N,) to begin with.
        scale: (N, D) to begin with.
        steps: of the warm-up.
        target: the acceptance that the step size is chosen for.
    """

    def __init__(self, step_size: Tensor, scale: Tensor, steps: int, target: float):
        self.size, self.scale, self.target = first_step_size(step_size), scale, target
        self.ends, self.first = windows(steps), steps // 10
        self.draws: list[tuple[Tensor, Tensor]] = []  # of this window, (C, N, D) each
        self.count = 0

    def learn(self, q: Tensor, slope: Tensor, acceptance: Tensor) -> tuple[Tensor, Tensor]:
        """Step size and scale for the next step, from where the last one led (C, N, D), what slope it began on, and
        its acceptance (C, N).
        """
        self.count += 1
        self.size = next_step_size(self.size, acceptance.mean(0), self.target)
        if self.count > self.first:
            self.draws.append((q, slope))
        if self.count in self.ends:  # other scales need another step size
            self.scale, self.draws = scales(*(torch.cat(each) for each in zip(*self.draws, strict=True))), []
            self.size = first_step_size(self.size.average.exp())
        return self.size.current, self.scale

    def over(self) -> Tensor:
        """The step size to keep, averaged over the steps since the last window."""
        return self.size.average.exp()
