"""inference.mcmc.imputation: its chains against the conditional Gaussian p(x_missing | x_seen) of a linear model."""

from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.mcmc.imputation import impute
from ppl_models import VAE, SigmoidBeliefNetwork

D, Z = 4, 2
GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(D, Z, dtype=torch.float64, generator=GENERATOR)
B = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
S = torch.tensor([0.5, 0.8, 0.6, 0.7], dtype=torch.float64)
MISSING = torch.tensor([True, False, True, False])
X = torch.tensor([9.0, -2.0, 9.0, 3.0], dtype=torch.float64)  # 9: never read


class Linear:
    """z ~ N(0, I), x | z ~ N(W z + b, diag s^2); its guide is the posterior, or off in mean and covariance."""

    def __init__(self, shift: float = 0.0, widen: float = 1.0):
        precision = torch.eye(Z).double() + (W.T / S**2) @ W
        self.gain = torch.linalg.solve(precision, W.T / S**2)
        self.covariance = precision.inverse() * widen
        self.shift = shift

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.T + B, S).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal((x - B) @ self.gain.T + self.shift, self.covariance))


class Parts(Linear):
    """The same with one site in a plate left of the data, (Z, N), and a guide of independent parts."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", Z, dim=-2):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1))
            pyro.sample("x", dist.Normal(z.T @ W.T + B, S).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("parts", Z, dim=-2), pyro.plate("data", len(x), dim=-1):
            scale = 1.3 * self.covariance.diagonal().sqrt().unsqueeze(-1)
            pyro.sample("z", dist.Normal(((x - B) @ self.gain.T).T, scale))


def conditional() -> MultivariateNormal:
    """p(x_missing | x_seen) by the covariance of all of x."""
    cov = W @ W.T + torch.diag(S**2)
    m, s = MISSING, ~MISSING
    gain = cov[m][:, s] @ cov[s][:, s].inverse()
    return MultivariateNormal(B[m] + gain @ (X[s] - B[s]), cov[m][:, m] - gain @ cov[s][:, m])


def errors(draws: Tensor) -> Tensor:
    """Errors of the first two moments of draws (N, d) in standard errors."""
    n, exact = len(draws), conditional()
    variance, cov = exact.variance, exact.covariance_matrix
    of_mean = (draws.mean(0) - exact.mean) / (variance / n).sqrt()
    of_cov = (draws.T.cov() - cov) / ((variance.outer(variance) + cov.square()) / n).sqrt()
    return torch.cat([of_mean, of_cov.flatten()]).abs()


N = 8_000  # rows of the same x: as many independent chains


@pytest.mark.parametrize("correct", [False, True])
def test_with_the_posterior_for_guide_it_samples_the_conditional(correct: bool) -> None:
    done = impute(Linear(), X.expand(N, D), MISSING, 60, correct=correct)
    assert float(errors(done.x[:, MISSING]).max()) < 4
    assert torch.equal(done.x[:, ~MISSING], X[~MISSING].expand(N, 2))
    torch.testing.assert_close(done.accepted, torch.ones(N, dtype=torch.float64))  # all weights are p(x)


INEXACT = {
    "shifted": Linear(shift=0.1),
    "wide": Linear(widen=2.0),
    "both": Linear(shift=-0.1, widen=1.5),
    "in a plate": Parts(),
}


@pytest.mark.parametrize("name", INEXACT)
def test_with_another_guide_only_the_correction_does(name: str) -> None:
    plain = impute(INEXACT[name], X.expand(N, D), MISSING, 60)
    assert float(errors(plain.x[:, MISSING]).max()) > 8
    done = impute(INEXACT[name], X.expand(N, D), MISSING, 60, correct=True)
    assert float(errors(done.x[:, MISSING]).max()) < 4
    assert 0.3 < float(done.accepted.mean()) < 0.95


def test_the_mean_image_is_the_conditional_mean_and_less_noisy_than_draws() -> None:
    done = impute(Linear(), X.expand(500, D), MISSING, 200)
    se = done.mean.std(0)[MISSING] / 500**0.5
    assert bool(((done.mean[:, MISSING].mean(0) - conditional().mean).abs() < 4 * se).all())
    assert bool((done.mean.std(0)[MISSING] < 0.5 * done.x.std(0)[MISSING]).all())
    assert torch.equal(done.mean[:, ~MISSING], X[~MISSING].expand(500, 2))


def test_masks_by_row_and_rows_that_do_not_see_one_another() -> None:
    x = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    missing = torch.tensor([[True, False, False, True], [False] * 4, [False, True, True, True]])
    done = impute(Linear(), x, missing, 5, seed=3)
    assert torch.equal(done.x[~missing], x[~missing]) and torch.equal(done.x[1], x[1])
    assert bool((done.x[missing] != x[missing]).all())
    x[0, 1] += 1
    other = impute(Linear(), x, missing, 5, seed=3)
    assert torch.equal(other.x[1:], done.x[1:]) and not torch.equal(other.x[0], done.x[0])


def test_what_stands_at_missing_pixels_is_never_read() -> None:
    x = X.expand(3, D)
    first = impute(Linear(), x, MISSING, 4)
    for value in (0.0, float("nan")):
        assert torch.equal(impute(Linear(), x.masked_fill(MISSING, value), MISSING, 4).x, first.x)


def test_path_progress_and_seed() -> None:
    seen: list[int] = []
    before = torch.get_rng_state()
    done = impute(Linear(), X.expand(3, D), MISSING, 6, at=(0, 2, 6), on_step=seen.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [1, 2, 3, 4, 5, 6] and done.path.shape == (3, 3, D)
    assert torch.equal(done.path[..., ~MISSING], X[~MISSING].expand(3, 3, 2))
    shorter = impute(Linear(), X.expand(3, D), MISSING, 2, at=(2,))
    assert torch.equal(shorter.path[0], done.path[1])
    late = impute(Linear(), X.expand(3, D), MISSING, 6, at=(4, 5, 6))
    torch.testing.assert_close(late.path.mean(0), late.mean)
    assert not torch.equal(impute(Linear(), X.expand(3, D), MISSING, 6, seed=1).x, done.x)


PAIRS = {
    "VAE": lambda: VAE(16, z_dim=3, hidden=(8,), input_dropout=0.3),
    "SBN": lambda: SigmoidBeliefNetwork((16, 4, 3)),
}


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_binary_pixels_and_discrete_latents(name: str, correct: bool) -> None:
    torch.manual_seed(0)
    pair = PAIRS[name]()
    x = torch.rand(5, 16).round()
    missing = torch.arange(16) % 2 == 0
    done = impute(pair, x, missing, 4, correct=correct, at=(4,))
    assert torch.equal(done.x[:, ~missing], x[:, ~missing]) and set(done.x.unique().tolist()) <= {0.0, 1.0}
    assert bool(((done.mean >= 0) & (done.mean <= 1)).all()) and done.mean.shape == done.path[0].shape == x.shape
    assert done.accepted.shape == (5,) and bool((done.accepted <= 1).all())
    assert pair.training and not done.x.requires_grad
    again = impute(pair.eval(), x, missing, 4, correct=correct)
    assert torch.equal(again.mean, done.mean)  # networks evaluate: no dropout


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"missing": ~torch.zeros(D, dtype=torch.bool)}, "the mask hides every pixel of row 0: leave one to go by"),
        ({"missing": torch.eye(3, D) + torch.eye(3)[2:].T > 0}, "the mask hides every pixel of row 2"),
        ({"missing": torch.zeros(3, D, dtype=torch.bool)}, "the mask hides no pixel: there is nothing to fill in"),
        (
            {"missing": MISSING[:3]},
            "missing is boolean and of shape (3, 4) or (4,), True where a pixel is missing",
        ),
        ({"missing": MISSING.double()}, "missing is boolean and of shape (3, 4) or (4,)"),
        ({"x": X}, "x holds rows (N, D), at least one, got (4,): flatten the images"),
        ({"x": X.expand(0, D)}, "x holds rows (N, D), at least one, got (0, 4)"),
        ({"x": X.expand(3, D) * float("nan")}, "a pixel that is seen is NaN: mark it as missing"),
        ({"steps": 0}, "the number of steps is at least 1, got steps=0: 100 is usual"),
        ({"at": (1, 11)}, "the steps to keep lie in 0 ... 10, got at=(1, 11)"),
    ],
)
def test_masks_and_steps_that_cannot_be(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ShapeError) as error:
        impute(Linear(), **({"x": X.expand(3, D), "missing": MISSING, "steps": 10} | arguments))
    assert str(error.value).startswith(sentence)


def program(likelihood: Any, name: str = "x", enumerated: bool = False, outside: bool = False) -> Any:
    """A pair with one latent and p(x | z) of that kind."""

    def model(x: Tensor) -> None:
        if outside:
            pyro.sample("w", dist.Normal(x.new_zeros(()), 1))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1))
            if enumerated:
                pyro.sample("c", dist.Bernoulli(0.5 + 0 * z), infer={"enumerate": "parallel"})
            pyro.sample(name, likelihood(z.unsqueeze(-1).expand(x.shape), x), obs=x)

    def guide(x: Tensor) -> None:
        if outside:
            pyro.sample("w", dist.Normal(x.new_zeros(()), 1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(1), 1))

    return model, guide


def normal(z: Tensor, x: Tensor) -> Any:
    return dist.Normal(z, 1).to_event(1)


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (3, "a pair has .model(*data) and .guide(*data), got int"),
        (SimpleNamespace(model=lambda x: None), "a pair has .model(*data) and .guide(*data), got SimpleNamespace"),
        (program(normal, name="y"), "the model observes no site 'x': name the one that holds the data so"),
        (
            program(lambda z, x: dist.MultivariateNormal(z, torch.eye(D).double())),
            "the pixels of site 'x' depend on one another given the latents (MultivariateNormal)",
        ),
        (
            program(lambda z, x: dist.Normal(z + x.cumsum(1), 1).to_event(1)),
            "the model reads the data that it observes at site 'x', so it has no p(x | z) to draw from",
        ),
        (program(normal, outside=True), "a latent site lies outside the data plate"),
        (program(normal, enumerated=True), "the guide draws no 'c', which is marked for enumeration: let it draw one"),
    ],
)
def test_pairs_that_have_no_such_chain(pair: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        impute(pair, X.expand(3, D), MISSING, 2)
    assert str(error.value).startswith(sentence)


def test_programs_that_nothing_has_trained() -> None:
    model, _ = program(normal)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", x.new_zeros(()))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc + 0 * x[:, 0], 1))

    with pytest.raises(RunError, match="has no trained pyro.param"):
        impute((model, guide), X.expand(3, D), MISSING, 2)
