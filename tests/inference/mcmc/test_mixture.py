"""Two roads to one posterior of a Gaussian mixture: assignments drawn (HMC within Gibbs), and summed out (NUTS).

They agree within Monte Carlo error, and both pass simulation-based calibration (oracle O8) [talts2018]: the rank of the
true value among posterior draws is uniform. Each row is a simulation of its own, so hundreds go through one chain.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex
from scipy.stats import chi2

from inference.comparison.diagnostics import ess, r_hat
from inference.mcmc.hmc import NUTS
from inference.mcmc.hmc_within_gibbs import HMCWithinGibbs
from ppl_models.classic import EXAMPLES, OrderedNormal, gaussian_mixture, gaussian_mixture_enumerated

POINTS, DRAWS = 8, 7


def moments(draws):
    """Means, standard deviations, Monte Carlo errors of both, and R-hat, of the six parameters."""
    v = torch.cat([draws.values[name].double().flatten(2) for name in ("w", "mu", "sigma")], 2).numpy()
    mean, sd = v.mean((0, 1)), v.std((0, 1))
    squares = (v - mean) ** 2
    sd_se = squares.std((0, 1)) / np.sqrt(ess(squares, "mean")) / (2 * sd)
    return mean, sd, sd / np.sqrt(ess(v, "mean")), sd_se, r_hat(v)


@pytest.mark.slow
def test_hmc_within_gibbs_agrees_with_nuts_on_the_enumerated_model():
    (y,) = EXAMPLES["gmm"].data()
    nuts = NUTS(warmup_steps=1000, num_samples=2000, progress=False)(gaussian_mixture_enumerated, y, seed=1)
    both = HMCWithinGibbs(chains=24, warmup_steps=300, num_samples=600, progress=False)(gaussian_mixture, y, seed=2)
    a, b = moments(nuts), moments(both)
    assert (a[4] < 1.01).all() and (b[4] < 1.06).all()
    assert (np.abs(a[0] - b[0]) < 4 * np.hypot(a[2], b[2])).all()
    assert (np.abs(a[1] - b[1]) < 4 * np.hypot(a[3], b[3])).all()
    assert (np.hypot(a[2], b[2]) < 0.08 * a[1]).all()  # sharp enough to see an error of a third of a standard deviation
    assert both.stats["diverging"].double().mean() < 0.001


def replicated(y):
    """A mixture of two for each row (R, POINTS) of its own, as `gaussian_mixture`, with widths that stay off zero."""
    with pyro.plate("data", len(y), dim=-2):
        w = pyro.sample("w", dist.Dirichlet(y.new_full((2,), 5.0)))
        mu = pyro.sample("mu", OrderedNormal(y.new_zeros(()), y.new_full((), 3.0), 2))
        sigma = pyro.sample("sigma", dist.LogNormal(y.new_full((2,), -0.5), 0.4).to_event(1))
        with pyro.plate("points", y.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Normal(Vindex(mu)[..., z], Vindex(sigma)[..., z]), obs=y)


def calibration(engine, model, replicates, seed=0):
    """Chi-square p-values that the ranks of five statistics of the prior's draw are uniform."""
    torch.manual_seed(seed)
    trace = poutine.trace(poutine.uncondition(replicated)).get_trace(torch.zeros(replicates, POINTS))
    truth = {name: trace.nodes[name]["value"] for name in ("w", "mu", "sigma")}
    found = engine(model, trace.nodes["y"]["value"], seed=seed)
    thin = found.log_p.shape[1] // DRAWS
    draws = {name: found.values[name][0, thin - 1 :: thin] for name in truth}  # (DRAWS, R, 1, 2)
    p = {}
    for name, at in (("w", 0), ("mu", 0), ("mu", 1), ("sigma", 0), ("sigma", 1)):
        rank = (draws[name][..., 0, at] < truth[name][..., 0, at]).sum(0)
        counts = torch.bincount(rank, minlength=DRAWS + 1)
        expected = replicates / (DRAWS + 1)
        p[name, at] = float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), DRAWS))
    return p


def sampler(warmup_steps=80, thin=12):
    return HMCWithinGibbs(chains=1, warmup_steps=warmup_steps, num_samples=DRAWS, thin=thin, progress=False)


def test_hmc_within_gibbs_is_calibrated():
    assert min(calibration(sampler(), replicated, 240).values()) > 0.001


@pytest.mark.slow
def test_both_are_calibrated_on_a_thousand_simulations():
    """All the enumerated rows are one model of 5000 dims to NUTS: two hundred at a time."""
    nuts = NUTS(chains=1, warmup_steps=300, num_samples=20 * DRAWS, progress=False)
    assert min(calibration(sampler(200, 20), replicated, 1000, seed=1).values()) > 0.001
    assert min(calibration(nuts, config_enumerate(replicated), 400, seed=2).values()) > 0.001
