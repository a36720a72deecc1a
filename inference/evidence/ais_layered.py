"""Annealing by Gibbs sampling in a layered sigmoid belief network: from independent units to the posterior.

r(h) has a probability for each unit of each datum, the share of ones among draws of the guide (or of the prior), so
that the path is short. A sweep of all units is a transition; `ais_kernel` runs the whole path of a row in one loop.
"""

from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from inference.evidence import ais_kernel
from inference.mcmc.layered import by_rows
from inference.mcmc.layered_tables import Tables, binary, tables
from inference.pair import Pair
from inference.weights import PARTICLES

__all__ = ["Network", "read_network"]


class Network:
    """A layered network, some rows of data, and r of each; `read_network` makes one."""

    def __init__(self, net: Tables, x: NDArray[np.uint8], logits: NDArray[np.float64]):
        self.net, self.x, self.logits = net, x, logits  # (N, D), (N, H)

    def draw(self, chains: int) -> NDArray[np.uint8]:
        """Units (C * N, H) from r, by torch's current RNG; row r is of datum r mod N."""
        p = torch.sigmoid(torch.from_numpy(self.logits)).expand(chains, -1, -1)
        return torch.bernoulli(p).to(torch.uint8).reshape(-1, p.shape[-1]).numpy()

    def flat(self, values: dict[str, Tensor], chains: int) -> NDArray[np.uint8]:
        """One state of every datum, (N, H1), ..., as the same for every chain, (C * N, H)."""
        h = torch.cat([values[f"h{k}"] for k in range(1, len(self.net.sizes))], -1).to(torch.uint8).cpu()
        return h.repeat(chains, 1).numpy()

    def anneal(
        self, h: NDArray[np.uint8], betas: Tensor, seed: int, back: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-weights (C, N) and the last states (C, N, H_l); h changes. On as many threads as torch has.

        A function of its arguments alone, whatever the number of threads.
        """
        rows = len(h)
        log_w, log_p = np.empty(rows), np.empty(rows)
        fixed = (
            self.net, self.x, h, self.logits, np.arange(rows, dtype=np.uint64), np.uint64(seed % 2**64),
            betas.double().numpy(), back, log_w, log_p,
        )  # fmt: skip
        by_rows(lambda first, last: ais_kernel.anneal(*fixed, first, last), rows, rows)
        shape = (rows // len(self.x), len(self.x))
        layers = torch.from_numpy(h.copy()).unflatten(0, shape).split([int(size) for size in self.net.sizes[1:]], -1)
        return torch.from_numpy(log_w).view(shape), {f"h{k}": layer.float() for k, layer in enumerate(layers, 1)}


@torch.no_grad()
def read_network(pair: Pair, x: Tensor, start: str, draws: int) -> Network:
    """The network of a pair with its start r on rows x (N, D); uses torch's current RNG.

    Raises:
        ShapeError, UnsupportedModelError, NonFiniteError: as `inference.mcmc.layered`.
    """
    net = tables(pair.owner)
    program: Any = pair.guide if start == "guide" else pair.model
    nesting = pair.structure(x).nesting
    with (
        pair.scope(),
        pair.evaluating(),
        pyro.validation_enabled(False),
        pyro.plate(PARTICLES, draws, dim=-1 - nesting),
    ):
        trace: Any = poutine.trace(program).get_trace(x)
    ones = torch.cat([trace.nodes[f"h{k}"]["value"].sum(0) for k in range(1, len(net.sizes))], -1).double().cpu()
    # half a draw more of each kind: r must be able to draw every state
    logits = torch.log((ones + 0.5) / (draws - ones + 0.5))
    return Network(net, binary(net, x), logits.numpy())
