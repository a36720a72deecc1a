"""The inner loop of annealing in a layered sigmoid belief network, compiled by numba beside `layered_kernel`.

    log f_b(h) = (1 - b) log r(h) + b log p(x, h),    r(h) = prod_i Bernoulli(h_i; logit r_i)

The log-odds of a flip under f_b are those under p(., x) times b, and (1 - b) times those under r. A sweep backwards
visits the units in the opposite order: it is the reversal of the sweep forwards, as the reverse weights ask.
"""

# ruff: noqa: ANN001, ANN202

import numpy as np

from inference.mcmc.layered_kernel import (
    REFRESH,
    U0,
    U1,
    _flip,
    _flip_odds,
    _flip_odds_wide,
    _log_joint,
    _noise,
    _refresh,
    _softplus,
    _stream,
    jit,
)

__all__ = ["anneal"]


@jit
def _visit(net, k, i, beta, rho, noise, v, logit, p, q, drive):
    """Draw unit i of layer k from its conditional under f_b."""
    if net.block[k] > U0:
        odds = _flip_odds(net, k, i, v, logit, p, q, drive)
    else:
        odds = _flip_odds_wide(net, k, i, v, logit, drive)
    at = net.offset[k] + i
    r = rho[at - net.sizes[0]]
    if noise < beta * odds + (1.0 - beta) * (-r if v[at] else r):
        _flip(net, k, i, v, logit, p, q, drive)


@jit
def _log_r(rho, h):
    """Log r(h)."""
    total = 0.0
    for i in range(len(rho)):
        total += h[i] * rho[i] - _softplus(rho[i])
    return total


@jit
def anneal(net, x, h, rho, streams, seed, betas, back, log_w, log_p, begin, end):
    """Anneal the rows begin <= r < end of h in place, from r to p(h | x) or `back`, their log-weights into log_w.

    x (N, D) and h (R, H) uint8, rho (N, H) logits of r, R = C * N, row r of datum r mod N; betas (T + 1,) rising from 0
    to 1; streams (R,). A forward run ends with a sweep at b = 1 and log p(x, h) (R,).
    """
    d, width, steps = net.sizes[0], net.offset[-1], len(betas) - 1
    top = np.uint64(len(net.sizes)) - U1
    v = np.empty(width, np.uint8)
    logit, p, q, drive = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for r in range(begin, end):
        start, step = _stream(seed, streams[r])
        v[:d] = x[r % len(x)]
        v[d:] = h[r]
        own, t, total = rho[r % len(x)], U0, 0.0
        for s in range(steps):
            if s % REFRESH == 0:
                _refresh(net, v, logit, p, q, drive)
            level = steps - s if back else s + 1
            ratio = _log_joint(net, v, logit, q) - _log_r(own, v[d:])
            total += (betas[level] - betas[level - 1]) * ratio
            if back and level == 1:
                break
            beta = betas[level - 1] if back else betas[level]
            for a in range(top):
                k = top - np.uint64(a) if back else np.uint64(a) + U1
                n = net.sizes[k]
                for b in range(n):
                    i = n - U1 - np.uint64(b) if back else np.uint64(b)
                    _visit(net, k, i, beta, own, _noise(start, step, t), v, logit, p, q, drive)
                    t += U1
        h[r] = v[d:]
        log_w[r], log_p[r] = total, _log_joint(net, v, logit, q)
