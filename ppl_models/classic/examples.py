"""Every classic model with data to try it on: the schools' own, and others drawn by a fixed seed from known values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_models.classic.latent import gaussian_mixture_enumerated, hidden_markov
from ppl_models.classic.regression import autoregression, gaussian_process, linear_regression, logistic_regression
from ppl_models.classic.schools import eight_schools, eight_schools_centred, eight_schools_data

__all__ = ["EXAMPLES", "Example"]


class Example(NamedTuple):
    """A model, what makes its data, and what it is in words."""

    model: Callable[..., Any]
    data: Callable[[], tuple[Any, ...]]
    words: str


def regression_data(n: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows x (n, 3) and y (n,) of a line with alpha = 1, beta = (2, -1, 0.5), sigma = 1."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    return x, 1.0 + x @ torch.tensor([2.0, -1.0, 0.5]) + torch.randn(n, generator=g)


def classification_data(n: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows x (n, 3) and y (n,) of 0 and 1, with alpha = 0.5, beta = (2, -1, 0)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    p = torch.sigmoid(0.5 + x @ torch.tensor([2.0, -1.0, 0.0]))
    return x, (torch.rand(n, generator=g) < p).float()


def series_data(n: int = 150, seed: int = 0) -> tuple[Tensor]:
    """A series (n,) of AR(2) with alpha = 0.5, beta = (0.6, 0.2), sigma = 0.5."""
    g = torch.Generator().manual_seed(seed)
    values = [1.0, 1.0]
    for noise in torch.randn(n + 50, generator=g).tolist():
        values.append(0.5 + 0.6 * values[-1] + 0.2 * values[-2] + 0.5 * noise)
    return (torch.tensor(values[-n:]),)


def function_data(n: int = 25, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A wave at n points x of (-5, 5), y = 2 sin(x) + noise of 0.3."""
    g = torch.Generator().manual_seed(seed)
    x = torch.linspace(-5.0, 5.0, n)
    return x, 2 * x.sin() + 0.3 * torch.randn(n, generator=g)


def mixture_data(n: int = 200, seed: int = 0) -> tuple[Tensor]:
    """Draws y (n,) of two overlapping normals, w = (0.4, 0.6), mu = (-1.5, 1.5), sigma = (0.9, 0.7)."""
    g = torch.Generator().manual_seed(seed)
    z = (torch.rand(n, generator=g) < 0.6).long()
    mu, sigma = torch.tensor([-1.5, 1.5]), torch.tensor([0.9, 0.7])
    return (mu[z] + sigma[z] * torch.randn(n, generator=g),)


def sequences_data(n: int = 10, steps: int = 10, seed: int = 0) -> tuple[Tensor]:
    """Sequences y (n, steps) of two states that stay with 0.85 and 0.75, mu = (-1, 1.5), sigma = 0.8."""
    g = torch.Generator().manual_seed(seed)
    stay, mu = torch.tensor([0.85, 0.75]), torch.tensor([-1.0, 1.5])
    z = (torch.rand(n, generator=g) < 0.5).long()
    columns = []
    for _ in range(steps):
        columns.append(mu[z] + 0.8 * torch.randn(n, generator=g))
        z = torch.where(torch.rand(n, generator=g) < stay[z], z, 1 - z)
    return (torch.stack(columns, 1),)


EXAMPLES: dict[str, Example] = {
    "eight_schools": Example(eight_schools, eight_schools_data, "eight schools, non-centred"),
    "eight_schools_centred": Example(eight_schools_centred, eight_schools_data, "eight schools, centred"),
    "linear_regression": Example(linear_regression, regression_data, "linear regression, 100 rows of 3 columns"),
    "logistic_regression": Example(
        logistic_regression, classification_data, "logistic regression, 100 rows of 3 columns"
    ),
    "ar": Example(autoregression, series_data, "autoregression AR(2), 150 steps"),
    "gp": Example(gaussian_process, function_data, "Gaussian process regression, 25 points"),
    "gmm": Example(gaussian_mixture_enumerated, mixture_data, "mixture of two normals, 200 draws"),
    "hmm": Example(hidden_markov, sequences_data, "hidden Markov model of two states, 10 sequences of 10 steps"),
}
"""Name -> model and data, as `ppl compare NAME` knows them."""
