"""Smoothing, feature matching and historical averaging: what each does, by hand."""

import pytest
import torch
from torch import nn

from inference import FeatureMatching, HistoricalAveraging, LabelSmoothing
from inference.adversarial.past import AveragedWeights, History
from inference.errors import RunError


def test_feature_matching_by_hand():
    real, fake = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    assert float(FeatureMatching()(real, fake)) == pytest.approx(4 + 1)
    assert float(FeatureMatching(0.5)(real, fake)) == pytest.approx(2.5)


def test_its_gradient_is_zero_where_the_means_agree_and_only_there():
    torch.manual_seed(0)
    real = torch.randn(6, 3, dtype=torch.float64)
    other = torch.randn(6, 3, dtype=torch.float64)
    fake = (other - other.mean(0) + real.mean(0)).requires_grad_()  # other rows of the same mean
    (gradient,) = torch.autograd.grad(FeatureMatching()(real, fake), fake)
    assert gradient.abs().max() < 1e-14
    off = (fake.detach() + torch.tensor([0.1, 0.0, 0.0])).requires_grad_()
    (gradient,) = torch.autograd.grad(FeatureMatching()(real, off), off)
    torch.testing.assert_close(gradient[:, 0], torch.full((6,), 2 * 0.1 / 6, dtype=torch.float64))


def test_historical_averaging_adds_the_gradient_of_its_term():
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    past = History(net, weight=0.7)
    past.start()
    seen = [[p.detach().clone() for p in net.parameters()]]
    net(torch.zeros(1, 3, dtype=torch.float64)).sum().backward()
    past.pull()  # the first state is its own past
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(3):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        means = [torch.stack(each).mean(0) for each in zip(*seen, strict=True)]
        whole = net(x).square().sum() + 0.7 * sum(
            (p - m).square().sum() for p, m in zip(net.parameters(), means, strict=True)
        )
        expected = torch.autograd.grad(whole, list(net.parameters()))
        net.zero_grad()
        net(x).square().sum().backward()
        past.pull()
        for p, gradient in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, gradient)
        seen.append([p.detach().clone() for p in net.parameters()])


def test_historical_averaging_calms_a_circling_game():
    # min_u max_v uv: simultaneous gradient steps spiral outwards, the pull towards the past brings them in
    def radius(weight):
        u, v = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([0.0]))
        players = [nn.ParameterList([p]) for p in (u, v)]
        past = [History(player, weight) for player in players]
        for each in past:
            each.start()
        for _ in range(400):
            u.grad, v.grad = v.detach().clone(), -u.detach().clone()
            if weight:
                for each in past:
                    each.pull()
            with torch.no_grad():
                u.sub_(0.1 * u.grad)
                v.sub_(0.1 * v.grad)
        return float(u.detach() ** 2 + v.detach() ** 2) ** 0.5

    assert radius(0.0) > 5 and radius(0.5) < 0.5


def test_averaged_weights_are_the_exponential_mean():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    averaged = AveragedWeights(net, 0.8)
    mean = net[0].weight.detach().clone()
    for t in range(60):
        with torch.no_grad():
            net[0].weight.add_(torch.randn(2, 2))
        net(torch.randn(4, 2))
        averaged.follow(net)
        decay = min(0.8, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * net[0].weight.detach()
        torch.testing.assert_close(averaged.network[0].weight, mean)
    assert torch.equal(averaged.network[1].running_mean, net[1].running_mean)
    assert not any(p.requires_grad for p in averaged.network.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: LabelSmoothing(1.1),
        lambda: LabelSmoothing(0.5, 0.5),
        lambda: LabelSmoothing(0.9, -0.1),
        lambda: LabelSmoothing(float("nan")),
        lambda: FeatureMatching(0.0),
        lambda: FeatureMatching(1.0, -1.0),
        lambda: HistoricalAveraging(0.0),
        lambda: HistoricalAveraging(float("inf")),
        lambda: AveragedWeights(nn.Linear(1, 1), 1.0),
        lambda: AveragedWeights(nn.Linear(1, 1), 0.0),
    ],
)
def test_settings_that_cannot_be_meant(make):
    with pytest.raises(RunError, match="got"):
        make()


def test_smoothing_is_one_sided_by_default():
    assert LabelSmoothing().targets == (0.9, 0.0)
    assert LabelSmoothing(0.9, 0.1).targets == (0.9, 0.1)
