"""ppl_models.DLGM: its bounds against densities written by hand, its networks' sizes, its steps, its refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal
from torch.optim import Adam

from inference import IWAE, SVI, TraceELBO, log_weights
from inference.capture import record
from inference.pair import as_pair
from inference.weights import weigh
from ppl_models import DLGM, VAE
from tests.conftest import z_scores

GUIDES = [
    ("chain", "diagonal"), ("chain", "rank_one"), ("parallel", "diagonal"), ("parallel", "rank_one"),
    ("ladder", "diagonal"),
]  # fmt: skip
D, Z_DIMS, HIDDEN = 6, (3, 2, 2), ((5, 4), (), (3,))


def make(guide: str, posterior: str = "diagonal", **options: Any) -> DLGM:
    torch.manual_seed(0)
    model = DLGM(D, Z_DIMS, HIDDEN, guide=guide, posterior=posterior, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def rows(n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, D, dtype=dtype, generator=torch.Generator().manual_seed(1)).round()


# ---- densities by hand


class ByHand:
    """The same weights in plain torch: log w of K particles (K, N), and the guide's draws from given noise."""

    def __init__(self, model: DLGM):
        self.p, self.model = model.state_dict(), model

    def affine(self, name: str, h: Tensor) -> Tensor:
        return h @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def net(self, name: str, h: Tensor, end: bool = True) -> Tensor:
        numbers = sorted(int(key.split(".")[-2]) for key in self.p if key.startswith(f"{name}.") and "weight" in key)
        for i in numbers:
            h = self.affine(f"{name}.{i}", h)
            h = torch.tanh(h) if end or i != numbers[-1] else h
        return h

    def head(self, level: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and dense covariance."""
        parts = self.affine(f"head.{level - 1}.linear", h).chunk(3 if self.model.posterior == "rank_one" else 2, -1)
        u = parts[2] if len(parts) == 3 else torch.zeros_like(parts[0])
        precision = torch.diag_embed(torch.exp(-parts[1])) + u.unsqueeze(-1) @ u.unsqueeze(-2)
        return parts[0], precision.inverse()

    def prior(self, level: int, above: Tensor) -> Normal:
        h = self.net(f"down.{level - 1}", above)
        if f"prior.{level - 1}.log_scale" in self.p:
            return Normal(self.affine(f"prior.{level - 1}.linear", h), self.p[f"prior.{level - 1}.log_scale"].exp())
        mean, log_variance = self.affine(f"prior.{level - 1}.linear", h).chunk(2, -1)
        return Normal(mean, log_variance.exp().sqrt())

    def guide(self, x: Tensor, draw: Any) -> tuple[list[Tensor], Tensor]:
        """z1 ... z3 and log q; `draw(level, mean, covariance)` says what is drawn."""
        how = self.model.inference
        z: dict[int, Tensor] = {}
        log_q: Any = 0.0
        h1 = self.net("up.0", x)
        for level in (1, 2, 3) if how == "chain" else (3, 2, 1):
            if how == "chain":
                mean, cov = self.head(level, self.net(f"up.{level - 1}", x if level == 1 else z[level - 1]))
            else:  # one pass upwards: up.1 is linear, so it adds nothing between two heads
                mean, cov = self.head(level, {1: h1, 2: h1, 3: self.net("up.2", h1)}[level])
            if how == "ladder" and level < 3:
                p = self.prior(level, z[level + 1])
                a, b = cov.inverse(), torch.diag_embed(p.scale**-2)
                both = (a @ mean.unsqueeze(-1) + b @ p.loc.unsqueeze(-1)).squeeze(-1)
                cov = (a + b).inverse()
                mean = (cov @ both.unsqueeze(-1)).squeeze(-1)
            z[level] = draw(level, mean, cov)
            log_q = log_q + MultivariateNormal(mean, cov).log_prob(z[level])
        return [z[1], z[2], z[3]], log_q

    def log_weight(self, x: Tensor, z: list[Tensor]) -> Tensor:
        """For given z: log p(x, z) - log q(z | x)."""
        _, log_q = self.guide(x, lambda level, mean, cov: z[level - 1])
        log_p = Normal(0.0, 1.0).log_prob(z[2]).sum(-1)
        log_p = log_p + sum(self.prior(level, z[level]).log_prob(z[level - 1]).sum(-1) for level in (1, 2))
        out = self.net("decoder", z[0], end=False)
        given = Bernoulli(logits=out) if "log_scale" not in self.p else Normal(out, self.p["log_scale"].exp())
        return log_p + given.log_prob(x).sum(-1) - log_q


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_bounds_are_those_written_by_hand(guide: str, posterior: str, likelihood: str) -> None:
    """Weights, ELBO and IWAE with the same draws: the guide's own are read off a run of it and given to both."""
    noise = "network" if likelihood == "bernoulli" else "learned"
    model, x = make(guide, posterior, likelihood=likelihood, noise=noise).double(), rows()
    draws: list[list[Tensor]] = []
    infer = model._infer
    model._infer = lambda *given: draws.append(infer(*given)) or draws[-1]  # pyright: ignore
    log_w = log_weights(model, x, k=5)
    expected = ByHand(model).log_weight(x, draws[-1])
    assert draws[-1][0].shape == (5, 4, 3)
    torch.testing.assert_close(log_w, expected, rtol=1e-10, atol=1e-10)
    bound = IWAE(5)(model, x).bound
    expected = (ByHand(model).log_weight(x, draws[-1]).logsumexp(0) - math.log(5)).mean()
    torch.testing.assert_close(bound, expected, rtol=1e-10, atol=1e-10)
    bound = TraceELBO(5, closed_form_kl=False)(model, x).bound
    torch.testing.assert_close(bound, ByHand(model).log_weight(x, draws[-1]).mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_draws_have_the_moments_of_their_conditionals(guide: str, posterior: str) -> None:
    """Each layer's draw, whitened by the covariance written by hand, is standard normal and knows no other layer."""
    model, x = make(guide, posterior).double(), rows()[:1].expand(20_000, D)
    z: dict[int, Tensor] = {}
    model._infer(lambda name, q: z.setdefault(int(name[1:]), q.sample()), x)
    white = []

    def whiten(level: int, mean: Tensor, cov: Tensor) -> Tensor:
        root = torch.linalg.cholesky(cov)
        white.append(torch.linalg.solve_triangular(root, (z[level] - mean).unsqueeze(-1), upper=False).squeeze(-1))
        return z[level]

    ByHand(model).guide(x, whiten)
    e = torch.cat(white, -1)
    assert float(z_scores(e, torch.zeros(7)).abs().max()) < 4
    assert float(z_scores((e.unsqueeze(-1) * e.unsqueeze(-2)).flatten(1), torch.eye(7).flatten()).abs().max()) < 4


@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_codes_are_the_guides_means(guide: str, posterior: str) -> None:
    model, x = make(guide, posterior).double(), rows()
    means, _ = ByHand(model).guide(x, lambda level, mean, cov: mean)
    found = model.encode_layers(x)
    assert [z.shape for z in found] == [(4, 3), (4, 2), (4, 2)]
    for ours, expected in zip(found, means, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(model.encode(x), torch.cat(found, -1))
    image = ByHand(model).net("decoder", means[0], end=False).sigmoid()
    torch.testing.assert_close(model.reconstruct(x), image, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.decode(found[0]), image, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("guide", "posterior"), [g for g in GUIDES if g[0] != "chain"])
def test_divergences_in_closed_form_are_the_sampled_ones_in_the_mean(guide: str, posterior: str) -> None:
    pair, x = as_pair(make(guide, posterior).double()), rows().repeat(5000, 1)
    regs = []
    for closed in (True, False):
        torch.manual_seed(1)
        regs.append(weigh(pair, (x,), 1, closed_form_kl=closed).reg.detach().reshape(5000, 4))
    closed, sampled = regs
    assert float(z_scores(closed - sampled, torch.zeros(4)).abs().max()) < 4
    assert bool((closed.std(0) < sampled.std(0)).all())


@pytest.mark.parametrize("posterior", ["diagonal", "rank_one"])
def test_a_chain_has_no_divergence_in_closed_form(posterior: str) -> None:
    """KL(q(z1 | x) || p(z1 | z2)) would hold z2 fixed, which the guide draws from z1."""
    pair, x = as_pair(make("chain", posterior).double()), rows()
    regs = []
    for closed in (True, False):
        torch.manual_seed(1)
        regs.append(weigh(pair, (x,), 3, closed_form_kl=closed).reg)
    assert torch.equal(*regs)


def test_with_one_layer_it_is_the_vae() -> None:
    torch.manual_seed(0)
    vae = VAE(D, z_dim=3, hidden=(5, 4))
    torch.manual_seed(0)
    x = rows(dtype=torch.float32)
    for guide in ("chain", "parallel", "ladder"):
        model = DLGM(D, (3,), ((5, 4),), guide=guide)
        names = zip(("encoder", "head", "decoder"), (model.up[0], model.head[0], model.decoder), strict=True)
        for name, part in names:
            part.load_state_dict(getattr(vae, name).state_dict())
        bounds = []
        for pair in (vae, model):
            torch.manual_seed(2)
            bounds.append(TraceELBO()(pair, x).bound)
        torch.testing.assert_close(*bounds)


# ---- sizes and starts


def test_the_default_is_burdas_network() -> None:
    """784-200-200-100-100-100-50, mirrored."""
    model = DLGM(784)
    sizes = {
        part: [tuple(p.shape) for name, p in model.named_parameters() if name.startswith(part) and p.dim() == 2]
        for part in ("up", "head", "decoder", "down", "prior")
    }
    assert sizes == {
        "up": [(200, 784), (200, 200), (100, 100), (100, 100)],
        "head": [(200, 200), (100, 100)],  # means and log variances
        "down": [(100, 50), (100, 100)],
        "prior": [(200, 100)],
        "decoder": [(200, 100), (200, 200), (784, 200)],
    }
    parallel = DLGM(784, guide="parallel").up[1][0]  # pyright: ignore
    assert parallel.weight.shape == (100, 200)  # it reads the layer below, not z1


@pytest.mark.parametrize(("likelihood", "start"), [("bernoulli", [0.001, 0.1, 0.999]), ("gaussian", [0.0, 0.1, 1.0])])
def test_output_bias_starts_at_the_data_mean(likelihood: str, start: list[float]) -> None:
    model = DLGM(3, (2,), ((4,),), likelihood=likelihood, mean=torch.tensor([0.0, 0.1, 1.0]))
    bias: Any = model.decoder[-1].bias
    torch.testing.assert_close(bias.sigmoid() if likelihood == "bernoulli" else bias, torch.tensor(start))


@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_deviations_of_linear_layers_start_at_one_and_training_stays_finite(guide: str, posterior: str) -> None:
    """Nothing bounds what such a layer reads."""
    torch.manual_seed(0)
    model, x = DLGM(64, (3, 2), ((8,), ()), guide=guide, posterior=posterior), torch.rand(20, 64).round()
    assert torch.equal(model.p_z(1, 100 * torch.randn(5, 2))[1], torch.ones(5, 3))
    assert torch.equal(model.head[1](100 * torch.randn(5, 8 if guide != "chain" else 3))[1], torch.ones(5, 2))
    svi = SVI(model, TraceELBO(), Adam(model.parameters(), 3e-3), compile=False)
    losses = [float(svi.step(x).loss) for _ in range(30)]
    assert max(losses) < 100 and losses[-1] < losses[0]


@pytest.mark.parametrize("noise", ["network", "learned"])
def test_generate_is_seeded_and_leaves_the_callers_rng(noise: str) -> None:
    model = make("chain", noise=noise)
    before = torch.get_rng_state()
    first = model.generate(5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (5, D) and not first.requires_grad and bool(((first >= 0) & (first <= 1)).all())
    assert torch.equal(model.generate(5, seed=3), first) and not torch.equal(model.generate(5, seed=4), first)


# ---- steps


def steps(guide: str, posterior: str, compile: bool) -> tuple[list[float], dict[str, Tensor], SVI]:
    torch.manual_seed(3)
    model = make(guide, posterior)
    svi = SVI(model, TraceELBO(), Adam(model.parameters(), 1e-2, eps=1e-2), compile=compile, kl_warmup_steps=3)
    torch.manual_seed(4)
    losses = [float(svi.step(rows(8, torch.float32)).loss) for _ in range(4)]
    return losses, svi.state()[0], svi


def assert_same(guide: str, posterior: str) -> None:
    losses, state, _ = steps(guide, posterior, compile=False)
    ours, there, svi = steps(guide, posterior, compile=True)
    assert svi._compiled is not None and not svi._compiled._off
    assert ours == pytest.approx(losses, rel=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(there[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("guide", "posterior"), [("chain", "rank_one"), ("ladder", "diagonal")])
def test_a_recorded_bound_is_the_programs_own(guide: str, posterior: str) -> None:
    pair = as_pair(DLGM(D, (3, 2), ((), (3,)), guide=guide, posterior=posterior))
    parameters = list(pair.named_parameters().values())

    def joint(x: Tensor) -> tuple[Tensor, ...]:
        loss = TraceELBO()(pair, x).loss
        return loss.detach(), *torch.autograd.grad(loss, parameters)

    x = rows(dtype=torch.float32)
    joint(x)  # its plates are read once
    recorded = record(joint, x)
    torch.manual_seed(1)
    ours = recorded(1 - x)
    torch.manual_seed(1)
    torch.testing.assert_close(ours, joint(1 - x), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_compiled_steps_are_the_programs_own(guide: str, posterior: str) -> None:
    assert_same(guide, posterior)


@pytest.mark.parametrize(("guide", "posterior"), GUIDES)
def test_a_saved_state_goes_on_in_another_model(guide: str, posterior: str) -> None:
    _, tensors, svi = steps(guide, posterior, compile=False)
    torch.manual_seed(9)
    other = DLGM(D, Z_DIMS, HIDDEN, guide=guide, posterior=posterior)
    svi2 = SVI(other, TraceELBO(), Adam(other.parameters(), 1e-2, eps=1e-2), compile=False, kl_warmup_steps=3)
    svi2.init(rows(8, torch.float32))
    svi2.load_state({name: value.clone() for name, value in tensors.items()}, svi.state()[1])
    losses = []
    for each in (svi, svi2):
        torch.manual_seed(5)
        losses.append(float(each.step(rows(8, torch.float32)).loss))
    assert losses[0] == losses[1]


# ---- refusals

EXAMPLE = "DLGM(784, z_dims=(100, 50), hidden=((200, 200), (100, 100)))"


def test_the_doubly_reparameterised_gradient_of_a_ladder_has_the_plain_ones_mean() -> None:
    """Its guide holds the model's p(z1 | z2), so that their networks have both kinds of gradient."""
    torch.manual_seed(2)
    model = DLGM(3, (2, 2), ((3,), (3,)), guide="ladder").double()
    x = torch.tensor([[1.0, 0.0, 1.0]]).double().expand(1500, -1)
    parameters = list(model.parameters())

    def gradients(kind: str) -> Tensor:  # of 40 batches, (40, parameters)
        found = []
        for _ in range(40):
            loss = IWAE(4, kind)(model, x).loss
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        return torch.stack(found)

    plain, dreg = gradients("plain"), gradients("dreg")
    se = ((plain.var(0) + dreg.var(0)) / 40).sqrt()
    moved = se > 0  # weights of pixels that are 0 have no gradient
    assert moved.sum() > 60
    assert ((plain.mean(0) - dreg.mean(0))[moved] / se[moved]).abs().max() < 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"z_dims": (), "hidden": ()},
            f"a deep latent Gaussian model has at least one layer, got z_dims=(): {EXAMPLE}",
        ),
        (
            {"hidden": ((4,),)},
            f"hidden names the units below each layer, 2 tuples for z_dims=(3, 2), got ((4,),): {EXAMPLE}",
        ),
        (
            {"hidden": (4, 3)},
            f"hidden names the units below each layer, 2 tuples for z_dims=(3, 2), got (4, 3): {EXAMPLE}",
        ),
        ({"x_dim": 0}, f"x_dim holds sizes of at least 1, got 0: {EXAMPLE}"),
        ({"z_dims": (3, 0)}, f"z_dims holds sizes of at least 1, got 0: {EXAMPLE}"),
        ({"hidden": ((4,), (-1,))}, f"hidden holds sizes of at least 1, got -1: {EXAMPLE}"),
        ({"activation": "swish"}, "unknown activation 'swish': choose one of tanh, relu, softplus, elu, gelu"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': choose one of bernoulli, gaussian"),
        ({"guide": "tree"}, "unknown guide 'tree': choose one of chain, parallel, ladder"),
        ({"posterior": "full"}, "unknown posterior 'full': choose one of diagonal, rank_one"),
        ({"noise": "none"}, "unknown noise 'none': choose one of network, learned"),
        (
            {"guide": "ladder", "posterior": "rank_one"},
            "a ladder's layers are products of diagonal Gaussians: "
            "posterior='rank_one' goes with guide='chain' or 'parallel'",
        ),
        ({"image_shape": (1, 3, 3)}, "image_shape (1, 3, 3) does not hold x_dim=12 values"),
        ({"mean": torch.rand(7)}, "mean holds 7 values, not x_dim=12: pass the mean of the training rows, x.mean(0)"),
    ],
)
def test_refusals_say_the_rule_and_the_remedy(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        DLGM(**({"x_dim": 12, "z_dims": (3, 2), "hidden": ((4,), (3,))} | arguments))
    assert str(error.value) == sentence
