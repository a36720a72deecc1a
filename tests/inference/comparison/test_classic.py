"""Engines on the classic models, held against what is known of their posteriors."""

import math

import pytest
import torch
from pyro import poutine
from torch.distributions import Dirichlet, HalfNormal, Normal

from inference.cli.engines import engines, kind_of
from inference.cli.schools import Quadrature
from inference.comparison.compare import compare
from inference.comparison.guided import Guided, automatic, full_rank
from inference.comparison.page import page
from inference.vi.objectives import TraceELBO
from ppl_models import classic


def test_mean_field_has_tau_too_narrow_and_the_report_says_so():
    data = classic.eight_schools_data()
    # the best product of normals has sd(tau) = 2.45, 24 % below the exact 3.22
    mean_field = Guided(TraceELBO(10), steps=400, lr=5e-2, num_samples=4000, guide=automatic)
    result = compare(classic.eight_schools, data, {"advi": mean_field, "exact": Quadrature()}, reference="exact")
    row, said = result.rows[0], result.verdicts["advi"]
    assert said.word == "do not trust" and "too small: tau by" in said.why
    assert -0.6 < dict(row.sds_off)["tau"] < -0.15
    assert row.gap is not None and 0.1 < row.gap < 1.0  # KL(q || posterior)
    assert "too small: tau by" in page(result) and result.verdicts["exact"].word == "trust"


def test_quadrature_draws_have_the_log_joint_of_the_model():
    for model in (classic.eight_schools, classic.eight_schools_centred):
        draws = Quadrature(num_samples=50)(model, *classic.eight_schools_data())
        for s in (0, 7):
            values = {name: value[0, s].float() for name, value in draws.values.items()}
            trace = poutine.trace(poutine.condition(model, values)).get_trace(*classic.eight_schools_data())
            assert float(draws.log_p[0, s, 0]) == pytest.approx(float(trace.log_prob_sum()), abs=1e-3)


@pytest.mark.parametrize("guide", [automatic, full_rank])
def test_a_guide_that_leaves_assignments_to_the_model_has_them_summed_out(guide):
    """Log p of each draw is the closed form: the prior, and a sum over components for each datum."""
    y = classic.EXAMPLES["gmm"].data()[0][:12]
    draws = Guided(TraceELBO(3), steps=3, num_samples=40, guide=guide)(classic.gaussian_mixture_enumerated, y)
    assert set(draws.values) == {"w", "mu", "sigma"}
    w, mu, sigma = (draws.values[name][0] for name in ("w", "mu", "sigma"))
    prior = Dirichlet(torch.full((2,), 5.0)).log_prob(w) + Normal(0.0, 5.0).log_prob(mu).sum(-1) + math.log(2)
    prior = prior + HalfNormal(2.0).log_prob(sigma).sum(-1)
    each = Normal(mu[:, None], sigma[:, None]).log_prob(y[:, None]) + w.log()[:, None]
    torch.testing.assert_close(draws.log_p[0, :, 0], prior + each.logsumexp(-1).sum(-1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("name", "sites", "draws"), [("gmm", 1, 4000), ("hmm", 10, 500)])
def test_the_more_discrete_sites_the_fewer_steps(name, sites, draws):
    example = classic.EXAMPLES[name]
    kind = kind_of(example.model, example.data())
    sampler = engines(["hmc-gibbs"], kind)["hmc-gibbs"]
    assert kind.discrete == sites and sampler.num_samples == draws and sampler.warmup_steps == min(500, draws // 2)
