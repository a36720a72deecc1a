"""SVI's own options: the objective that comes first, and where it ends."""

import pytest
import torch
from torch.optim import Adam

from inference import IWAE, SVI, TraceELBO
from ppl_models import VAE


class Spy:
    """An objective that notes the steps it was asked for."""

    def __init__(self, objective):
        self.objective, self.calls = objective, 0

    def __call__(self, pair, *batch, beta=1.0):
        self.calls += 1
        return self.objective(pair, *batch, beta=beta)


def stepper(first, then, warmup_steps=3):
    torch.manual_seed(0)
    vae = VAE(6, z_dim=2, hidden=(4,))
    return SVI(vae, then, Adam(vae.parameters(), 1e-2), warmup=first, warmup_steps=warmup_steps)


X = torch.bernoulli(torch.full((5, 6), 0.5), generator=torch.Generator().manual_seed(0))


def test_the_warmup_objective_comes_first_and_ends():
    first, then = Spy(TraceELBO()), Spy(IWAE(5))
    svi = stepper(first, then)
    seen = []
    for _ in range(5):
        svi.step(X)
        seen.append((first.calls, then.calls))
    assert seen == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_without_a_warmup_objective_there_is_none(warmup_steps):
    then = Spy(IWAE(5))
    svi = stepper(None, then, warmup_steps)
    svi.step(X)
    assert then.calls == 1


def test_a_resumed_run_knows_where_the_warmup_ended():
    svi = stepper(TraceELBO(), IWAE(5))
    for _ in range(4):
        svi.step(X)
    first, then = Spy(TraceELBO()), Spy(IWAE(5))
    again = stepper(first, then)
    again.init(X)
    again.load_state(*svi.state())
    again.step(X)
    assert (first.calls, then.calls) == (0, 1)
