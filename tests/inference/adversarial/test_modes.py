"""Mode metrics on samples whose answer is known: the mixture's own, one mode alone, points placed by hand."""

import math
import warnings

import pytest
import torch
from scipy import stats

from inference.adversarial.modes import ModeCoverage, mode_coverage, warn_of_collapse
from inference.errors import NonFiniteError, ShapeError
from ppl_models.data import Mixture, grid, line, ring


@pytest.mark.parametrize("toy", [ring(), grid(), line((-1.0, 1.0), 0.1)], ids=repr)
def test_true_samples(toy):
    n, modes, dims = 100_000, *toy.means.shape
    found = mode_coverage(toy.sample(n, seed=0), toy.means, toy.sd)
    share = stats.chi2(dims).cdf(9)  # 98.889 % in two dimensions
    assert (found.modes, found.of) == (modes, modes)
    assert abs(found.high_quality - share) < 4 * math.sqrt(share * (1 - share) / n)
    # 2 n KL is chi-square of M - 1 degrees of freedom, to first order
    good = int(found.counts.sum())
    assert found.high_quality == good / n
    assert stats.chi2(modes - 1).ppf(1e-4) < 2 * good * found.reverse_kl < stats.chi2(modes - 1).ppf(1 - 1e-4)


def test_the_mean_reverse_kl_of_true_samples():
    toy, n, repeats = ring(), 2500, 200
    kl = torch.tensor([mode_coverage(toy.sample(n, seed), toy.means, toy.sd).reverse_kl for seed in range(repeats)])
    expected = (8 - 1) / (2 * n * stats.chi2(2).cdf(9))
    assert abs(kl.mean() - expected) < 4 * kl.std() / repeats**0.5


def test_one_mode_alone():
    toy = ring()
    found = mode_coverage(Mixture(toy.means[3:4], toy.sd).sample(1000), toy.means, toy.sd)
    assert found.modes == 1
    assert found.reverse_kl == pytest.approx(math.log(8), abs=1e-6)
    assert len(found.counts) == 8
    assert found.counts.nonzero().flatten().tolist() == [3]


def test_points_placed_by_hand():
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    x = torch.tensor(
        [[0.29, 0.0], [0.0, 0.31], [0.0, -0.2], [1.0, 0.1], [5.0, 5.0]]
    )  # sd 0.1: near, far, near, near, far
    found = mode_coverage(x, means, 0.1)
    assert found.counts.tolist() == [2, 1]
    assert found.high_quality == pytest.approx(0.6)
    assert found.reverse_kl == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert mode_coverage(x, means, 0.1, within=1.5).counts.tolist() == [0, 1]
    assert mode_coverage(x[1:2], means, 0.1)[:3] == (0, 2, 0.0)
    assert math.isnan(mode_coverage(x[1:2], means, 0.1).reverse_kl)
    assert str(found) == "2 of 2 modes, 60.0 % of high quality, reverse KL 0.0566 nats"


def test_far_from_zero_the_distance_keeps_its_digits():
    means = torch.tensor([[1000.0, 1000.0], [1001.0, 1000.0]])
    x = means.repeat_interleave(2, 0) + torch.tensor([[0.025, 0], [0.035, 0], [0, 0.025], [0, 0.035]])
    assert mode_coverage(x, means, 0.01).counts.tolist() == [1, 1]


def test_warn_of_collapse():
    toy = ring()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_collapse(mode_coverage(toy.sample(1000), toy.means, toy.sd))
    with pytest.warns(UserWarning, match=r"1 of 8 modes: pack samples \(pack=2\)"):
        warn_of_collapse(mode_coverage(toy.means[:1], toy.means, toy.sd))
    with pytest.warns(UserWarning, match="0 of 8 modes"):
        warn_of_collapse(ModeCoverage(0, 8, 0.0, math.nan, torch.zeros(8, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("x", "means", "sd", "within", "said"),
    [
        (torch.zeros(3), torch.zeros(8, 2), 0.1, 3.0, r"samples \(N, D\) and means \(M, D\), got \(3,\) and \(8, 2\)"),
        (torch.zeros(3, 1), torch.zeros(8, 2), 0.1, 3.0, r"got \(3, 1\) and \(8, 2\)"),
        (torch.zeros(3, 2), torch.zeros(2), 0.1, 3.0, r"got \(3, 2\) and \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(8, 2), 0.1, 3.0, r"got \(0, 2\) and \(8, 2\)"),
        (torch.zeros(3, 2), torch.zeros(0, 2), 0.1, 3.0, r"got \(3, 2\) and \(0, 2\)"),
        (torch.zeros(3, 2), torch.zeros(8, 2), 0.0, 3.0, "above 0 and finite, got 0.0 and 3.0"),
        (torch.zeros(3, 2), torch.zeros(8, 2), 0.1, math.nan, "got 0.1 and nan"),
    ],
)
def test_shapes_that_cannot_be_right(x, means, sd, within, said):
    with pytest.raises(ShapeError, match=said):
        mode_coverage(x, means, sd, within)


def test_samples_that_are_no_numbers():
    x = torch.zeros(4, 2)
    x[1, 0], x[3, 1] = math.nan, math.inf
    with pytest.raises(NonFiniteError, match="2 of 4 samples are NaN or infinite"):
        mode_coverage(x, ring().means, 0.02)
