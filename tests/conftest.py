"""Shared by all tests: the toys whose answers are known exactly, and one rule for tolerances."""

import math

import pytest
import torch


@pytest.fixture
def double():
    """Run a test in float64, where an identity holds to 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from one seed, and one thread keeps two test runs from slowing each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(20160303)
    yield
    torch.set_num_threads(threads)


def z_scores(samples: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """How many standard errors the mean of `samples` (S, ...) lies from `exact` (...)."""
    se = samples.std(0) / math.sqrt(len(samples))
    return (samples.mean(0) - exact) / se
