"""Annealed importance sampling against closed forms and enumeration: its weights are unbiased both ways."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference.errors import NonFiniteError, RunError, ShapeError, UnsupportedModelError
from inference.evidence.ais import AIS, Annealed, bdmc, upper
from inference.evidence.ais_density import read_density
from inference.evidence.exact import Exact
from inference.evidence.marginal import exact_log_marginal
from inference.evidence.simulated import simulate
from inference.pair import as_pair
from ppl_models import SigmoidBeliefNetwork
from tests.inference.oracles import LinearGaussian, TinySBN


def gaussian() -> LinearGaussian:
    g = torch.Generator().manual_seed(2)
    w = torch.randn(4, 2, generator=g).double()
    return LinearGaussian(w, torch.randn(4, generator=g).double(), 0.7, guide="mean field")


def network(sizes=(5, 3, 2)) -> SigmoidBeliefNetwork:
    net = SigmoidBeliefNetwork(sizes)
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 1.3)
    return net


def rows(x: Tensor, n: int) -> Tensor:
    return x.expand(n, -1).contiguous()


def assert_is_one(ratio: Tensor, error: float = 4.0) -> None:
    """The mean of independent numbers is 1 within so many standard errors, and these are small enough to tell."""
    se = float(ratio.std()) / math.sqrt(len(ratio))
    assert se < 0.05
    assert abs(float(ratio.mean()) - 1) < error * se


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_weights_of_hmc_are_unbiased_both_ways(start):
    """E[w] = p(x) of forward chains, E[1 / w] = 1 / p(x) of those that start from the posterior."""
    pair, n = gaussian(), 8000
    x = rows(torch.tensor([[0.8, -0.4, 1.1, 0.3]]).double(), n)
    log_p = pair.log_evidence(x[:1]).detach()
    mean, covariance = pair.posterior(x)
    z = dist.MultivariateNormal(mean, covariance).sample().detach()
    ahead, back = AIS(steps=20, chains=1, leapfrog=2, start=start).both(pair, x, draw={"z": z}, seed=1)
    assert ahead.log_w.shape == (1, n) and ahead.values["z"].shape == (1, n, 2)
    assert_is_one((ahead.log_w[0] - log_p).exp())
    assert_is_one((log_p - back.log_w[0]).exp())


@pytest.mark.parametrize("sizes", [(5, 3), (5, 3, 2)])
def test_weights_of_gibbs_sampling_are_unbiased_both_ways(sizes):
    """A sweep that did not turn round on the way back would fail here."""
    pair, n = network(sizes), 20000
    x = rows(torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]]), n)
    log_p = exact_log_marginal(pair, x[:1]).detach()
    draws = Exact(n)(pair, x[:1], seed=3).values
    draw = {name: value[0, :, 0] for name, value in draws.items()}
    ahead, back = AIS(steps=3, chains=1).both(pair, x, draw=draw, seed=1)
    assert_is_one((ahead.log_w[0] - log_p).exp())
    assert_is_one((log_p - back.log_w[0]).exp())


@pytest.mark.parametrize("kind", ["hmc", "gibbs"])
def test_the_bounds_bracket_log_p_and_meet_as_one_over_t(kind):
    """For x of the model, log p - E[log w] and E[log w back] - log p fall by half for twice the steps."""
    pair = as_pair(gaussian() if kind == "hmc" else network())
    zeros = torch.zeros(3000, 4).double() if kind == "hmc" else torch.zeros(20000, 5)
    x, z = simulate(pair, (zeros,), 5)
    exact = pair.owner.log_evidence if kind == "hmc" else lambda x: exact_log_marginal(pair, x)
    log_p = exact(*x).detach()
    times, below, above = (4, 8, 16, 32), [], []
    for steps in times:
        ahead, back = AIS(steps=steps, chains=1, leapfrog=3, start="prior").both(pair, *x, draw=z, seed=2)
        for gaps, gap in ((below, log_p - ahead.log_p), (above, back.log_p - log_p)):
            se = float(gap.std()) / math.sqrt(len(gap))
            assert gap.mean() > -4 * se
            gaps.append(float(gap.mean()))
    for gaps in (below, above):
        slope = math.log(gaps[-1] / gaps[0]) / math.log(times[-1] / times[0])
        assert -1.35 < slope < -0.75, gaps


def test_the_sandwich_of_several_chains_brackets_log_p():
    """One reverse chain among K - 1 forward ones bounds from above, and tighter than the reverse chain alone."""
    pair = gaussian()
    found = bdmc(pair, torch.zeros(2000, 4).double(), ais=AIS(steps=5, chains=4, leapfrog=2, start="prior"), seed=4)
    (x,), _ = simulate(as_pair(pair), (torch.zeros(2000, 4).double(),), 4)
    log_p = pair.log_evidence(x).detach()
    for gap in (log_p - found.lower, found.upper - log_p):
        assert float(gap.mean()) > 2 * float(gap.std()) / math.sqrt(2000)
    single = bdmc(pair, torch.zeros(2000, 4).double(), ais=AIS(5, 1, 2, "prior"), seed=4)
    assert 0 < found.gap[0] < 0.6 * single.gap[0] and found.gap[1] > 0


def test_the_upper_bound_puts_each_reverse_chain_among_the_other_forward_ones():
    forward, back = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[2.0], [3.0]]).double()
    expected = 0.5 * (math.log((math.exp(1) + math.exp(2)) / 2) + math.log((1 + math.exp(3)) / 2))
    assert upper(forward, back).item() == pytest.approx(expected)


class Counts:
    """z ~ Gamma(2, 1.5), n | z ~ Poisson(z): p(n) is negative binomial; the guide is far off."""

    def model(self, n):
        with pyro.plate("data", len(n), dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, torch.tensor(1.5).to(n)))
            pyro.sample("n", dist.Poisson(z), obs=n)

    def guide(self, n):
        with pyro.plate("data", len(n), dim=-1):
            pyro.sample("z", dist.LogNormal(torch.tensor(0.5), 0.8))


def test_a_positive_latent_is_annealed_on_the_real_line():
    n = torch.tensor([0.0, 1.0, 2.0, 5.0, 9.0])
    exact = dist.NegativeBinomial(2.0, torch.tensor(1 / 2.5)).log_prob(n)
    found = AIS(steps=50, chains=200)(Counts(), n, seed=0)
    assert (found.values["z"] > 0).all()
    assert ((found.log_p - exact).abs() < 4 * found.mcse).all() and found.mcse.max() < 0.05


class Deep:
    """Two layers, the upper one in a plate inside the data's: x = sum_j u_j + z + e, all normal."""

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                u = pyro.sample("u", dist.Normal(torch.tensor(0.5), 1.0))
            z = pyro.sample("z", dist.Normal(u.sum(-2, keepdim=True), 0.6))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("u", dist.Normal(x / 6, 0.8))
            pyro.sample("z", dist.Normal(x * 0.7, 0.7))


def test_sites_in_inner_plates_and_several_layers():
    x = torch.tensor([-1.0, 0.2, 4.0])
    exact = dist.Normal(1.5, math.sqrt(3 + 0.36 + 0.64)).log_prob(x)
    found = AIS(steps=60, chains=300)(Deep(), x, seed=0)
    assert found.values["u"].shape == (300, 3, 3) and found.values["z"].shape == (300, 3, 1)
    assert ((found.log_p - exact).abs() < 4 * found.mcse).all() and found.mcse.max() < 0.05
    sandwich = bdmc(Deep(), x, ais=AIS(steps=60, chains=50), seed=1)
    assert abs(sandwich.gap[0]) < 0.1


def test_the_last_states_are_draws_of_the_posterior():
    pair = gaussian()
    x = torch.tensor([[0.8, -0.4, 1.1, 0.3], [-1.0, 0.5, 0.0, 2.0]]).double()
    mean, covariance = (part.detach() for part in pair.posterior(x))
    z = AIS(steps=60, chains=2000)(pair, x, seed=0).values["z"]
    assert ((z.mean(0) - mean).abs() < 4 * covariance.diagonal().sqrt() / math.sqrt(2000)).all()
    assert torch.allclose(z[:, 0].T.cov(), covariance, atol=0.12 * float(covariance.diagonal().max()))


@pytest.mark.parametrize("kind", ["hmc", "gibbs"])
def test_a_seed_decides_everything_and_nothing_of_the_callers_is_touched(kind):
    pair = gaussian() if kind == "hmc" else network()
    x = torch.ones(40, 4).double() if kind == "hmc" else torch.ones(40, 5)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    heard = []
    first = AIS(steps=4, chains=2)(pair, x, seed=3, on_rows=heard.append)
    assert torch.equal(torch.get_rng_state(), before) and heard[-1] == 40
    assert all(parameter.requires_grad for parameter in pair.parameters())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if kind == "gibbs" else threads)  # numba's rows are shared out, their numbers are not
        again, other = (AIS(steps=4, chains=2)(pair, x, seed=seed).log_w for seed in (3, 4))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first.log_w, again) and not torch.equal(first.log_w, other)


def test_few_rows_at_a_time_are_as_good_as_all(monkeypatch):
    monkeypatch.setattr("inference.evidence.ais._VALUES", 8 * 4 * 7)
    pair = gaussian()
    (x,), _ = simulate(as_pair(pair), (torch.zeros(20, 4).double(),), 0)
    found = AIS(steps=40, chains=8)(pair, x, seed=0)
    assert found.log_w.shape == (8, 20) and found.evaluations == 8 * 20 * 40 * 5
    assert torch.allclose(found.log_p, pair.log_evidence(x).detach(), atol=0.2)


def test_weights_of_one_chain_have_no_error_of_their_own():
    assert Annealed(torch.zeros(1, 3), {}, None, 0.0, 0).mcse.isnan().all()
    assert Annealed(torch.zeros(4, 3), {}, None, 0.0, 0).mcse.eq(0).all()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"steps": 0}, ShapeError, "steps is at least 1, got steps=0"),
        ({"chains": 0}, ShapeError, "chains is at least 1"),
        ({"leapfrog": -1}, ShapeError, "leapfrog is at least 1"),
        ({"start": "posterior"}, RunError, "starts from the guide or from the prior, got start='posterior'"),
    ],
)
def test_settings_that_cannot_be(settings, error, says):
    with pytest.raises(error, match=says):
        AIS(**settings)


def one_site(distribution, outside=False):
    def program(x):
        if outside:
            pyro.sample("g", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", distribution(x))
            if program is parts[0]:
                pyro.sample("x", dist.Normal(z.reshape(len(x), -1).sum(-1).to(x.dtype), 1.0), obs=x)

    def guide(x):
        if outside:
            pyro.sample("g", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", distribution(x))

    parts = (program, guide)
    return parts


def test_models_that_cannot_be_annealed():
    x, ais = torch.zeros(4), AIS(steps=2, chains=2)
    with pytest.raises(UnsupportedModelError, match="'z' is discrete"):
        ais(one_site(lambda x: dist.Bernoulli(x + 0.5)), x)
    with pytest.raises(UnsupportedModelError, match="'h1' is discrete"):
        ais(TinySBN(4), torch.zeros(4, 3).double())
    with pytest.raises(ShapeError, match="outside the data plate"):
        ais(one_site(lambda x: dist.Normal(x, 1.0), outside=True), x)
    with pytest.raises(ShapeError, match="no datum"):
        ais(gaussian(), torch.zeros(0, 4).double())
    with pytest.raises(UnsupportedModelError, match="has no bijection"):
        ais(one_site(lambda x: dist.ProjectedNormal(torch.ones(len(x), 2))), x)
    with pytest.raises(UnsupportedModelError, match="moves with another latent"):
        ais(one_site(lambda x: dist.Uniform(x, x + 1 + torch.rand(()))), x)


def test_a_model_out_of_range_is_told():
    pair = as_pair(gaussian())
    AIS(steps=1, chains=1)(pair, torch.zeros(3, 4).double())
    with torch.no_grad():
        pair.owner.w.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="NaN"):
        AIS(steps=2, chains=2)(pair, torch.zeros(3, 4).double())


def test_data_that_a_model_cannot_draw():
    def reads(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.flip(0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def copies(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x + 1)

    with pytest.raises(UnsupportedModelError, match="'z' reads data that it observes"):
        simulate(as_pair((reads, reads)), (torch.zeros(4),))
    with pytest.raises(UnsupportedModelError, match="'x' is none of the arguments"):
        simulate(as_pair((copies, copies)), (torch.zeros(4),))


def test_the_gradient_is_that_of_the_density():
    """g(y) = log p(x, z) + log |dz / dy| in float64, by finite differences."""
    n = torch.tensor([0.0, 3.0]).double()
    density = read_density(Counts(), (n,))
    with density.running():
        density.whiten("guide", 50)
        y = torch.randn(3, 2, 1).double()
        value, grad = density.value_and_grad(y)
        ahead, behind = (density(y + step) for step in (1e-5, -1e-5))
        assert torch.allclose(grad.squeeze(-1), (ahead - behind) / 2e-5, atol=1e-5)
        z = density.values(y)["z"]
        by_hand = dist.Gamma(2.0, torch.tensor(1.5).double()).log_prob(z) + dist.Poisson(z).log_prob(n)
        assert torch.allclose(value, by_hand + z.log() + density.sd.log().squeeze(-1), atol=1e-5)
