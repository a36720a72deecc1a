"""Enumeration against brute force, closed forms and finite differences: values, gradients, draws, refusals."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2

from inference import Exact, exact_log_marginal, exact_posterior, exact_table, importance_weights
from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.evidence import states
from inference.evidence.importance import bound_per_datum
from inference.types import Engine
from ppl_models import SigmoidBeliefNetwork
from ppl_models.bayesian_network import BayesianNetwork
from tests.inference.evidence.enumerated import (
    BITS,
    SEEN,
    W,
    X,
    bare,
    brute,
    free_states,
    inner,
    kinds,
    missing,
    mixing,
    shared,
)
from tests.inference.oracles import TinySBN

pytestmark = pytest.mark.usefixtures("double")

ROWS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).double()
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def rows_of(x):
    return [x[n : n + 1] for n in range(len(x))]


# name, model, the units' data, dim of the data in a site's value before its event dims
LOCAL = [(kinds, rows_of(X), {"a": 0, "c": 0, "n": 0}), (inner, rows_of(X), {"s": 0, "u": 1})]
WHOLE = [(shared, ()), (bare, ())]


@pytest.mark.parametrize("bits", [24, 9])
@pytest.mark.parametrize(("model", "rows", "axes"), LOCAL)
def test_marginals_of_every_datum_against_brute_force(model, rows, axes, bits, monkeypatch):
    monkeypatch.setattr(states, "_BYTES", 2**bits)  # few bytes: many chunks, the same numbers
    posterior = exact_posterior(model, X)
    for n, x in enumerate(rows):
        log_p, values = brute(model, x)
        torch.testing.assert_close(posterior.log_p[n], log_p.logsumexp(0), **CLOSE)
        torch.testing.assert_close(exact_log_marginal(model, X)[n], log_p.logsumexp(0), **CLOSE)
        p = log_p.softmax(0)
        for name, axis in axes.items():
            value = values[name].double()  # (S, 1, ...) or (S, ..., 1)
            mean = torch.tensordot(p, value, 1)
            sd = (torch.tensordot(p, value**2, 1) - mean**2).sqrt()
            torch.testing.assert_close(posterior.mean[name].select(axis, n), mean.select(axis, 0), **CLOSE)
            torch.testing.assert_close(posterior.sd[name].select(axis, n), sd.select(axis, 0), **CLOSE)
            for v, number in enumerate(posterior.support[name]):
                prob = torch.tensordot(p, (value == number).double(), 1)
                torch.testing.assert_close(posterior.probs[name][..., v].select(axis, n), prob.select(axis, 0), **CLOSE)


@pytest.mark.parametrize(("model", "data"), WHOLE)
def test_a_model_without_rows_is_one_unit(model, data):
    log_p, values = brute(model, *data)
    posterior = exact_posterior(model, *data)
    assert posterior.log_p.shape == (1,)
    torch.testing.assert_close(posterior.log_p[0], log_p.logsumexp(0), **CLOSE)
    for name, value in values.items():
        mean = torch.tensordot(log_p.softmax(0), value.double(), 1)
        torch.testing.assert_close(posterior.mean[name], mean, **CLOSE)
    table = exact_table(model, *data)
    torch.testing.assert_close(table.log_posterior[0], log_p.log_softmax(0), **CLOSE)
    assert math.prod(table.sizes) == len(log_p)
    for name, value in values.items():
        assert torch.equal(table.values[name], value)


def test_a_latent_under_a_mask_counts_once():
    """With obs_mask, Pyro draws a latent for every unit, and masks those that are observed."""
    log_p = exact_log_marginal(missing)
    posterior = exact_posterior(missing)
    draws = Exact(2000)(missing)
    for name, mean in posterior.mean.items():
        error = (draws.values[name][0].mean(0) - mean).abs()
        assert (error <= 4 * posterior.sd[name] / math.sqrt(2000) + 1e-12).all()
    for n in range(len(BITS)):
        row = slice(n, n + 1)
        joint, values = brute(missing, BITS[row], SEEN[row])
        expected = joint.logsumexp(0) - free_states(missing, BITS[row], SEEN[row])
        torch.testing.assert_close(log_p[n], expected, **CLOSE)
        for name, value in values.items():
            mean = torch.tensordot(joint.softmax(0), value, 1)[0]
            torch.testing.assert_close(posterior.mean[name][n], mean, **CLOSE)
        # the joint of a draw is that of Pyro, which knows nothing of such latents' even shares
        assert all(torch.isclose(joint, value).any() for value in draws.log_p[0, :, n])


def test_a_layered_network_two_ways_and_by_its_own_log_joint(monkeypatch):
    sbn = SigmoidBeliefNetwork((4, 3, 2)).double()
    torch.nn.init.normal_(sbn.top_bias)
    assert states.States(sbn, (BITS,))._net is sbn  # the fast way agrees with the model
    fast = exact_log_marginal(sbn, BITS), exact_posterior(sbn, BITS), exact_table(sbn, BITS)
    fast[0].sum().backward()
    grads = {name: p.grad for name, p in sbn.named_parameters()}
    h = [fast[2].values["h1"], fast[2].values["h2"]]
    joint = sbn.log_joint([part.unsqueeze(1) for part in h], BITS)
    torch.testing.assert_close(joint.logsumexp(0), fast[0], **CLOSE)
    torch.testing.assert_close(joint.log_softmax(0).t(), fast[2].log_posterior, **CLOSE)
    monkeypatch.setattr(states, "layered_net", lambda *_: None)
    sbn.zero_grad()
    general = exact_log_marginal(sbn, BITS)
    general.sum().backward()
    torch.testing.assert_close(general, fast[0], **CLOSE)
    torch.testing.assert_close(exact_posterior(sbn, BITS).mean, fast[1].mean, **CLOSE)
    for name, p in sbn.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, grads[name], **CLOSE)
    assert sbn.top_bias.grad is not None and sbn.down[0].weight.grad is not None


def test_layers_that_are_not_those_of_the_model_are_not_believed():
    class Twisted(SigmoidBeliefNetwork):
        def layers(self):
            return [(2 * weight, bias) for weight, bias in super().layers()]

    torch.manual_seed(1)
    twisted = Twisted((4, 3)).double()
    torch.nn.init.normal_(twisted.down[0].weight)
    plain = SigmoidBeliefNetwork((4, 3)).double()
    plain.load_state_dict(twisted.state_dict())
    torch.testing.assert_close(exact_log_marginal(twisted, BITS), exact_log_marginal(plain, BITS), **CLOSE)


@pytest.mark.parametrize("bits", [24, 8])
def test_the_gradient_is_that_of_the_sum_over_states(bits, monkeypatch):
    monkeypatch.setattr(states, "_BYTES", 2**bits)
    net = TinySBN(len(ROWS))
    weight = torch.tensor([1.0, -2.0, 0.5])
    expected = torch.autograd.grad(
        sum(w * net.log_joint(x).logsumexp(0) for w, x in zip(weight, ROWS, strict=True)), [net.b_h, net.w, net.b]
    )
    (weight * exact_log_marginal(net, ROWS)).sum().backward()
    for got, wanted in zip((net.b_h.grad, net.w.grad, net.b.grad), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
    assert net.phi.grad is None  # the guide has no part in log p(x)


def test_the_gradient_by_finite_differences():
    net = TinySBN(len(ROWS))
    exact_log_marginal(net, ROWS).sum().backward()
    for parameter in (net.b_h, net.w, net.b):
        flat, got = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            value = flat[i].item()
            ends = []
            for step in (1e-5, -1e-5):
                flat[i] = value + step
                ends.append(exact_log_marginal(net, ROWS).sum().item())
            flat[i] = value
            assert got[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_a_gradient_to_stored_parameters_and_through_what_comes_before_the_model(monkeypatch):
    monkeypatch.setattr(states, "_BYTES", 8)  # two chunks
    raw = torch.tensor([0.3, -0.2, 1.1], requires_grad=True)
    bias = 2 * raw  # no leaf

    def model(x):
        scale = pyro.param("exact_scale", torch.tensor(1.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Bernoulli(logits=bias).to_event(1))
            pyro.sample("x", dist.Normal(scale * h.sum(-1), 1.0), obs=x)

    pyro.clear_param_store()
    x = torch.tensor([0.5, 2.0])
    exact_log_marginal(model, x).sum().backward()
    leaf = dict(pyro.get_param_store().named_parameters())["exact_scale"]
    got = raw.grad.clone(), leaf.grad.clone()
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    joint = dist.Bernoulli(logits=2 * raw).log_prob(h).sum(-1) + dist.Normal(leaf.exp() * h.sum(-1), 1.0).log_prob(
        x.unsqueeze(1)
    )
    wanted = torch.autograd.grad(joint.logsumexp(1).sum(), [raw, leaf])
    pyro.clear_param_store()
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_no_graph_where_none_is_asked_for():
    net = TinySBN(len(ROWS))
    with torch.no_grad():
        assert not exact_log_marginal(net, ROWS).requires_grad
    assert exact_log_marginal(net, ROWS).requires_grad


@pytest.mark.parametrize("bits", [24, 9])
def test_draws_have_the_frequencies_of_the_posterior(bits, monkeypatch):
    """Pearson's chi-square over the states of each datum, at 1e-4."""
    monkeypatch.setattr(states, "_BYTES", 2**bits)
    table = exact_table(kinds, X)
    engine = Exact(num_samples=4000, chains=2)
    assert isinstance(engine, Exact) and callable(engine)
    draws = engine(kinds, X, seed=3)
    assert draws.values["a"].shape == (2, 4000, 5, 2) and draws.values["c"].shape == (2, 4000, 5)
    assert draws.log_p.shape == (2, 4000, 5) and draws.log_q is None
    code = draws.values["a"][..., 0] * 18 + draws.values["a"][..., 1] * 9 + draws.values["c"] * 3 + draws.values["n"]
    for n in range(len(X)):
        p = table.log_posterior[n].exp()
        seen = torch.bincount(code[..., n].long().flatten(), minlength=36)
        often = p * 8000 > 5
        rest = ~often
        observed = torch.cat([seen[often], seen[rest].sum().unsqueeze(0)]).double()
        expected = torch.cat([p[often], p[rest].sum().unsqueeze(0)]) * 8000
        keep = expected > 1
        statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum().item()
        assert statistic < chi2.ppf(1 - 1e-4, int(keep.sum()) - 1)
        joint = table.log_posterior[n] + table.log_p[n]
        torch.testing.assert_close(draws.log_p[..., n], joint[code[..., n].long()], **CLOSE)
    # neighbours in a chain know nothing of one another
    series = draws.values["c"][0, :, 0].double()
    series = series - series.mean()
    assert abs((series[1:] * series[:-1]).mean() / series.square().mean()) < 4 / math.sqrt(4000)


def test_draws_where_sites_lie_in_plates_or_in_none():
    draws = Exact(7, chains=2)(inner, X)
    assert draws.values["u"].shape == (2, 7, 2, 5) and draws.values["s"].shape == (2, 7, 5)
    draws = Exact(7)(shared)
    assert draws.values["g"].shape == (1, 7) and draws.values["z"].shape == (1, 7, 5)
    assert draws.log_p.shape == (1, 7, 1)


def test_seeds_and_the_callers_generator():
    engine: Engine = Exact(20)
    before = torch.get_rng_state()
    first = engine(kinds, X, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.values["c"], engine(kinds, X, seed=1).values["c"])
    assert not torch.equal(first.values["c"], engine(kinds, X, seed=2).values["c"])


def test_importance_bounds_rise_to_the_exact_evidence():
    """Oracle O4: L_1 <= L_4 <= L_16 ... <= log p(x), and L_k -> log p(x)."""
    net = SigmoidBeliefNetwork((3, 4)).double()
    torch.nn.init.normal_(net.down[0].weight)
    exact = exact_log_marginal(net, ROWS).detach()
    log_w = importance_weights(net, ROWS, 2**16).double()
    last = torch.full_like(exact, -math.inf)
    for k in (1, 4, 16, 64, 4096):
        groups = log_w.reshape(-1, k, len(ROWS)).logsumexp(1) - math.log(k)
        error = groups.std(0) / math.sqrt(len(groups))
        bound = bound_per_datum(log_w, k)
        assert (bound <= exact + 4 * error).all() and (bound > last).all()
        last = bound
    variance = (log_w - exact).exp().var(0)
    assert ((last - exact).abs() < 4 * error + variance / 4096).all()


def test_noisy_or_in_closed_form():
    """Oracle O12: p(x_i = 0 | h) = exp(-h . w_i), so p(no finding) = prod_j (1 - p_j + p_j exp(-sum_i w_ji))."""
    p = torch.tensor([0.1, 0.3, 0.05])
    w = W.abs()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Bernoulli(p).to_event(1))
            none = (-(h @ w)).exp().clamp(max=1 - 1e-16)  # the last digit of 1: no finding without a cause
            pyro.sample("x", dist.Bernoulli(1 - none).to_event(1), obs=x)

    def no_finding(tests):
        return (1 - p + p * (-w[:, tests].sum(1)).exp()).prod()

    # inclusion and exclusion: findings 0 and 1 are there, 2 and 3 are not
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    positive = no_finding([2, 3]) - no_finding([0, 2, 3]) - no_finding([1, 2, 3]) + no_finding([0, 1, 2, 3])
    expected = torch.stack([no_finding([0, 1, 2, 3]), positive]).log()
    torch.testing.assert_close(exact_log_marginal(model, x), expected, **CLOSE)


BIF = Path(os.environ.get("PPL_DATA", "nowhere")) / "bif" / "asia.bif.gz"


@pytest.mark.skipif(not BIF.is_file(), reason="needs bif/ in the folder named by PPL_DATA")
def test_asia():
    """Oracle O11: the marginals, and those given a journey to Asia and dyspnoea."""
    net = BayesianNetwork.from_bif(BIF)
    prior = {"tub": 0.0104, "lung": 0.055, "bronc": 0.45, "either": 0.064828, "xray": 0.11029, "dysp": 0.435971}
    marginals = exact_posterior(net.model)
    assert marginals.log_p.item() == pytest.approx(0.0, abs=1e-10)
    for name, value in prior.items():
        # to the digits that are given: dysp is 0.4359706
        assert marginals.probs[name][net.index(name, "yes")].item() == pytest.approx(value, abs=1e-6)
    given = pyro.condition(net.model, {"asia": net.index("asia", "yes"), "dysp": net.index("dysp", "yes")})
    posterior = exact_posterior(given)
    assert posterior.log_p.exp().item() == pytest.approx(0.00450138, abs=1e-8)
    after = {"tub": 0.087751, "smoke": 0.62592, "lung": 0.099525, "bronc": 0.811402, "either": 0.1823, "xray": 0.219539}
    for name, value in after.items():
        assert posterior.probs[name][net.index(name, "yes")].item() == pytest.approx(value, abs=1e-6)


def test_a_subsample_counts_its_own_rows():
    def model(x, rows):
        with pyro.plate("data", 50, subsample=rows, dim=-1):
            h = pyro.sample("h", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(h, 1.0), obs=x[rows])

    def drawn(x):
        with pyro.plate("data", 50, subsample_size=4, dim=-1) as rows:
            h = pyro.sample("h", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(h, 1.0), obs=x[rows])

    x = torch.randn(50)
    rows = torch.tensor([3, 7, 1])
    expected = (
        torch.stack([0.7 * dist.Normal(0, 1).log_prob(x).exp(), 0.3 * dist.Normal(1, 1).log_prob(x).exp()]).sum(0).log()
    )
    torch.testing.assert_close(exact_log_marginal(model, x, rows), expected[rows], **CLOSE)
    # rows that the plate itself chose are the same in the backward pass
    x.requires_grad_()
    log_p = exact_log_marginal(drawn, x)
    torch.manual_seed(5)
    log_p.sum().backward()
    used = x.grad.nonzero().flatten()
    torch.testing.assert_close(log_p.sort().values, expected[used].sort().values, **CLOSE)


def test_float32_models_and_dropout():
    class Dropping(SigmoidBeliefNetwork):
        def layers(self):  # no fast way
            return []

        def model(self, x):
            super().model(torch.nn.functional.dropout(torch.ones_like(x), 0.5, self.training) * x)

    net = Dropping((4, 3))
    twin = SigmoidBeliefNetwork((4, 3))
    twin.load_state_dict(net.state_dict())
    got, wanted = exact_log_marginal(net.float(), BITS.float()), exact_log_marginal(twin.double(), BITS)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert net.training


PEAK = """
import resource, torch
from inference import exact_log_marginal, exact_posterior
from inference.evidence import states
from ppl_models import SigmoidBeliefNetwork

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large = SigmoidBeliefNetwork((64, 4)), SigmoidBeliefNetwork((64, 20))
x = torch.rand(3, 64).round()
exact_log_marginal(small, x).sum().backward()
if {general}:
    states.layered_net = lambda *_: None
before = peak()
exact_log_marginal(large, x).sum().backward()
exact_posterior(large, x)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("general", [False, True])
def test_a_million_states_in_bounded_memory(general):
    """Ten tensors of 16 MiB, where one of (2^20, 3, 64) floats alone would take 768."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(general=general)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 160


def test_refusals():
    with pytest.raises(UnsupportedModelError, match=r"at most 2\^20 states, got 2\^21 joint states of 21 discrete"):
        exact_log_marginal(SigmoidBeliefNetwork((4, 21)), BITS.float())

    def z(x, fn, scale=1.0):
        with pyro.plate("data", len(x), dim=-1), pyro.poutine.scale(scale=scale):
            value = pyro.sample("z", fn)
            pyro.sample("x", dist.Normal(1.0 * value, 1.0), obs=x)

    x, half = X[:, 0], torch.tensor(0.5)
    for fn, reason in (
        (dist.Normal(0.0, 1.0), r"'z' \(Normal\) is continuous"),
        (dist.Poisson(2.0), r"'z' \(Poisson\) has no finite list"),
        (dist.Binomial(torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0]), half), "not the same values in every state"),
        (dist.Bernoulli(half).mask(False), "masked: write poutine.mask"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            exact_posterior(z, x, fn)
    with pytest.raises(UnsupportedModelError, match="scaled by 3"):
        exact_posterior(z, x, dist.Bernoulli(half), 3.0)
    with pytest.raises(UnsupportedModelError, match="no latent site"):
        exact_log_marginal(lambda: pyro.sample("x", dist.Normal(0.0, 1.0), obs=half))
    with pytest.raises(UnsupportedModelError, match="depend on the latents of other rows"):
        exact_log_marginal(mixing)
    with pytest.raises(UnsupportedModelError, match=r"2\^24 entries: pass fewer rows"):
        exact_table(SigmoidBeliefNetwork((4, 14)), BITS.float().repeat(300, 1))
    with pytest.raises(ShapeError, match="num_samples is at least 1, got num_samples=0"):
        Exact(0)
    with pytest.raises(RunError, match="no trained pyro.param"):
        exact_log_marginal((lambda: pyro.sample("z", dist.Bernoulli(pyro.param("p", half))), lambda: None))

    def counting():
        n = pyro.sample("n", dist.Bernoulli(half))
        pyro.sample("m", dist.Binomial(n + 1, half))

    with pytest.raises(UnsupportedModelError, match="not the same values in every state|other values in some states"):
        exact_log_marginal(counting)


def test_data_that_cannot_be_have_no_posterior():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Uniform(z, z + 1), obs=x)

    x = torch.tensor([0.5, 3.5])
    assert exact_log_marginal(model, x).tolist() == [pytest.approx(math.log(0.5)), -math.inf]
    with pytest.raises(UnsupportedModelError, match="datum 1 has probability 0"):
        exact_posterior(model, x)
