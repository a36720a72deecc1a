"""Made-up engines on small models whose posterior is known, shared by the tests of this folder."""

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from inference.evidence.exact import Exact
from inference.types import Draws

X = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


class Coupled(nn.Module):
    """Two rare causes of which one is enough: given x = 1 they exclude each other, and no product can say so."""

    def __init__(self, pull: float = 8.0):
        super().__init__()
        self.prior = nn.Parameter(torch.full((2,), -0.75 * pull))
        self.w = nn.Parameter(torch.full((2, 3), pull))
        self.b = nn.Parameter(torch.full((3,), -pull / 2))
        self.phi = nn.Parameter(torch.tensor([[0.3, -0.3]] * 3))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h1", dist.Bernoulli(logits=self.prior).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=h @ self.w + self.b).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("h1", dist.Bernoulli(logits=self.phi[: len(x)]).to_event(1))


@dataclass(frozen=True)
class Sampled:
    """Exact draws under another name: an engine that is right, of four chains, and not known to be exact."""

    num_samples: int = 1000
    chains: int = 4
    shift: float = 0.0  # the share of ones that are turned into zeros: a bias
    seconds: float = 1.0

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        draws = Exact(self.num_samples, self.chains)(pair, *data, seed=seed + 1)
        kept = {name: v * (torch.rand(v.shape) >= self.shift) for name, v in draws.values.items()}
        return draws._replace(values=kept, log_q=None, seconds=self.seconds, warmup_seconds=0.5, compile_seconds=0.25)


@dataclass(frozen=True)
class Stuck:
    """Chains that never move from where they start."""

    chains: int = 4
    apart: bool = True

    def __call__(self, pair: Any, *data: Any, seed: int = 0) -> Draws:
        draws = Exact(1, self.chains)(pair, *data, seed=seed)
        values = {name: v.expand(-1, 500, *v.shape[2:]).clone() for name, v in draws.values.items()}
        if not self.apart:
            values = {name: v[:1].expand_as(v).clone() for name, v in values.items()}
        return Draws(values, draws.log_p.expand(-1, 500, -1).clone(), seconds=1.0)
