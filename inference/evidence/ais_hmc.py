"""Annealing by Hamiltonian Monte Carlo, many data at once, a step size for each datum and temperature.

    log f_b(y) = (1 - b) log N(y; 0, I) + b g(y)

g comes with its gradient, one decoder forward and backward for each leapfrog step; a change of b costs nothing, since
both parts are kept. Step sizes are found by a pilot run with random numbers of its own, and are fixed afterwards: one
that followed the chain would make its weights biased.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inference.errors import NonFiniteError
from inference.evidence.ais_density import Density

__all__ = ["State", "anneal", "init", "pilot", "step"]

ACCEPT = 0.8  # the acceptance that the pilot aims at
GAIN = 0.3  # of its logarithmic steps
PILOT_CHAINS, PILOT_LEAST = 4, 40
LONGEST = 3.0  # length of a path: a normal's is back where it began after 2 pi
SHORTEN = 0.5  # step sizes are shortened at random, down to this, so that no coordinate's period fits the path


class State(NamedTuple):
    """Chains of each datum, and g with its gradient where they are."""

    y: Tensor  # (K, N, F)
    g: Tensor  # (K, N)
    grad: Tensor  # (K, N, F)


def init(density: Density, y: Tensor) -> State:
    """The state at y (K, N, F)."""
    return State(y, *density.value_and_grad(y))


def pilot(density: Density, betas: Tensor, leapfrog: int) -> Tensor:
    """Step sizes (T + 1, N) for temperatures betas (T + 1,), by a shorter run that adapts as it goes."""
    n, f = density.mean.shape
    short = max(PILOT_LEAST, (len(betas) - 1) // 10)
    state = init(density, density.mean.new_empty(PILOT_CHAINS, n, f).normal_())
    size = density.mean.new_full((n,), min(f**-0.25, LONGEST / leapfrog))
    found = []
    for i in range(short + 1):
        state, accept = step(density, state, i / short, size, leapfrog)
        size = (size * (GAIN * (accept.mean(0) - ACCEPT)).exp()).clamp(max=LONGEST / leapfrog)
        found.append(size)
    return torch.stack(found)[(betas * short).round().long()]


def anneal(
    density: Density, state: State, betas: Tensor, sizes: Tensor, leapfrog: int, back: bool = False
) -> tuple[Tensor, State, float]:
    """The log-weights (K, N) of a run from b = 0 to 1, or `back` from 1 to 0, its last state and mean acceptance.

    log w = sum_t (b_t - b_{t-1}) [g(y_{t-1}) - log N(y_{t-1}; 0, I)], the same both ways. A forward run ends with a
    transition at b = 1, which no weight sees: its state is a draw.
    """
    last = len(betas) - 1
    log_w = torch.zeros_like(state.g, dtype=torch.float64)
    accepted = torch.zeros((), device=log_w.device)
    levels = betas.tolist()
    for i in range(last):
        t = last - i if back else i + 1
        log_w += (levels[t] - levels[t - 1]) * _log_ratio(state)
        if not (back and t == 1):
            at = t - 1 if back else t
            state, accept = step(density, state, levels[at], sizes[at], leapfrog)
            accepted += accept.mean() / last
    if bool(log_w.isnan().any()):
        raise NonFiniteError("log p(x, z) is NaN on the way of a chain: the model's parameters are out of range")
    return log_w, state, float(accepted)


def step(
    density: Density, state: State, beta: float, size: Tensor, leapfrog: int
) -> tuple[State, Tensor]:  # size (N,) -> acceptance probability (K, N)
    """A transition that leaves f_b as it is: `leapfrog` steps of Hamilton's equations, accepted or refused."""
    eps = size.unsqueeze(-1) * float(torch.empty(()).uniform_(SHORTEN, 1.0))
    momentum = torch.randn_like(state.y)
    before = _energy(state, beta) + 0.5 * (momentum**2).sum(-1)
    y, g, grad = state
    momentum = momentum + 0.5 * eps * _force(y, grad, beta)
    for i in range(leapfrog):
        y = y + eps * momentum
        g, grad = density.value_and_grad(y)
        momentum = momentum + (eps if i < leapfrog - 1 else 0.5 * eps) * _force(y, grad, beta)
    after = _energy(State(y, g, grad), beta) + 0.5 * (momentum**2).sum(-1)
    accept = (before - after).clamp(max=0.0).exp().nan_to_num(0.0)  # NaN: the path has left the finite numbers
    taken = torch.rand_like(accept) < accept
    there = taken.unsqueeze(-1)
    y, grad = torch.where(there, y, state.y), torch.where(there, grad, state.grad)
    return State(y, torch.where(taken, g, state.g), grad), accept


def _log_ratio(state: State) -> Tensor:
    return state.g + 0.5 * (state.y**2).sum(-1) + 0.5 * math.log(2 * math.pi) * state.y.shape[-1]


def _energy(state: State, beta: float) -> Tensor:
    return 0.5 * (1 - beta) * (state.y**2).sum(-1) - beta * state.g


def _force(y: Tensor, grad: Tensor, beta: float) -> Tensor:
    return beta * grad - (1 - beta) * y
