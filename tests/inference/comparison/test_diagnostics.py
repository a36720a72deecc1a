"""Diagnostics against what is known of them (oracle O19 for k-hat). No torch: it also runs under ArviZ 1.x alone."""

import math
import warnings

import numpy as np
import pytest

from inference.comparison.diagnostics import ess, khat, r_hat, save_netcdf


@pytest.mark.parametrize("s2", [0.3, 0.5, 0.8])
def test_a_normal_target_over_a_narrower_proposal_has_k_of_one_less_the_variance(s2):
    z = np.random.default_rng(1).normal(size=(20_000, 12)) * math.sqrt(s2)
    k = khat(-0.5 * z**2 + 0.5 * z**2 / s2)
    assert k.shape == (12,)
    # the estimate has a bias of its own at finite K, some 0.03 here
    assert abs(k.mean() - (1 - s2)) < 4 * k.std(ddof=1) / math.sqrt(12) + 0.03


def test_a_constant_shift_is_no_change_and_the_input_stays():
    log_w = np.random.default_rng(2).normal(size=(500, 3))
    before = log_w.copy()
    np.testing.assert_allclose(khat(log_w), khat(log_w + 1e4), rtol=1e-6)
    assert (log_w == before).all()


def test_too_few_draws_have_no_tail():
    assert np.isnan(khat(np.zeros((24, 2)))).all()


def test_equal_weights_have_no_tail_and_one_huge_weight_has():
    log_w = np.zeros((1000, 5))
    log_w[:, 1] = np.arange(1000) % 3  # a third of the draws share the largest weight
    log_w[5, 2] = 50.0
    log_w[:3, 3] = 50.0
    log_w[:10, 4] = 0.5  # ten draws a little heavier than the rest
    found = khat(log_w)
    assert found[0] == found[1] == 0
    assert found[2] > 0.7 and found[3] > 0.7
    assert found[4] < 0.3


def autoregression(rho: float, chains: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    x = np.zeros((chains, draws))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_effective_size_of_an_autoregression_is_known(rho):
    x = autoregression(rho, 4, 10_000, np.random.default_rng(3))[..., None]
    exact = 40_000 * (1 - rho) / (1 + rho)
    assert ess(x, "mean")[0] == pytest.approx(exact, rel=0.15)
    assert ess(x)[0] == pytest.approx(exact, rel=0.15)
    assert r_hat(x)[0] < 1.01


def test_r_hat_sees_chains_apart_and_halves_apart_and_nothing_else():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, 500, 4))
    x[0, :, 1] += 2.0  # one chain elsewhere
    x[:, 250:, 2] += 2.0  # all chains drift alike
    x[..., 3] += 100.0  # a bias that all share
    found = r_hat(x)
    assert found[0] < 1.02 and found[3] < 1.02
    assert found[1] > 1.1 and found[2] > 1.1
    assert r_hat(x[:1])[2] > 1.1  # one chain is cut in two


def test_chains_that_stand_still():
    x = np.zeros((4, 100, 3))
    x[2:, :, 1] = 1.0  # in different places
    x[..., 2] = np.random.default_rng(5).integers(0, 2, (4, 100))
    found = r_hat(x)
    assert np.isnan(found[0]) and found[1] == 100 and 0.99 < found[2] < 1.05
    assert ess(x)[0] == 400 and ess(x)[1] < 10
    assert np.isnan(r_hat(x[:, :4])).all() and np.isnan(ess(x[:, :3])).all()


def test_groups_are_read_back_by_arviz(tmp_path):
    h = np.random.default_rng(6).integers(0, 2, (2, 30, 3, 5)).astype(np.int8)
    groups = {
        "gibbs": ({"h1": h, "log_p": np.zeros((2, 30, 3))}, {"seconds": 1.5}),
        "guide, resampled": ({"h1": h[:1, :7]}, {}),
    }
    save_netcdf(tmp_path / "x.nc", groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    read = arviz.from_netcdf(tmp_path / "x.nc")
    np.testing.assert_array_equal(read["gibbs"]["h1"].values, h)
    assert read["gibbs"]["h1"].dims == ("chain", "draw", "h1_dim_0", "h1_dim_1")
    assert read["gibbs"].attrs["seconds"] == 1.5
    assert read["guide, resampled"]["h1"].shape == (1, 7, 3, 5)
    group = read["gibbs"]
    group = group.to_dataset() if hasattr(group, "to_dataset") else group  # a node of a tree in 1.x
    assert float(arviz.rhat(group[["h1"]])["h1"].max()) < 2
