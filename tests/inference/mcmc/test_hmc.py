"""HMC and NUTS on both hosts, against exact values."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from inference import HMC, NUTS
from inference.comparison.diagnostics import ess

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    """Non-centred; by quadrature: mu 4.39682 (sd 3.31770), tau 3.59771 (3.21996)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("data", len(y), dim=-1):
        e = pyro.sample("e", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, sigma), obs=y)


@pytest.mark.parametrize(("backend", "chains", "steps"), [("numpyro", 4, 1000), ("pyro", 1, 250)])
def test_eight_schools_against_quadrature(backend, chains, steps):
    engine = NUTS(chains=chains, warmup_steps=steps, num_samples=steps, backend=backend, target_accept=0.9)
    draws = engine(eight_schools, Y, SIGMA, seed=3)
    for name, mean, sd in (("mu", 4.39682, 3.31770), ("tau", 3.59771, 3.21996)):
        found = draws.values[name]
        size = float(ess(found.unsqueeze(-1).double().numpy())[0])
        assert size > chains * steps / 10
        assert abs(float(found.mean()) - mean) < 4 * sd / math.sqrt(size)
    one = {name: value[0, 7] for name, value in draws.values.items()}
    trace = poutine.trace(poutine.condition(eight_schools, one)).get_trace(Y, SIGMA)
    assert torch.allclose(draws.log_p[0, 7, 0].float(), trace.log_prob_sum(), rtol=1e-5)
    assert draws.values["e"].shape == (chains, steps, 8) and draws.log_p.shape == (chains, steps, 1)
    for name in ("diverging", "energy", "tree_depth", "step_size", "acceptance"):
        assert draws.stats[name].shape == (chains, steps)
