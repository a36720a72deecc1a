"""Scores of samples through a classifier whose answers are known: one of four classes by two pixels' signs."""

import math

import pytest
import torch

from inference.adversarial.frechet import frechet_distance
from inference.adversarial.samples import judge_samples, stacked_modes
from inference.errors import NonFiniteError, ShapeError


class Quadrants:
    """Features are the pixels; class 0, 1, 2 or 3 by which of the four is largest, its log-odds `scale` times each."""

    scale = 10.0

    def features(self, x):
        return 2.0 * x

    def logits(self, x):
        return self.scale * x


def ones(classes):
    """One-hot rows (N, 4) of classes (N,)."""
    return torch.eye(4)[classes]


def cycle(n):
    return torch.arange(n) % 4


def test_scores_of_even_samples():
    scores = judge_samples(Quadrants(), ones(cycle(80)), ones(cycle(40)), ones(cycle(60)))
    p = math.exp(10) / (math.exp(10) + 3)
    assert scores.confidence == pytest.approx(p) and scores.real_confidence == pytest.approx(p)
    assert scores.confident == scores.real_confident == 1.0
    assert scores.num == 40 and int(scores.classes.sum()) == 40
    assert scores.class_entropy == pytest.approx(math.log(4), abs=0.1)  # 40 of 80, chosen at random
    assert scores.real_class_entropy == pytest.approx(math.log(4))  # all of them, in whatever order


def test_one_class_has_no_entropy_and_lies_far():
    real = ones(cycle(40))
    scores = judge_samples(Quadrants(), ones(torch.zeros(40, dtype=torch.long)), real, real)
    assert scores.class_entropy == 0.0 and scores.classes.tolist() == [40, 0, 0, 0]
    # features 2 e_0 without spread against 2 e_k, k even: |2 e_0 - 1/2|^2 + tr S
    spread = 4 * torch.cov(real.T).trace()
    assert scores.frechet == pytest.approx(9 / 4 + 3 / 4 + float(spread), rel=1e-6)
    assert scores.frechet_floor == pytest.approx(0.0, abs=1e-9)


def test_the_distances_are_between_features_of_the_right_sets():
    samples, test, train = (torch.rand(30, 4) + shift for shift in (0.0, 1.0, 3.0))
    scores = judge_samples(Quadrants(), samples, test, train)
    assert scores.frechet == pytest.approx(frechet_distance(2 * samples, 2 * test), rel=1e-9)
    assert scores.frechet_floor == pytest.approx(frechet_distance(2 * train, 2 * test), rel=1e-9)
    assert scores.confidence == pytest.approx(float((10 * samples).double().softmax(1).amax(1).mean()), rel=1e-6)
    assert scores.real_confidence == pytest.approx(float((10 * test).double().softmax(1).amax(1).mean()), rel=1e-6)
    share = float(((10 * samples).softmax(1).amax(1) > 0.9).float().mean())
    assert 0 < share < 1 and scores.confident == pytest.approx(share)


def test_sorted_rows_are_chosen_over_all_classes():
    test = ones(cycle(400).sort().values)
    scores = judge_samples(Quadrants(), ones(cycle(100)), test, test)
    assert scores.num == 100 and scores.real_class_entropy > math.log(4) - 0.1


def test_all_stacks_and_one_stack():
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)  # (64, 3)
    found = stacked_modes(Quadrants(), ones(every).flatten(1), 3)
    assert found[:2] == (64, 64) and found.reverse_kl == pytest.approx(0.0, abs=1e-12) and found.num == 64
    one = stacked_modes(Quadrants(), ones(every[5:6].expand(50, 3)).flatten(1), 3)
    assert one.modes == 1 and one.reverse_kl == pytest.approx(math.log(64))
    two = stacked_modes(Quadrants(), ones(every[:16, 1:].repeat(3, 1)).flatten(1), 2)
    assert two[:2] == (16, 16)


def test_permuted_channels_are_other_modes():
    stacks = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 2, 1], [0, 1, 2]])
    assert stacked_modes(Quadrants(), ones(stacks).flatten(1), 3).modes == 3


def test_the_reverse_kl_of_true_draws_is_as_documented():
    """(M - 1) / 2n of n draws of the truth, to first order."""
    n, runs = 2000, 40
    values = torch.tensor(
        [stacked_modes(Quadrants(), ones(torch.randint(4, (n, 2))).flatten(1), 2).reverse_kl for _ in range(runs)]
    )
    assert abs(float(values.mean()) - 15 / (2 * n)) < 4 * float(values.std()) / math.sqrt(runs)


def test_unusable_samples_are_refused_in_a_sentence():
    x = torch.rand(8, 4)
    with pytest.raises(ShapeError, match="rows of 4 numbers are not 3 images"):
        stacked_modes(Quadrants(), x, 3)
    with pytest.raises(ShapeError, match="real_train needs at least 2 rows, got 1"):
        judge_samples(Quadrants(), x, x, x[:1])
    with pytest.raises(NonFiniteError, match="1 of 8 rows of samples"):
        judge_samples(Quadrants(), x.index_fill(0, torch.tensor([3]), math.inf), x, x)
