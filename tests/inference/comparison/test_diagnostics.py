"""Pareto k-hat against the tail index that is known (oracle O19). No torch: it also runs under ArviZ 1.x alone."""

import math

import numpy as np
import pytest

from inference.comparison.diagnostics import khat


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
