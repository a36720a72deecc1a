"""SVI's own options: the objectives that come first, and where each ends."""

import pytest
import torch
from torch.optim import Adam

from inference import IWAE, SVI, TraceELBO
from inference.errors import RunError
from ppl_models import VAE


class Spy:
    """An objective that notes the steps it was asked for."""

    def __init__(self, objective):
        self.objective, self.calls = objective, 0

    def __call__(self, pair, *batch, beta=1.0):
        self.calls += 1
        return self.objective(pair, *batch, beta=beta)


def stepper(first, then, steps=3):
    torch.manual_seed(0)
    vae = VAE(6, z_dim=2, hidden=(4,))
    return SVI(vae, then, Adam(vae.parameters(), 1e-2), before=[(first, steps)])


X = torch.bernoulli(torch.full((5, 6), 0.5), generator=torch.Generator().manual_seed(0))


def test_another_objective_comes_first_and_ends():
    first, then = Spy(TraceELBO()), Spy(IWAE(5))
    svi = stepper(first, then)
    seen = []
    for _ in range(5):
        svi.step(X)
        seen.append((first.calls, then.calls))
    assert seen == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_no_steps_of_another_objective_are_none():
    first, then = Spy(TraceELBO()), Spy(IWAE(5))
    stepper(first, then, 0).step(X)
    assert (first.calls, then.calls) == (0, 1)


def test_several_objectives_come_in_turn():
    spies = [Spy(TraceELBO()), Spy(IWAE(2)), Spy(IWAE(5))]
    svi = stepper(None, spies[2])
    svi.before = ((spies[0], 2), (spies[1], 1))
    for _ in range(5):
        svi.step(X)
    assert [spy.calls for spy in spies] == [2, 1, 2]


def test_a_resumed_run_knows_where_the_first_objective_ended():
    svi = stepper(TraceELBO(), IWAE(5))
    for _ in range(4):
        svi.step(X)
    first, then = Spy(TraceELBO()), Spy(IWAE(5))
    again = stepper(first, then)
    again.init(X)
    again.load_state(*svi.state())
    again.step(X)
    assert (first.calls, then.calls) == (0, 1)


def test_the_regularisers_weight_rises_to_its_own_and_is_in_the_loss():
    torch.manual_seed(0)
    vae = VAE(6, z_dim=2, hidden=(4,))
    svi = SVI(vae, TraceELBO(), Adam(vae.parameters(), 0.0), kl_weight=0.3, kl_warmup_steps=3, compile=False)
    seen = []
    for _ in range(4):
        seen.append(svi.beta)
        svi.step(X)
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.3])
    torch.manual_seed(1)
    estimate = TraceELBO()(vae, X, beta=svi.beta)
    assert estimate.reg is not None and estimate.rec is not None
    torch.testing.assert_close(estimate.loss, -(0.3 * estimate.reg + estimate.rec))
    with pytest.raises(RunError, match="kl_weight is at least 0 and finite, got -1"):
        SVI(vae, TraceELBO(), Adam(vae.parameters()), kl_weight=-1)
