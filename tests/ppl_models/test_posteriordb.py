"""Eight posteriors: their data are here, and NUTS finds Stan's moments."""

import math
import os

import pytest
import torch

from inference import NUTS
from inference.comparison.diagnostics import ess, r_hat
from ppl_models.posteriordb import NAMES, load

pytestmark = pytest.mark.skipif("PPL_DATA" not in os.environ, reason="PPL_DATA names no folder of data")


@pytest.mark.parametrize("name", NAMES)
def test_the_log_joint_is_finite_at_the_references_mean(name):
    from pyro import poutine

    posterior = load(name)
    means = {key: value.mean() for key, value in posterior.reference.items()}
    trace = poutine.trace(posterior.model).get_trace(*posterior.data)
    latents = {n for n, site in trace.nodes.items() if site["type"] == "sample" and not site["is_observed"]}
    values = {}
    for site in latents - {"e", "of", "data"}:
        parts = [mean for key, mean in means.items() if key.partition("[")[0] == site]
        values[site] = torch.stack(parts).float().reshape(trace.nodes[site]["value"].shape)
    log_p = poutine.trace(poutine.condition(posterior.model, values)).get_trace(*posterior.data).log_prob_sum()
    assert torch.isfinite(log_p) and all(value.shape == (10, 1000) for value in posterior.reference.values())


def agrees(name: str, engine: NUTS, seed: int, bound: float = 1.01) -> None:
    """Every mean within 4 MCSE, every deviation within 10 %, R-hat below `bound`."""
    posterior = load(name)
    found = posterior.quantities(engine(posterior.model, *posterior.data, seed=seed).values)
    assert list(found) == list(posterior.reference)
    for key, reference in posterior.reference.items():
        draws = found[key].double()
        error = 0.0
        for each in (draws, reference):
            error += float(each.var()) / float(ess(each.unsqueeze(-1).numpy(), "mean")[0])
        assert abs(float(draws.mean() - reference.mean())) < 4 * math.sqrt(error), key
        assert abs(float(draws.std() / reference.std()) - 1) < 0.1, key
        assert float(r_hat(draws.unsqueeze(-1).numpy())[0]) < bound, key


@pytest.mark.parametrize("name", ["eight_schools_noncentered", "gp_regr"])
def test_nuts_finds_stans_moments(name):
    agrees(name, NUTS(), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nuts_finds_stans_moments_everywhere(name):
    agrees(name, NUTS(), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools_noncentered", "gp_regr"])
def test_nuts_on_pyro_finds_stans_moments(name):
    agrees(name, NUTS(chains=2, warmup_steps=300, num_samples=1500, backend="pyro"), seed=0)


def test_an_unknown_name():
    with pytest.raises(ValueError, match="unknown posterior 'arL': the names are"):
        load("arL")
