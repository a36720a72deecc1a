"""The graph passes: same values, fewer and faster operations."""

import pytest
import torch
from torch import nn

from inference.capture import record
from inference.capture.inductor import rewritten
from inference.capture.passes import LINEAR

onednn = pytest.mark.skipif(
    LINEAR is None or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
    reason="needs AVX-512 and oneDNN",
)
X = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))


def counts(recorded):
    """How often each operation occurs."""
    names = [str(node.target) for node in recorded.graph.graph.nodes if node.op == "call_function"]
    return {name: names.count(name) for name in names}


def test_the_same_thing_is_computed_once():
    recorded = record(lambda x: (x.exp() + 1, x.exp() + 1.0, x.exp() * x.exp()), X)
    fast = rewritten(recorded)
    assert counts(recorded)["aten.exp.default"] == 4 and counts(fast)["aten.exp.default"] == 1
    torch.testing.assert_close(fast(X), recorded(X), rtol=0, atol=0)


def test_draws_are_never_merged():
    recorded = record(lambda p: torch.stack([torch.multinomial(p, 5, True) for _ in range(2)]), X.abs())
    fast = rewritten(recorded)
    assert counts(fast)["aten.multinomial.default"] == 2


def test_numbers_of_another_type_are_another_thing():
    x = torch.arange(4)
    fast = rewritten(record(lambda x: (torch.mul(x, 2), torch.mul(x, 2.0), torch.mul(x, 0.0), torch.mul(x, -0.0)), x))
    whole, real, zero, minus = fast(x)
    assert whole.dtype == torch.int64 and real.dtype == torch.float32
    assert not zero.signbit().any() and minus.signbit().all()


@onednn
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softplus()])
def test_products_and_their_gradients_by_onednn(activation):
    net = nn.Sequential(nn.Linear(100, 80), activation, nn.Linear(80, 90))
    parameters = list(net.parameters())

    def joint(x):
        out = net(x)
        return out, torch.autograd.grad(out.square().sum(), parameters)

    recorded = record(joint, X)
    fast = rewritten(recorded)
    assert counts(fast)[str(LINEAR)] == 5 and not any("mm" in name for name in counts(fast))
    fused = {node.args[3] for node in fast.graph.graph.nodes if node.target is LINEAR}
    assert len(fused) == (1 if isinstance(activation, nn.Softplus) else 2)
    torch.testing.assert_close(fast(X), recorded(X), rtol=1e-4, atol=1e-4)


@onednn
def test_an_activation_stays_where_its_argument_is_read_too():
    layer = nn.Linear(100, 80)

    def f(x):
        h = layer(x)
        return h, h.tanh()

    fast = rewritten(record(f, X))
    torch.testing.assert_close(fast(X), f(X), rtol=1e-5, atol=1e-5)


@onednn
def test_small_or_double_products_stay_torchs_own():
    assert str(LINEAR) not in counts(rewritten(record(lambda x: x[:2] @ x.t(), X)))
    assert str(LINEAR) not in counts(rewritten(record(lambda x: x @ x.t(), X.double())))
