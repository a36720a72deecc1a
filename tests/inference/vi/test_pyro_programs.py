"""Programs as a Pyro user writes them train under SVI unchanged, and agree with Pyro's own values."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from inference import IWAE, SVI, TraceELBO, TraceEnumELBO, log_weights
from inference.errors import RunError, UnsupportedModelError
from inference.pair import Pair, as_pair
from tests.conftest import z_scores


def adam(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr)


@pytest.fixture(autouse=True)
def global_store():
    """No test may leave anything in Pyro's global parameter store."""
    pyro.clear_param_store()
    yield
    left = list(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert left == []


# ---- (i) the shape of Pyro's examples/vae.py


class Encoder(nn.Module):
    def __init__(self, z_dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(16, hidden_dim)
        self.fc21, self.fc22 = nn.Linear(hidden_dim, z_dim), nn.Linear(hidden_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.reshape(-1, 16)
        hidden = self.softplus(self.fc1(x))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class Decoder(nn.Module):
    def __init__(self, z_dim: int, hidden_dim: int):
        super().__init__()
        self.fc1, self.fc21 = nn.Linear(z_dim, hidden_dim), nn.Linear(hidden_dim, 16)
        self.softplus = nn.Softplus()

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc21(self.softplus(self.fc1(z))))


class ExampleVAE(nn.Module):
    def __init__(self, z_dim: int = 2, hidden_dim: int = 20):
        super().__init__()
        self.encoder, self.decoder = Encoder(z_dim, hidden_dim), Decoder(z_dim, hidden_dim)
        self.z_dim = z_dim

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, 16))
            return loc_img

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def stripes(n: int) -> Tensor:
    rows = torch.bernoulli(torch.full((n, 4, 1), 0.5))
    return rows.expand(n, 4, 4).reshape(n, 4, 4)


@pytest.mark.parametrize("as_methods", [False, True])
@pytest.mark.parametrize("objective", [TraceELBO(), IWAE(5)])
def test_the_vae_example_trains(objective: Any, as_methods: bool) -> None:
    vae, x = ExampleVAE(), stripes(64)
    svi = SVI((vae.model, vae.guide) if as_methods else vae, objective, adam(1e-2))
    losses = torch.stack([svi.step(x).loss for _ in range(400)])
    independent_pixels = 16 * math.log(2)
    assert losses[:5].mean() > 0.95 * independent_pixels
    assert losses[-20:].mean() < 0.75 * independent_pixels
    held = {id(p) for group in svi.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in vae.parameters()}


def test_the_vae_example_has_pyros_value() -> None:
    vae, x = ExampleVAE(), stripes(8)
    torch.manual_seed(5)
    ours = TraceELBO(closed_form_kl=False)(vae, x).bound
    torch.manual_seed(5)
    theirs = -Trace_ELBO().loss(vae.model, vae.guide, x) / len(x)
    pyro.clear_param_store()
    assert ours == pytest.approx(theirs, rel=1e-5)


# ---- (ii) the Gaussian mixture tutorial

K = 2


@config_enumerate
def mixture(data: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


MIXTURE_DATA = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])


def mixture_guide() -> AutoDelta:
    def init_loc_fn(site: dict[str, Any]) -> Tensor:
        if site["name"] == "weights":
            return torch.ones(K) / K
        if site["name"] == "scale":
            return (MIXTURE_DATA.var() / 2).sqrt()
        return torch.tensor([1.0, 9.0])

    return AutoDelta(poutine.block(mixture, expose=["weights", "locs", "scale"]), init_loc_fn=init_loc_fn)


def test_the_mixture_tutorial_trains() -> None:
    svi = SVI((mixture, mixture_guide()), TraceEnumELBO(), adam(0.1))
    losses = torch.stack([svi.step(MIXTURE_DATA).loss for _ in range(200)])
    assert losses[-1] < losses[0] - 0.2
    assert bool((losses[50:].diff() < 0.05).all())
    with svi.pair.scope(), torch.no_grad():
        found = svi.pair.guide(MIXTURE_DATA)
    # the tutorial's own figures: weights 0.375, 0.625; locs 0.499, 10.984; scale 0.650
    torch.testing.assert_close(found["weights"], torch.tensor([0.375, 0.625]), atol=0.01, rtol=0)
    torch.testing.assert_close(found["locs"], torch.tensor([0.499, 10.984]), atol=0.03, rtol=0)
    torch.testing.assert_close(found["scale"], torch.tensor(0.650), atol=0.02, rtol=0)


def test_the_mixture_has_pyros_value_and_gradient() -> None:
    guide = mixture_guide()
    pair = Pair(mixture, guide)
    estimate = TraceEnumELBO()(pair, MIXTURE_DATA)
    estimate.loss.backward()
    ours = [p.grad.clone() for p in guide.parameters() if p.grad is not None]
    guide.zero_grad()
    theirs = TraceEnum_ELBO(max_plate_nesting=1)
    n = len(MIXTURE_DATA)
    with pair.scope():
        assert -estimate.bound == pytest.approx(theirs.loss(mixture, guide, MIXTURE_DATA) / n, rel=1e-5)
        theirs.loss_and_grads(mixture, guide, MIXTURE_DATA)
    assert len(ours) == 3
    for mine, its in zip(ours, [p.grad for p in guide.parameters()], strict=True):
        torch.testing.assert_close(mine * n, its, rtol=1e-4, atol=1e-5)


# ---- (iii) Bayesian linear regression with an autoguide


class BayesianRegression(PyroModule):
    """A prior N(0, 1) on each weight and known noise: the posterior is Gaussian."""

    def __init__(self, in_features: int, noise: float):
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, 1, bias=False)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, in_features]).to_event(2))
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, self.noise), obs=y)
        return mean


def test_bayesian_regression_finds_the_conjugate_posterior() -> None:
    noise, n = 0.5, 60
    x = torch.randn(n, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + noise * torch.randn(n)
    precision = torch.eye(3) + x.T @ x / noise**2
    mean = torch.linalg.solve(precision, x.T @ y / noise**2)

    model = BayesianRegression(3, noise)
    guide = AutoDiagonalNormal(model)
    svi = SVI((model, guide), TraceELBO(), adam(0.05))
    for _ in range(400):
        svi.step(x, y)
    # the iterates walk at random about the optimum: their mean, with its standard error from the means of long batches
    for group in svi.optimizers[0].param_groups:
        group["lr"] = 0.01
    visits = []
    for _ in range(1200):
        svi.step(x, y)
        visits.append(guide.loc.detach().clone())
    batches = torch.stack(visits[200:]).reshape(10, 100, 3).mean(1)
    scores = z_scores(batches, mean)
    assert bool((scores.abs() < 5).all()), scores  # ten batches: Student's t has longer tails than 4 allows for
    # a mean-field guide has the deviations of the conditionals
    deviation = precision.diagonal().rsqrt()
    torch.testing.assert_close(guide.scale.detach(), deviation, rtol=0.2, atol=0.0)
    assert bool((batches.std(0) < 0.3 * deviation).all())  # the test can see a wrong mean


def positive_model(x: Tensor) -> None:
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, s), obs=x)


@pytest.mark.parametrize(
    "closed_form_kl",
    [
        False,
        True,
    ],
)
def test_an_autoguide_of_a_constrained_site_has_pyros_value(closed_form_kl: bool) -> None:
    x, guide = torch.randn(4), AutoDiagonalNormal(positive_model, init_scale=0.5)
    pair = Pair(positive_model, guide)
    with torch.no_grad():
        pair.structure(x)
        torch.manual_seed(7)
        ours = TraceELBO(closed_form_kl=closed_form_kl)(pair, x).bound
        torch.manual_seed(7)
        with pair.scope():
            theirs = -Trace_ELBO().loss(positive_model, guide, x) / len(x)
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    "closed_form_kl",
    [
        False,
        True,
    ],
)
def test_a_guide_that_samples_in_reverse_has_the_same_bound(closed_form_kl: bool) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(2 * a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x: Tensor) -> None:  # the exact posterior: every weight is log p(x) = log N(x; 0, 6)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x * 5 / 6, (5 / 6) ** 0.5))
            pyro.sample("a", dist.Normal(b * 2 / 5, (1 / 5) ** 0.5))

    x = torch.randn(4)
    exact = dist.Normal(0.0, 6**0.5).log_prob(x).mean()
    with torch.no_grad():
        bound = TraceELBO(1000, closed_form_kl=closed_form_kl)((model, guide), x).bound
    assert bound == pytest.approx(exact.item(), abs=1e-4)


# ---- plain functions with pyro.param


def gaussian_pair(start: float) -> tuple[Callable[..., None], Callable[..., None]]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("prior", torch.tensor(start)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(start))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + x / 2, scale))

    return model, guide


def test_two_pairs_with_the_same_names_do_not_clash() -> None:
    pyro.param("loc", torch.tensor(123.0))
    before = pyro.get_param_store().get_state()
    first = SVI(gaussian_pair(0.0), TraceELBO(), adam(0.0))
    second = SVI(gaussian_pair(3.0), TraceELBO(), adam(0.1))
    x = torch.randn(20)
    for _ in range(5):
        first.step(x)
        second.step(x)
    assert {name: p.item() for name, p in first.pair.named_parameters().items()} == {
        "store.loc": 0.0, "store.scale": 0.0, "store.prior": 0.0,
    }  # fmt: skip
    assert all(abs(p.item() - 3.0) > 0.1 for p in second.pair.named_parameters().values())
    after = pyro.get_param_store().get_state()
    assert list(after["params"]) == ["loc"] and after["params"]["loc"] is before["params"]["loc"]
    assert pyro.param("loc").item() == 123.0
    pyro.clear_param_store()


def test_a_positive_parameter_stays_positive_and_is_learned() -> None:
    x = 2 + math.sqrt(2) * torch.randn(400)
    x = (x - x.mean()) / x.std() * math.sqrt(2) + 2  # the fit is then exact: prior 2, loc 1, scale sqrt(1/2)
    svi = SVI(gaussian_pair(0.0), TraceELBO(), adam(0.02))
    for _ in range(500):
        svi.step(x)
    parameters = svi.pair.named_parameters()
    assert parameters["store.scale"].exp().item() == pytest.approx(math.sqrt(0.5), rel=0.05)
    assert parameters["store.prior"].item() == pytest.approx(2.0, abs=0.1)
    assert parameters["store.loc"].item() == pytest.approx(1.0, abs=0.1)
    with svi.pair.scope():
        assert pyro.param("scale").item() == pytest.approx(math.sqrt(0.5), rel=0.05)


# ---- refusals


def test_an_optimiser_that_misses_a_lazy_parameter_is_refused() -> None:
    stray = nn.Parameter(torch.zeros(()))
    svi = SVI(gaussian_pair(0.0), TraceELBO(), torch.optim.Adam([stray], 1e-3))
    with pytest.raises(RunError) as error:
        svi.step(torch.randn(3))
    assert str(error.value) == (
        "the optimiser does not hold 'loc', which appeared when the pair ran: "
        "pass a function, optimizer=lambda parameters: Adam(parameters, 1e-3)"
    )


def test_an_optimiser_that_misses_an_autoguides_parameters_is_refused() -> None:
    net = nn.Linear(1, 1)

    def model(x: Tensor) -> None:
        pyro.module("net", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x[:, None])[:, 0] + z, 1.0), obs=x)

    svi = SVI((model, AutoDiagonalNormal(model)), TraceELBO(), torch.optim.Adam(net.parameters(), 1e-3))
    with pytest.raises(RunError, match="the optimiser does not hold"):
        svi.step(torch.randn(3))


def bare_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def bare_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


def test_a_pair_without_parameters_is_refused() -> None:
    with pytest.raises(RunError, match="no parameter to learn: give it an nn.Module, pyro.param or an autoguide"):
        SVI((bare_model, bare_guide), TraceELBO(), adam(0.1)).step(torch.randn(3))


def test_a_model_without_a_data_plate_is_refused() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    with pytest.raises(UnsupportedModelError, match=r"no data plate.*with pyro.plate\(\"data\", len\(x\), dim=-1\)"):
        SVI((model, guide), TraceELBO(), adam(0.1)).step(torch.randn(3))


def test_a_guide_that_lacks_a_site_is_refused() -> None:
    with pytest.raises(
        UnsupportedModelError, match="lacks the model's latent site 'z': sample it in the guide, or mark"
    ):
        log_weights((bare_model, lambda x: None), torch.randn(3))


def test_a_guide_with_an_extra_site_is_refused() -> None:
    def guide(x: Tensor) -> None:
        bare_guide(x)
        pyro.sample("stranger", dist.Normal(0.0, 1.0))

    with pytest.raises(UnsupportedModelError, match="samples 'stranger'.*rename it, or mark it infer="):
        log_weights((bare_model, guide), torch.randn(3))


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"got int: pass such an object or \(model, guide\)"):
        as_pair(3)


# ---- scales, masks, subsamples


def scaled(program: Callable[..., None], scale: float) -> Callable[..., None]:
    return lambda x: poutine.scale(program, scale=scale)(x)


MASK = torch.tensor([True, False, True, True])


def masked(program: Callable[..., None]) -> Callable[..., None]:
    return lambda x: poutine.mask(program, mask=MASK)(x)


def inner_scale_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=0.3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=MASK):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (scaled(bare_model, 2.5), scaled(bare_guide, 2.5)),
        (masked(bare_model), masked(bare_guide)),
        (bare_model, scaled(bare_guide, 0.4)),
        (bare_model, masked(bare_guide)),
        (inner_scale_model, bare_guide),
        (scaled(inner_scale_model, 2.0), masked(scaled(bare_guide, 3.0))),
    ],
)
def test_the_users_scales_and_masks_are_pyros(model: Callable[..., None], guide: Callable[..., None]) -> None:
    x = torch.randn(4)
    torch.manual_seed(3)
    ours = TraceELBO(closed_form_kl=False)((model, guide), x).bound
    torch.manual_seed(3)
    log_w = log_weights((model, guide), x)
    torch.manual_seed(3)
    theirs = -Trace_ELBO().loss(model, guide, x)
    assert ours * len(x) == pytest.approx(theirs, rel=1e-5)
    assert log_w.sum() == pytest.approx(theirs, rel=1e-5)


def test_a_closed_form_kl_keeps_the_users_scale() -> None:
    pair, x = (scaled(bare_model, 2.5), scaled(bare_guide, 2.5)), torch.randn(4)
    closed = TraceELBO()((bare_model, bare_guide), x)
    assert TraceELBO()(pair, x).reg == pytest.approx(2.5 * closed.reg.item(), rel=1e-5)
    draws = torch.stack([TraceELBO(closed_form_kl=False)(pair, x).reg for _ in range(2000)])
    assert abs(z_scores(draws, 2.5 * closed.reg)) < 4


@pytest.mark.parametrize(
    "scale",
    [
        1.0,
        3.0,
    ],
)
def test_the_gradient_of_a_scaled_discrete_site(scale: float) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=scale):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.3))))

    x = torch.randn(4)
    logit = torch.tensor(0.3, requires_grad=True)
    q = logit.sigmoid()
    loss = torch.zeros(())
    for z, p_z, q_z in ((1.0, 0.4, q), (0.0, 0.6, 1 - q)):
        loss = loss - scale * q_z * (math.log(p_z) + dist.Normal(z, 1.0).log_prob(x) - q_z.log()).mean()
    (exact,) = torch.autograd.grad(loss, logit)

    pair = Pair(model, guide)
    gradients = []
    for _ in range(100):
        loss = TraceELBO(num_particles=100)(pair, x).loss
        gradients.append(torch.autograd.grad(loss, pair.named_parameters()["store.logit"])[0])
    assert abs(z_scores(torch.stack(gradients), exact)) < 4


def subsampled(local: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """Eight rows, three of them a step; the latent inside the plate, or one for all rows."""

    def model(x: Tensor) -> None:
        if not local:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=3) as index:
            if local:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        if not local:
            pyro.sample("z", dist.Normal(0.4, 0.3))
        with pyro.plate("data", len(x), subsample_size=3) as index:
            if local:
                pyro.sample("z", dist.Normal(x[index] / 3, 0.8))

    return model, guide


@pytest.mark.parametrize("local", [True, False])
def test_a_subsampled_plate_is_the_whole_in_expectation(local: bool) -> None:
    model, guide = subsampled(local)
    x = torch.arange(8.0) - 3
    pair = Pair(model, guide)
    objective = TraceELBO(closed_form_kl=False)
    ours = torch.stack([len(x) * objective(pair, x).bound for _ in range(1500)])
    if local:
        mean, scale = x / 3, torch.tensor(0.8)
        expected = -0.5 * ((x - mean).square() + scale**2 + math.log(2 * math.pi))
        exact = (expected - torch.distributions.kl_divergence(dist.Normal(mean, scale), dist.Normal(0.0, 1.0))).sum()
    else:
        expected = (-0.5 * ((x - 0.4).square() + 0.3**2 + math.log(2 * math.pi))).sum()
        exact = expected - torch.distributions.kl_divergence(dist.Normal(0.4, 0.3), dist.Normal(0.0, 1.0))
    assert abs(z_scores(ours, exact)) < 4
    theirs = torch.tensor([-Trace_ELBO().loss(model, guide, x) for _ in range(300)])
    difference = ours.mean() - theirs.mean()
    se = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    assert abs(difference / se) < 4


# ---- what the pair keeps


def test_a_namespace_of_two_functions_keeps_one_store() -> None:
    from types import SimpleNamespace

    model, guide = gaussian_pair(1.0)
    pair, x = SimpleNamespace(model=model, guide=guide), torch.randn(5)
    svi = SVI(pair, TraceELBO(), adam(0.1))
    svi.step(x)
    trained = svi.pair.named_parameters()
    again = as_pair(pair).named_parameters()
    assert again.keys() == trained.keys() and all(again[name] is trained[name] for name in trained)


def test_a_flag_that_switches_sites_has_a_structure_of_its_own() -> None:
    def model(x: Tensor, discrete: bool) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            shift = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"}) if discrete else 0.0
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    pair, x = Pair(model, lambda x, discrete: bare_guide(x)), torch.randn(3)
    assert pair.structure(x, False).model_enum == frozenset()
    assert pair.structure(x, True).model_enum == {"y"}
