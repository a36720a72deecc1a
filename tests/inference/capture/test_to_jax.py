"""Recorded functions in JAX: values and gradients equal torch's."""

import jax
import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor, nn

from inference.capture import record
from inference.capture.potential import read_potential
from inference.capture.to_jax import to_jax
from ppl_models import VAE, SigmoidBeliefNetwork
from tests.inference.capture.test_potential import X, enumerated, supports

QUICK = {"xla_backend_optimization_level": 0}  # compiled once, run once
SQUARE = torch.tensor([[2.0, 0.3, -0.2], [0.1, 1.5, 0.4], [-0.3, 0.2, 1.2]], dtype=torch.float64)


def agree(fn, u: Tensor, tolerance: float = 1e-5) -> None:
    """The same value and gradient, in the recording's precision and widened to float64."""
    with torch.no_grad():
        recorded = record(fn, u)
    leaf = u.detach().clone().requires_grad_()
    value = fn(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    with jax.enable_x64(True):
        function = to_jax(recorded, u, dtype=torch.float64)
        both = jax.jit(jax.value_and_grad(lambda x: function(x)[0]), compiler_options=QUICK)
        found, slope = both(u.double().numpy())
    scale = max(1.0, float(gradient.abs().max()))
    assert abs(float(found) - float(value.detach())) < tolerance * max(1.0, abs(float(value.detach())))
    assert np.abs(np.asarray(slope) - gradient.double().numpy()).max() < tolerance * scale


ELEMENTS = [
    torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.sin, torch.tanh, torch.atan, F.relu,
    torch.sigmoid, torch.erf, torch.erfc, torch.lgamma, torch.abs, F.softplus, F.logsigmoid, F.elu,
    F.gelu, F.silu, F.leaky_relu, F.mish, F.hardtanh, F.selu, torch.special.ndtr,
    torch.special.entr, torch.square, torch.reciprocal, torch.sinc, torch.logit,
]  # fmt: skip
AT = torch.tensor([3, 0, 1])
SHAPED = [
    lambda x: x.logsumexp(0), lambda x: x.softmax(-1)[0], lambda x: x.log_softmax(0), lambda x: x.cumsum(0),
    lambda x: x.cumprod(0), lambda x: x.var(0), lambda x: x.std(0, unbiased=False), lambda x: x.norm(),
    lambda x: x.prod(), lambda x: x.amax(0), lambda x: x.max(0)[0], lambda x: x.min(-1, keepdim=True).values,
    lambda x: x.logcumsumexp(0), lambda x: x.clamp(0.2, 0.5), lambda x: torch.maximum(x, 1 - x), lambda x: x**x,
    lambda x: torch.where(x > 0.3, x, x**3), lambda x: torch.xlogy(torch.arange(3).to(x), x), lambda x: x**2.5,
    lambda x: torch.logaddexp(x, 2 * x), lambda x: x[[2, 0]], lambda x: x.flip(0) * x, lambda x: x.roll(1) * x,
    lambda x: torch.stack([x, x + 1]).view(-1)[1::2], lambda x: x.index_select(0, AT[1:]), lambda x: x.repeat(2, 2),
    lambda x: x.expand(2, 3).gather(1, AT[1:].expand(2, 2)), lambda x: F.pad(x, (1, 2), value=0.7),
    lambda x: x.new_zeros(4).scatter(0, AT, x), lambda x: x.new_zeros(4).index_put((AT % 2,), x, accumulate=True),
    lambda x: x.masked_fill(x < 0.2, 3.0), lambda x: torch.einsum("i,j->ij", x, x), lambda x: x.remainder(0.25),
    lambda x: F.layer_norm(x, (3,)), lambda x: torch.diag_embed(x), lambda x: x.mean(0).expm1(),
    lambda x: x.new_zeros(5).index_put((torch.arange(5) % 2 == 0,), x), lambda x: x.unbind()[1] * x.chunk(2)[0],
]  # fmt: skip
MATRIX = [
    torch.linalg.det, torch.logdet, torch.inverse, torch.matrix_exp, torch.triu, torch.tril,
    lambda a: torch.linalg.cholesky(a @ a.T), lambda a: torch.linalg.solve_triangular(a.tril(), a, upper=False),
    lambda a: torch.cholesky_solve(a, torch.linalg.cholesky(a @ a.T)), lambda a: a.diagonal(), lambda a: a.trace(),
    lambda a: torch.bmm(a.expand(2, 3, 3), a.T.expand(2, 3, 3)), lambda a: torch.addmm(a, a, a, beta=0.5, alpha=2.0),
    lambda a: F.conv2d(a.expand(1, 2, 3, 3), a[:2, :2].expand(4, 2, 2, 2), stride=2, padding=1),
    lambda a: F.conv_transpose2d(a.expand(1, 2, 3, 3), a[:2, :2].expand(2, 3, 2, 2), a[0], 2, 1, output_padding=1),
    lambda a: F.linear(a, a, a[0]), lambda a: torch.tensordot(a, a, 2), lambda a: (a @ a[0]) * (a[0] @ a[1]),
]  # fmt: skip


def weighted(functions):
    """One number of all of them, each with a weight of its own at each element."""

    def total(x: Tensor) -> Tensor:
        out = x.new_zeros(())
        for i, function in enumerate(functions):
            y = function(x)
            out = out + (y * torch.cos(torch.arange(y.numel(), dtype=x.dtype) + i).reshape(y.shape)).sum()
        return out

    return total


@pytest.mark.parametrize("functions", [ELEMENTS, SHAPED], ids=["elements", "shaped"])
def test_operations(functions):
    agree(weighted(functions), torch.tensor([0.15, 0.4, 0.83], dtype=torch.float64), 1e-9)


def test_matrix_operations():
    agree(weighted(MATRIX), SQUARE, 1e-9)


def test_gradients_stay_finite_where_torchs_do():
    stable = [F.softplus, F.logsigmoid, lambda x: x.logsumexp(0), lambda x: F.elu(x), lambda x: x.clamp(-1.0, 1000.0)]
    agree(weighted([*stable, lambda x: x.detach() * x, F.relu]), torch.tensor([1000.0, -1000.0, 0.0]).double(), 1e-9)


@pytest.mark.parametrize("model", [supports, enumerated])
def test_potentials(model, double):
    potential = read_potential(model, (X.double(),))
    agree(potential, potential.start(torch.Generator().manual_seed(1)), 1e-9)


@pytest.mark.parametrize(
    "settings", [{}, {"conv": True, "hidden": (2, 8), "image_shape": (1, 5, 5)}], ids=["mlp", "conv"]
)
def test_the_posterior_of_a_deep_models_latents(settings):
    vae = VAE(25, z_dim=3, **({"hidden": (8,)} | settings))
    x = torch.rand(4, 25).round()
    potential = read_potential(vae, (x,))
    agree(potential, potential.start(torch.Generator().manual_seed(1)))


def test_a_belief_network_given_its_units():
    """Its latents are discrete: what JAX sees is the log joint as a function of them, relaxed."""
    net = SigmoidBeliefNetwork((6, 4, 3))
    x, shapes = torch.rand(5, 6).round(), {}
    for name, site in poutine.trace(net.model).get_trace(x).nodes.items():
        if site["type"] == "sample" and not site["is_observed"] and name.startswith("h"):
            shapes[name] = site["value"].shape

    def log_joint(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        values = {n: p.reshape(shape) for (n, shape), p in zip(shapes.items(), parts, strict=True)}
        return poutine.trace(poutine.condition(net.model, values)).get_trace(x).log_prob_sum()

    agree(log_joint, torch.rand(sum(shape.numel() for shape in shapes.values())))


def test_precision_follows_the_recording():
    with torch.no_grad():
        recorded = record(lambda x: (x * torch.pi).sum(), torch.ones(2))
    assert to_jax(recorded, torch.ones(2))(np.ones(2, "float32"))[0].dtype == "float32"
    with jax.enable_x64(True):
        assert to_jax(recorded, torch.ones(2), dtype=torch.float64)(np.ones(2))[0].dtype == "float64"


def test_an_operation_without_a_twin_is_named_with_its_line():
    def model(x):
        a = pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(torch.linalg.eigvals(a).real.sum(), 1.0), obs=x[0])

    potential = read_potential(model, (X,))
    u = torch.tensor([1.0, 0.2, -0.3, 2.0])
    with torch.no_grad():
        recorded = record(potential, u)
    with pytest.raises(ValueError, match=r"operation aten.*eig.*no JAX twin \(used at .*test_to_jax.py:\d+"):
        to_jax(recorded, u)


def test_random_numbers_outside_sites_are_refused():
    with torch.no_grad():
        recorded = record(lambda u: (u * torch.randn(2)).sum(), torch.zeros(2))
    with pytest.raises(ValueError, match="random numbers outside"):
        to_jax(recorded, torch.zeros(2))


def test_a_networks_weights_are_constants():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        recorded = record(lambda u: net(u).sum(), torch.zeros(2))
    function = to_jax(recorded, torch.zeros(2))
    before = float(function(np.ones(2, "float32"))[0])
    with torch.no_grad():
        net.weight.zero_()
    assert float(function(np.ones(2, "float32"))[0]) == before
