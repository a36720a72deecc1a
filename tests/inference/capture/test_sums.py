"""Sums of products as one product: the same values, in fewer operations, and only where it pays."""

import pytest
import torch

from inference.capture import record
from inference.capture.inductor import rewritten
from inference.capture.passes import LINEAR

T = 4
W = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) / 8
X = torch.randn(T, 5, 64, generator=torch.Generator().manual_seed(1))
PRODUCTS = (torch.ops.aten.mm.default, LINEAR)


def products(recorded):
    return sum(node.target in PRODUCTS for node in recorded.graph.graph.nodes)


def gradient_of(used):
    """A function of W: its gradient where it is used in T products."""

    def fn(w):
        w = w.detach().requires_grad_()
        return torch.autograd.grad(used(w), w)[0]

    return fn


def in_turn(w):  # each product hangs on the one before
    h = X.new_zeros(5, 48)
    for x in X:
        h = ((x + torch.cat([h, h[:, :16]], 1)) @ w).tanh()
    return h.sum()


def both_ways(w):  # W and its transpose: gradients of the second form are transposed
    return sum(((x @ w) @ w.t()).square().sum() for x in X)


def with_another_term(w):
    return in_turn(w) + w.square().sum()


@pytest.mark.parametrize(("used", "terms"), [(in_turn, T), (both_ways, 2 * T), (with_another_term, T)])
def test_a_gradient_of_many_uses_is_one_product(used, terms):
    recorded = record(gradient_of(used), W)
    fast = rewritten(recorded)
    assert products(recorded) - products(fast) == terms - 1
    torch.testing.assert_close(fast(W), gradient_of(used)(W), rtol=1e-5, atol=1e-5)


def test_in_half_precision_the_sum_is_closer_to_the_exact_one():
    def fn(w):
        with torch.autocast("cpu", torch.bfloat16):
            return gradient_of(in_turn)(w)

    recorded = record(fn, W)
    fast = rewritten(recorded)
    assert products(recorded) - products(fast) == T - 1
    exact = gradient_of(in_turn)(W)
    assert fast(W).dtype == torch.float32
    assert (fast(W) - exact).norm() <= (recorded(W) - exact).norm() * 1.01


def test_products_of_two_precisions_are_two():
    def fn(a, b):
        return (a.t() @ b).float() + (a.double().t() @ b.double()).float() + (b.t() @ a).t() + (a.t() @ (b + 1)).t().t()

    a, b = X[0], X[1]
    recorded = record(fn, a, b)
    fast = rewritten(recorded)
    assert products(recorded) == 4 and products(fast) == 2
    torch.testing.assert_close(fast(a, b), recorded(a, b))


@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b: (lambda first, second: (first + second, first))(a.t() @ b, b.t() @ a),  # read by itself too
        lambda a, b: (a @ b.t()) + (b @ a.t()),  # 5 x 5 of 5 x 64: the factors are larger than what is saved
        lambda a, b: torch.add(a.t() @ b, b.t() @ a, alpha=2),
        lambda a, b: (a.t() @ b) + (a[:, :1].t() @ b),  # added along a dim
    ],
)
def test_what_stays(fn):
    recorded = record(fn, X[0], X[1])
    fast = rewritten(recorded)
    assert products(recorded) == products(fast) == 2
    torch.testing.assert_close(fast(X[0], X[1]), recorded(X[0], X[1]))
