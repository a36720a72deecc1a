"""A guide as an engine: it trains the guide alone, its weights are those of the pair, and resampling draws by them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from inference.comparison.guided import Guided, automatic
from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.evidence.exact import exact_posterior
from inference.pair import as_pair
from inference.vi.mean_field import MeanField
from inference.vi.objectives import IWAE, TraceELBO
from tests.conftest import z_scores
from tests.inference.comparison.engines import Coupled, X
from tests.inference.oracles import LinearGaussian


def test_draws_have_chains_draws_and_the_sites_shape():
    draws = Guided(None, num_samples=7, chains=3)(Coupled(), X)
    assert draws.values["h1"].shape == (3, 7, 3, 2)
    assert draws.log_q is not None
    assert draws.log_p.shape == draws.log_q.shape == (3, 7, 3)
    assert draws.evaluations == 21 and draws.warmup_seconds == 0


def test_log_p_and_log_q_are_those_of_the_draws():
    model = Coupled()
    draws = Guided(None, num_samples=50)(model, X)
    h = draws.values["h1"]
    prior = dist.Bernoulli(logits=model.prior).log_prob(h).sum(-1)
    likelihood = dist.Bernoulli(logits=h @ model.w + model.b).log_prob(X).sum(-1)
    torch.testing.assert_close(draws.log_p, (prior + likelihood).detach())
    torch.testing.assert_close(draws.log_q, dist.Bernoulli(logits=model.phi).log_prob(h).sum(-1).detach())


def test_training_moves_the_guide_alone_and_puts_it_back():
    model = Coupled()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = Guided(TraceELBO(num_particles=2), steps=60, lr=0.1, num_samples=400)(model, X)
    plain = Guided(None, num_samples=400)(model, X)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    assert trained.log_q is not None and plain.log_q is not None
    assert (trained.log_p - trained.log_q).mean() > (plain.log_p - plain.log_q).mean() + 1
    assert trained.warmup_seconds > 0 and trained.evaluations == 60 * 2 + 400


def test_the_model_is_held_still_while_the_guide_learns():
    """The guide's bound after training is below log p(x) of the model as it was: the model did not come to meet it."""
    model = Coupled()
    log_p = exact_posterior(model, X).log_p.mean()
    draws = Guided(IWAE(5), steps=200, lr=0.1, num_samples=2000)(model, X)
    assert draws.log_q is not None
    weights = (draws.log_p - draws.log_q).mean(-1).flatten()
    assert weights.mean() < log_p + 4 * weights.std() / math.sqrt(2000)


def test_seconds_bound_the_training():
    draws = Guided(steps=1_000_000, seconds=0.3)(Coupled(), X)
    assert 0.3 < draws.warmup_seconds < 5


def test_resampling_draws_from_the_posterior_as_k_grows():
    model = Coupled()
    exact = exact_posterior(model, X)
    draws = Guided(None, num_samples=4000, resample=200)(model, X)
    z = z_scores(draws.values["h1"][0].double(), exact.probs["h1"][..., 1])
    # the guide is far off: it takes many of its draws to find the posterior, and alone it is plainly elsewhere
    plain = Guided(None, num_samples=4000)(model, X)
    assert z[:2].abs().max() < 5
    assert z_scores(plain.values["h1"][0].double(), exact.probs["h1"][..., 1]).abs().max() > 5


def test_the_weights_of_resampled_draws_are_the_averages_of_their_k():
    """E[log p - log q] is the bound of k particles, and E[exp] is p(x): unbiased."""
    model = Coupled(pull=2.0)
    exact = exact_posterior(model, X).log_p
    for k in (1, 8):
        draws = Guided(None, num_samples=20_000, resample=k)(model, X)
        assert draws.log_q is not None
        w = (draws.log_p.double() - draws.log_q.double())[0].exp()
        assert z_scores(w, exact.exp()).abs().max() < 4
    bounds = [
        float((d.log_p - d.log_q).mean())  # pyright: ignore[reportOptionalOperand]
        for k in (1, 2, 8)
        for d in [Guided(None, num_samples=5000, resample=k)(model, X)]
    ]
    assert bounds == sorted(bounds) and bounds[-1] < float(exact.mean())


def test_resampling_takes_each_datum_for_itself():
    """Rows of independent data: after resampling, the draws of two rows are still independent."""
    model = Coupled(pull=2.0)
    h = Guided(None, num_samples=20_000, resample=10)(model, X).values["h1"][0, :, :2, 0]
    r = float(torch.corrcoef(h.T)[0, 1])
    assert abs(r) < 4 / math.sqrt(20_000)


def test_an_automatic_guide_for_binary_and_for_continuous_models():
    draws = Guided(TraceELBO(num_particles=5), steps=100, lr=0.1, guide=MeanField)(Coupled().model, X)
    assert draws.values["h1"].shape == (1, 1000, 3, 2)
    assert isinstance(automatic(Coupled().model, X), MeanField)

    toy = LinearGaussian(torch.tensor([[1.0], [0.5]]), torch.zeros(2), 0.7)
    x = torch.tensor([[0.5, -0.2], [1.0, 2.0]])
    assert isinstance(automatic(toy.model, x), AutoNormal)
    draws = Guided(steps=600, lr=0.05, guide=automatic, num_samples=4000)(toy.model, x)
    mean, covariance = toy.posterior(x)
    torch.testing.assert_close(draws.values["z"][0].mean(0), mean.detach(), atol=0.06, rtol=0)
    assert draws.values["z"][0].std(0).mean() == pytest.approx(float(covariance.detach().sqrt()), rel=0.1)


def test_a_latent_outside_the_plate_has_one_weight():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(mu.unsqueeze(-1) + torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    x = torch.tensor([0.3, 1.2, -0.4, 2.0])
    for k in (1, 5):
        draws = Guided(steps=20, guide=automatic, num_samples=40, chains=2, resample=k)(model, x)
        assert draws.values["mu"].shape == (2, 40) and draws.values["z"].shape == (2, 40, 4, 2)
        assert draws.log_p.shape == (2, 40, 1)


def test_the_seed_decides_and_the_callers_randomness_stays():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second, other = (Guided(steps=5, num_samples=50)(Coupled(), X, seed=s).values["h1"] for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_guides_own_modules_come_back_as_they_were():
    pair = as_pair(Coupled())
    Guided(steps=3)(pair, X)
    assert set(pair.named_parameters()) == {"prior", "w", "b", "phi"}


@pytest.mark.parametrize("name", ["steps", "num_samples", "chains", "resample"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ShapeError, match=f"{name} is at least 1, got {name}=0"):
        Guided(**{name: 0})


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": math.nan}, {"seconds": 0.0}, {"seconds": -1.0}])
def test_rates_and_seconds_are_positive(settings):
    with pytest.raises(RunError, match="above 0"):
        Guided(**settings)


def test_enumerated_sites_and_missing_guides_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(UnsupportedModelError, match="enumerated site has no draws"):
        Guided(None)((model, lambda x: None), torch.ones(3))
    with pytest.raises(UnsupportedModelError, match="a pair has"):
        Guided(None)(model, torch.ones(3))
