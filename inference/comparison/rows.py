"""One engine's draws against the reference: the numbers of a row.

Errors are of means: of P(h = s) for a discrete site, of E[h] in the reference's standard deviations for a continuous
one. Each stands beside its Monte Carlo standard error (MCSE), what chance alone would give. Everything else is nats
per datum, or seconds.
"""

import math
from typing import NamedTuple

import numpy as np

from inference.comparison.coordinates import Coordinates
from inference.comparison.diagnostics import ess, khat, r_hat
from inference.comparison.moments import Moments
from inference.types import Draws

__all__ = ["KHAT_LIMIT", "MCSE_LIMIT", "Measured", "Row", "measure"]

MCSE_LIMIT = 4.0  # |error| / MCSE: chance passes it once in 16,000 coordinates, and there are some hundred
KHAT_LIMIT = 0.7  # above it the weights' variance cannot be trusted [vehtari2024psis], [yao2018]
KHATS = (-1.0, 10.0)  # beyond, its size says no more: bounded weights, or a tail of one draw, PSIS's infinity
MOST_NAMED = 3  # standard deviations that are off, by name
POINTS = 60  # of a running error: evenly spaced in the logarithm of the draw


class Row(NamedTuple):
    """A row of the comparison; None where an engine has no such number."""

    engine: str
    is_reference: bool
    exact: bool  # the engine enumerates: its answers are the posterior's
    chains: int
    draws: int  # of each chain
    error: float  # root mean square error of the means
    error_mcse: float  # what it would be if there were Monte Carlo noise alone
    error_max: float
    error_max_mcse: float
    error_max_at: str
    error_z: float  # the largest error in units of its MCSE
    sd_error: float | None  # the largest error of a standard deviation, continuous sites, as a share
    sd_error_mcse: float | None
    log_p_error: float  # of E[log p(x, h)], nats per unit: sees dependence that marginals do not
    log_p_mcse: float
    r_hat: float | None  # the largest over coordinates; and the smallest:
    ess_bulk: float | None
    ess_tail: float | None
    ess_per_second: float | None  # of ess_bulk, over sampling alone; MCMC
    elbo: float | None  # E[log p(x, h) - log q(h | x)]
    bound: float | None  # the importance-weighted bound of all draws
    bound_k: int | None
    gap: float | None  # log p(x) - elbo = KL(q || posterior), where log p(x) is known
    log_evidence: float | None
    khat_joint: float | None  # of weights of all data together
    khat_median: float | None  # over data, and:
    khat_max: float | None
    khat_share: float | None  # of data above 0.7
    seconds: float  # of sampling
    warmup_seconds: float
    compile_seconds: float
    seconds_total: float
    evaluations: int  # of log p over all data
    seconds_to_error: float | None  # after which the running error stays below the asked one
    sds_off: tuple[tuple[str, float], ...] = ()  # the worst beyond chance: name, own over the reference's less 1
    divergences: int | None = None  # transitions of HMC or NUTS that left their trajectory
    whole: bool = False  # one weight for all data: nats are of all of them together, and k-hat is one number
    how: str = "enumeration"  # of an exact engine: or quadrature


class Measured(NamedTuple):
    """A row, and the arrays behind it that the page draws."""

    row: Row
    mean: np.ndarray  # (F,)
    sd: np.ndarray  # (F,)
    reference_mean: np.ndarray  # (F,)
    reference_sd: np.ndarray  # (F,)
    discrete: np.ndarray  # (F,) bool
    error_path: np.ndarray  # (points, 3): draws of each chain, seconds, root mean square error of their means
    khats: np.ndarray | None  # (N,)
    trace: np.ndarray  # (C, S) of log p(x, h), nats per unit


def measure(
    name: str,
    table: Coordinates,
    draws: Draws,
    own: Moments,
    reference: Moments,
    *,
    is_reference: bool,
    exact: bool,
    log_evidence: np.ndarray | None,  # (N,)
    units: int,
    error: float,
    how: str = "enumeration",
) -> Measured:
    """Compare one engine's draws with the reference's moments, coordinate by coordinate."""
    # a continuous site is measured in the reference's own width
    scale = np.where(table.discrete, 1.0, np.maximum(reference.sd, 1e-12))
    difference = np.abs(own.mean - reference.mean) / scale
    se = np.zeros_like(scale)
    if not is_reference or table.exact is not None:  # a sampled reference is no error of itself
        se = _combined_mcse(own, reference) / scale
    worst = int(difference.argmax())
    z = np.divide(difference, se, out=np.zeros_like(difference), where=se > 0)
    log_p_se = 0.0 if is_reference else math.hypot(own.log_p_mcse, reference.log_p_mcse)
    sd_error, sd_mcse, sds_off = _sd_error(own, reference, table)
    diverging = draws.stats.get("diverging")
    path = _error_path(table.values, draws, reference, scale)
    total = draws.compile_seconds + draws.warmup_seconds + draws.seconds
    bulk, tail = _least(own.bulk), _least(ess(table.values, "tail"))
    weights, khats = _weights(draws)
    elbo = None if weights is None else float(weights.mean())
    evidence = None if log_evidence is None else float(log_evidence.mean())
    k = draws.log_p.shape[0] * draws.log_p.shape[1]
    mcmc = draws.log_q is None and not exact
    row = Row(
        engine=name, is_reference=is_reference, exact=exact,
        chains=draws.log_p.shape[0], draws=draws.log_p.shape[1],
        error=float(np.sqrt((difference**2).mean())), error_mcse=float(np.sqrt((se**2).mean())),
        error_max=float(difference[worst]), error_max_mcse=float(se[worst]), error_max_at=table.names[worst],
        error_z=float(z.max()),
        sd_error=sd_error, sd_error_mcse=sd_mcse,
        log_p_error=own.log_p - reference.log_p, log_p_mcse=log_p_se,
        r_hat=_largest(r_hat(table.values)), ess_bulk=bulk, ess_tail=tail,
        ess_per_second=bulk / draws.seconds if mcmc and bulk is not None and draws.seconds > 0 else None,
        elbo=elbo,
        bound=None if weights is None else float(_logmeanexp(weights).mean()),
        bound_k=None if weights is None else k,
        gap=None if elbo is None or evidence is None else evidence - elbo,
        log_evidence=evidence,
        khat_joint=None if weights is None else _largest(khat(weights.sum(1, keepdims=True)).clip(*KHATS)),
        khat_median=None if khats is None else _finite(np.median(khats)),
        khat_max=None if khats is None else _finite(khats.max()),
        khat_share=None if khats is None else float((khats > KHAT_LIMIT).mean()),
        seconds=draws.seconds, warmup_seconds=draws.warmup_seconds, compile_seconds=draws.compile_seconds,
        seconds_total=total, evaluations=draws.evaluations,
        seconds_to_error=_stays_below(path, error),
        sds_off=() if is_reference else sds_off,
        divergences=None if diverging is None else int(diverging.sum()), whole=units == 1, how=how,
    )  # fmt: skip
    trace = draws.log_p.double().sum(-1).numpy() / units
    return Measured(
        row, own.mean, own.sd, reference.mean, reference.sd, table.discrete, _thinned(path), khats, trace
    )  # fmt: skip


def _combined_mcse(own: Moments, reference: Moments) -> np.ndarray:
    """The standard error of the difference of two means if both estimate the same number.

    The variance is the larger of the two: a chain that never saw a rare state must not look certain that it is none,
    nor one that saw it once that an exact 1e-6 is an error.
    """
    variance = np.maximum(own.sd, reference.sd) ** 2
    return np.sqrt(variance / own.ess + variance / reference.ess)  # the second is 0 where the reference is exact


def _sd_error(
    own: Moments, reference: Moments, table: Coordinates
) -> tuple[float | None, float | None, tuple[tuple[str, float], ...]]:
    """The largest relative error of a standard deviation, its MCSE, and the worst of those that are not chance."""
    at = np.flatnonzero(~table.discrete)
    if not len(at):
        return None, None, ()  # the mean of a 0 or 1 says its standard deviation
    width = np.maximum(reference.sd[at], 1e-12)
    off = (own.sd[at] - reference.sd[at]) / width
    mcse = np.hypot(own.sd_mcse[at], reference.sd_mcse[at]) / width
    order = np.argsort(-np.abs(off))
    named = [(table.names[at[i]], float(off[i])) for i in order if abs(off[i]) > MCSE_LIMIT * mcse[i]]
    return float(abs(off[order[0]])), float(mcse[order[0]]), tuple(named[:MOST_NAMED])


def _error_path(values: np.ndarray, draws: Draws, reference: Moments, scale: np.ndarray) -> np.ndarray:
    """(S, 3): s, seconds, and the root mean square error of the means of the first s draws of every chain."""
    steps = np.arange(1, values.shape[1] + 1)
    running = values.mean(0).cumsum(0) / steps[:, None]
    error = np.sqrt((((running - reference.mean) / scale) ** 2).mean(1))
    seconds = draws.compile_seconds + draws.warmup_seconds + draws.seconds * steps / len(steps)
    return np.stack([steps, seconds, error], 1)


def _stays_below(path: np.ndarray, error: float) -> float | None:
    """Seconds from which on the error is below the one asked for."""
    above = np.flatnonzero(path[:, 2] >= error)
    first = 0 if len(above) == 0 else int(above[-1]) + 1
    return float(path[first, 1]) if first < len(path) else None


def _thinned(path: np.ndarray) -> np.ndarray:
    return path[np.unique(np.geomspace(1, len(path), min(len(path), POINTS)).round().astype(int)) - 1]


def _weights(draws: Draws) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Log-weights (C * S, N) and k-hat of each datum; None for draws without log q."""
    if draws.log_q is None:
        return None, None
    log_w = (draws.log_p.double() - draws.log_q.double()).flatten(0, 1).numpy()
    return log_w, khat(log_w).clip(*KHATS)


def _logmeanexp(log_w: np.ndarray) -> np.ndarray:
    top = log_w.max(0)
    return top + np.log(np.exp(log_w - top).mean(0))


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _largest(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmax(values))


def _least(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmin(values))
