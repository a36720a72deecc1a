"""SemiSupervisedVAE and StackedVAE: the contract, shapes, labels row by row, densities, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from inference import IWAE, SemiSupervisedELBO, TraceEnumELBO, log_weights
from ppl_models import VAE, SemiSupervisedVAE, StackedVAE
from tests.suites import ModelGuideSuite


def m2(**options: Any) -> SemiSupervisedVAE:
    torch.manual_seed(0)
    return SemiSupervisedVAE(9, z_dim=3, n_classes=4, hidden=(6,), **options)


def stacked() -> StackedVAE:
    torch.manual_seed(0)
    return StackedVAE(VAE(9, z_dim=5, hidden=(7,)), SemiSupervisedVAE(5, 3, 4, (6,), likelihood="gaussian"))


def rows(n: int) -> Tensor:
    return torch.rand(n, 9, generator=torch.Generator().manual_seed(1)).round()


class _Labelled(ModelGuideSuite):
    observed = frozenset({"x", "y"})

    def batch(self, n):
        return rows(n), torch.arange(n) % 4

    def test_every_parameter_gets_a_gradient(self):
        pair = self.make()
        x, y = self.batch(5)
        SemiSupervisedELBO()(pair, x, y[:2]).loss.backward()
        assert not [name for name, p in pair.named_parameters() if p.grad is None]

    def test_a_step_learns_and_touches_no_global_store(self):
        """A labelled batch leaves the classifier alone: SemiSupervisedELBO's tests have its steps."""


class TestM2(_Labelled):
    def make(self):
        return m2()


class TestStacked(_Labelled):
    latents = frozenset({"z", "z1"})

    def make(self):
        return stacked()


@pytest.mark.parametrize("make", [m2, stacked])
@pytest.mark.parametrize("labelled", [None, 0, 2, 5])
def test_labels_are_known_or_summed_out_row_by_row(make: Any, labelled: int | None) -> None:
    pair, x = make(), rows(5)
    y = None if labelled is None else torch.tensor([3, 0, 1, 2, 2])[:labelled]
    for k in (1, 3):
        assert log_weights(pair, x, y, k=k).shape == (k, 5)
    for bound in (TraceEnumELBO(2), IWAE(3)):
        estimate = bound(pair, x, y)
        estimate.loss.backward()
        assert torch.isfinite(estimate.bound)
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in pair.parameters())


@pytest.mark.parametrize("make", [m2, stacked])
def test_a_known_label_is_the_row_alone_with_that_label(make: Any) -> None:
    """Mixed in one program or each part alone: the mean weight, which is p(x, y) or p(x), is the same."""
    pair, x, y, k = make(), rows(5), torch.tensor([3, 0]), 50_000
    torch.manual_seed(2)
    with torch.no_grad():
        mixed = log_weights(pair, x, y, k=k).double().exp()
        parts = torch.cat([log_weights(pair, x[:2], y, k=k), log_weights(pair, x[2:], k=k)], 1).double().exp()
    se = ((mixed.var(0) + parts.var(0)) / k).sqrt()
    assert ((mixed.mean(0) - parts.mean(0)).abs() < 4 * se).all()
    assert (se < 0.2 * parts.mean(0)).all()  # a class more or less would show


@pytest.mark.parametrize("make", [m2, stacked])
def test_pictures_and_classes(make: Any) -> None:
    pair, x = make(), rows(5)
    p = pair.classify(x)
    assert p.shape == (5, 4)
    torch.testing.assert_close(p.sum(-1), torch.ones(5))
    z = pair.style(x)
    assert z.shape == (5, 3) and pair.style(x, torch.tensor([0, 1, 2, 3, 0])).shape == (5, 3)
    images = pair.decode(torch.arange(4), z.unsqueeze(1).expand(-1, 4, -1))
    assert images.shape == (5, 4, 9) and 0 <= float(images.min()) and float(images.max()) <= 1
    before = torch.get_rng_state()
    assert pair.generate(3, seed=1).shape == (3, 4, 9)
    assert torch.equal(pair.generate(2, seed=1), pair.generate(2, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_the_output_starts_at_the_mean_of_the_data() -> None:
    mean = torch.linspace(0.1, 0.9, 9)
    z = torch.zeros(1, 3)
    assert m2(mean=mean).decode(torch.tensor([0]), z).sub(mean).abs().max() < 0.25
    assert torch.equal(m2(mean=mean).output[0].bias, torch.logit(mean))
    assert torch.equal(m2(mean=mean, likelihood="gaussian").output.linear.bias[:9], mean)


def test_dropout_is_for_the_classifier_in_training_alone() -> None:
    pair, x = m2(dropout=0.5), rows(20)
    assert not torch.equal(pair.q_y(x).probs, pair.q_y(x).probs)
    y = torch.zeros(20, dtype=torch.int64)
    assert torch.equal(pair.q_z(x, y).mean, pair.q_z(x, y).mean)
    pair.eval()
    assert torch.equal(pair.classify(x), pair.classify(x))


@pytest.mark.parametrize("hidden", [(7,), (7, 6), (7, 6, 5)])
def test_hidden_sizes_are_mirrored(hidden: tuple[int, ...]) -> None:
    pair = SemiSupervisedVAE(9, 2, 3, hidden)
    assert pair.encoder.value.weight.shape == (hidden[0], 9)
    assert pair.decoder.value.weight.shape == (hidden[-1], 2)
    assert log_weights(pair, rows(4), k=2).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_dim": 0}, "x_dim is at least 1, got 0"),
        ({"x_dim": 9, "z_dim": 0}, "z_dim is at least 1"),
        ({"x_dim": 9, "hidden": ()}, "at least one layer"),
        ({"x_dim": 9, "hidden": (0,)}, "hidden is at least 1"),
        ({"x_dim": 9, "n_classes": 1}, "at least 2 classes, got n_classes=1"),
        ({"x_dim": 9, "activation": "sin"}, "unknown activation 'sin'"),
        ({"x_dim": 9, "dropout": 1.0}, r"a share in \[0, 1\), got 1.0"),
        ({"x_dim": 9, "likelihood": "poisson"}, "choose bernoulli or gaussian"),
        ({"x_dim": 9, "mean": torch.zeros(4)}, "mean holds 4 values, not x_dim=9"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemiSupervisedVAE(**options)


def test_m2_must_fit_the_codes() -> None:
    with pytest.raises(ValueError, match=r"5 real numbers a row, and it is made for x_dim=9"):
        StackedVAE(VAE(9, z_dim=5, hidden=(7,)), m2(likelihood="gaussian"))
    with pytest.raises(ValueError, match="likelihood 'bernoulli'"):
        StackedVAE(VAE(9, z_dim=9, hidden=(7,)), m2())
