"""Interpolation and arithmetic of codes by their geometry."""

import math

import pytest
import torch

from inference.adversarial.latent import arithmetic, interpolate
from inference.errors import ShapeError

Z0 = torch.tensor([3.0, 0.0, 0.0, 4.0])
Z1 = torch.tensor([0.0, 0.0, 5.0, 0.0])


def test_the_great_circle_keeps_norms_and_turns_evenly(double):
    path = interpolate(Z0.double(), Z1.double(), 7)
    assert path.shape == (7, 4)
    assert torch.equal(path[0], Z0.double()) and torch.equal(path[-1], Z1.double())
    assert torch.allclose(path.norm(dim=1), torch.full((7,), 5.0))
    angles = torch.nn.functional.cosine_similarity(path[1:], path[:-1]).acos()
    assert torch.allclose(angles, torch.full((6,), math.pi / 12))  # a right angle in six parts


def test_between_norms_the_norm_goes_straight(double):
    path = interpolate(Z0.double(), 3 * Z1.double(), 5)
    assert torch.allclose(path.norm(dim=1), torch.tensor([5.0, 7.5, 10.0, 12.5, 15.0]))


def test_an_oblique_angle_agrees_with_the_rotation_by_its_generator(double):
    a, b = torch.randn(6), torch.randn(6)
    b *= a.norm() / b.norm()
    u, v = a / a.norm(), b - (b @ a) / (a @ a) * a
    v /= v.norm()
    angle = (b @ a / (a @ a)).acos()
    generator = torch.outer(v, u) - torch.outer(u, v)
    exact = torch.stack([torch.linalg.matrix_exp(t * angle * generator) @ a for t in torch.linspace(0, 1, 5)])
    assert torch.allclose(interpolate(a, b, 5), exact, atol=1e-12)


def test_a_straight_line_and_its_ends():
    path = interpolate(Z0, Z1, 3, spherical=False)
    assert torch.equal(path[1], (Z0 + Z1) / 2) and torch.equal(path[0], Z0) and torch.equal(path[-1], Z1)
    assert float(path[1].norm()) == pytest.approx(5 / math.sqrt(2))  # what the great circle is for


def test_the_ends_are_exact_to_the_last_digit():
    for _ in range(20):
        z0, z1 = torch.randn(2, 64)
        path = interpolate(z0, z1, 5)
        assert torch.equal(path[0], z0) and torch.equal(path[-1], z1)


def test_nearly_equal_codes_stay_finite():
    for nudge in (0.0, 1e-7, 1e-5, 1e-3):
        path = interpolate(Z0, Z0 * (1 + nudge) + nudge, 4)
        assert bool(torch.isfinite(path).all()) and torch.allclose(path, Z0.expand(4, 4), atol=0.01)


def test_sums_of_means():
    plus, minus, to = (torch.randn(n, 5) for n in (3, 4, 2))
    z = arithmetic(plus, minus, to)
    assert torch.allclose(z, plus.sum(0) / 3 - minus.sum(0) / 4 + to.sum(0) / 2)
    assert torch.allclose(arithmetic(plus, plus, to), to.mean(0))
    long = arithmetic(plus, minus, to, rescale=True)
    assert float(long.norm()) == pytest.approx(math.sqrt(5), rel=1e-6)
    assert torch.allclose(long / long.norm(), z / z.norm())


@pytest.mark.parametrize("n", [1, 3, 12])
def test_the_variance_of_a_sum_is_three_over_n(n):
    """Three exemplars each give a code as long as a draw of N(0, I), which is why more want rescaling."""
    draws = torch.randn(400, 3, n, 50)
    squares = torch.stack([arithmetic(plus, minus, to).square().mean() for plus, minus, to in draws])
    assert abs(float(squares.mean()) - 3 / n) < 4 * float(squares.std()) / math.sqrt(400)


def test_unusable_codes_are_refused_in_a_sentence():
    with pytest.raises(ShapeError, match="at least 2 steps, its ends, got 1"):
        interpolate(Z0, Z1, 1)
    with pytest.raises(ShapeError, match=r"two codes \(Z,\), got \(4,\) and \(3,\)"):
        interpolate(Z0, Z1[:3], 5)
    with pytest.raises(ShapeError, match="no direction"):
        interpolate(Z0, torch.zeros(4), 5)
    with pytest.raises(ShapeError, match="opposite codes"):
        interpolate(Z0, -2 * Z0, 5)
    with pytest.raises(ShapeError, match="minus needs at least 1 rows, got 0"):
        arithmetic(torch.zeros(2, 4), torch.zeros(0, 4), torch.zeros(2, 4))
