"""Nearest rows against brute force; the memorisation figure at both extremes and where nothing is copied."""

import math

import pytest
import torch

from inference.adversarial.neighbours import memorisation, nearest
from inference.errors import NonFiniteError, ShapeError


def rows(n, d, seed):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def test_nearest_agrees_with_all_pairs():
    x, train = rows(30, 6, 0), rows(200, 6, 1)
    pairs = (x.double().unsqueeze(1) - train.double()).square().sum(2).sqrt()
    exact = pairs.sort(1)
    found = nearest(x, train, n=3)
    assert torch.equal(found.index, exact.indices[:, :3])
    assert torch.allclose(found.distance.double(), exact.values[:, :3], atol=1e-6)


def test_copies_show():
    train, held_out = rows(400, 10, 0), rows(300, 10, 1)
    found = memorisation(train[:250], held_out, train)
    assert found.nearer == 1.0 and found.ratio < 1e-3
    assert float(nearest(train[:9], train).distance.max()) < 1e-3
    half = memorisation(torch.cat([train[:150], rows(150, 10, 2)]), held_out, train)
    assert abs(half.nearer - 0.75) < 4 * half.se


def test_far_samples_are_the_other_extreme():
    found = memorisation(rows(100, 10, 3) + 5.0, rows(100, 10, 1), rows(400, 10, 0))
    assert found.nearer == 0.0 and found.ratio > 5


def test_fresh_rows_are_neutral_and_the_standard_error_is_right():
    """Over draws of everything the statistic has mean 1/2 and, for one training set, the stated spread."""
    found = [memorisation(rows(80, 3, 3 * i), rows(60, 3, 3 * i + 1), rows(500, 3, 3 * i + 2)) for i in range(50)]
    nearer = torch.tensor([f.nearer for f in found])
    se = found[0].se
    assert se == pytest.approx(math.sqrt(141 / (12 * 80 * 60)))
    assert abs(float(nearer.mean()) - 0.5) < 4 * se / math.sqrt(50)
    assert abs(float(nearer.std()) / se - 1.0) < 4 / math.sqrt(2 * 50)
    ratios = torch.tensor([f.ratio for f in found])
    assert abs(float(ratios.mean()) - 1.0) < 4 * float(ratios.std()) / math.sqrt(50) + 0.02


def test_ties_count_half():
    """Distances 0 and 1 of samples, 1 and 2 of held-out rows: of four pairs three nearer, one equal."""
    train = torch.zeros(1, 1)
    found = memorisation(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]), train)
    assert found.nearer == pytest.approx((3 + 0.5) / 4)


def test_unusable_input_is_refused_in_a_sentence():
    x = rows(5, 3, 0)
    with pytest.raises(ShapeError, match="between 1 and the number of training rows, 5, got 6"):
        nearest(x, x, n=6)
    with pytest.raises(ShapeError, match="3 numbers in x and 4 in train"):
        nearest(x, rows(5, 4, 0))
    with pytest.raises(NonFiniteError, match="rows of held_out are NaN"):
        memorisation(x, x * math.nan, x)
    assert math.isnan(memorisation(x, x, x).ratio)  # held-out rows from the training set
