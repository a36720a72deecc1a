"""Learning by Gibbs sampling: its mean gradient is that of log p(x), it learns as exact gradients do, runs resume."""

import itertools
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD, Adam

from inference.errors import CheckpointError, RunError, ShapeError, UnsupportedModelError
from inference.mcmc.learning import GibbsLearning
from inference.training.checkpoint import load
from inference.training.fit import Saving, fit
from inference.training.monitor import Interrupted
from inference.training.run import CHECKPOINT
from ppl_models import VAE, SigmoidBeliefNetwork, data
from tests.conftest import z_scores


def network(sizes, seed=0, scale=1.0, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SigmoidBeliefNetwork(sizes).to(dtype)
        with torch.no_grad():
            for p in (*net.down.parameters(), net.top_bias):
                p.copy_(scale * torch.randn(p.shape))
    return net


def log_evidence(net, x):
    """Log p(x) of rows (N, D), over every state of the hidden units."""
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(net.sizes[1:])))).to(x)
    return net.log_joint([layer.unsqueeze(1) for layer in h.split(net.sizes[1:], -1)], x).logsumexp(0)


def simulate(net, n, seed=0):
    return torch.bernoulli(net.generate(n, seed), generator=torch.Generator().manual_seed(seed)).to(net.top_bias)


@pytest.mark.parametrize("sizes", [(5, 3), (4, 3, 2)])
def test_the_mean_gradient_is_that_of_the_evidence(double, sizes):
    net = network(sizes, dtype=torch.float64)
    x, index = simulate(net, 6), torch.arange(6)
    generative = [*net.down.parameters(), net.top_bias]
    exact = torch.autograd.grad(-log_evidence(net, x).mean(), generative)
    learner = GibbsLearning(net, SGD(generative, lr=0.0), sweeps=15, chains=400)
    learner.step(x, index), learner.step(x, index)
    seen = []
    for _ in range(60):
        learner.step(x, index)
        seen.append(torch.cat([p.grad.flatten() for p in generative]))  # type: ignore[union-attr]
    assert z_scores(torch.stack(seen), torch.cat([g.flatten() for g in exact])).abs().max() < 4


def test_learns_as_exact_gradients_do():
    truth = network((8, 3), seed=3, scale=2.0)
    train, test = simulate(truth, 1000, 1), simulate(truth, 4000, 2)
    batches = data.Batches((train, torch.arange(1000)), 100)
    net = network((8, 3), seed=4, scale=0.1)
    start = log_evidence(net, test).mean()
    fit(GibbsLearning(net, Adam(net.parameters(), 0.02)), batches, epochs=60)
    exact = network((8, 3), seed=4, scale=0.1)
    optimizer = Adam(exact.parameters(), 0.02)
    for epoch in range(60):
        for x, _ in batches.epoch(epoch, seed=0):
            optimizer.zero_grad()
            (-log_evidence(exact, x).mean()).backward()
            optimizer.step()
    ours, best, right = (log_evidence(n, test).mean() for n in (net, exact, truth))
    assert ours > start + 0.5 and (ours - best).abs() < 0.03 and right - ours < 0.1


def test_a_guide_and_the_callers_random_numbers():
    net = SigmoidBeliefNetwork((6, 3, 2))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    x = simulate(net, 20)
    state = torch.get_rng_state()
    history = fit(GibbsLearning(net, Adam(net.parameters(), 0.1)), data.Batches((x, torch.arange(20)), 7), epochs=2)
    assert torch.equal(state, torch.get_rng_state())
    assert set(history[0]) >= {"loss", "moved"} and 0 < history[-1]["moved"] < 1
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("up."), name


def learner_and_batches():
    net = network((8, 4), seed=1, scale=0.3)
    x = simulate(network((8, 4), seed=2), 50)
    return GibbsLearning(net, Adam(net.parameters(), 0.05), sweeps=2, chains=3), data.Batches((x, torch.arange(50)), 16)


def test_resumes_bit_for_bit(tmp_path):
    learner, batches = learner_and_batches()
    fit(learner, batches, 4, seed=5, saving=Saving(tmp_path / "whole"))
    learner, batches = learner_and_batches()
    step = learner.step

    def stop(*batch):
        if learner.steps == 6:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return step(*batch)

    learner.step = stop
    with pytest.raises(Interrupted):
        fit(learner, batches, 4, seed=5, saving=Saving(tmp_path / "cut"))
    learner, batches = learner_and_batches()
    fit(learner, batches, 4, seed=5, saving=Saving(tmp_path / "cut"), resume=True)
    whole, cut = (load(tmp_path / name / CHECKPOINT) for name in ("whole", "cut"))
    assert whole[0].keys() == cut[0].keys() and whole[1]["stepper"] == cut[1]["stepper"]
    assert whole[0]["chains.h"].shape == (50, 3, 4) and whole[0]["chains.started"].all()
    for name, value in whole[0].items():
        assert torch.equal(value, cut[0][name]), name


def test_rows_keep_their_chains():
    net = network((5, 3))
    learner = GibbsLearning(net, SGD(net.parameters(), lr=0.0))
    x = simulate(net, 8)
    learner.step(x[:3], torch.tensor([4, 0, 7]))
    before = learner.state()[0]["chains.h"].clone()
    learner.step(x[3:5], torch.tensor([9, 5]))
    after = learner.state()[0]
    assert after["chains.started"].tolist() == [True, False, False, False, True, True, False, True, False, True]
    assert torch.equal(after["chains.h"][[4, 0, 7]], before[[4, 0, 7]])


def test_chains_go_on_where_they_were():
    net = network((6, 6))
    with torch.no_grad():  # h = x all but surely, so a chain that has got there stays
        net.down[0].weight.copy_(60 * torch.eye(6))
        net.down[0].bias.fill_(-30)
    learner, x = GibbsLearning(net, SGD(net.parameters(), lr=0.0), chains=2), simulate(net, 50)
    assert learner.step(x, torch.arange(50)).moved > 0.1
    assert torch.equal(learner.state()[0]["chains.h"], x.byte().unsqueeze(1).expand(-1, 2, -1))
    assert learner.step(x, torch.arange(50)).moved == 0


def test_refusals():
    net = network((5, 3))
    optimizer, x = SGD(net.parameters(), lr=0.1), simulate(net, 4)
    learner = GibbsLearning(net, optimizer)
    for batch in ((x,), (x, torch.arange(3)), (x, torch.arange(4.0)), (x, torch.arange(4) - 1)):
        with pytest.raises(ShapeError, match=r"pass data.Batches\(\(x, torch.arange"):
            learner.init(*batch)
    with pytest.raises(ShapeError, match="sweeps is at least 1, got sweeps=0"):
        GibbsLearning(net, optimizer, sweeps=0)
    vae = VAE(5, 2)
    with pytest.raises(UnsupportedModelError, match="a network with layers"):
        GibbsLearning(vae, SGD(vae.parameters(), 0.1))
    with pytest.raises(RunError, match="one process, got 2"):
        learner.setup(SimpleNamespace(world_size=2))
    with pytest.raises(CheckpointError, match="no Gibbs chains of 2 x 3 units"):
        GibbsLearning(net, optimizer, chains=2).load_state(*learner.state())
