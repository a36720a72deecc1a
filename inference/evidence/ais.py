"""Annealed importance sampling: log p(x) of each datum from below, and on simulated data from above as well.

    log w = sum_t (b_t - b_{t-1}) log [p(x, z_{t-1}) / r(z_{t-1})],   0 = b_0 < ... < b_T = 1

A chain starts from r, near the guide's draws, and moves by transitions that leave f_b = r^(1-b) p(x, z)^b as it is, b
rising [neal2001ais]. E[w] = p(x), so that of K chains E[log 1/K sum_k w_k] <= log p(x). Where a draw of p(z | x) is at
hand, as on data that the model itself has drawn, a chain can run back from it; put among K - 1 forward ones,
E[log 1/K sum_k w_k] >= log p(x) [grosse2015], [brekelmans2022]. The two bounds meet as T grows [wu2017].
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.errors import RunError, ShapeError
from inference.evidence.ais_density import read_density
from inference.evidence.ais_hmc import anneal, init, pilot
from inference.evidence.simulated import simulate
from inference.mcmc.layered_program import is_layered
from inference.pair import Pair, as_pair

__all__ = ["AIS", "Annealed", "Sandwich", "bdmc"]

GUIDE_DRAWS = 200  # whose moments make r
_VISITS = 2**26  # of a layered network's pixels between two looks at Ctrl-C
_VALUES = 2**19  # of the widest site held at once: 2 MB of float32 stay near a core


class Annealed(NamedTuple):
    """Chains that have been annealed, and their weights."""

    log_w: Tensor  # (K, N) nats
    values: dict[str, Tensor]  # site -> (K, N, ...) the last states: draws of the posterior, but for what T leaves
    acceptance: float | None  # mean over all transitions of HMC; Gibbs sampling refuses none
    seconds: float
    evaluations: int  # of log p(x, z), with its gradient, of one chain and one datum; sweeps for a layered network

    @property
    def log_p(self) -> Tensor:
        """Log 1/K sum_k w_k of each datum (N,), nats: below log p(x) in expectation."""
        return self.log_w.logsumexp(0) - math.log(len(self.log_w))

    @property
    def mcse(self) -> Tensor:
        """The Monte Carlo standard error of log_p (N,) by the delta method; NaN for one chain."""
        if len(self.log_w) == 1:
            return torch.full_like(self.log_p, math.nan)
        return (self.log_w - self.log_p).exp().std(0) / math.sqrt(len(self.log_w))


class Sandwich(NamedTuple):
    """Bounds on log p(x) of simulated data, nats per datum."""

    lower: Tensor  # (N,)
    upper: Tensor  # (N,)
    forward: Annealed
    reverse: Annealed

    @property
    def gap(self) -> tuple[float, float]:
        """Mean over data of upper - lower, and its standard error."""
        gap = self.upper - self.lower
        return float(gap.mean()), float(gap.std() / math.sqrt(len(gap))) if len(gap) > 1 else math.nan


@dataclass(frozen=True)
class AIS:
    """Anneal chains of each datum: by HMC where latents are continuous, by Gibbs sampling in a layered network.

    Called on a pair and its data it gives an `Annealed`. The chains of a datum share a step size with no other datum; a
    pilot run of a tenth of the steps finds it, with random numbers of its own.

    Args:
        steps: T, temperatures, evenly spaced.
        chains: K for each datum.
        leapfrog: steps of Hamilton's equations in a transition.
        start: moments of whose draws make r: "guide", or "prior" for a guide that cannot be trusted at all.

    Raises:
        ShapeError: a number below 1; when called, no rows, or a latent outside the data plate.
        RunError: another start.
        UnsupportedModelError (when called): a discrete latent outside a layered network; a support without a bijection.
    """

    steps: int = 500
    chains: int = 8
    leapfrog: int = 5
    start: str = "guide"

    def __post_init__(self) -> None:
        for name in ("steps", "chains", "leapfrog"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} is at least 1, got {name}={getattr(self, name)}: AIS(steps=500, chains=8)")
        if self.start not in ("guide", "prior"):
            raise RunError(f"annealing starts from the guide or from the prior, got start='{self.start}'")

    def __call__(self, pair: Any, *data: Any, seed: int = 0, on_rows: Callable[[int], None] | None = None) -> Annealed:
        """Log-weights (K, N) of a pair on its data; `on_rows` hears how many rows are done."""
        return self._run(as_pair(pair), data, None, seed, on_rows)[0]

    def both(
        self,
        pair: Any,
        *data: Any,
        draw: dict[str, Tensor],
        seed: int = 0,
        on_rows: Callable[[int], None] | None = None,
    ) -> tuple[Annealed, Annealed]:
        """Forward as `__call__`, and K chains back from one draw of each datum's posterior: site -> (N, ...)."""
        forward, reverse = self._run(as_pair(pair), data, draw, seed, on_rows)
        assert reverse is not None
        return forward, reverse

    def _run(
        self, pair: Pair, data: tuple[Any, ...], draw: dict[str, Tensor] | None, seed: int, on_rows: Any
    ) -> tuple[Annealed, Annealed | None]:
        if not data or not isinstance(data[0], Tensor) or len(data[0]) == 0:
            raise ShapeError("there is no datum to evaluate: pass at least one row")
        n = len(data[0])
        layered = pair.owner is not None and is_layered(pair.owner, tuple(part[:2] for part in data))
        each = self.chains * max(1, data[0][0].numel())
        rows = max(1, _VISITS // (each * self.steps) if layered else _VALUES // each)
        parts = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for begin in range(0, n, rows):
                part = tuple(a[begin : begin + rows] if isinstance(a, Tensor) and len(a) == n else a for a in data)
                z = None if draw is None else {name: value[begin : begin + rows] for name, value in draw.items()}
                parts.append((self._gibbs if layered else self._hmc)(pair, part, z))
                if on_rows is not None:
                    on_rows(min(n, begin + rows))
        return _joined([part[0] for part in parts]), None if draw is None else _joined([part[1] for part in parts])

    def _hmc(self, pair: Pair, data: tuple[Any, ...], draw: dict[str, Tensor] | None) -> list[Annealed]:
        density = read_density(pair, data)
        betas = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        found = []
        with density.running():
            density.whiten(self.start, GUIDE_DRAWS)
            began = time.perf_counter()
            sizes = pilot(density, betas, self.leapfrog)
            for back in (False, True)[: 1 if draw is None else 2]:
                if back:
                    assert draw is not None
                    y = density.whitened(density.repeated(draw, self.chains))
                else:
                    y = torch.randn(self.chains, *density.mean.shape).to(density.mean)
                log_w, state, accepted = anneal(density, init(density, y), betas, sizes, self.leapfrog, back)
                values = density.values(state.y)
                now = time.perf_counter()
                found.append(Annealed(log_w, values, accepted, now - began, log_w.numel() * self.steps * self.leapfrog))
                began = now
        return found

    def _gibbs(self, pair: Pair, data: tuple[Any, ...], draw: dict[str, Tensor] | None) -> list[Annealed]:
        from inference.evidence.ais_layered import read_network  # numba, which nothing else here needs

        network = read_network(pair, data[0], self.start, GUIDE_DRAWS)
        betas = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        found = []
        for back in (False, True)[: 1 if draw is None else 2]:
            began = time.perf_counter()
            h = network.draw(self.chains) if draw is None or not back else network.flat(draw, self.chains)
            log_w, values = network.anneal(h, betas, int(torch.randint(2**62, ())), back)
            found.append(Annealed(log_w, values, None, time.perf_counter() - began, log_w.numel() * self.steps))
        return found


def bdmc(
    pair: Any, *data: Any, ais: AIS | None = None, seed: int = 0, on_rows: Callable[[int], None] | None = None
) -> Sandwich:
    """Bidirectional Monte Carlo: both bounds on log p(x) of data that the model draws [grosse2015], [wu2017].

    The gap bounds, in expectation, the error of the annealing on such data, and hints at that on real ones.

    Args:
        pair: a model/guide pair.
        data: for their number and kind: as many rows are drawn, each with the latents that made it.
        ais: the annealing; AIS() by default.
        seed: of everything; the caller's RNG is left as it was.
        on_rows: called with the number of rows done.

    Raises:
        UnsupportedModelError: the model reads what it observes, or as AIS.
    """
    pair = as_pair(pair)
    drawn, latents = simulate(pair, data, seed)
    forward, reverse = (ais or AIS()).both(pair, *drawn, draw=latents, seed=seed + 1, on_rows=on_rows)
    return Sandwich(forward.log_p, upper(forward.log_w, reverse.log_w), forward, reverse)


def upper(forward: Tensor, reverse: Tensor) -> Tensor:
    """The upper bound (N,) of log-weights (K, N) each: a reverse chain among K - 1 forward ones, in turn."""
    k = len(forward)
    total = forward.new_zeros(forward.shape[1])
    for j in range(k):  # forward chain j makes room for reverse chain j
        others = torch.cat([forward[:j], forward[j + 1 :], reverse[j : j + 1]])
        total += others.logsumexp(0) / k
    return total - math.log(k)


def _joined(parts: list[Annealed]) -> Annealed:
    accepted = [part.acceptance for part in parts]
    return Annealed(
        torch.cat([part.log_w for part in parts], 1).cpu(),
        {name: torch.cat([part.values[name] for part in parts], 1).cpu() for name in parts[0].values},
        None if accepted[0] is None else sum(a for a in accepted if a is not None) / len(accepted),
        sum(part.seconds for part in parts),
        sum(part.evaluations for part in parts),
    )
