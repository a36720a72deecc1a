"""The layered sigmoid belief network: the pair's contract, and its own formulas against sums by hand."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from inference import IWAE, SVI, TraceELBO, log_weights
from ppl_models import SigmoidBeliefNetwork
from tests.suites import ModelGuideSuite


def make(sizes=(6, 4, 3), **options):
    torch.manual_seed(0)
    net = SigmoidBeliefNetwork(sizes, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


def binary(*shape, seed=1):
    return torch.bernoulli(torch.full(shape, 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(seed))


class TestTwoLayers(ModelGuideSuite):
    latents = frozenset({"h1", "h2"})

    def make(self):
        torch.manual_seed(0)
        return SigmoidBeliefNetwork((6, 4, 3))

    def batch(self, n):
        return (binary(n, 6).float(),)


class TestAutoregressiveGuide(TestTwoLayers):
    def make(self):
        torch.manual_seed(0)
        net = SigmoidBeliefNetwork((6, 4, 3), guide_hidden=5, autoregressive=True)
        for part in net.within:
            torch.nn.init.normal_(part.weight)
        return net


def test_log_joint_is_neals_product_of_sigmoids():
    net, x = make(), binary(6)
    h1, h2 = binary(4, seed=2), binary(3, seed=3)
    (w1, b0), (w2, b1) = net.layers()
    expected = 0.0
    for s, logits in ((h2, net.top_bias), (h1, h2 @ w2 + b1), (x, h1 @ w1 + b0)):
        for value, logit in zip(s, logits, strict=True):
            expected += math.log(1 / (1 + math.exp(-(2 * value.item() - 1) * logit.item())))
    assert net.log_joint((h1, h2), x).item() == pytest.approx(expected, rel=1e-12)


def test_log_joint_is_the_model():
    net, x = make(), binary(5, 6)
    trace = poutine.trace(poutine.uncondition(net.model)).get_trace(x)
    h = tuple(trace.nodes[name]["value"] for name in ("h1", "h2"))
    conditioned = poutine.trace(poutine.condition(net.model, {"h1": h[0], "h2": h[1]})).get_trace(x)
    conditioned.compute_log_prob()
    total = sum(conditioned.nodes[name]["log_prob"] for name in ("h1", "h2", "x"))
    assert torch.allclose(net.log_joint(h, x), total, atol=1e-12)


@pytest.mark.parametrize("autoregressive", [False, True])
def test_weights_average_to_the_sum_over_all_states(autoregressive):
    """E_q[p(x, h) / q(h | x)] = p(x) for any guide that reaches every state."""
    net, x = make((6, 3, 2), autoregressive=autoregressive), binary(3, 6)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    exact = net.log_joint((states[:, None, :3], states[:, None, 3:]), x).logsumexp(0)
    torch.manual_seed(0)
    with torch.no_grad():
        ratio = (log_weights(net, x, k=200_000) - exact).exp()
    z = (ratio.mean(0) - 1) / (ratio.std(0) / len(ratio) ** 0.5)
    assert z.abs().max() < 4


def test_the_autoregressive_guide_is_normalised_and_draws_what_it_says():
    torch.manual_seed(0)
    net = make((6, 3), autoregressive=True)
    x = binary(1, 6)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    q = poutine.trace(net.guide).get_trace(x).nodes["h1"]["fn"]
    p = q.log_prob(states).exp()
    assert p.sum().item() == pytest.approx(1.0, rel=1e-12)
    draws = q.expand((100_000,)).sample()
    counts = torch.stack([(draws == state).all(-1).double().mean() for state in states])
    assert ((counts - p) / (p * (1 - p) / 100_000).sqrt()).abs().max() < 4.5


def test_generation_has_the_models_marginals():
    net = make((5, 3))
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    w, b = net.layers()[0]
    prior = dist.Bernoulli(logits=net.top_bias).log_prob(states).sum(-1).exp()
    exact = (prior[:, None] * torch.sigmoid(states @ w + b)).sum(0)
    images = net.generate(100_000, seed=3)
    assert ((images.mean(0) - exact) / (images.std(0) / 100_000**0.5)).abs().max() < 4
    state = torch.get_rng_state()
    assert torch.equal(net.generate(4, seed=1), net.generate(4, seed=1))
    assert torch.equal(state, torch.get_rng_state())


def test_the_bias_starts_at_the_data():
    mean = torch.tensor([0.0, 0.2, 0.7])
    net = SigmoidBeliefNetwork((3, 2), mean=mean)
    assert torch.sigmoid(net.layers()[0][1]).tolist() == pytest.approx([0.001, 0.2, 0.7], abs=1e-6)
    assert net.reconstruct(torch.ones(2, 3)).shape == (2, 3)


def test_it_learns():
    x = binary(40, 6).float()
    x[:, 3:] = x[:, :3]
    torch.manual_seed(0)
    net = SigmoidBeliefNetwork((6, 4), mean=x.mean(0))
    svi = SVI(net, IWAE(5), torch.optim.Adam(net.parameters(), 3e-2))
    first = svi.step(x).loss.item()
    for _ in range(300):
        last = svi.step(x).loss.item()
    assert last < first - 0.8  # of 3 log 2 = 2.08 that the repeated half can save


def test_one_particle_needs_the_elbo():
    net = make((6, 3)).float()
    assert torch.isfinite(TraceELBO()(net, binary(2, 6).float()).loss)
    with pytest.raises(ValueError, match="k >= 2"):
        IWAE(1)(net, binary(2, 6).float())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sizes": (6,)}, "sizes are"),
        ({"sizes": (6, 0)}, "at least 1"),
        ({"sizes": (6, 3), "guide_hidden": 0}, "guide_hidden=0"),
        ({"sizes": (6, 3), "mean": torch.zeros(5)}, "mean has shape"),
        ({"sizes": (6, 3), "image_shape": (1, 2, 2)}, "does not hold"),
        ({"sizes": (6, 3, 2), "h": 1}, "2 hidden layers"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        net = SigmoidBeliefNetwork(**{k: v for k, v in options.items() if k != "h"})
        net.log_joint((torch.zeros(3),), torch.zeros(6))


def test_no_global_store():
    TraceELBO()(make(), binary(2, 6))
    assert not list(pyro.get_param_store().keys())
