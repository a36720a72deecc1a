"""Neal's belief network over ordered units: the pair's contract, its formula, and any units observed in any row."""

import itertools
import math

import pytest
import torch
from pyro import poutine

from inference import IWAE, SVI, Exact, TraceELBO, exact_log_marginal, exact_posterior, log_weights
from ppl_models import BeliefNetwork, SigmoidBeliefNetwork
from tests.suites import ModelGuideSuite

MASK = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0]])


def make(mask=5, **options):
    torch.manual_seed(0)
    net = BeliefNetwork(mask, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


def binary(*shape, seed=1):
    return torch.bernoulli(torch.full(shape, 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(seed))


def some(n, units=5):
    """Which values are observed: each row its own, one row all, one row none."""
    flags = binary(n, units, seed=9) > 0
    flags[0], flags[-1] = True, False
    return flags


def all_states(units=5):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units))).double()


class TestContract(ModelGuideSuite):
    latents = frozenset(f"s{i}_unobserved" for i in range(1, 6))
    observed = frozenset(name for i in range(1, 6) for name in (f"s{i}_observed", f"s{i}"))

    def make(self):
        torch.manual_seed(0)
        return BeliefNetwork(5)

    def batch(self, n):
        flags = binary(n, 5, seed=9) > 0
        flags[2] = True  # the row that a test changes: all of it is seen
        return binary(n, 5).float(), flags


class TestMaskedContract(TestContract):
    def make(self):
        torch.manual_seed(0)
        return BeliefNetwork(MASK, guide_hidden=4)


def test_log_joint_is_neals_product_of_sigmoids():
    net, s = make(MASK), binary(2, 3, 5)
    expected = torch.zeros(2, 3).double()
    for index in itertools.product(range(2), range(3)):
        for i in range(5):
            logit = net.bias[i].item() + sum(
                net.weight[i, j].item() * s[index][j].item() for j in range(i) if MASK[i, j]
            )
            expected[index] -= math.log1p(math.exp(-(2 * s[index][i].item() - 1) * logit))
    torch.testing.assert_close(net.log_joint(s), expected)
    assert net.log_joint(all_states()).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("mask", [5, MASK])
def test_the_model_is_the_log_joint(mask):
    net, x = make(mask), binary(6, 5)
    torch.testing.assert_close(log_weights(net, x)[0], net.log_joint(x))  # everything observed: no latent at all
    trace = poutine.trace(net.model).get_trace(x, some(6))
    s = torch.stack([trace.nodes[f"s{i}"]["value"] for i in range(1, 6)], -1)
    assert torch.equal(s[some(6)], x[some(6)])
    trace.compute_log_prob()
    total = sum(node["log_prob"] for node in trace.nodes.values() if "log_prob" in node)
    torch.testing.assert_close(torch.as_tensor(total), net.log_joint(s))


def test_what_is_missing_is_summed_out_row_by_row():
    """Exact enumeration of each row's own missing units against sums of the log-joint."""
    net, x, seen = make(MASK), binary(7, 5), some(7)
    holes = torch.where(seen, x, math.nan)  # what is not observed is not looked at
    log_p, posterior = exact_log_marginal(net, holes, seen), exact_posterior(net, holes, seen)
    log_p.sum().backward()
    got, total = net.weight.grad.clone(), 0.0
    for n in range(7):
        s = all_states()
        s = s[(s == x[n])[:, seen[n]].all(1)]
        joint = net.log_joint(s)
        torch.testing.assert_close(log_p[n], joint.logsumexp(0))
        for i in range(5):
            if not seen[n, i]:
                mean = (joint.softmax(0) * s[:, i]).sum()
                torch.testing.assert_close(posterior.mean[f"s{i + 1}_unobserved"][n], mean)
        total = total + joint.logsumexp(0)
    net.zero_grad()
    total.backward()
    torch.testing.assert_close(got, net.weight.grad)
    assert log_p[0].item() == pytest.approx(net.log_joint(x[0]).item())
    assert log_p[-1].item() == pytest.approx(0.0, abs=1e-12)  # a row of which nothing is known


def test_weights_average_to_the_evidence_of_what_is_observed():
    """E_q[p / q] = p(observed) for every row, whatever the guide."""
    net, x, seen = make(MASK, guide_hidden=3), binary(4, 5), some(4)
    exact = exact_log_marginal(net, x, seen)
    torch.manual_seed(0)
    with torch.no_grad():
        ratio = (log_weights(net, x, seen, k=100_000) - exact).exp()
    z = (ratio[:, 1:].mean(0) - 1) / (ratio[:, 1:].std(0) / len(ratio) ** 0.5)
    assert z.abs().max() < 4
    torch.testing.assert_close(ratio[:, 0], torch.ones(100_000).double())  # all of row 0 is observed


def test_exact_draws_keep_to_the_posterior():
    net, x, seen = make(), binary(3, 5), some(3)
    draws, posterior = Exact(4000)(net, x, seen), exact_posterior(net, x, seen)
    for name, mean in posterior.mean.items():
        error = (draws.values[name][0].mean(0) - mean).abs()
        assert (error <= 4 * posterior.sd[name] / math.sqrt(4000) + 1e-12).all()


def test_layers_are_a_mask():
    torch.manual_seed(3)
    sbn = SigmoidBeliefNetwork((4, 3, 2)).double()
    net = BeliefNetwork.layered((4, 3, 2)).double()
    with torch.no_grad():
        for parameter in sbn.parameters():
            parameter.copy_(torch.randn_like(parameter))
        (w1, b0), (w2, b1) = sbn.layers()
        net.bias.copy_(torch.cat([sbn.top_bias, b1, b0]))
        net.weight.normal_()  # what the mask leaves out has no part
        net.weight[2:5, 0:2] = w2.t()
        net.weight[5:9, 2:5] = w1.t()
    h2, h1, x = binary(10, 2, seed=1), binary(10, 3, seed=2), binary(10, 4, seed=3)
    torch.testing.assert_close(net.log_joint(torch.cat([h2, h1, x], -1)), sbn.log_joint((h1, h2), x))
    seen = torch.tensor([False] * 5 + [True] * 4).expand(10, 9)
    s = torch.cat([torch.full((10, 5), math.nan).double(), x], -1)
    torch.testing.assert_close(exact_log_marginal(net, s, seen), exact_log_marginal(sbn, x))


def test_generation_has_the_models_frequencies():
    net = make(MASK)
    s = net.generate(100_000, seed=4)
    p = net.log_joint(all_states()).exp()
    code = (s @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]).double()).long()
    share = torch.bincount(code, minlength=32) / 100_000
    assert ((share - p) / (p * (1 - p) / 100_000).sqrt()).abs().max() < 4.5
    state = torch.get_rng_state()
    assert torch.equal(net.generate(4, seed=1), net.generate(4, seed=1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("objective", [TraceELBO(5), IWAE(5)])
def test_it_learns_from_data_with_holes(objective):
    """Three copies of one bit, a third of the values unknown: -log p of a whole row falls to about log 2."""
    x = binary(300, 1).expand(300, 3).float()
    seen = torch.rand(300, 3, generator=torch.Generator().manual_seed(5)) > 1 / 3
    torch.manual_seed(0)
    net = BeliefNetwork(3, guide_hidden=8)
    svi = SVI(net, objective, torch.optim.Adam(net.parameters(), 3e-2))
    for _ in range(200):
        svi.step(x, seen)
    assert -net.log_joint(x).mean().item() < math.log(2) + 0.25


def test_refusals():
    with pytest.raises(ValueError, match=r"strictly lower triangular, .* got 1 at \[0, 1\]: put unit 1 before unit 0"):
        BeliefNetwork(MASK.t())
    with pytest.raises(ValueError, match="strictly lower triangular"):
        BeliefNetwork(torch.eye(3))
    for mask in (0, torch.zeros(2, 3), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"the mask is \(U, U\) with U >= 1"):
            BeliefNetwork(mask)
    with pytest.raises(ValueError, match="guide_hidden is at least 1"):
        BeliefNetwork(3, guide_hidden=0)
    net, x = make(), binary(4, 5)
    x[2, 3] = 0.5
    with pytest.raises(ValueError, match="0 or 1, got 0.5 for s4 of row 2"):
        net.model(x)
    with pytest.raises(ValueError, match=r"got \(4, 4\) of torch.bool"):
        net.model(x, some(4, 4))
    with pytest.raises(ValueError, match="got .* of torch.float64: pass for example"):
        net.guide(x, x)
    with pytest.raises(ValueError, match="a column for each of the 5 units, got shape"):
        net.model(x[:, :3])
