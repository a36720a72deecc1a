"""Gibbs sampling as matrices: invariance, detailed balance, and autocorrelation times against closed forms."""

import math
import os
from pathlib import Path

import pytest
import torch

from inference import exact_table
from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.transition import autocorrelation_time, gibbs_sweep, gibbs_update, stationary
from ppl_models.bayesian_network import BayesianNetwork
from tests.inference.evidence.enumerated import X, kinds
from tests.inference.oracles import TinySBN

pytestmark = pytest.mark.usefixtures("double")


def table():
    """Two binary units, three categories, three counts: (2, 2, 3, 3)."""
    exact = exact_table(kinds, X[:1])
    return exact.log_posterior[0].reshape(exact.sizes)


@pytest.mark.parametrize("block", [(0,), (1,), (2,), (3,), (0, 2), (3, 1), (0, 1, 2, 3)])
def test_an_update_leaves_the_posterior_as_it_is(block):
    log_p = table()
    pi, t = log_p.exp().flatten(), gibbs_update(log_p, block)
    assert (pi @ t - pi).abs().max() <= 1e-12
    torch.testing.assert_close(t.sum(1), torch.ones(36))
    flow = pi.unsqueeze(1) * t
    assert (flow - flow.t()).abs().max() <= 1e-12  # detailed balance
    digits = torch.cartesian_prod(*(torch.arange(v) for v in log_p.shape))
    others = [c for c in range(4) if c not in block]
    for s, to in (t > 0).nonzero().tolist():  # nothing but the block moves
        assert torch.equal(digits[s, others], digits[to, others])


def test_an_update_is_the_conditional_by_hand():
    log_p = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).log()
    expected = [[0.25, 0, 0.75, 0], [0, 1 / 3, 0, 2 / 3], [0.25, 0, 0.75, 0], [0, 1 / 3, 0, 2 / 3]]
    torch.testing.assert_close(gibbs_update(log_p, (0,)), torch.tensor(expected))


@pytest.mark.parametrize("blocks", [None, [(3,), (0, 1), (2,)]])
def test_a_sweep_has_the_posterior_as_its_only_stationary_distribution(blocks):
    log_p = table()
    pi, t = log_p.exp().flatten(), gibbs_sweep(log_p, blocks)
    assert (pi @ t - pi).abs().max() <= 1e-12
    torch.testing.assert_close(stationary(t), pi, rtol=0, atol=1e-12)
    expected = torch.eye(36)
    for block in blocks or [(0,), (1,), (2,), (3,)]:
        expected = expected @ gibbs_update(log_p, block)
    torch.testing.assert_close(t, expected)


def test_the_sweep_of_a_belief_network():
    net = TinySBN(1, h=4)
    x = torch.tensor([1.0, 0.0, 1.0])
    log_p = net.log_joint(x).detach().reshape(2, 2, 2, 2)  # not normalised
    pi = log_p.flatten().softmax(0)
    t = gibbs_sweep(log_p)
    assert (pi @ t - pi).abs().max() <= 1e-12
    torch.testing.assert_close(stationary(t), pi, rtol=0, atol=1e-12)


def test_autocorrelation_time_of_two_states():
    """Tau = (1 + r) / (1 - r) with r = 1 - a - b, whatever the function; r < 0 gives tau < 1."""
    for a, b in ((0.1, 0.3), (0.5, 0.5), (0.9, 0.7)):
        t, r = torch.tensor([[1 - a, a], [b, 1 - b]]), 1 - a - b
        torch.testing.assert_close(stationary(t), torch.tensor([b, a]) / (a + b))
        tau = autocorrelation_time(t, torch.tensor([[0.0, 1.0], [5.0, -2.0]]))
        torch.testing.assert_close(tau, torch.full((2,), (1 + r) / (1 - r)))


def test_autocorrelation_time_by_powers_and_by_simulation():
    log_p = table()
    pi, t = log_p.exp().flatten(), gibbs_sweep(log_p)
    f = torch.stack([torch.arange(36.0) // 18, torch.arange(36.0) % 3, log_p.flatten()])  # a unit, the count, log p
    tau = autocorrelation_time(t, f)
    centred = f - (f @ pi).unsqueeze(1)
    variance = centred.square() @ pi
    ahead, steps, chains = centred, 200, 4000
    total, within = torch.ones(3), torch.ones(3)
    for step in range(1, 1000):
        ahead = ahead @ t.t()  # E[f(s_t) | s_0]
        rho = (centred * ahead) @ pi / variance
        total += 2 * rho
        within += 2 * rho * max(0.0, 1 - step / steps)
    torch.testing.assert_close(tau, total, rtol=1e-9, atol=0)

    # the variance of a chain's mean is that of `steps / tau` independent draws
    g = torch.Generator().manual_seed(1)
    state = torch.multinomial(pi, chains, replacement=True, generator=g)
    mean = torch.zeros(3, chains)
    cdf = t.cumsum(1)
    for _ in range(steps):
        mean += centred[:, state] / steps
        state = torch.searchsorted(cdf[state], torch.rand(chains, 1, generator=g)).squeeze(1).clamp(max=35)
    measured = mean.square().mean(1) * steps / variance
    error = (mean.square().var(1) / chains).sqrt() * steps / variance
    assert ((measured - within) / error).abs().max() < 4
    assert tau.min() > 1.05  # the chain is no independent sampler


def test_units_that_determine_one_another_need_one_block():
    log_p = torch.tensor([[0.3, 0.0], [0.0, 0.7]]).log()  # b copies a
    with pytest.raises(UnsupportedModelError, match="draw the coordinates that determine one another in one block"):
        stationary(gibbs_sweep(log_p))
    torch.testing.assert_close(stationary(gibbs_sweep(log_p, [(0, 1)])), torch.tensor([0.3, 0.0, 0.0, 0.7]))
    # a state that no neighbour can reach or leave
    log_p = torch.tensor([[0.4, 0.0, 0.6], [0.0, 0.0, 0.0]]).log()
    assert gibbs_update(log_p, (0,))[4].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


BIF = Path(os.environ.get("PPL_DATA", "nowhere")) / "bif" / "asia.bif.gz"


@pytest.mark.skipif(not BIF.is_file(), reason="needs bif/ in the folder named by PPL_DATA")
def test_asia_blocked_and_not():
    """`either` is tub or lung: single-site updates cannot switch it."""
    exact = exact_table(BayesianNetwork.from_bif(BIF).model)
    log_p = exact.log_posterior[0].reshape(exact.sizes)
    names = list(exact.values)
    with pytest.raises(UnsupportedModelError, match="in one block"):
        stationary(gibbs_sweep(log_p))
    together = tuple(names.index(name) for name in ("tub", "lung", "either"))
    blocks = [together, *((c,) for c in range(8) if c not in together)]
    t = gibbs_sweep(log_p, blocks)
    torch.testing.assert_close(stationary(t), log_p.exp().flatten(), rtol=0, atol=1e-12)


def test_refusals():
    log_p = torch.zeros(2, 3)
    for block in ((), (0, 0), (2,), (-1,)):
        with pytest.raises(ShapeError, match=r"different coordinates of 0 ... 1, got"):
            gibbs_update(log_p, block)
    with pytest.raises(UnsupportedModelError, match=r"at most 2\^12 states, got 8192"):
        gibbs_sweep(torch.zeros([2] * 13))
    assert math.isnan(autocorrelation_time(gibbs_sweep(log_p), torch.ones(6)))
