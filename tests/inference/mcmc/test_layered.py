"""The fast Gibbs sampler of layered networks against enumeration of every state of the hidden units."""

import itertools
import math

import numba
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from inference.errors import NonFiniteError, ShapeError, UnsupportedModelError
from inference.mcmc import layered, layered_kernel
from inference.mcmc.layered import conditional_log_odds, prior, sample, tables
from inference.mcmc.layered_tables import Layered


class Net:
    """A layered network with normal weights; `sizes` from the data up."""

    def __init__(self, sizes, scale=1.0, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.sizes = sizes
        self.pairs = [
            (scale * torch.randn(above, below, generator=g).double(), torch.randn(below, generator=g).double())
            for below, above in itertools.pairwise(sizes)
        ]
        self.top_bias = torch.randn(sizes[-1], generator=g).double()

    def layers(self):
        return self.pairs


def log_joint(net, h, x):
    """Log p(x, h): h of shapes (..., H_l), x (..., D) -> (...)."""
    total = -binary_cross_entropy_with_logits(net.top_bias.expand_as(h[-1]), h[-1], reduction="none").sum(-1)
    for (weight, bias), above, below in zip(net.layers(), h, (x, *h[:-1]), strict=True):
        logits = above @ weight + bias
        total = total - binary_cross_entropy_with_logits(logits, below.expand_as(logits), reduction="none").sum(-1)
    return total


def states(net):
    """Every state of the hidden units: a list of (2^H, H_l)."""
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(net.sizes[1:]))), dtype=torch.float64)
    return h.split(list(net.sizes[1:]), -1)


def posterior(net, x):
    return log_joint(net, states(net), x).softmax(0)


def rows(n, d, seed=1):
    return torch.bernoulli(torch.full((n, d), 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(seed))


def code(h):
    """The number of a state in `states`: (..., H) -> (...)."""
    return (h * 2.0 ** torch.arange(h.shape[-1] - 1, -1, -1)).sum(-1).long()


@pytest.mark.parametrize("sizes", [(5, 3), (5, 3, 2), (4, 3, 2, 2)])
def test_every_posterior_probability(sizes):
    net, x, chains = Net(sizes), rows(3, sizes[0]), 1000
    draws = sample(net, x, chains=chains, warmup_steps=60, num_samples=60, seed=1)
    h = torch.cat(list(draws.values.values()), -1)
    for n in range(len(x)):
        exact = posterior(net, x[n])
        share = torch.nn.functional.one_hot(code(h[:, :, n]), len(exact)).double().mean(1)  # (C, 2^H), C independent
        se = torch.maximum(share.std(0), (exact / 60).sqrt()) / math.sqrt(chains)  # a state may never be seen
        assert ((share.mean(0) - exact) / se).abs().max() < 4
    assert torch.allclose(draws.log_p, log_joint(net, list(draws.values.values()), x), atol=1e-12)


@pytest.mark.parametrize(
    "sizes, scale, block",
    [((6, 4), 1.0, 6), ((5, 3, 2), 1.0, 5), ((90, 3, 2), 10.0, None), ((8, 3), 30.0, 8), ((9, 3, 2), 400.0, 0)],
)
def test_conditionals_leave_the_posterior_as_it_is(sizes, scale, block):
    net, x = Net(sizes, scale), rows(1, sizes[0])
    assert int(tables(net).block[1]) == block if block is not None else 0 < tables(net).block[1] < sizes[0]
    h = states(net)
    exact = log_joint(net, h, x[0])
    odds = torch.cat(conditional_log_odds(net, x.expand(len(exact), -1), h), -1)
    every, pi = torch.cat(h, -1), exact.softmax(0)
    for i in range(every.shape[1]):
        on, off = every.clone(), every.clone()
        on[:, i], off[:, i] = 1.0, 0.0
        up, down = code(on), code(off)
        assert torch.allclose(odds[:, i], exact[up] - exact[down], rtol=1e-12, atol=1e-12 * max(1.0, scale))
        p = torch.sigmoid(odds[:, i])
        step = torch.zeros(len(pi), len(pi), dtype=torch.float64)
        numbers = torch.arange(len(pi))
        step[numbers, up], step[numbers, down] = p, 1 - p
        assert (pi @ step - pi).abs().max() < 1e-12


@pytest.mark.parametrize("size", [30.0, 90.0, 700.0])
def test_large_weights(size):
    # as many pixels for the unit as against it, so that its posterior is its prior whatever the weights
    net = Net((20, 1))
    net.pairs = [(torch.full((1, 20), size).double(), torch.full((20,), -size / 2).double())]
    x = torch.tensor([[0.0, 1.0] * 10, [0.0, 1.0] * 10]).double()
    draws = sample(net, x, chains=4000, warmup_steps=3, num_samples=3, seed=2)
    p = torch.sigmoid(net.top_bias)
    mean = draws.values["h1"][:, -1].mean()
    assert (mean - p).abs() < 4 * (p * (1 - p) / 8000).sqrt()
    assert torch.allclose(draws.log_p, log_joint(net, [draws.values["h1"]], x), rtol=1e-12)


@pytest.mark.parametrize("scale", [0.2, 4.0])
def test_rounding_does_not_gather(scale):
    net, x = Net((6, 300), scale), rows(2, 6)
    draws = sample(net, x, chains=1, warmup_steps=63, num_samples=140, seed=3)
    flips = (draws.values["h1"].diff(dim=1) != 0).sum((0, 1, 3)).min()
    assert flips > 1e4 if scale < 1 else flips > 1e3
    assert torch.allclose(draws.log_p, log_joint(net, [draws.values["h1"]], x), rtol=1e-11)


def test_the_prior():
    net = Net((3, 2, 2))
    h = torch.from_numpy(prior(tables(net), 40_000, 5)).double()
    exact = torch.zeros(16).double()
    exact.index_add_(0, code(torch.cat(states(net), -1)), log_joint(net, states(net), torch.zeros(3).double()).exp())
    above = states(net)[0] @ net.pairs[0][0] + net.pairs[0][1]
    exact = exact / torch.sigmoid(-above).prod(-1)  # p(x = 0, h) / p(x = 0 | h)
    share = torch.bincount(code(h), minlength=16) / len(h)
    assert ((share - exact) / (exact * (1 - exact) / len(h)).sqrt()).abs().max() < 4


def test_random_numbers_have_the_right_quantiles():
    net = Net((1, 9))
    net.top_bias = torch.logit(torch.arange(0.1, 0.95, 0.1).double())
    n = 400_000
    share = torch.from_numpy(prior(tables(net), n, 6)).double().mean(0)
    p = torch.sigmoid(net.top_bias)
    assert ((share - p) / (p * (1 - p) / n).sqrt()).abs().max() < 4


def test_draws_are_a_function_of_the_seed_alone(monkeypatch):
    net, x = Net((12, 6, 3)), rows(7, 12)
    one = sample(net, x, chains=3, warmup_steps=5, num_samples=9, thin=2, seed=8)
    monkeypatch.setattr(layered, "LEAST_WORK", 1.0)
    torch.set_num_threads(2)
    two = sample(net, x, chains=3, warmup_steps=5, num_samples=9, thin=2, seed=8)
    monkeypatch.setattr(layered, "CHUNK", 1.0)  # one sweep a call
    three = sample(net, x, chains=3, warmup_steps=5, num_samples=9, thin=2, seed=8)
    other = sample(net, x, chains=3, warmup_steps=5, num_samples=9, thin=2, seed=9)
    for name, value in one.values.items():
        assert torch.equal(value, two.values[name]) and torch.equal(value, three.values[name])
        assert not torch.equal(value, other.values[name])
    assert torch.equal(one.log_p, two.log_p)
    fewer = sample(net, x, chains=1, warmup_steps=5, num_samples=9, thin=2, seed=8)
    assert torch.equal(fewer.values["h1"][0], one.values["h1"][0])


def test_chains_and_rows_are_independent():
    net, x = Net((4, 1)), rows(1, 4).expand(2, -1)
    # one unit: its draws are independent, so are chains and rows of equal data, at every lag
    h = sample(net, x, chains=4, warmup_steps=1, num_samples=4000, seed=4).values["h1"][..., 0]
    series = h.transpose(1, 2).reshape(8, -1)
    series = (series - series.mean(1, keepdim=True)) / series.std(1, keepdim=True)
    for lag in range(3):
        r = series[:, lag:] @ series[:, : series.shape[1] - lag].t() / series.shape[1]
        r = r - torch.eye(8) if lag == 0 else r
        assert r.abs().max() < 4.5 / math.sqrt(series.shape[1])  # the largest of 64


def test_shapes_dtype_and_the_callers_random_numbers():
    net, x = Net((4, 3, 2)), rows(5, 4).float()
    before = torch.get_rng_state()
    draws = sample(net, x, chains=2, warmup_steps=0, num_samples=6, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(net, Layered)
    assert {name: tuple(value.shape) for name, value in draws.values.items()} == {
        "h1": (2, 6, 5, 3),
        "h2": (2, 6, 5, 2),
    }
    assert draws.log_p.shape == (2, 6, 5) and draws.log_p.dtype == draws.values["h1"].dtype == torch.float32
    assert draws.evaluations == 2 * (6 * 5 + 6) and draws.log_q is None
    assert sample(net, x.long(), chains=1, num_samples=1).values["h1"].dtype == torch.float32


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"chains": 0}, ShapeError, "chains is at least 1, got chains=0"),
        ({"num_samples": 0}, ShapeError, "num_samples is at least 1"),
        ({"thin": 0}, ShapeError, "thin is at least 1"),
        ({"warmup_steps": -1}, ShapeError, "warmup_steps is at least 0"),
        ({"num_samples": 10**9}, ShapeError, "at most 8 GiB"),
        ({"x": torch.zeros(2, 5)}, ShapeError, r"the data are \(N, 4\)"),
        ({"x": torch.zeros(0, 4)}, ShapeError, "N >= 1"),
        ({"x": torch.full((2, 4), 0.5)}, UnsupportedModelError, "0 or 1"),
        ({"weight": torch.zeros(4, 3)}, ShapeError, "between layers 1 and 0"),
        ({"weight": torch.full((3, 4), math.nan)}, NonFiniteError, "NaN or infinite"),
    ],
)
def test_refusals(change, error, words):
    net = Net((4, 3))
    if "weight" in change:
        net.pairs = [(change.pop("weight"), net.pairs[0][1])]
    with pytest.raises(error, match=words):
        sample(net, change.pop("x", rows(2, 4)), **change)


def test_compiles_where_no_folder_can_be_written(monkeypatch):
    njit = numba.njit

    def read_only(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", read_only)
    assert layered_kernel.jit(lambda a: a + 1)(1) == 2
