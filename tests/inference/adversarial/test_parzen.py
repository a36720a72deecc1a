"""Parzen windows against scikit-learn's and against the closed form of many samples."""

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity

from inference.adversarial import parzen as module
from inference.adversarial.parzen import parzen
from inference.errors import NonFiniteError, ShapeError


def rows(n, d, seed, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peer(samples, x, sigma):
    return torch.from_numpy(KernelDensity(bandwidth=sigma, rtol=0).fit(samples.numpy()).score_samples(x.numpy()))


def test_it_agrees_with_kernel_density_and_chooses_on_the_validation_rows():
    samples, validation, test = rows(300, 4, 0), rows(50, 4, 1), rows(70, 4, 2, scale=0.3)
    sigmas = (0.2, 0.4, 0.6, 0.8, 1.2)
    best = max(sigmas, key=lambda s: float(peer(samples, validation, s).mean()))
    on_test = max(sigmas, key=lambda s: float(peer(samples, test, s).mean()))
    assert best != on_test  # else the choice could come from either
    found = parzen(samples, validation, test, sigmas)
    exact = peer(samples, test, best)
    assert found.sigma == best and found.num_samples == 300
    assert found.mean == pytest.approx(float(exact.mean()), abs=1e-9)
    assert found.se == pytest.approx(float(exact.std()) / math.sqrt(70), abs=1e-9)


def test_many_samples_of_a_gaussian_give_a_wider_gaussian():
    """Windows of width s on N(0, I) are N(0, (1 + s^2) I) in the limit; the mean over draws of the density is exact."""
    s, d = 0.7, 2
    x = rows(40, d, 3)
    log_p = torch.stack([module._log_density(rows(500, d, i), x, torch.tensor([s]))[0] for i in range(10, 70)])
    variance = 1 + s**2
    exact = (-0.5 * x.square().sum(1) / variance).exp() / (2 * math.pi * variance)
    density = log_p.exp()
    z = (density.mean(0) - exact) / (density.std(0) / math.sqrt(60))
    assert float(z.abs().max()) < 4.5  # of 40 correlated scores
    expected = -0.5 * float(x.square().sum(1).mean()) / variance - math.log(2 * math.pi * variance)
    found = parzen(rows(20_000, d, 5), x, x, (s,))
    assert found.mean == pytest.approx(expected, abs=0.01)


def test_parts_do_not_matter(monkeypatch):
    samples, x = rows(30, 3, 0), rows(17, 3, 1)
    whole = parzen(samples, x, x, (0.3, 0.9, 3.0))
    monkeypatch.setattr(module, "_CELLS", 100)
    assert parzen(samples, x, x, (0.3, 0.9, 3.0)) == pytest.approx(whole, abs=1e-12)


def test_far_rows_do_not_underflow():
    """exp(-10^6 / 2) is 0 in any float; its logarithm is not."""
    found = parzen(torch.zeros(3, 1), torch.zeros(1, 1), torch.full((2, 1), 1000.0), (1.0,))
    assert found.mean == pytest.approx(-500_000 - 0.5 * math.log(2 * math.pi), rel=1e-12)
    assert found.se == 0.0


def test_the_end_of_the_grid_is_said_and_the_sentence_warns():
    samples, x = rows(100, 2, 0, 0.01), rows(20, 2, 1, 0.01)
    with pytest.warns(UserWarning, match="best Parzen width of the grid is its end, 0.1"):
        found = parzen(samples, x, x)
    assert "cannot rank models" in str(found)


def test_unusable_input_is_refused_in_a_sentence():
    x = rows(5, 2, 0)
    with pytest.raises(ShapeError, match="widths are above 0"):
        parzen(x, x, x, (0.0, 1.0))
    with pytest.raises(ShapeError, match="widths are above 0"):
        parzen(x, x, x, ())
    with pytest.raises(ShapeError, match="test needs at least 2 rows"):
        parzen(x, x, x[:1])
    with pytest.raises(ShapeError, match="2 numbers in samples and 3 in validation"):
        parzen(x, rows(5, 3, 0), x)
    with pytest.raises(NonFiniteError, match="rows of test are NaN"):
        parzen(x, x, x * math.nan)
