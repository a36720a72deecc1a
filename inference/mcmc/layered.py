"""Gibbs sampling of the hidden units of a layered sigmoid belief network [neal1992]: exact, fast, many chains at once.

A unit is 1 with log-odds given all others

    l_i + sum_j [v_j w_ij - log (1 + exp(a_j + w_ij)) / (1 + exp a_j)],

l_i its logit from the layer above, v the layer below, a the logits of that layer with the unit at 0. A sweep visits
every unit once, h1 first, each layer in its order; `layered_kernel` does so at one multiply-add and one product for
each weight, keeping all sums and sigmoids up to date from flip to flip.

Why numba: N = 100 rows, H = 20, D = 64 took 59 us per sweep and chain in numba (float64), 102 in JAX's jit and 179 in
torch.compile (float32), two cores (`benchmarks/gibbs_backends.py`). A loop can leave the layer below alone where a unit
does not flip; array programs write it at every visit. The code is compiled once and kept on disk.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from inference.errors import ShapeError
from inference.mcmc import layered_kernel as kernel
from inference.mcmc.layered_tables import Tables, binary, tables
from inference.types import Draws, Layered

__all__ = ["Tables", "by_rows", "conditional_log_odds", "prior", "sample", "sweep", "tables"]

MAX_BYTES = 2**33  # of draws: 8 GiB
LEAST_WORK = 5e5  # nanoseconds for which a thread is worth its start
CHUNK = 2.5e8  # nanoseconds of work in one call


def prior(net: Tables, n: int, seed: int) -> NDArray[np.uint8]:
    """Hidden units (n, H) from the prior, h1 first, H = H1 + H2 + ...: row r takes the first H numbers of stream r."""
    h = np.empty((n, int(net.offset[-1] - net.sizes[0])), np.uint8)
    kernel.prior(net, h, _streams(n), _seed(seed))
    return h


def sweep(
    net: Tables,
    x: NDArray[np.uint8],  # (N, D)
    h: NDArray[np.uint8],  # (R, H), R = C * N, row r of datum r mod N
    *,
    seed: int,
    drawn: int = 0,
    burn: int = 0,
    thin: int = 1,
    keep: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Run `burn` + `keep` * `thin` sweeps of h in place, on as many threads as torch has: the draws that are kept.

    `drawn` is how many random numbers each row has used under this seed: H for the prior, H for each sweep.

    Returns:
        h (S, R, H) and log p(x, h) (S, R) in nats after every `thin` sweeps; the same for any number of threads.
    """
    rows = len(h)
    out, log_p = np.empty((keep, *h.shape), np.uint8), np.empty((keep, rows))
    work = _nanoseconds(net, rows) * (burn + keep * thin)
    fixed = (net, x, h, _streams(rows), _seed(seed), np.uint64(drawn), burn, thin, out, log_p)
    by_rows(lambda first, last: kernel.run(*fixed, first, last), rows, int(work / LEAST_WORK))
    return out, log_p


def by_rows(run: Callable[[int, int], Any], rows: int, most: int) -> None:
    """Call run(first, last) on equal shares of the rows, on as many threads as torch has, and `most` at most."""
    threads = max(1, min(torch.get_num_threads(), rows, most))
    ends = [rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        run(0, rows)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, ends[:-1], ends[1:]))


def sample(
    network: Layered,
    x: Tensor,  # (N, D)
    chains: int = 4,
    warmup_steps: int = 100,
    num_samples: int = 1000,
    thin: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Draws:
    """Draw the hidden units given x: chains start from the prior, each row of each with its own random numbers.

    Returns:
        Draws with values h1 (C, S, N, H1), h2, ... and log_p (C, S, N), in x's dtype and on its device. One evaluation
        is counted for each visit of a unit by a chain and one for each draw. A function of the seed alone, whatever the
        number of threads (`torch.set_num_threads`); the caller's RNG is not used.

    Raises:
        ShapeError: chains, num_samples or thin below 1, warmup_steps below 0; x that does not fit the network; draws
            of more than 8 GiB.
        UnsupportedModelError: data other than 0 and 1.
        NonFiniteError: weights that are NaN or infinite.
    """
    for name, value, least in (
        ("chains", chains, 1), ("warmup_steps", warmup_steps, 0), ("num_samples", num_samples, 1), ("thin", thin, 1),
    ):  # fmt: skip
        if value < least:
            raise ShapeError(f"{name} is at least {least}, got {name}={value}: Gibbs({name}={least})")
    net = tables(network)
    data = binary(net, x)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    n, sizes = len(data), [int(size) for size in net.sizes[1:]]
    _check_memory(chains, num_samples, n, sum(sizes), dtype)
    began = time.perf_counter()
    h = prior(net, 0, seed)
    sweep(net, data, h, seed=seed)  # on no rows: compiles, or reads what was compiled before
    compiled = time.perf_counter()
    h = prior(net, chains * n, seed)
    values = torch.empty(chains, num_samples, n, sum(sizes), dtype=dtype)
    log_p = torch.empty(chains, num_samples, n, dtype=dtype)
    at_once = max(1, int(CHUNK / _nanoseconds(net, len(h))))  # sweeps between two looks at the clock and at Ctrl-C
    drawn, warm = sum(sizes), compiled
    with tqdm(
        total=warmup_steps + num_samples * thin,
        desc="Gibbs",
        delay=2.0,
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for burn in _pieces(warmup_steps, at_once):
            sweep(net, data, h, seed=seed, drawn=drawn, burn=burn)
            drawn += burn * sum(sizes)
            bar.update(burn)
        warm, s = time.perf_counter(), 0
        for keep in _pieces(num_samples, max(1, at_once // thin)):
            out, log = sweep(net, data, h, seed=seed, drawn=drawn, thin=thin, keep=keep)
            values[:, s : s + keep] = torch.from_numpy(out).view(keep, chains, n, -1).transpose(0, 1)
            log_p[:, s : s + keep] = torch.from_numpy(log).view(keep, chains, n).transpose(0, 1)
            drawn, s = drawn + keep * thin * sum(sizes), s + keep
            bar.update(keep * thin)
    ended = time.perf_counter()
    sweeps = warmup_steps + num_samples * thin
    layers = values.to(x.device).split(sizes, -1)
    return Draws(
        values={f"h{k}": layer for k, layer in enumerate(layers, 1)},
        log_p=log_p.to(x.device),
        seconds=ended - warm,
        warmup_seconds=warm - compiled,
        compile_seconds=compiled - began,
        evaluations=chains * (sweeps * sum(sizes) + num_samples),
    )


def conditional_log_odds(network: Layered, x: Tensor, h: Sequence[Tensor]) -> list[Tensor]:
    """Log-odds that each unit is 1 given x (N, D) and all other units, by the very code that samples, in float64.

    h = (h1, h2, ...) of shapes (N, H_l), and so the result.
    """
    net = tables(network)
    state = torch.cat([layer.detach().cpu() for layer in h], -1).to(torch.uint8).numpy()
    out = np.empty(state.shape)
    kernel.log_odds(net, binary(net, x), state, out)
    return list(torch.from_numpy(out).split([int(size) for size in net.sizes[1:]], -1))


def _nanoseconds(net: Tables, rows: int) -> float:
    """About what a sweep takes on one core."""
    sizes = net.sizes.astype(float)
    return max(1.0, rows * float((sizes[1:] * (50.0 + 0.15 * sizes[:-1])).sum()))


def _pieces(total: int, size: int) -> list[int]:
    return [min(size, total - done) for done in range(0, total, size)]


def _streams(n: int) -> NDArray[np.uint64]:
    return np.arange(n, dtype=np.uint64)


def _seed(seed: int) -> np.uint64:
    return np.uint64(seed % 2**64)


def _check_memory(chains: int, num_samples: int, n: int, h: int, dtype: torch.dtype) -> None:
    size = chains * num_samples * n * (h + 1) * dtype.itemsize
    if size > MAX_BYTES:
        raise ShapeError(
            f"draws take at most {MAX_BYTES / 2**30:.0f} GiB, and {chains} chains x {num_samples} draws x {n} rows x "
            f"{h} units are {size / 2**30:.1f}: keep fewer (thin=), or take fewer rows at a time"
        )
