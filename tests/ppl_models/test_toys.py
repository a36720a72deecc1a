"""Toys of known density: against scipy, quadrature, and moments within standard errors."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppl_models.data import DataError, Mixture, grid, line, ring

TOYS = [ring(), ring(modes=5, radius=3.0, sd=0.3), grid(), grid(side=2, spacing=0.5, sd=0.4), line()]


@pytest.mark.parametrize("toy", TOYS, ids=repr)
def test_the_density_is_that_of_scipy(toy):
    x = torch.cat(
        [toy.sample(50, seed=1), 3 * torch.randn(20, toy.means.shape[1], generator=torch.Generator().manual_seed(2))]
    )
    parts = [stats.multivariate_normal(m.numpy(), toy.sd**2).logpdf(x.double().numpy()) for m in toy.means.double()]
    expected = np.logaddexp.reduce(parts, axis=0) - math.log(len(toy.means))
    assert np.allclose(toy.log_prob(x.double()), expected, rtol=1e-10, atol=1e-10)
    assert toy.log_prob(x).dtype == torch.float32


def test_the_density_integrates_to_one():
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(line().log_prob(x).exp(), x[:, 0]).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("toy", TOYS, ids=repr)
def test_samples_have_the_mixtures_moments(toy):
    n = 40_000
    x = toy.sample(n, seed=3).double()
    assert x.shape == (n, toy.means.shape[1])
    mean = toy.means.double().mean(0)
    cov = toy.means.double().T.cov(correction=0).reshape(len(mean), -1) + toy.sd**2 * torch.eye(len(mean))
    se = (cov.diagonal() / n).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * se).all()
    products = ((x - mean)[:, :, None] * (x - mean)[:, None]).reshape(n, -1)
    assert ((products.mean(0) - cov.flatten()).abs() < 4 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("toy", TOYS[:3:2], ids=repr)
def test_each_mode_has_its_share_and_its_width(toy):
    n, modes = 40_000, len(toy.means)
    x = toy.sample(n, seed=4)
    nearest = torch.cdist(x, toy.means).argmin(1)
    share = torch.bincount(nearest, minlength=modes) / n
    assert ((share - 1 / modes).abs() < 4 * (1 / modes * (1 - 1 / modes) / n) ** 0.5).all()
    squared = ((x - toy.means[nearest]) / toy.sd).square().sum(1)  # chi-square of two degrees of freedom: mean 2, sd 2
    assert abs(squared.mean() - 2) < 4 * 2 / n**0.5
    assert stats.kstest(squared.numpy(), stats.chi2(2).cdf).pvalue > 1e-3


def test_places():
    assert torch.allclose(ring(4).means, torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-7)
    assert ring(8).means.norm(dim=1).allclose(torch.ones(8))
    assert sorted(grid().means.tolist()) == [[float(a), float(b)] for a in range(-4, 5, 2) for b in range(-4, 5, 2)]
    assert line((1.0, -3.0)).means.tolist() == [[1.0], [-3.0]]
    assert [len(toy.means) for toy in TOYS] == [8, 5, 25, 4, 3]
    assert repr(grid()) == "grid: 25 Gaussians of sd 0.05 in 2 dimensions"
    assert repr(line()) == "line: 3 Gaussians of sd 0.4 in 1 dimension"


def test_draws_follow_the_seed_and_leave_the_callers():
    before = torch.random.get_rng_state()
    assert torch.equal(ring().sample(10, seed=1), ring().sample(10, seed=1))
    assert not torch.equal(ring().sample(10, seed=1), ring().sample(10, seed=2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Mixture(torch.zeros(3), 1.0), r"finite means \(M, D\), a row each, got shape \(3,\)"),
        (lambda: Mixture(torch.zeros(0, 2), 1.0), r"got shape \(0, 2\)"),
        (lambda: Mixture(torch.full((2, 2), math.nan), 1.0), "finite means"),
        (lambda: ring(sd=0.0), "above 0, got 0.0"),
        (lambda: grid(sd=math.nan), "above 0, got nan"),
        (lambda: ring(modes=0), "modes of a ring is a count of at least 1, got 0"),
        (lambda: grid(side=-1), "side of a grid is a count of at least 1, got -1"),
        (lambda: line(()), r"got shape \(0, 1\)"),
        (lambda: ring().sample(0), "at least 1 point, got n=0"),
        (lambda: ring().log_prob(torch.zeros(3)), r"points \(N, 2\), got shape \(3,\)"),
        (lambda: line().log_prob(torch.zeros(3, 2)), r"points \(N, 1\), got shape \(3, 2\)"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(DataError, match=said):
        call()
