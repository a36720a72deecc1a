"""Potentials of Pyro programs against Pyro's own, and what they refuse."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor, nn

from inference.capture.potential import read_potential

X = torch.tensor([0.3, 1.2, -0.4, 2.0])


def supports(x: Tensor) -> None:
    """Every kind of support, plates inside one another, a factor, a mask, a scale."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.Beta(2.0, 3.0))
    c = pyro.sample("c", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    d = pyro.sample("d", dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), _ordered()))
    e = pyro.sample("e", dist.Uniform(-1.0, 3.0))
    f = pyro.sample("f", dist.LKJCholesky(3, torch.tensor(1.5)))
    pyro.factor("pull", -((b - 0.3) ** 2))
    with pyro.plate("groups", 2, dim=-2):
        g = pyro.sample("g", dist.Gamma(2.0, a))
        with pyro.plate("data", len(x), dim=-1), poutine.scale(scale=0.5):
            with poutine.mask(mask=x > 0):
                h = pyro.sample("h", dist.StudentT(4.0, 0.0, 1.0))
            loc = c[0] + d[1] + e + f[2, 1] + g + h
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x.expand(2, -1))


def _ordered() -> list:
    return [dist.transforms.OrderedTransform()]


def enumerated(x: Tensor) -> None:
    """Two sites summed out, one of them global."""
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    centre = pyro.sample("centre", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    wide = pyro.sample("wide", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.stack([p, 1 - p])), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(centre[z.long()], 1.0 + wide), obs=x)


@pytest.mark.parametrize("model", [supports, enumerated])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_pyros_own(model, seed, double):
    data = X.double()
    ours = read_potential(model, (data,))
    _, theirs, transforms, _ = initialize_model(model, (data,))
    u = ours.start(torch.Generator().manual_seed(seed))
    named = {site.name: u[site.at].reshape(site.free) for site in ours.latents}
    assert torch.allclose(ours(u), theirs(named), rtol=1e-10)
    values, log_det = ours.constrain(u.expand(2, 3, -1))
    for name, value in named.items():
        assert torch.allclose(values[name][1, 2], transforms[name].inv(value))
    assert log_det.shape == (2, 3)


def test_the_log_joint_is_the_traces(double):
    ours = read_potential(supports, (X.double(),))
    u = ours.start(torch.Generator().manual_seed(0))
    values, log_det = ours.constrain(u)
    trace = poutine.trace(poutine.condition(supports, values)).get_trace(X.double())
    assert torch.allclose(-ours(u) - log_det, trace.log_prob_sum(), rtol=1e-10)


def test_a_support_that_moves_with_another_latent(double):
    def model(x):
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Uniform(0.0, a))
        pyro.sample("x", dist.Normal(b, 1.0).expand([len(x)]).to_event(1), obs=x)

    ours = read_potential(model, (X.double(),))
    u = torch.tensor([[0.4, -0.3], [1.5, 0.2]])
    values, log_det = ours.constrain(u)
    a, share = u[:, 0].exp(), torch.sigmoid(u[:, 1])
    assert ours.moving and torch.allclose(values["b"], a * share)
    assert torch.allclose(log_det, u[:, 0] + torch.log(a * share * (1 - share)))
    trace = poutine.trace(poutine.condition(model, {"a": a[1], "b": values["b"][1]})).get_trace(X.double())
    assert torch.allclose(ours(u[1]), -trace.log_prob_sum() - log_det[1])


def test_a_flat_prior_needs_no_draw():
    def model(x):
        b = pyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("x", dist.Normal(b, 1.0).expand([len(x)]).to_event(1), obs=x)

    assert read_potential(model, (X,)).size == 1


def mixed(x):
    """Latents of two precisions; a flat one, which takes the data's."""
    wide = pyro.sample("wide", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
    narrow = pyro.sample("narrow", dist.Gamma(torch.ones(2), 1.0).to_event(1))
    flat = pyro.sample("flat", dist.ImproperUniform(constraints.real, (), ()))
    mean = (torch.ones(3, 4, dtype=torch.float64) @ wide).sum() + (torch.ones(3, 2) @ narrow).sum() + flat
    pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)


def test_latents_have_the_precision_of_their_prior():
    potential = read_potential(mixed, (X.double(),))
    wanted = {"wide": torch.float64, "narrow": torch.float32, "flat": torch.float64}
    assert {site.name: site.like.dtype for site in potential.latents} == wanted
    u = potential.start(torch.Generator().manual_seed(0))
    values, log_det = potential.constrain(u)
    values["narrow"] = values["narrow"].float()
    trace = poutine.trace(poutine.condition(mixed, values)).get_trace(X.double())
    assert u.dtype == torch.float64 and potential(u).dtype == torch.float64
    assert torch.allclose(-potential(u) - log_det, trace.log_prob_sum(), rtol=1e-6)


def test_parameters_are_held_fixed():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))

        def model(self, x):
            shift = pyro.param("shift", torch.tensor(3.0))
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z) + shift, 1.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    program = Program()
    potential = read_potential(program, (torch.zeros(3, 4),))
    u = torch.zeros(potential.size)
    assert float(potential(u).detach()) == float(potential(u).detach())  # evaluating: no dropout
    assert program.net.training and "shift" not in pyro.get_param_store()


def test_the_callers_generator_is_left_alone():
    before = torch.get_rng_state()
    read_potential(supports, (X,)).start(torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def discrete(x):
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("x", dist.Normal(z + pyro.sample("a", dist.Normal(0.0, 1.0)), 1.0), obs=x[0])


def no_bijector(x):
    class Circle(dist.Normal):
        support = constraints.Constraint()

    pyro.sample("angle", Circle(0.0, 1.0))


def subsampled(x):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        pyro.sample("x", dist.Normal(a, 1.0), obs=x[rows])


def nothing(x):
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[0])


def comes_and_goes(x):
    if pyro.sample("a", dist.Normal(0.0, 1.0)) > -0.6:
        pyro.sample("b", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (discrete, "'z' is discrete.*enumerate.*Gibbs"),
        (no_bijector, "support of 'angle'.*no bijector"),
        (subsampled, "plate 'data' is subsampled .2 of 4."),
        (nothing, "the model has none"),
    ],
)
def test_what_it_refuses(model, words):
    with pytest.raises(ValueError, match=words):
        read_potential(model, (X,))


def test_a_site_that_comes_and_goes_is_refused():
    potential = read_potential(comes_and_goes, (X,))
    with pytest.raises(ValueError, match="comes and goes"):
        for value in (-2.0, 2.0):
            potential(torch.full((potential.size,), value))
            assert potential.size == 2


def test_a_chain_starts_at_the_likeliest_of_ten_states():
    potential = read_potential(lambda: pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1)), ())
    start = potential.start(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    states = [4 * torch.rand(3, generator=generator, dtype=torch.float64) - 2 for _ in range(10)]
    torch.testing.assert_close(start.double(), min(states, key=lambda u: float(u @ u)), rtol=1e-6, atol=1e-6)


def test_no_state_to_start_from():
    def impossible(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.LogNormal(a, 1.0), obs=-x[1])

    with pytest.raises(ValueError, match="infinite or NaN at each of 100"):
        read_potential(impossible, (X,)).start(torch.Generator())
