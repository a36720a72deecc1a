"""What the chains of HMC learn in their warm-up, in JAX, together: one step size, one scale of all dimensions.

    log eps_m = mu - sqrt(m) / 0.05 H_m,   H_m = (1 - 1/(m+10)) H_{m-1} + (target - acceptance_m) / (m+10)
    L L^T = covariance of the draws of a window (or its diagonal alone), within chains

Dual averaging [hoffman2014] and Stan's windows, each twice as long as the last one. Chains pool what they see: a window
of W steps estimates the covariance from C W draws. Its regularisation is relative to each dimension's own variance, so
that the unit of a latent does not matter.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer.hmc_util import build_adaptation_schedule

__all__ = ["Tuning", "begin", "first_window", "learn", "move"]

Array = Any


class Tuning(NamedTuple):
    """What the next step moves with, and the sums behind it."""

    step_size: Array  # () eps
    scale: Array  # (D, D) L, or (D,) its diagonal
    average: Array  # () log of the step size to keep
    error: Array  # () H
    centre: Array  # () mu
    count: Array  # () m
    seen: Array  # () draws of each chain in this window
    mean: Array  # (C, D)
    spread: Array  # (D, D) or (D,): sum of squares about the chains' means


def begin(chains: int, size: int, dense: bool) -> Tuning:
    """Steps of 1 on the unit scale."""
    zero = jnp.zeros(())
    shape = (size, size) if dense else (size,)
    scale = jnp.eye(size) if dense else jnp.ones(size)
    return Tuning(
        zero + 1, scale, zero, zero, jnp.log(zero + 10), zero, zero, jnp.zeros((chains, size)), jnp.zeros(shape)
    )


def move(scale: Array, u: Array, w: Array) -> Array:
    """The state u + L w."""
    return u + (scale * w if scale.ndim == 1 else scale @ w)


def learn(steps: int, target: float) -> Any:
    """The update after step t of a warm-up of `steps`: (t, acceptance (C,), u (C, D), gradient in w (C, D), tuning)."""
    inside, closing = _schedule(steps)

    def update(t: Array, acceptance: Array, u: Array, gradient: Array, tuning: Tuning) -> tuple[Array, Tuning]:
        tuning = _average(tuning, target - acceptance.mean())
        tuning = tuning._replace(step_size=jnp.where(t == steps - 1, jnp.exp(tuning.average), tuning.step_size))
        tuning = lax.cond(jnp.asarray(inside)[t], _see, lambda _, same: same, u, tuning)
        return lax.cond(jnp.asarray(closing)[t], _rescale, lambda g, same: (g, same), gradient, tuning)

    return update


def first_window(steps: int) -> int:
    """The step before which the scale is still 1; 0 where none is learned."""
    closing = _schedule(steps)[1]
    return int(closing.argmax()) + 1 if closing.any() else 0


def _schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Which steps are in a window whose draws count, and which close one."""
    inside, closing = np.zeros(max(steps, 1), bool), np.zeros(max(steps, 1), bool)
    for window in build_adaptation_schedule(steps)[1:-1]:
        inside[window.start : window.end + 1] = True
        closing[window.end] = True
    return inside, closing


def _average(tuning: Tuning, error: Array) -> Tuning:
    m = tuning.count + 1
    error = (1 - 1 / (m + 10)) * tuning.error + error / (m + 10)
    log_size = tuning.centre - jnp.sqrt(m) / 0.05 * error
    weight = m**-0.75
    average = weight * log_size + (1 - weight) * tuning.average
    return tuning._replace(step_size=jnp.exp(log_size), average=average, error=error, count=m)


def _see(u: Array, tuning: Tuning) -> Tuning:
    seen = tuning.seen + 1
    before = u - tuning.mean
    mean = tuning.mean + before / seen
    after = u - mean
    square = before.T @ after if tuning.scale.ndim == 2 else (before * after).sum(0)
    return tuning._replace(seen=seen, mean=mean, spread=tuning.spread + square)


def _rescale(gradient: Array, tuning: Tuning) -> tuple[Array, Tuning]:
    """Take the window's scale, and begin another window with steps that suit it."""
    chains, size = tuning.mean.shape
    n = chains * (tuning.seen - 1)
    dense = tuning.scale.ndim == 2
    old = (tuning.scale**2).sum(1) if dense else tuning.scale**2
    found = tuning.spread / n
    variance = jnp.diagonal(found) if dense else found
    variance = jnp.where(variance > 0, variance, old)  # a chain that has not moved says nothing
    if dense:
        shrunk = n / (n + 5) * found + jnp.diag(5e-3 / (n + 5) * variance)
        lower = jnp.linalg.cholesky(shrunk)
        scale = jnp.where(jnp.isfinite(lower).all(), lower, jnp.diag(jnp.sqrt(variance)))
        gradient = jax.scipy.linalg.solve_triangular(tuning.scale, gradient.T, lower=True, trans=1).T @ scale
    else:
        scale = jnp.sqrt(variance)
        gradient = gradient / tuning.scale * scale
    step_size = jnp.asarray(0.5 * size**-0.25)
    fresh = begin(chains, size, dense)
    return gradient, fresh._replace(scale=scale, centre=jnp.log(10 * step_size), step_size=step_size)
