"""`compare` where enumeration decides: right engines pass, biased and stuck ones do not, bad input is refused."""

import io
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from rich.console import Console

from inference.comparison.compare import Comparison, compare
from inference.comparison.guided import Guided
from inference.comparison.rows import _stays_below
from inference.comparison.verdict import CARE, NOT, TRUST
from inference.errors import NonFiniteError, RunError, ShapeError, UnsupportedModelError
from inference.evidence.exact import Exact, exact_posterior
from inference.types import Draws
from tests.inference.comparison.engines import Coupled, Sampled, Stuck, X


@pytest.fixture(scope="module")
def result() -> Comparison:
    torch.manual_seed(0)
    engines = {
        "guide": Guided(steps=300, lr=0.1),
        "sampled": Sampled(),
        "biased": Sampled(shift=0.5),
        "stuck": Stuck(),
        "exact": Exact(1000),
    }
    return compare(Coupled(), X, engines, reference="exact")


def rows(result: Comparison) -> dict:
    return {row.engine: row for row in result.rows}


def test_an_engine_that_is_right_is_trusted(result):
    row, said = rows(result)["sampled"], result.verdicts["sampled"]
    assert said.word == TRUST
    assert row.error_z < 4 and row.error_max < 4 * row.error_max_mcse
    assert row.r_hat < 1.01 and row.ess_bulk > 1000
    assert row.ess_per_second == pytest.approx(row.ess_bulk / 1.0)
    assert row.seconds_total == 1.75
    sd = float(result.draws["sampled"].log_p.mean(-1).std())
    assert row.log_p_mcse == pytest.approx(math.hypot(sd / math.sqrt(4000), sd / math.sqrt(1000)), rel=0.15)


def test_errors_are_those_of_the_exact_marginals(result):
    exact = exact_posterior(Coupled(), X)
    drawn = result.draws["biased"].values["h1"].double().mean((0, 1))
    error = (drawn - exact.probs["h1"][..., 1]).abs()
    row = rows(result)["biased"]
    assert row.error_max == pytest.approx(float(error.max()), abs=1e-6)
    assert row.error == pytest.approx(float((error**2).mean().sqrt()), abs=1e-6)
    assert row.error_max_at == "h1[{}, {}]".format(*divmod(int(error.argmax()), 2))
    assert row.log_evidence == pytest.approx(float(exact.log_p.mean()))


def test_a_biased_engine_with_good_chains_is_not_trusted(result):
    row = rows(result)["biased"]
    assert row.r_hat < 1.01 and row.ess_bulk > 1000
    assert result.verdicts["biased"].word == NOT


def test_a_factorised_guide_of_a_coupled_model_is_not_trusted_though_r_hat_is_one(result):
    """Fact 7 of the design: independent draws have R-hat 1.00 whatever they are drawn from."""
    row, said = rows(result)["guide"], result.verdicts["guide"]
    assert round(row.r_hat, 2) == 1.00 and row.ess_bulk > 400
    assert row.error_max > 0.4
    assert said.word == NOT and "though R-hat is 1.0" in said.why


@pytest.mark.parametrize("apart", [True, False])
def test_stuck_chains_are_not_trusted(apart):
    torch.manual_seed(1)
    result = compare(Coupled(), X, {"stuck": Stuck(apart=apart), "exact": Exact(200)}, reference="exact")
    row = rows(result)["stuck"]
    assert result.verdicts["stuck"].word == NOT
    assert (row.r_hat is not None and row.r_hat > 1.1) == apart  # one that all share, R-hat cannot see


def test_the_gap_is_the_divergence_of_the_guide(result):
    """Log p(x) - ELBO against KL(q || posterior) by enumeration of the guide that is drawn from as it is."""
    model = Coupled()
    result = compare(model, X, {"guide": Guided(None, num_samples=20_000), "exact": Exact(10)}, reference="exact")
    row = rows(result)["guide"]
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    log_q = dist.Bernoulli(logits=model.phi.unsqueeze(1)).log_prob(states).sum(-1)  # (N, states)
    log_p = torch.stack(
        [
            dist.Bernoulli(logits=model.prior).log_prob(s).sum()
            + dist.Bernoulli(logits=s @ model.w + model.b).log_prob(X).sum(-1)
            for s in states
        ],
        1,
    )
    exact = (log_q.exp() * (log_q - log_p.log_softmax(1))).sum(1).mean().detach()
    draws = result.draws["guide"]
    se = float((draws.log_p - draws.log_q).mean(-1).std()) / math.sqrt(20_000)
    assert abs(row.gap - float(exact)) < 4 * se
    assert row.elbo < row.bound < row.log_evidence + 4 * se
    assert row.warmup_seconds == 0 and row.evaluations == 20_000


def test_a_sampled_reference_adds_its_own_noise():
    engines = {"sampled": Sampled(), "long": Sampled(4000)}
    torch.manual_seed(0)
    result = compare(Coupled(), X, engines, reference="long")
    row = rows(result)["sampled"]
    assert row.log_evidence is None and row.gap is None
    exact = compare(Coupled(), X, {"sampled": Sampled(), "exact": Exact(10)}, reference="exact")
    assert row.error_max_mcse > 1.05 * min(rows(exact)["sampled"].error_max_mcse, row.error_max_mcse / 1.05)
    assert result.verdicts["sampled"].word == TRUST and result.verdicts["long"].word == CARE


@pytest.mark.parametrize(("p", "seen", "draws"), [(1e-6, 1, 1000), (1e-6, 0, 1000), (0.015, 0, 100)])
def test_a_rare_state_that_is_seen_once_or_never_is_no_error(p, seen, draws):
    """Four chains; 0 of 400 draws where 6 were due is within chance, as is 1 of 4000 where none was."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Bernoulli(torch.tensor(p)))
            pyro.sample("x", dist.Bernoulli(0.5 + 0.0 * h), obs=x)

    def engine(pair, *data, seed=0):
        found = Sampled(draws)(pair, *data, seed=seed)
        values = torch.zeros_like(found.values["h"])
        values[0, 7] = float(seen)
        return found._replace(values={"h": values}, log_p=found.log_p + 1e-3 * torch.randn_like(found.log_p))

    torch.manual_seed(0)
    result = compare(model, torch.ones(1), {"engine": engine, "exact": Exact()}, reference="exact")
    assert rows(result)["engine"].error_z < 4


def test_states_of_a_categorical_site_are_compared_one_by_one():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            pyro.sample("x", dist.Normal(y.to(x), 1.0), obs=x)

    torch.manual_seed(0)
    result = compare(model, torch.tensor([0.0, 2.5]), {"sampled": Sampled(), "exact": Exact()}, reference="exact")
    assert result.coordinates == tuple(f"y[{n}] = {s}" for n in range(2) for s in range(3))
    exact = dist.Categorical(torch.tensor([0.2, 0.5, 0.3])).logits + dist.Normal(torch.arange(3.0), 1.0).log_prob(
        torch.tensor([[0.0], [2.5]])
    )
    np.testing.assert_allclose(result.measured[0].reference_mean, exact.softmax(-1).flatten(), atol=1e-6)
    assert result.verdicts["sampled"].word == TRUST


def normal_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal(mean: float, scale: float, chains: int = 4, draws: int = 1000):
    """An engine of independent normal draws around x / 2: the posterior itself for mean=0, scale=1."""

    def engine(pair, x, seed=0):
        torch.manual_seed(seed)
        z = x / 2 + math.sqrt(0.5) * (mean + scale * torch.randn(chains, draws, len(x)))
        return Draws({"z": z}, dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x), seconds=1.0)

    return engine


def test_continuous_sites_are_measured_in_the_references_own_width():
    engines = {"right": normal(0, 1), "aside": normal(0.4, 1), "narrow": normal(0, 0.6), "long": normal(0, 1, 4, 8000)}

    def seeded(name, engine):
        return lambda pair, x, seed=0: engine(pair, x, seed=len(name))

    engines = {name: seeded(name, engine) for name, engine in engines.items()}
    result = compare(normal_model, torch.tensor([0.0, 1.0, 3.0]), engines, reference="long")
    found = rows(result)
    assert found["aside"].error_max == pytest.approx(0.4, abs=0.08)
    assert found["narrow"].sd_error == pytest.approx(0.4, abs=0.05)
    words = {name: said.word for name, said in result.verdicts.items()}
    assert (words["right"], words["aside"], words["narrow"]) == (TRUST, NOT, NOT)
    assert found["right"].sd_error < 4 * found["right"].sd_error_mcse


def test_the_time_to_an_error_is_when_it_stays_below():
    """Draws that are wrong in their first tenth, of ten seconds: the mean forgets them only later."""

    def late(pair, *data, seed=0):
        draws = Sampled(seconds=10.0)(pair, *data, seed=seed)
        draws.values["h1"][:, :100] = 1.0
        return draws

    result = compare(Coupled(), X, {"late": late, "sampled": Sampled(), "exact": Exact()}, reference="exact")
    found = rows(result)
    # after s draws the first hundred weigh 100 / s: the largest marginal error is about (1 - p) 100 / s
    means = exact_posterior(Coupled(), X).mean["h1"]
    rms = float(((1 - means) ** 2).mean().sqrt())
    seconds = 0.75 + 10.0 * (100 * rms / 0.1) / 1000
    again = compare(Coupled(), X, {"late": late, "exact": Exact()}, reference="exact", error=0.1)
    assert rows(again)["late"].seconds_to_error == pytest.approx(seconds, rel=0.1)
    assert found["late"].seconds_to_error is None or found["late"].seconds_to_error > seconds
    assert found["sampled"].seconds_to_error < 1.75
    draws, seconds, _ = result.measured[0].error_path.T
    assert (np.diff(seconds) > 0).all() and (draws[-1], seconds[-1]) == (1000, pytest.approx(10.75))


def test_a_lucky_start_is_not_the_time_to_an_error():
    path = np.array([[1, 0.1, 0.01], [2, 0.2, 0.3], [3, 0.3, 0.04], [4, 0.4, 0.03]])
    assert _stays_below(path, 0.05) == 0.3
    assert _stays_below(path, 0.02) is None
    assert _stays_below(path, 0.5) == 0.1


def test_many_coordinates_are_thinned_evenly():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(0.2 + 0.3 * h.mean(-1)), obs=x)

    result = compare(model, torch.ones(400), {"exact": Exact(10)}, reference="exact")
    assert result.total_coordinates == 800 and len(result.coordinates) == 512
    assert result.coordinates[0] == "h[0, 0]" and result.coordinates[-1] == "h[399, 1]"


def test_the_callers_randomness_stays():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    compare(Coupled(), X, {"sampled": Sampled(20), "exact": Exact(20)}, reference="exact")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_table_fits_a_terminal_of_80_columns(result):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "do not trust" in text and "its means are off by" in text
    assert "".join(result.answer.split()) in "".join(text.split())
    (line,) = [line for line in text.splitlines() if line.startswith("sampled  ")]
    assert "trust" in line and "…" not in line


# -- what is refused -----------------------------------------------------------------------------------------------


def broken(**changes):
    def engine(pair, *data, seed=0):
        return Sampled(20)(pair, *data, seed=seed)._replace(**changes)

    return engine


def test_an_unknown_reference_is_refused():
    with pytest.raises(RunError, match="unknown reference 'truth': name one of the engines, exact"):
        compare(Coupled(), X, {"exact": Exact()}, reference="truth")
    with pytest.raises(RunError, match="none given"):
        compare(Coupled(), X, {}, reference="exact")


@pytest.mark.parametrize("error", [0.0, -1.0, math.nan, math.inf])
def test_an_error_that_is_none_is_refused(error):
    with pytest.raises(RunError, match="above 0"):
        compare(Coupled(), X, {"exact": Exact()}, reference="exact", error=error)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"values": {"z": torch.zeros(4, 20, 3, 2)}}, UnsupportedModelError, "returned the site 'z'"),
        ({"values": {}}, UnsupportedModelError, "no draws of 'h1'"),
        ({"values": {"h1": torch.full((4, 20, 3, 2), math.nan)}}, NonFiniteError, "NaN"),
        ({"log_p": torch.full((4, 20, 3), -math.inf)}, NonFiniteError, "NaN or infinite"),
        ({"log_q": torch.full((4, 20, 3), math.nan)}, NonFiniteError, "NaN"),
        ({"values": {"h1": torch.zeros(4, 20, 2)}}, ShapeError, "chains, draws"),
        ({"values": {"h1": torch.zeros(0, 20, 3, 2)}, "log_p": torch.zeros(0, 20, 3)}, ShapeError, "no draws"),
        ({"values": {"h1": torch.zeros(4, 0, 3, 2)}, "log_p": torch.zeros(4, 0, 3)}, ShapeError, "no draws"),
    ],
)
def test_draws_of_no_posterior_of_the_model_are_refused(changes, kind, words):
    with pytest.raises(kind, match=words) as caught:
        compare(Coupled(), X, {"odd": broken(**changes), "exact": Exact()}, reference="exact")
    assert "engine 'odd'" in str(caught.value)
    with pytest.raises(kind, match=words):  # of the reference as well
        compare(Coupled(), X, {"odd": broken(**changes)}, reference="odd")


def test_models_without_a_posterior_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Bernoulli(0.5), obs=x)

    with pytest.raises(UnsupportedModelError, match="no latent site"):
        compare(model, torch.ones(3), {"exact": Exact()}, reference="exact")
    with pytest.raises(UnsupportedModelError, match="a model is a Pyro program"):
        compare(3, torch.ones(3), {"exact": Exact()}, reference="exact")


def test_rows_are_json(result, tmp_path):
    result.save(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert [row["engine"] for row in content["rows"]] == ["guide", "sampled", "biased", "stuck", "exact"]
    assert content["rows"][1]["verdict"] == TRUST
    assert content["answer"] == result.answer
