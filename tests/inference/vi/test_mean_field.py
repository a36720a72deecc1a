"""Saul and Jaakkola's bound on random networks (oracle O5), and the factorised guide against enumeration."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from inference import SVI, DisARM, MeanField, TraceELBO, fit, log_weights, mean_field_bound
from inference.errors import ShapeError, UnsupportedModelError
from ppl_models import SigmoidBeliefNetwork, data

pytestmark = pytest.mark.usefixtures("double")

NETS = 1000
STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)  # (S, 4 + 2): h1, h2


def random_networks(m: int = NETS) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Networks 2-4-6, weights and biases uniform on [-1, 1], as in the paper."""
    g = torch.Generator().manual_seed(1996)
    u = [2 * torch.rand(m, *shape, generator=g).double() - 1 for shape in ((4, 6), (6,), (2, 4), (4,), (2,))]
    return [(u[0], u[1]), (u[2], u[3])], u[4]


def log_bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return (value * logits - softplus(logits)).sum(-1)


def log_joint(layers, top_bias, x: Tensor) -> Tensor:
    """Log p(x, h) of every network and state: (M, S)."""
    h1, h2 = STATES[:, :4], STATES[:, 4:]
    (w1, b1), (w2, b2) = layers
    total = log_bernoulli(top_bias.unsqueeze(-2), h2) + log_bernoulli(h2 @ w2 + b2.unsqueeze(-2), h1)
    return total + log_bernoulli(h1 @ w1 + b1.unsqueeze(-2), x)


def exact_elbo(log_p: Tensor, mu: Tensor) -> Tensor:  # (M, S), (M, 6) -> (M,)
    q = torch.where(STATES > 0, mu.unsqueeze(-2), 1 - mu.unsqueeze(-2)).prod(-1)
    return (q * (log_p - q.log())).sum(-1)


@pytest.fixture(scope="module")
def bounds():
    layers, top_bias = random_networks()
    x = torch.zeros(6, dtype=torch.float64)
    log_p = log_joint(layers, top_bias, x)
    return layers, top_bias, x, log_p, mean_field_bound(layers, top_bias, x)


class TestBound:
    def test_the_papers_error_and_no_violation(self, bounds):
        *_, log_p, found = bounds
        evidence = log_p.logsumexp(-1)
        error = (found.bound - evidence) / evidence
        assert found.bound.shape == (NETS,)
        assert (found.bound < evidence).all()
        assert error.mean() == pytest.approx(0.016, abs=0.0015)
        assert error.max() < 0.06

    def test_the_mean_that_it_bounds_is_below_at_its_own_mu(self, bounds):
        """Against the exact expectation under the same product of Bernoullis."""
        *_, log_p, found = bounds
        exact = exact_elbo(log_p, torch.cat(found.mu, -1))
        assert (found.bound < exact).all()
        assert (exact <= log_p.logsumexp(-1)).all()

    def test_the_exact_expectation_is_tighter(self, bounds):
        *_, log_p, found = bounds
        logits = torch.logit(torch.cat(found.mu, -1)).requires_grad_()
        optimizer = torch.optim.Adam([logits], 0.1)
        for _ in range(100):
            optimizer.zero_grad()
            (-exact_elbo(log_p, torch.sigmoid(logits)).sum()).backward()
            optimizer.step()
        evidence = log_p.logsumexp(-1)
        error = ((exact_elbo(log_p, torch.sigmoid(logits)) - evidence) / evidence).detach()
        assert error.mean() == pytest.approx(0.01463, abs=0.0006)  # another thousand networks than those of 1.463 %
        assert error.mean() < ((found.bound - evidence) / evidence).mean()

    def test_it_has_converged(self, bounds):
        layers, top_bias, x, _, found = bounds
        few = [(w[:100], b[:100]) for w, b in layers]
        longer = mean_field_bound(few, top_bias[:100], x, steps=1000)
        torch.testing.assert_close(found.bound[:100], longer.bound, atol=1e-4, rtol=0)

    def test_rows_of_data_on_one_network(self):
        """Leading dims of x and of the weights broadcast; the layers are those of the model itself."""
        sbn = SigmoidBeliefNetwork((6, 4, 2))
        x = torch.bernoulli(torch.full((5, 6), 0.5))
        found = mean_field_bound(sbn.layers(), sbn.top_bias, x)
        one = mean_field_bound(sbn.layers(), sbn.top_bias, x[3])
        assert found.bound.shape == (5,) and [m.shape for m in found.mu] == [(5, 4), (5, 2)]
        assert [t.shape for t in found.xi] == [(5, 6), (5, 4)]
        torch.testing.assert_close(found.bound[3], one.bound, atol=1e-6, rtol=0)
        h = STATES.expand(5, -1, -1)
        with torch.no_grad():
            evidence = sbn.log_joint((h[..., :4], h[..., 4:]), x.unsqueeze(1)).logsumexp(1)
        assert (found.bound < evidence).all()

    def test_large_weights_do_not_overflow(self):
        layers = [(torch.tensor([[900.0, -900.0]]), torch.zeros(2))]
        found = mean_field_bound(layers, torch.zeros(1), torch.tensor([1.0, 0.0]))
        assert found.bound.isfinite() and found.bound <= 0


class TestGuide:
    def network(self) -> SigmoidBeliefNetwork:
        torch.manual_seed(3)
        sbn = SigmoidBeliefNetwork((6, 4, 2))
        with torch.no_grad():
            for p in sbn.parameters():
                p.uniform_(-1, 1)
        return sbn

    @pytest.mark.parametrize("objective", [TraceELBO(10), DisARM(10)], ids=["leave-one-out", "disarm"])
    def test_it_reaches_the_best_product_of_bernoullis(self, objective):
        sbn, x = self.network(), torch.bernoulli(torch.full((3, 6), 0.5))
        for p in sbn.parameters():
            p.requires_grad_(False)
        pair = MeanField(sbn, x)
        optimizer = torch.optim.Adam(pair.logits.parameters(), 0.05)
        svi = SVI(pair, objective, optimizer)
        for i in range(300):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - i / 300)
            svi.step(x)
        layers = [(w.detach(), b.detach()) for w, b in sbn.layers()]
        log_p = log_joint(
            [(w.expand(3, -1, -1), b.expand(3, -1)) for w, b in layers], sbn.top_bias.expand(3, -1), x[:, None]
        )
        start = torch.cat([torch.sigmoid(pair.logits[name]) for name in ("h1", "h2")], -1).detach()
        logits = torch.logit(start).requires_grad_()
        ascent = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def loss():
            ascent.zero_grad()
            total = -exact_elbo(log_p, torch.sigmoid(logits)).sum()
            total.backward()
            return total

        ascent.step(loss)
        best = exact_elbo(log_p, torch.sigmoid(logits)).detach()
        reached = exact_elbo(log_p, start)
        assert (reached <= best + 1e-9).all() and (best - reached).max() < 0.01

    def test_the_models_parameters_are_the_pairs(self):
        x = torch.zeros(3, 6)
        pair = MeanField(self.network(), x)
        svi = SVI(pair, TraceELBO(2), lambda p: torch.optim.Adam(p, 0.1))
        before = pair.network.top_bias.detach().clone()
        svi.step(x)
        assert not torch.equal(before, pair.network.top_bias)
        assert {"parameter.logits.h1", "parameter.network.top_bias"} <= svi.state()[0].keys()

    def test_a_plain_function_with_plates_and_a_shared_site(self):
        def model(x):
            shared = pyro.sample("all.rows", dist.Bernoulli(0.3))
            rate = pyro.param("rate", torch.tensor(0.5))
            with pyro.plate("data", len(x), dim=-2):
                with pyro.plate("units", 3, dim=-1):
                    h = pyro.sample("h", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(rate * h.sum(-1, keepdim=True) + shared, 1.0), obs=x)

        x = torch.randn(5, 1)
        pair = MeanField(model, x)
        assert {name: tuple(p.shape) for name, p in pair.logits.items()} == {"all/rows": (), "h": (5, 3)}
        assert log_weights(pair, x, k=4).shape == (4, 1)
        svi = SVI(pair, TraceELBO(2), lambda p: torch.optim.Adam(p, 0.1))
        svi.step(x)
        assert "parameter.store.rate" in svi.state()[0]

    def test_fit_takes_all_rows_in_their_order(self):
        x = data.digits()[0].x[:20].double().round()
        pair = MeanField(SigmoidBeliefNetwork((64, 4)), x)
        svi = SVI(pair, TraceELBO(2), lambda p: torch.optim.Adam(p, 0.05))
        history = fit(svi, data.Batches(x, 20, shuffle=False), epochs=40)
        assert history[-1]["loss"] < history[0]["loss"] - 5

    def test_other_rows_are_refused(self):
        x = torch.eye(6)
        pair = MeanField(self.network(), x)
        log_weights(pair, x.clone(), k=2)
        for other in (x[:3], x.flip(0)):
            with pytest.raises(ShapeError, match=r"a logit for each row .* Batches\(x, len\(x\), shuffle=False\)"):
                log_weights(pair, other)

    def test_making_it_leaves_the_callers_rng(self):
        sbn, state = self.network(), torch.get_rng_state()
        MeanField(sbn, torch.zeros(3, 6))
        assert torch.equal(state, torch.get_rng_state())

    def test_models_that_it_is_not_for(self):
        def continuous(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

        def none(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        def subsampled(x):
            with pyro.plate("data", len(x), subsample_size=2, dim=-1) as rows:
                pyro.sample("x", dist.Normal(pyro.sample("h", dist.Bernoulli(0.5)), 1.0), obs=x[rows])

        x = torch.zeros(4)
        with pytest.raises(UnsupportedModelError, match="for Bernoulli sites, and 'z' has values in Real"):
            MeanField(continuous, x)
        with pytest.raises(UnsupportedModelError, match="no latent site"):
            MeanField(none, x)
        with pytest.raises(UnsupportedModelError, match="plate 'data' is subsampled"):
            MeanField(subsampled, x)

    def test_a_modules_bound_method_stands_for_its_module(self):
        class Owner(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Parameter(torch.tensor(0.2))

            def program(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("x", dist.Normal(pyro.sample("h", dist.Bernoulli(logits=self.a)), 1.0), obs=x)

        assert "network.a" in dict(MeanField(Owner().program, torch.zeros(2)).named_parameters())
