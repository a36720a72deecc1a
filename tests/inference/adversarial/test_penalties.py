"""Penalties on critics whose slopes are known."""

import pytest
import torch

from inference import R1, GradientPenalty
from inference.errors import RunError

A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def rows(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 2, dtype=torch.float64, generator=generator)


def apply(penalty, logits, real, fake):
    real = real.clone().requires_grad_()
    return penalty(logits, real, fake, logits(real))


def test_r1_of_a_linear_and_of_a_quadratic_critic():
    real, fake = rows()
    w = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert float(apply(R1(0.5), lambda x: x @ w, real, fake)) == pytest.approx(0.25 * 25)
    # a(x) = x'Ax / 2 has the slope Ax
    expected = 0.25 * (real @ A).square().sum(1).mean()
    found = apply(R1(0.5), lambda x: 0.5 * ((x @ A) * x).sum(1), real, fake)
    assert float(found.detach()) == pytest.approx(float(expected))


def test_r1_teaches_the_critic():
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    real, fake = rows()
    (gradient,) = torch.autograd.grad(apply(R1(0.5), lambda x: x @ w, real, fake), w)
    torch.testing.assert_close(gradient, 0.5 * w.detach())  # of gamma / 2 |w|^2


def test_the_gradient_penalty_wants_a_slope_of_one():
    real, fake = rows()
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    penalty = apply(GradientPenalty(10.0), lambda x: x @ w, real, fake)
    assert float(penalty.detach()) == pytest.approx(10 * 16)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, 20 * 4 * w.detach() / 5)
    flat = apply(GradientPenalty(10.0), lambda x: x @ (w / 5), real, fake)
    assert float(flat.detach()) == pytest.approx(0, abs=1e-20)


def test_the_gradient_penalty_looks_between_real_and_generated_rows():
    seen = []

    def logits(x):
        seen.append(x.detach())
        return x.sum(1)

    torch.manual_seed(0)
    n = 2000
    GradientPenalty()(logits, torch.zeros(n, 2), torch.ones(n, 2), torch.zeros(n))
    (between,) = seen
    assert torch.equal(between[:, 0], between[:, 1])  # on the line, at one place of it a row
    assert 0 <= between.min() and between.max() <= 1
    assert abs(float(between[:, 0].mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5


@pytest.mark.parametrize("make", [R1, GradientPenalty])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_above_0(make, value):
    with pytest.raises(RunError, match="above 0"):
        make(value)
