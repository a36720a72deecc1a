"""ppl_models.players: minibatch discrimination against a loop, spectral norms against the SVD, classes, samples."""

import math

import pytest
import torch
from torch import nn

from ppl_models import MinibatchDiscrimination
from ppl_models.players import check_player, draw_noise, generate, spectral_norms, with_classes


def test_minibatch_discrimination_is_the_sum_over_the_other_rows(double):
    layer, x = MinibatchDiscrimination(5, kernels=3, dim=2), torch.randn(7, 5)
    matrix = layer.project.weight.detach().reshape(3, 2, 5)  # M_ib = T_b x_i
    wanted = torch.zeros(7, 3)
    for i in range(7):
        for b in range(3):
            for j in set(range(7)) - {i}:
                wanted[i, b] += math.exp(-float((matrix[b] @ x[i] - matrix[b] @ x[j]).abs().sum()))
    torch.testing.assert_close(layer(x).detach(), wanted, atol=1e-12, rtol=0)
    assert torch.equal(layer(x[:1]), torch.zeros(1, 3))  # alone in its batch
    torch.testing.assert_close(layer(x[:1].expand(4, -1)).detach(), torch.full((4, 3), 3.0))  # four copies


def test_minibatch_discrimination_has_the_second_derivatives_of_gradient_penalties(double):
    layer, x = MinibatchDiscrimination(3, kernels=2, dim=2), torch.randn(4, 3, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_spectral_norms_bring_the_largest_singular_value_to_one():
    network = nn.Sequential(nn.Linear(6, 5), nn.Unflatten(1, (1, 5, 1)), nn.Conv2d(1, 3, 2, padding=1))
    spectral_norms(network)
    for _ in range(60):  # one power iteration each
        network(torch.randn(2, 6))
    for layer in (network[0], network[2]):
        weight = layer.weight.flatten(1)  # pyright: ignore
        torch.testing.assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_classes_are_one_hot_beside_rows_and_planes_beside_images():
    y = torch.tensor([2, 0])
    rows = with_classes(torch.ones(2, 1), y, 3)
    assert torch.equal(rows, torch.tensor([[1.0, 0, 0, 1], [1, 1, 0, 0]]))
    images = with_classes(torch.ones(2, 1, 4, 5), y, 3)
    assert images.shape == (2, 4, 4, 5) and torch.equal(images.mean((2, 3)), rows)
    assert with_classes(rows, None, None) is rows


@pytest.mark.parametrize(
    ("y", "n_classes", "sentence"),
    [
        (torch.tensor([0, 1]), None, "given to a network without"),
        (None, 3, "n_classes=3 needs classes"),
        (torch.tensor([0.0, 1.0]), 3, "pass y.long()"),
        (torch.tensor([0]), 3, "are 2 integers"),
        (torch.tensor([0, 3]), 3, "go from 0 to 2, got 0 to 3"),
        (torch.tensor([-1, 2]), 3, "got -1 to 2"),
    ],
)
def test_classes_that_do_not_fit_are_a_sentence(y, n_classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        with_classes(torch.ones(2, 1), y, n_classes)


@pytest.mark.parametrize("n", [3, 1203])  # the second in three chunks
def test_samples_are_those_of_eval_mode_and_leave_rng_and_modes(n):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1), nn.BatchNorm1d(1))
    network[1].eval()  # a mode of its own
    state, before = torch.get_rng_state(), [p.clone() for p in network.state_dict().values()]
    x = generate(network, lambda n: draw_noise(network, n, 2), n, 5, ())
    assert torch.equal(torch.get_rng_state(), state) and not x.requires_grad
    assert network.training and not network[1].training and network[3].training
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    torch.manual_seed(5)
    torch.testing.assert_close(x, network.eval()(torch.randn(n, 2)).detach())


def test_modes_are_restored_after_an_error():
    network = nn.Linear(2, 3)
    with pytest.raises(RuntimeError):
        generate(network, lambda n: torch.randn(n, 5), 4, 0, ())
    assert network.training


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: generate(nn.Linear(1, 1), torch.randn, 0, 0, ()), "n >= 1 rows, got n=0"),
        (lambda: generate(nn.Linear(1, 1), torch.randn, 2, 0, (torch.zeros(3),)), "got 3 for n=2"),
        (lambda: check_player({"z_dim": 0}, None), "z_dim is at least 1, got 0"),
        (lambda: check_player({}, "layer"), "unknown norm 'layer'"),
        (lambda: check_player({}, None, pack=2, n_classes=3), "packed data have no common class"),
    ],
)
def test_bad_settings_are_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
