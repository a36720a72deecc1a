"""GibbsKernel inside pyro.infer.MCMC."""

import os
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import MCMC

from inference.errors import UnsupportedModelError
from inference.mcmc.gibbs import Gibbs
from inference.mcmc.kernel import GibbsKernel
from tests.inference.mcmc import models
from tests.inference.mcmc.test_gibbs import exact_marginals


def run(model, *args, n=20, blocks=(), **kwargs):
    mcmc = MCMC(Gibbs(model, blocks=blocks), num_samples=n, warmup_steps=10, disable_progbar=True)
    mcmc.run(*args, **kwargs)
    return mcmc


def test_pyros_own_mcmc_draws_the_discrete_sites():
    pyro.set_rng_seed(0)
    mcmc = run(models.sbn, models.ROWS, n=300)
    samples = mcmc.get_samples()
    assert samples["h1"].shape == (300, 2, 2) and samples["h2"].shape == (300, 2, 2)
    for name, exact in exact_marginals(models.sbn).items():
        ess = mcmc.diagnostics()[name]["n_eff"]
        error = (samples[name].mean(0) - exact).abs() / (exact * (1 - exact) / ess).sqrt()
        assert (error < 4).all()


def test_one_name_is_the_engine_and_with_a_model_the_kernel():
    assert isinstance(Gibbs(models.sbn, blocks=[("h1", "h2")]), GibbsKernel)
    engine = Gibbs(2, num_samples=7)
    assert isinstance(engine, Gibbs) and engine == replace(Gibbs(), chains=2, num_samples=7)


def test_keyword_arguments_seeds_and_first_states():
    chains = []
    for seed in (1, 1, 2):
        pyro.set_rng_seed(seed)
        chains.append(run(models.sbn, x=models.ROWS).get_samples()["h1"])
    assert torch.equal(chains[0], chains[1]) and not torch.equal(chains[0], chains[2])
    kernel = GibbsKernel(models.sbn)
    first = {"h1": torch.ones(2, 2).double(), "h2": torch.zeros(2, 2).double()}
    kernel.initial_params = first
    kernel.setup(0, models.ROWS)
    assert torch.equal(kernel.initial_params["h1"], first["h1"])


def test_chains_one_after_the_other_and_integers_stay_integers():
    many = os.cpu_count() or 1
    with pytest.warns(UserWarning, match="drawn sequentially"):
        mcmc = MCMC(GibbsKernel(models.mixture), num_samples=5, warmup_steps=1, num_chains=many, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples(group_by_chain=True)["z"].shape == (many, 5, 3)


def test_a_chain_that_cannot_move_is_refused():
    with pytest.raises(UnsupportedModelError, match="pass blocks="):
        run(models.copies)
    run(models.copies, blocks=[("a", "b", "c")])
