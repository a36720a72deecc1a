"""One step of a long short-term memory [hochreiter1997]: a single product for its four gates.

i, f, o, g = W [inputs, h] + b,    c' = sigmoid(f) c + sigmoid(i) tanh(g),    h' = sigmoid(o) tanh(c')
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.nn import mlp

__all__ = ["LSTM", "beside"]

State = tuple[Tensor, Tensor]  # h and c, (..., H) each


class LSTM(nn.Module):
    """A cell with a learned start; its forget gates begin at sigmoid(1), so that it begins by remembering.

    Args:
        n_in: I, values of all inputs together.
        units: H.
    """

    def __init__(self, n_in: int, units: int):
        super().__init__()
        self.units = units
        self.gates: Any = mlp((n_in + units, 4 * units))[0]
        with torch.no_grad():
            self.gates.bias[units : 2 * units] = 1.0
        self.first_h, self.first_c = nn.Parameter(torch.zeros(units)), nn.Parameter(torch.zeros(units))

    def start(self, lead: Sequence[int]) -> State:
        """The state before the first step, for leading dims `lead`."""
        return self.first_h.expand(*lead, -1), self.first_c.expand(*lead, -1)

    def forward(self, state: State, *inputs: Tensor, known: Tensor | None = None) -> State:
        """The next state; `known` (..., 4 H) is a part of the gates that was computed before."""
        h, c = state
        gates = self.gates(beside(*inputs, h))
        if known is not None:
            gates = gates + known
        i, f, o = gates[..., : 3 * self.units].sigmoid().chunk(3, -1)
        c = f * c + i * gates[..., 3 * self.units :].tanh()
        return o * c.tanh(), c


def beside(*parts: Tensor) -> Tensor:
    """Values side by side, leading dims broadcast: a part that is the same for all particles has no particle dim."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, -1) for part in parts], -1)
