"""The classifier: its pair under the shared contract, its likelihood, what SVI makes of it."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from inference import SVI, TraceELBO, fit, log_weights
from ppl_models.classifier import ImageClassifier
from ppl_models.data import Batches
from tests.suites import ModelGuideSuite


class TestImageClassifier(ModelGuideSuite):
    latents = frozenset()
    observed = frozenset({"y"})

    def make(self):
        return ImageClassifier((1, 4, 4), n_classes=3, channels=2)

    def batch(self, n):
        generator = torch.Generator().manual_seed(n)
        return torch.rand(n, 16, generator=generator), torch.randint(3, (n,), generator=generator)


def test_its_bound_is_the_log_likelihood_itself():
    net = ImageClassifier((3, 5, 7), n_classes=4, channels=2)
    x, y = torch.rand(6, 105), torch.tensor([0, 1, 2, 3, 0, 1])
    exact = -cross_entropy(net.logits(x), y, reduction="none")
    assert torch.allclose(log_weights(net, x, y), exact.unsqueeze(0), atol=1e-6)
    gradient = torch.autograd.grad(TraceELBO()(net, x, y).loss, list(net.parameters()))
    by_hand = torch.autograd.grad(-exact.mean(), list(net.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradient, by_hand, strict=True))


def test_logits_are_linear_in_features_and_say_the_class():
    net = ImageClassifier((1, 9, 6), n_classes=5, channels=3)
    x = torch.rand(7, 54)
    features = net.features(x)
    assert features.shape == (7, net.feature_dim) and bool((features >= 0).all())
    assert torch.allclose(net.logits(x), features @ net.head.weight.T + net.head.bias, atol=1e-6)
    assert torch.equal(net.predict(x, batch_size=2), net.logits(x).argmax(-1))


def test_features_of_an_image_do_not_depend_on_its_batch_nor_on_the_mode():
    net = ImageClassifier((1, 8, 8), channels=4)
    x = torch.rand(6, 64)
    alone = net.eval().features(x[:1])
    assert torch.allclose(net.train().features(x)[:1], alone, atol=1e-6)


def test_fit_learns_classes_by_maximum_likelihood():
    """Bright left half or bright right half, in noise: separable, so held-out accuracy is 1."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (300,), generator=generator)
    x = 0.3 * torch.rand(300, 6, 6, generator=generator)
    x[y == 0, :, :3] += 0.5
    x[y == 1, :, 3:] += 0.5
    x = x.flatten(1)
    net = ImageClassifier((1, 6, 6), n_classes=2, channels=4)
    svi = SVI(net, TraceELBO(), torch.optim.Adam(net.parameters(), 1e-2), compile=False)
    history = fit(svi, Batches((x[:200], y[:200]), 50), epochs=15, seed=0)
    assert history[-1]["loss"] < 0.05 < history[0]["loss"]
    assert bool((net.predict(x[200:]) == y[200:]).all())


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="n_classes at least 2, got .* and 1"):
        ImageClassifier((1, 28, 28), n_classes=1)
    with pytest.raises(ValueError, match="at least 1"):
        ImageClassifier((1, 0, 28))
