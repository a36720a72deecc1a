"""Reweighted wake-sleep: whose gradient goes where, what the model dreams of, and what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from inference import IWAE, NVIL, SVI, Dreaming, ReweightedWakeSleep, TraceELBO, log_weights
from inference.errors import ShapeError, UnsupportedModelError
from inference.vi.wake_sleep import Sleep
from ppl_models import SigmoidBeliefNetwork
from tests.conftest import z_scores
from tests.inference.oracles import LinearGaussian

pytestmark = pytest.mark.usefixtures("double")


def linear() -> LinearGaussian:
    g = torch.Generator().manual_seed(3)
    return LinearGaussian(
        torch.randn(4, 2, generator=g).double(), torch.randn(4, generator=g).double(), 0.6, "diagonal"
    )


def seeded(call):
    torch.manual_seed(11)
    return call()


class TestWake:
    @pytest.mark.parametrize("k", [2, 5])
    def test_theta_and_phi_do_not_reach_into_each_other(self, k):
        """Continuous draws, which could carry gradients: theta's and phi's are those of fixed z and fixed v."""
        pair, x = linear(), torch.randn(3, 4)
        seeded(lambda: ReweightedWakeSleep(k)(pair, x)).loss.backward()
        with torch.no_grad():
            z = seeded(lambda: poutine.trace(pyro.plate("k", k, dim=-2)(pair.guide)).get_trace(x)).nodes["z"]["value"]
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_p = log_p + dist.Normal(z @ pair.w.T + pair.b, pair.log_s.exp()).log_prob(x).sum(-1)
        q = dist.Normal((x - pair.b.detach()) @ pair.q_w.T, pair.q_log_s.exp())  # b centres the guide's input too
        log_q = q.log_prob(z).sum(-1)
        v = (log_p - log_q).softmax(0).detach()
        theta, phi = [pair.w, pair.log_s], [pair.q_w, pair.q_log_s]
        exact = torch.autograd.grad(-(v * log_p).sum() / 3, theta) + torch.autograd.grad(-(v * log_q).sum() / 3, phi)
        for parameter, value in zip([*theta, *phi], exact, strict=True):
            torch.testing.assert_close(parameter.grad, value, rtol=1e-10, atol=1e-12)

    def test_a_parameter_of_both_gets_both(self):
        pair, x = linear(), torch.randn(3, 4)
        seeded(lambda: ReweightedWakeSleep(4)(pair, x)).loss.backward()
        whole = pair.b.grad.clone()
        parts = []
        for part in ("model", "guide"):
            other = linear()
            b = other.b
            other.b = nn.Parameter(b.detach().clone())
            free = nn.Parameter(b.detach().clone())
            program = getattr(other, part)

            def with_own_b(x, program=program, other=other, free=free):
                kept, other._parameters["b"] = other.b, free
                program(x)
                other._parameters["b"] = kept

            programs = (with_own_b, other.guide) if part == "model" else (other.model, with_own_b)
            seeded(lambda programs=programs: ReweightedWakeSleep(4)(programs, x)).loss.backward()
            parts.append(free.grad)
        torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-10, atol=1e-12)

    def test_its_value_is_the_importance_weighted_bound(self):
        pair, x = linear(), torch.randn(6, 4)
        ours = seeded(lambda: ReweightedWakeSleep(7)(pair, x)).bound
        assert ours.item() == pytest.approx(seeded(lambda: IWAE(7)(pair, x)).bound.item(), abs=1e-12)

    def test_an_impossible_draw_weighs_nothing(self):
        """Its log p is minus infinity, its weight 0, and its share 0, not NaN."""

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Uniform(0.0, 0.5 + h), obs=x)

        a = nn.Parameter(torch.zeros(50))

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h", dist.Bernoulli(logits=a))

        e = ReweightedWakeSleep(8)((model, guide), torch.ones(50))
        e.loss.backward()
        assert e.loss.isfinite() and a.grad.isfinite().all() and (a.grad < 0).all()


class TestSleep:
    def test_the_guide_learns_the_exact_posterior_from_dreams_alone(self):
        """One binary cause: the best guide of E_p(x)[log q(h | x)] is p(h | x)."""
        w, b = torch.tensor([1.0, -2.0]), torch.tensor([-0.5, 0.7])
        net = nn.Linear(2, 1)

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h", dist.Bernoulli(logits=torch.tensor(0.3)))
                pyro.sample("x", dist.Bernoulli(logits=h.unsqueeze(-1) * w + b).to_event(1), obs=x)

        def guide(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h", dist.Bernoulli(logits=net(x).squeeze(-1)))

        optimizer = torch.optim.Adam(net.parameters(), 0.05)
        svi = SVI((model, guide), ReweightedWakeSleep(1, "sleep"), optimizer)
        x = torch.zeros(2000, 2)  # of its data it only needs the shape
        for i in range(150):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - i / 150)
            svi.step(x)
        logit = 0.3 + (torch.nn.functional.softplus(b) - torch.nn.functional.softplus(w + b)).sum()
        torch.testing.assert_close(net.weight.detach()[0], w, atol=0.1, rtol=0)
        torch.testing.assert_close(net.bias.detach()[0], logit, atol=0.1, rtol=0)

    def test_what_is_not_observed_stays(self):
        """A conditional model: y is dreamt, x is given."""
        seen = []

        def model(x, y):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h", dist.Bernoulli(logits=x))
                pyro.sample("y", dist.Normal(h, 1.0), obs=y)

        def guide(x, y):
            seen.append((x, y))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h", dist.Bernoulli(logits=x + y))

        x, y = torch.randn(5), torch.randn(5)
        ReweightedWakeSleep(2, "both")((model, guide), x, y)
        assert seen[-1][0] is x and not torch.equal(seen[-1][1], y) and seen[-1][1].shape == y.shape

    def test_the_callers_tensors_stay(self):
        sbn, x = SigmoidBeliefNetwork((4, 3, 2)), torch.ones(5, 4)
        ReweightedWakeSleep(2, "sleep")(sbn, x)
        assert (x == 1).all()

    def test_a_shared_latent_dreams_of_all_rows_together(self):
        """One h for all rows: the mean of log q(h) over dreams, per datum, against the sum over its two values."""
        a = nn.Parameter(torch.tensor(0.4))

        def model(x):
            h = pyro.sample("h", dist.Bernoulli(0.8))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(h, 1.0), obs=x)

        def guide(x):
            pyro.sample("h", dist.Bernoulli(logits=a))

        draws = []
        for _ in range(400):
            a.grad = None
            (-ReweightedWakeSleep(2, "sleep")((model, guide), torch.zeros(3)).loss).backward()
            draws.append(a.grad)
        assert z_scores(torch.stack(draws), (0.8 - torch.sigmoid(a.detach())) / 3).abs() < 4


def test_a_network_learns_with_each_update():
    x = (torch.rand(100, 1) < 0.5).double().expand(100, 6).contiguous()  # all on or all off: log 2 nats
    for k, phi in ((5, "wake"), (5, "both"), (1, "sleep")):
        torch.manual_seed(0)
        sbn = SigmoidBeliefNetwork((6, 3)).double()
        svi = SVI(sbn, ReweightedWakeSleep(k, phi), torch.optim.Adam(sbn.parameters(), 0.05))
        for _ in range(200):
            svi.step(x)
        with torch.no_grad():
            nats = -(log_weights(sbn, x, k=500).logsumexp(0) - torch.tensor(500.0).log()).mean()
        assert nats < 1.3, phi  # an independent model of each pixel has 4.2


class TestBadInput:
    def test_particles_and_updates(self):
        for k, phi in ((1, "wake"), (1, "both"), (0, "sleep")):
            with pytest.raises(ShapeError, match=rf"k >= 2 draws .* got k={k}: pass k=5, or ReweightedWakeSleep\(1, "):
                ReweightedWakeSleep(k, phi)
        with pytest.raises(ValueError, match="'wake', 'sleep' or 'both', got 'dream'"):
            ReweightedWakeSleep(5, "dream")

    def test_an_enumerated_site(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        with pytest.raises(UnsupportedModelError, match=r"use IWAE\(k=5\)"):
            ReweightedWakeSleep(2)((model, lambda x: None), torch.zeros(3))

    def test_nothing_to_weigh(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

        with pytest.raises(UnsupportedModelError, match="the guide samples nothing"):
            ReweightedWakeSleep(2)((model, lambda x: None), torch.zeros(3))

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("h", dist.Bernoulli(torch.full((len(x),), 0.5)))

    def test_an_observation_that_is_no_argument(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("h", dist.Bernoulli(0.5)), 1.0), obs=2 * x)

        with pytest.raises(UnsupportedModelError, match="a dreamt 'x', but its observed value is none of the batch's"):
            ReweightedWakeSleep(2, "sleep")((model, self.guide), torch.zeros(3))
        assert ReweightedWakeSleep(2)((model, self.guide), torch.zeros(3)).bound.isfinite()

    def test_a_model_that_reads_what_it_observes(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(h + x.roll(1), 1.0), obs=x)

        with pytest.raises(UnsupportedModelError, match="site 'x' depends on data that the sleep phase dreams"):
            ReweightedWakeSleep(2, "sleep")((model, self.guide), torch.zeros(3))

    def test_an_auxiliary_site(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("h", dist.Bernoulli(0.5)), 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
                pyro.sample("h", dist.Bernoulli(torch.full((len(x),), 0.5)))

        with pytest.raises(UnsupportedModelError, match="auxiliary site 'u' is no site of the model"):
            ReweightedWakeSleep(2, "sleep")((model, guide), torch.zeros(3))


class TestDreaming:
    def test_the_gradient_is_the_bounds_and_the_sleep_phases(self):
        """Of the same draws: the guide's is the weighted sum, and the model stays as it is."""
        pair, x = linear(), torch.randn(3, 4)
        parameters = [pair.w, pair.log_s, pair.q_w, pair.q_log_s]

        def gradient(objectives) -> list[torch.Tensor]:
            loss = seeded(lambda: sum(weight * objective(pair, x).loss for objective, weight in objectives))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

        both = gradient([(Dreaming(IWAE(5), 0.3), 1.0)])
        apart = gradient([(IWAE(5), 1.0), (Sleep(), 0.3)])
        for a, b in zip(both[2:], apart[2:], strict=True):
            torch.testing.assert_close(a, b)
        assert not any(value.any() for value in both[:2]) and all(p.requires_grad for p in parameters)

    def test_what_is_reported_is_the_bound(self):
        pair, x = linear(), torch.randn(3, 4)
        dreaming, bound = (seeded(lambda o=o: o(pair, x)) for o in (Dreaming(TraceELBO()), TraceELBO()))
        assert dreaming.bound == bound.bound and dreaming.reg == bound.reg and dreaming.rec == bound.rec

    @pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_weight_that_is_none(self, weight):
        with pytest.raises(ShapeError, match="weight of the sleep phase is above 0"):
            Dreaming(IWAE(5), weight)

    def test_an_objective_that_learns(self):
        with pytest.raises(UnsupportedModelError, match="NVIL has parameters of its own"):
            Dreaming(NVIL())
