"""The inner loops of Gibbs sampling in a layered sigmoid belief network, compiled by numba.

With p = sigmoid(l) and q = sigmoid(-l) of the logits l of the layer below, a flip of unit i adds s w to l, s = +1 or
-1, and multiplies the normaliser 1 + exp(l) by

    q + p exp(s w),     so that   p <- p exp(s w) / (q + p exp(s w)),   q <- q / (q + p exp(s w)).

The product of these factors over pixels is all that the conditional of unit i asks of the layer below, beside two sums
that are kept up to date (`logit`, from above, and `drive` = sum_j w_ij v_j, from below). So the loop over pixels is a
multiply-add and a multiplication, no exp, and one logarithm ends it. p and q are both known to full relative precision,
as 1 - p would not be. Everything is float64.

A layer whose numbers could leave the range of a double on that way (block = 0, see `layered_tables`) sums
softplus(l + s w) - softplus(l) instead: two exp and two log1p a pixel, right for any weight.

Each row of each chain has a stream of random numbers: number t of stream j is a hash of (seed, j, t) [steele2014],
whoever computes it and when. A call takes one row after the other and releases Python's lock; threads share nothing.

Arrays are flat, with unsigned offsets and names of their own in each function: slices, signed offsets and calls cost
more here, in reference counts and tests, than the loops over pixels.
"""

# ruff: noqa: ANN001, ANN202

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

__all__ = ["log_odds", "prior", "run"]

# Sums and products may be taken in any order, so that they run in vectors; NaN and infinity keep their sense.
REASSOCIATE = {"reassoc", "contract", "nsz"}
REFRESH = 64  # sweeps between two computations of logits and sigmoids from the units themselves, against rounding
U0, U1, U2 = np.uint64(0), np.uint64(1), np.uint64(2)


def jit(function: Callable[..., Any]) -> Any:
    """Compile; the code is kept on disk beside this file or in the user's cache, or not at all where neither can be."""
    # numpy's errors: a test for division by zero would keep loops from running in vectors
    compiler = partial(numba.njit, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:
        return compiler()(function)


@jit
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def _stream(seed, stream):
    """Start and increment (odd) of a stream's counter."""
    start = _mix(_mix(seed) + stream * np.uint64(0x9E3779B97F4A7C15))
    return start, _mix(start ^ np.uint64(0x6A09E667F3BCC909)) | U1


@jit
def _noise(start, step, t):
    """Standard logistic variate log(u / (1 - u)), u in the middle of one of 2^52 cells of (0, 1)."""
    u = (np.float64(_mix(start + step * t) >> np.uint64(12)) + 0.5) * 2.0**-52
    return math.log(u / (1.0 - u))


@jit
def _softplus(a):
    return max(a, 0.0) + math.log1p(math.exp(-abs(a)))


@jit
def _down(net, k, v, logit):
    """Add to the logits of layer k - 1 what the units of layer k say."""
    n, d, here, below = net.sizes[k], net.sizes[k - U1], net.offset[k], net.offset[k - U1]
    w = net.w
    for i in range(n):
        if v[here + i]:
            first = net.start[k] + i * d
            for j in range(d):
                logit[below + j] += w[first + j]


@jit
def _refresh(net, v, logit, p, q, drive):
    """Everything that is kept beside the units v, from the units themselves."""
    top, w_t = np.uint64(len(net.sizes)) - U1, net.w_t
    for j in range(net.offset[-1]):
        logit[j] = net.bias[j]
    for k in range(U1, top + U1):
        n, d, here, below = net.sizes[k], net.sizes[k - U1], net.offset[k], net.offset[k - U1]
        _down(net, k, v, logit)
        for i in range(n):
            drive[here + i] = 0.0
        for j in range(d):
            if v[below + j]:
                first = net.start[k] + j * n
                for i in range(n):
                    drive[here + i] += w_t[first + i]
    for j in range(net.offset[-1]):
        e = math.exp(-abs(logit[j]))
        p[j], q[j] = 1.0 / (1.0 + e), e / (1.0 + e)
        if logit[j] < 0.0:
            p[j], q[j] = q[j], p[j]


@jit
def _flip_odds(net, k, i, v, logit, p, q, drive):
    """Log-odds that unit i of layer k flips, given all others."""
    d, here, below, block = net.sizes[k - U1], net.offset[k], net.offset[k - U1], net.block[k]
    on = v[here + i]
    heard = logit[here + i] + drive[here + i]
    odds = -heard if on else heard
    first, factor = U2 * (net.start[k] + i * d) + on * d, net.factor
    done = U0
    while done < d:
        product = 1.0
        for j in range(done, min(done + block, d)):
            product *= q[below + j] + p[below + j] * factor[first + j]
        odds -= math.log(product)
        done += block
    return odds


@jit
def _flip_odds_wide(net, k, i, v, logit, drive):
    """The same by softplus, for a layer with block = 0."""
    d, here, below = net.sizes[k - U1], net.offset[k], net.offset[k - U1]
    first = net.start[k] + i * d
    sign = -1.0 if v[here + i] else 1.0
    odds = sign * (logit[here + i] + drive[here + i])
    for j in range(d):
        odds -= _softplus(logit[below + j] + sign * net.w[first + j]) - _softplus(logit[below + j])
    return odds


@jit
def _flip(net, k, i, v, logit, p, q, drive):
    """Flip unit i of layer k and bring what is kept up to date."""
    d, here, below, above = net.sizes[k - U1], net.offset[k], net.offset[k - U1], net.offset[k + U1]
    n = net.sizes[k + U1] if k + U1 < len(net.sizes) else U0
    w, w_t, factor = net.w, net.w_t, net.factor
    on = v[here + i]
    sign = -1.0 if on else 1.0
    v[here + i] = U1 - on
    first = net.start[k] + i * d
    for j in range(d):
        logit[below + j] += sign * w[first + j]
    if net.block[k] > U0:
        first = U2 * first + on * d
        for j in range(d):
            up = p[below + j] * factor[first + j]
            norm = 1.0 / (q[below + j] + up)
            p[below + j] = up * norm
            q[below + j] *= norm
    first = net.start[k + U1] + i * n
    for j in range(n):
        drive[above + j] += sign * w_t[first + j]


@jit
def _sweep(net, start, step, t, v, logit, p, q, drive):
    """Every hidden unit once from its conditional, h1 first, each layer in its order; returns the counter."""
    for k in range(U1, np.uint64(len(net.sizes))):
        if net.block[k] > U0:
            for i in range(net.sizes[k]):
                if _noise(start, step, t) < _flip_odds(net, k, i, v, logit, p, q, drive):
                    _flip(net, k, i, v, logit, p, q, drive)
                t += U1
        else:
            for i in range(net.sizes[k]):
                if _noise(start, step, t) < _flip_odds_wide(net, k, i, v, logit, drive):
                    _flip(net, k, i, v, logit, p, q, drive)
                t += U1
    return t


@jit
def _log_joint(net, v, logit, q):
    """Log p(x, h) = sum over all units of v l + log q, with a logarithm for each block of q."""
    total = 0.0
    for k in range(U0, np.uint64(len(net.sizes))):
        end, block = net.offset[k + U1], net.block_q[k]
        for j in range(net.offset[k], end):
            total += v[j] * logit[j]
        if block == U0:
            for j in range(net.offset[k], end):
                total -= _softplus(logit[j])
        else:
            done = net.offset[k]
            while done < end:
                product = 1.0
                for j in range(done, min(done + block, end)):
                    product *= q[j]
                total += math.log(product)
                done += block
    return total


@jit
def run(net, x, h, streams, seed, t, burn, thin, out, log_p, begin, end):
    """Sweep the rows begin <= r < end of h in place: `burn` sweeps, then `thin` before each draw that is kept.

    x (N, D) and h (R, H) uint8, R = C * N, row r of datum r mod N; streams (R,), t: how many random numbers each has
    given; out (S, R, H) uint8 and log_p (S, R) receive the draws.
    """
    d, width = net.sizes[0], net.offset[-1]
    v = np.empty(width, np.uint8)
    logit, p, q, drive = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for r in range(begin, end):
        start, step = _stream(seed, streams[r])
        v[:d] = x[r % len(x)]
        v[d:] = h[r]
        now, age = t, 0
        for s in range(-1, len(out)):
            for _ in range(burn if s < 0 else thin):
                if age % REFRESH == 0:
                    _refresh(net, v, logit, p, q, drive)
                now = _sweep(net, start, step, now, v, logit, p, q, drive)
                age += 1
            if s >= 0:
                out[s, r] = v[d:]
                log_p[s, r] = _log_joint(net, v, logit, q)
        h[r] = v[d:]


@jit
def prior(net, h, streams, seed):
    """Fill h (R, H) with draws from the prior, top layer first: the first H numbers of each stream."""
    top = np.uint64(len(net.sizes)) - U1
    v, logit = np.zeros(net.offset[-1], np.uint8), np.empty(net.offset[-1])
    for r in range(len(h)):
        start, step = _stream(seed, streams[r])
        logit[:] = net.bias
        t = U0
        for k in range(top, U0, -1):
            k = np.uint64(k)
            for j in range(net.offset[k], net.offset[k + U1]):
                v[j] = _noise(start, step, t) < logit[j]
                t += U1
            _down(net, k, v, logit)
        h[r] = v[net.sizes[0] :]


@jit
def log_odds(net, x, h, out):
    """Fill out (R, H): log-odds that a unit is 1 given all others, by the functions that `run` uses."""
    d, width = net.sizes[0], net.offset[-1]
    v = np.empty(width, np.uint8)
    logit, p, q, drive = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for r in range(len(h)):
        v[:d] = x[r % len(x)]
        v[d:] = h[r]
        _refresh(net, v, logit, p, q, drive)
        for k in range(U1, np.uint64(len(net.sizes))):
            for i in range(net.sizes[k]):
                if net.block[k] > U0:
                    odds = _flip_odds(net, k, i, v, logit, p, q, drive)
                else:
                    odds = _flip_odds_wide(net, k, i, v, logit, drive)
                out[r, net.offset[k] - d + i] = -odds if v[net.offset[k] + i] else odds
