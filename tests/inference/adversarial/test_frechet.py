"""The Frechet distance against closed forms of Gaussians, its bias in small samples included."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from inference.adversarial.frechet import frechet, frechet_distance
from inference.errors import NonFiniteError, ShapeError


def covariance(f, seed, rank=None):
    factor = torch.randn(f, rank or f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / f


def test_commuting_covariances_have_a_closed_form():
    """With S_a and S_b diagonal in one basis, d^2 = |m|^2 + sum (sqrt a_i - sqrt b_i)^2."""
    basis = torch.linalg.eigh(covariance(6, 0))[1]
    a = torch.tensor([4.0, 1.0, 0.25, 9.0, 1e-6, 0.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, 4.0, 0.0, 2.0, 0.0], dtype=torch.float64)
    m = torch.arange(6, dtype=torch.float64)
    found = frechet(m, (basis * a) @ basis.T, torch.zeros(6), (basis * b) @ basis.T)
    assert found == pytest.approx(float(m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), abs=1e-8)


def test_general_covariances_agree_with_the_matrix_root():
    a, b = covariance(7, 1), covariance(7, 2)
    m = torch.randn(7, dtype=torch.float64)
    root = np.real(np.asarray(scipy.linalg.sqrtm((a @ b).numpy())))
    exact = float(m.square().sum() + (a + b).trace()) - 2 * np.trace(root)
    assert frechet(m, a, torch.zeros(7), b) == pytest.approx(exact, abs=1e-8)
    assert frechet(torch.zeros(7), b, m, a) == pytest.approx(exact, abs=1e-8)


def test_singular_covariances_cost_no_digits():
    """Rank 3 in 20 dimensions, one a multiple of the other: d^2 = (2 - 1)^2 tr(S)."""
    a = covariance(20, 3, rank=3)
    zero = torch.zeros(20)
    assert frechet(zero, a, zero, 4 * a) == pytest.approx(float(a.trace()), abs=1e-8)
    assert 0.0 <= frechet(zero, a, zero, a) < 1e-8


def test_a_shift_and_a_scale_of_samples():
    """Of rows x and c x + m the moments are exact: d^2 = |(c - 1) mean + m|^2 + (c - 1)^2 tr(S)."""
    x = torch.randn(50, 5, dtype=torch.float64)
    m = torch.tensor([3.0, 0.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    exact = float((2.0 * x.mean(0) + m).square().sum() + 4.0 * torch.cov(x.T).trace())
    assert frechet_distance(x, 3.0 * x + m) == pytest.approx(exact, abs=1e-8)
    assert frechet_distance(x, x) < 1e-10


def test_moments_of_float32_features_are_taken_in_float64():
    a, b = (1000.0 + torch.randn(50, 4) for _ in range(2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a.double(), b.double()), rel=1e-12)


@pytest.mark.parametrize("f", [1, 4])
def test_the_bias_of_small_samples_is_as_documented(f):
    """Two sets of N rows of N(0, s^2 I): E d^2 = s^2 F (F + 5) / 2N, to first order in 1 / N."""
    n, runs, s = 400, 400, 2.0
    values = torch.tensor([frechet_distance(s * torch.randn(n, f), s * torch.randn(n, f)) for _ in range(runs)])
    expected = s**2 * f * (f + 5) / (2 * n)
    assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(runs) + 0.02 * expected


def test_unusable_features_are_refused_in_a_sentence():
    with pytest.raises(ShapeError, match="b needs at least 2 rows, got 1"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="one length, got 3 numbers in a and 4 in b"):
        frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ShapeError, match=r"rows of numbers \(N, D\), got \(5,\)"):
        frechet_distance(torch.zeros(5), torch.zeros(5, 4))
    with pytest.raises(NonFiniteError, match="1 of 5 rows of a are NaN"):
        frechet_distance(torch.zeros(5, 3).index_fill(0, torch.tensor([1]), math.nan), torch.zeros(5, 3))
    with pytest.raises(ShapeError, match="two covariances"):
        frechet(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(3))
