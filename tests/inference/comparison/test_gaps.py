"""The split of a bound's gap, and the engines behind it, on a model whose posterior is a known Gaussian."""

import json
import math

import pytest
import torch

from inference.comparison.compare import compare
from inference.comparison.gaps import Bound, Gaps, content, gaps_section, sentence, split
from inference.comparison.guided import Guided
from inference.comparison.local import LocalGaussian
from inference.comparison.local_units import from_guide
from inference.errors import RunError, ShapeError
from inference.evidence.ais import AIS
from inference.evidence.ais_draws import AnnealedHMC
from inference.types import Draws
from ppl_models import SigmoidBeliefNetwork
from tests.inference.oracles import LinearGaussian


@pytest.fixture(scope="module")
def gaussian():
    """A model, rows that it might have made, log p(x), and the posterior's mean and covariance."""
    g = torch.Generator().manual_seed(2)
    w = torch.randn(4, 3, generator=g).double()
    pair = LinearGaussian(w, torch.randn(4, generator=g).double(), 0.6, guide="mean field")
    x = torch.randn(6, 4, generator=g).double() * 2
    mean, covariance = (part.detach() for part in pair.posterior(x))
    with torch.no_grad():
        pair.q_w.copy_(0.9 * covariance @ pair.w.T / 0.6**2)  # the posterior's mean is this times 10/9
    return pair, x, pair.log_evidence(x).detach(), mean, covariance


def weights(draws: Draws):
    assert draws.log_q is not None
    return (draws.log_p - draws.log_q)[0]


def test_a_full_rank_gaussian_reaches_log_p(gaussian):
    pair, x, log_p, mean, covariance = gaussian
    draws = LocalGaussian(full=True, num_samples=2000)(pair, x, seed=0)
    assert draws.values["z"].shape == (1, 2000, 6, 3) and draws.log_p.shape == (1, 2000, 6)
    assert torch.allclose(weights(draws).mean(0), log_p, atol=0.01)
    z = draws.values["z"][0]
    assert ((z.mean(0) - mean).abs() < 0.1 * covariance.diagonal().sqrt()).all()
    assert torch.allclose(z[:, 0].T.cov(), covariance, atol=0.1 * float(covariance.diagonal().max()))


def test_the_best_mean_field_gaussian_has_the_diagonal_of_the_precision(gaussian):
    """KL(q* || p) = 1/2 (sum_i log P_ii - log det P), P the posterior's precision."""
    pair, x, log_p, _, covariance = gaussian
    precision = covariance.inverse()
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert gap > 0.1
    draws = LocalGaussian(num_samples=4000)(pair, x, seed=0)
    found = weights(draws)
    assert ((log_p - found.mean(0) - gap).abs() < 4 * found.std(0) / math.sqrt(4000) + 0.01).all()


def test_annealed_hmc_draws_the_posterior(gaussian):
    pair, x, _, mean, covariance = gaussian
    draws = AnnealedHMC(chains=20, warmup_steps=30, num_samples=100)(pair, x, seed=0)
    z = draws.values["z"]
    assert z.shape == (20, 100, 6, 3) and draws.log_q is None and draws.stats["acceptance"].shape == (20, 100)
    # four MCSE if half of the draws count
    assert ((z.mean((0, 1)) - mean).abs() < 4 * covariance.diagonal().sqrt() / math.sqrt(1000)).all()
    assert torch.allclose(z[:, :, 0].flatten(0, 1).T.cov(), covariance, atol=0.1 * float(covariance.diagonal().max()))
    joint = torch.distributions.Normal(0, 1).log_prob(z).sum(-1) + torch.distributions.Normal(
        z @ pair.w.T + pair.b, pair.log_s.exp()
    ).log_prob(x).sum(-1)
    assert torch.allclose(draws.log_p, joint.detach(), atol=1e-6)


def test_the_gap_is_split_and_told(gaussian, tmp_path):
    pair, x, log_p, _, _ = gaussian
    engines = {"guide": Guided(None), "mean field": LocalGaussian(steps=400), "HMC": AnnealedHMC(4, 30, 100)}
    result = compare(pair, x, engines, reference="HMC", seed=1)
    draw = {"z": result.draws["HMC"].values["z"][0, -1]}
    forward, reverse = AIS(60, 16).both(pair, x, draw=draw, seed=0)
    gaps = split(result.draws, {"guide": "guide", "mean field": "family"}, forward, reverse, "Annealed <b>.")
    for bound in (gaps.log_p, gaps.log_p_above):
        assert (abs(torch.from_numpy(bound) - log_p) < 4 * forward.mcse).all() and forward.mcse.max() < 0.15
    found = content(gaps)
    assert found is not None
    assert found["gap"]["mean"] == pytest.approx(found["amortisation"]["mean"] + found["approximation"]["mean"])
    assert found["amortisation"]["mean"] > 0 and found["approximation"]["mean"] > 0
    page = result._replace(gaps=gaps).save(tmp_path / "out").read_text()
    assert "Where the bound loses" in page and "Annealed &lt;b&gt;." in page and "guide, k = 1,000" in page
    assert json.loads((tmp_path / "out" / "rows.json").read_text())["gaps"] == json.loads(json.dumps(found))


def test_the_sentence_says_where_there_is_more_to_gain():
    log_p = torch.tensor([-1.0, -2.0, -3.0]).double().numpy()

    def words(guide, family):
        bounds = (Bound("q", log_p - guide, "guide"), Bound("q*", log_p - family, "family"))
        return sentence(Gaps(bounds, log_p, log_p, ""))

    said = words(3.0, 1.0).replace("\N{NO-BREAK SPACE}", " ")
    assert "lies 3.00 ± 0.00 nats below log p(x): 2.00 ± 0.00 because the guide is amortised, 1.00 ± 0.00" in said
    assert said.endswith("a larger or longer trained guide.")
    assert words(3.0, 2.0).endswith("a more flexible family.")


def test_without_gaps_there_is_no_section():
    assert gaps_section(None) == "" and content(None) is None


def test_one_datum_has_no_standard_error():
    one = torch.tensor([-2.0]).double().numpy()
    gaps = Gaps((Bound("q", one - 1, "guide"), Bound("q*", one - 0.5, "family")), one, one, "")
    found = content(gaps)
    assert found is not None and found["gap"] == {"mean": 1.0, "se": None} and "±" not in sentence(gaps)


def test_mean_field_starts_where_the_guide_stands():
    net, x = SigmoidBeliefNetwork((5, 3, 2)), torch.ones(4, 5)
    made = from_guide(net)(net.model, x)
    expected = torch.sigmoid(net.up[0](x - net.centre))
    # 200 draws, four standard errors
    assert (torch.sigmoid(made.logits["h1"]) - expected).abs().max() < 4 * 0.5 / math.sqrt(200)
    assert made.logits["h2"].shape == (4, 2)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: LocalGaussian(steps=0), ShapeError, "steps is at least 1, got steps=0"),
        (lambda: LocalGaussian(particles=0), ShapeError, "particles is at least 1"),
        (lambda: LocalGaussian(lr=0.0), RunError, "lr is above 0"),
        (lambda: AnnealedHMC(chains=0), ShapeError, "chains is at least 1"),
        (lambda: AnnealedHMC(thin=0), ShapeError, "thin is at least 1, got thin=0"),
    ],
)
def test_settings_that_cannot_be(make, error, says):
    with pytest.raises(error, match=says):
        make()
