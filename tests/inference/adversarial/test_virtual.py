"""Virtual batch norm: by its formula, independent of the batch, kept in the checkpoint."""

import pytest
import torch
from torch import nn

from inference import virtual_batch_norm
from inference.adversarial.virtual import VirtualBatchNorm, refresh, virtual_layers
from inference.errors import RunError, ShapeError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh())


def images(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))
    )


REFERENCE = {"rows": torch.randn(16, 3, generator=torch.Generator().manual_seed(1)),
             "images": torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))}  # fmt: skip
OTHERS = {"rows": torch.randn(5, 3, generator=torch.Generator().manual_seed(2)),
          "images": torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(2))}  # fmt: skip
KINDS = {"rows": network, "images": images}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_normalises_a_row_with_the_reference_and_itself(kind):
    reference, x = REFERENCE[kind].double(), OTHERS[kind].double()
    norm = {"rows": nn.BatchNorm1d(3), "images": nn.BatchNorm2d(2)}[kind].double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    layer = virtual_batch_norm(nn.Sequential(norm), reference)
    for row in x:
        # of a reference row as many values as of this one: batch norm of all R + 1 rows, the last of which is ours
        beside = torch.nn.functional.batch_norm(torch.cat([reference, row[None]]), None, None, norm.weight, norm.bias,
                                                training=True, eps=norm.eps)  # fmt: skip
        torch.testing.assert_close(layer(row[None])[0], beside[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_an_output_does_not_depend_on_the_batch(kind, training):
    net = virtual_batch_norm(KINDS[kind](), REFERENCE[kind]).train(training)
    x = OTHERS[kind]
    whole = net(x)
    for i in range(len(x)):
        torch.testing.assert_close(net(x[i : i + 1])[0], whole[i], atol=1e-6, rtol=1e-5)
    plain = KINDS[kind]()
    assert (plain(x)[0] - plain(torch.cat([x[:1], 3 * x[1:]]))[0]).abs().max() > 0.01  # batch norm's does


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_saving_and_loading(kind):
    net = virtual_batch_norm(KINDS[kind](), REFERENCE[kind]).eval()
    other = virtual_batch_norm(KINDS[kind](seed=5), torch.zeros_like(REFERENCE[kind])).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(OTHERS[kind]), net(OTHERS[kind]))
    refresh(virtual_layers(other), other)  # the reference came along
    assert torch.equal(other(OTHERS[kind]), net(OTHERS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_buffers_say_what_the_live_statistics_say(kind):
    net = virtual_batch_norm(KINDS[kind](), REFERENCE[kind])
    learning = net.train()(OTHERS[kind])
    assert torch.equal(net.eval()(OTHERS[kind]), learning)


def test_statistics_follow_the_weights_and_carry_their_gradient():
    net = virtual_batch_norm(network().double(), REFERENCE["rows"].double())
    x = OTHERS["rows"].double()
    weight = net[0].weight

    def loss():
        refresh(virtual_layers(net), net)
        return net(x).square().sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for at in ((0, 0), (3, 2), (7, 1)):
            step = 1e-6
            weight[at] += step
            up = float(loss())
            weight[at] -= 2 * step
            down = float(loss())
            weight[at] += step
            assert float(gradient[at]) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8)


def test_the_reference_is_normalised_by_itself_alone():
    net = virtual_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), REFERENCE["rows"])
    layer = net[0]
    layer.is_reference = True
    out = layer(REFERENCE["rows"])
    assert out.mean(0).abs().max() < 1e-6 and (out.var(0, unbiased=False) - 1).abs().max() < 1e-4


def test_parameters_stay_the_same_objects():
    net = network()
    before = [id(p) for p in net.parameters()]
    virtual_batch_norm(net, REFERENCE["rows"])
    assert [id(p) for p in net.parameters()] == before
    assert sum(isinstance(m, VirtualBatchNorm) for m in net.modules()) == 2


def test_what_it_cannot_do():
    with pytest.raises(RunError, match="no batch norm"):
        virtual_batch_norm(nn.Linear(3, 3), REFERENCE["rows"])
    with pytest.raises(ShapeError, match="at least 2"):
        virtual_batch_norm(network(), REFERENCE["rows"][:1])
    with pytest.raises(ShapeError, match="one number of rows"):
        virtual_batch_norm(network(), REFERENCE["rows"], torch.zeros(3))
