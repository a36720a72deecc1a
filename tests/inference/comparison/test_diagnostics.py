"""Diagnostics against what is known of them (oracle O19 for k-hat). No torch: it also runs under ArviZ 1.x alone."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest

from inference.comparison.diagnostics import ess, groups, khat, khats, r_hat, read_netcdf, save_netcdf, to_arviz
from inference.errors import RunError


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


def test_khats_say_where_the_guide_is_wrong():
    """Two sites, each a normal over a narrower one (O19): k is 1 - s^2 of each, and the worse one's of both."""
    z = np.random.default_rng(8).normal(size=(20_000, 6))
    narrow, wide = (z[:, i : i + 3] * math.sqrt(s2) for i, s2 in ((0, 0.2), (3, 0.9)))
    log_w = [-0.5 * v**2 + 0.5 * v**2 / s2 for v, s2 in ((narrow, 0.2), (wide, 0.9))]
    found = khats(log_w[0] + log_w[1], {"a": log_w[0], "b": log_w[1]})
    assert found.sites["a"].shape == found.datum.shape == (3,)
    assert abs(found.sites["a"].mean() - 0.8) < 0.1 and abs(found.sites["b"].mean() - 0.1) < 0.1
    assert abs(found.datum.mean() - 0.8) < 0.1
    assert found.joint > 0.7
    assert khats(log_w[1]).sites == {} and khats(log_w[1]).joint < 0.5


class Drawn(NamedTuple):
    """What an engine returns, without its tensors."""

    values: dict[str, np.ndarray]
    log_p: np.ndarray
    log_q: np.ndarray | None = None
    stats: dict[str, np.ndarray] = {}


Y = np.random.default_rng(9).normal(size=30)


def normal_mean(chains: int, draws: int, width: float = 1.0) -> tuple[Drawn, np.ndarray]:
    """Draws of mu | y for y_n ~ N(mu, 1) and a flat prior, or from a wider guide, and log p(y_n | mu)."""
    rng = np.random.default_rng(7)
    sd = width / math.sqrt(len(Y))
    mu = Y.mean() + sd * rng.normal(size=(chains, draws))
    like = -0.5 * (Y - mu[..., None]) ** 2 - 0.5 * math.log(2 * math.pi)
    log_p = like.sum(-1, keepdims=True)
    log_q = (-0.5 * ((mu - Y.mean()) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi))[..., None]
    chain = {"diverging": np.zeros((chains, draws), bool), "acceptance": np.full((chains, draws), 0.9)}
    twice = {"mu": mu, "h": (mu[..., None] > np.arange(3)).astype(np.int64)}
    return Drawn(twice, log_p, None if width == 1.0 else log_q, chain if width == 1.0 else {}), like


def exact_loo() -> float:
    """Sum over n of log p(y_n | the others): N(mean of the others, 1 + 1 / (N - 1))."""
    n = len(Y)
    others = (Y.sum() - Y) / (n - 1)
    variance = 1 + 1 / (n - 1)
    return float((-0.5 * (Y - others) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)).sum())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("nc") / "comparison.nc"
    nuts, like = normal_mean(4, 500)
    guide, _ = normal_mean(1, 30, width=1.5)
    engines = {
        "nuts": (groups(nuts, {"y": like}, {"y": Y}), {"seconds": 1.5}),
        "guide, resampled/20": (groups(guide), {}),
    }
    save_netcdf(path, engines)
    return path, nuts, guide, like


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_loo_summary_and_plot_trace_work_on_what_we_save(saved, where):
    path, nuts, _, like = saved
    import matplotlib

    matplotlib.use("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own, of matplotlib and xarray
        import arviz

        tree = to_arviz(groups(nuts, {"y": like}, {"y": Y})) if where == "memory" else read_netcdf(path, "nuts")
        loo = arviz.loo(tree)
        summary = arviz.summary(tree)
        arviz.plot_trace(tree, var_names=["mu"])
        matplotlib.pyplot.close("all")
    elpd = float(loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo)
    assert abs(elpd - exact_loo()) < 0.05
    assert list(summary.index) == ["mu", "h[0]", "h[1]", "h[2]"]
    assert abs(float(summary.loc["mu", "mean"]) - Y.mean()) < 0.05
    np.testing.assert_allclose(tree["posterior"]["mu"].values, nuts.values["mu"])
    assert tree["posterior"]["h"].dtype == np.int8 and tree["posterior"]["h"].dims == ("chain", "draw", "h_dim_0")
    stats = tree["sample_stats"]
    assert {"lp", "log_p", "diverging", "acceptance_rate"} == set(stats.data_vars) and stats["diverging"].dtype == bool
    np.testing.assert_allclose(stats["lp"].values, nuts.log_p[..., 0])
    np.testing.assert_allclose(tree["observed_data"]["y"].values, Y)


def test_a_guides_draws_are_saved_beside_a_chains(saved):
    path, _, guide, _ = saved
    tree = read_netcdf(path, "guide, resampled/20")
    assert tree["posterior"]["mu"].shape == (1, 30)
    stats = tree["sample_stats"]
    log_w = (stats["log_p"] - stats["log_q"]).values.reshape(30, 1)
    assert khat(log_w)[0] == khat((guide.log_p - guide.log_q).reshape(30, 1))[0] < 0.7
    assert read_netcdf(path, "nuts")["posterior"].attrs["seconds"] == 1.5


def test_what_is_not_there_is_said(saved, tmp_path):
    with pytest.raises(RunError, match="has no draws of 'gibbs': it has those of nuts, guide, resampled_20"):
        read_netcdf(saved[0], "gibbs")
    with pytest.raises(RunError, match="there is no file"):
        read_netcdf(tmp_path / "none.nc", "nuts")
