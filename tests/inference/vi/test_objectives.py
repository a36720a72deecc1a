"""Every bound and gradient against enumeration, a closed form or finite differences; tolerances in standard errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from inference import IWAE, SVI, TraceELBO, TraceEnumELBO, log_weights
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, as_pair
from tests.conftest import z_scores
from tests.inference.oracles import LinearGaussian, TinySBN

pytestmark = pytest.mark.usefixtures("double")

X = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


def rows(n):
    return X.expand(n, 3).contiguous()


def linear(guide="diagonal"):
    g = torch.Generator().manual_seed(3)
    w = torch.randn(4, 2, generator=g, dtype=torch.float64)
    return LinearGaussian(w, torch.randn(4, generator=g, dtype=torch.float64), 0.6, guide)


class TestLinearGaussian:
    """Oracle O1."""

    @pytest.mark.parametrize("objective", [TraceELBO(closed_form_kl=False), TraceELBO(3, False), IWAE(1), IWAE(7)])
    def test_with_the_exact_posterior_every_bound_is_the_evidence(self, objective):
        pair, x = linear("exact"), torch.randn(5, 4)
        assert objective(pair, x).bound == pytest.approx(pair.log_evidence(x).mean().item(), abs=1e-10)

    def test_every_weight_is_the_evidence(self):
        pair, x = linear("exact"), torch.randn(5, 4)
        torch.testing.assert_close(log_weights(pair, x, k=9), pair.log_evidence(x).expand(9, 5), atol=1e-10, rtol=0)

    def test_the_gap_of_a_diagonal_guide_is_its_divergence_from_the_posterior(self):
        pair, x = linear(), torch.randn(3, 4)
        with torch.no_grad():
            log_w = log_weights(pair, x, k=40_000)
            posterior = dist.MultivariateNormal(*pair.posterior(x))
            q = dist.MultivariateNormal(pair.q(x).mean, pair.q_log_s.exp().square().diag())
            gap = torch.distributions.kl_divergence(q, posterior)
            assert z_scores(pair.log_evidence(x) - log_w, gap).abs().max() < 4

    def test_closed_form_and_sampled_divergence_agree(self):
        pair, x = linear(), torch.randn(1, 4)
        with torch.no_grad():
            closed = TraceELBO(1)(pair, x).reg
            sampled = torch.stack([TraceELBO(1, closed_form_kl=False)(pair, x).reg for _ in range(3000)])
        assert z_scores(sampled, closed).abs() < 4

    def test_the_bound_is_the_sum_of_its_two_parts(self):
        e = TraceELBO(2)(linear(), torch.randn(6, 4))
        assert e.bound == pytest.approx((e.reg + e.rec).item(), abs=1e-12)
        assert e.loss.item() == pytest.approx(-e.bound.item(), abs=1e-12)

    def test_warm_up_weighs_the_regulariser_alone(self):
        pair, x = linear(), torch.randn(6, 4)
        torch.manual_seed(0)
        full = TraceELBO()(pair, x)
        torch.manual_seed(0)
        half = TraceELBO()(pair, x, beta=0.5)
        assert half.loss.item() == pytest.approx(-(0.5 * full.reg + full.rec).item(), abs=1e-12)
        assert half.bound == full.bound

    def test_a_trained_linear_vae_reaches_the_maximum_likelihood_of_ppca(self):
        """Oracle O2: Tipping and Bishop's s^2 and W, within 1e-3 nats a dimension."""
        g = torch.Generator().manual_seed(8)
        truth = torch.tensor([[2.0, 0.5], [-1.0, 1.5], [0.7, 0.7], [0.0, -1.2], [1.0, 0.0]]).double()
        x = torch.randn(400, 2, generator=g, dtype=torch.float64) @ truth.T
        x = x + 0.5 * torch.randn(400, 5, generator=g, dtype=torch.float64) + 1.0
        values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
        s2 = values[2:].mean()
        best = -0.5 * (5 * math.log(2 * math.pi) + values[:2].log().sum() + 3 * s2.log() + 5)
        pair = LinearGaussian(torch.randn(5, 2, generator=g).double(), x.mean(0), 1.0, "diagonal")
        optimizer = torch.optim.Adam(pair.parameters(), 0.03, fused=True)
        svi = SVI(pair, TraceELBO(num_particles=4), optimizer)
        for i in range(1500):
            optimizer.param_groups[0]["lr"] = 0.03 * 0.01 ** (i / 1500)
            svi.step(x)
        with torch.no_grad():
            reached = pair.log_evidence(x).mean()
        assert reached <= best + 1e-9
        assert (best - reached) / 5 < 1e-3


class TestEnumeratedSBN:
    """Oracle O4: discrete latents against the sum over all states."""

    def test_the_bounds_rise_to_the_evidence(self):
        pair = TinySBN(1)
        with torch.no_grad():
            bounds = [pair.exact_bound(X, k, pair.phi[0]).item() for k in (1, 2, 3, 4)]
            evidence = pair.log_joint(X).logsumexp(0).item()
        assert bounds == sorted(bounds)
        assert bounds[-1] < evidence

    @pytest.mark.parametrize(("objective", "k"), [(TraceELBO(), 1), (TraceELBO(3), 1), (IWAE(2), 2), (IWAE(3), 3)])
    def test_value_and_gradients_are_unbiased(self, objective, k):
        n = 30_000  # rows with logits of their own: as many draws of the gradient
        pair = TinySBN(n)
        estimate = objective(pair, rows(n))
        phi = pair.phi[0].detach().clone().requires_grad_()
        exact = pair.exact_bound(X, k, phi)
        exact_phi, exact_w, exact_b = torch.autograd.grad(exact, (phi, pair.w, pair.b_h))
        (-estimate.loss).backward()
        samples = pair.phi.grad * n
        assert z_scores(samples, exact_phi).abs().max() < 4
        # the gradients of the model's parameters come summed over rows: 20 blocks give their standard error
        blocks = [TinySBN(1000) for _ in range(20)]
        for block in blocks:
            (-objective(block, rows(1000)).loss).backward()
        for name, value in (("w", exact_w), ("b_h", exact_b)):
            grads = torch.stack([getattr(block, name).grad for block in blocks])
            assert z_scores(grads, value).abs().max() < 5  # 19 degrees of freedom: t, not normal

    def test_the_check_sees_a_straight_through_gradient(self):
        """A biased estimator fails the same test, so passing it means something."""
        n = 30_000
        pair = TinySBN(n)
        p = torch.sigmoid(pair.phi)
        h = (torch.bernoulli(p.detach()) - p).detach() + p
        prior = dist.Bernoulli(logits=pair.b_h).log_prob(h.round()) * 0 + (
            h * torch.nn.functional.logsigmoid(pair.b_h) + (1 - h) * torch.nn.functional.logsigmoid(-pair.b_h)
        )
        log_q = h.detach() * torch.nn.functional.logsigmoid(pair.phi) + (
            1 - h.detach()
        ) * torch.nn.functional.logsigmoid(-pair.phi)
        logits = h @ pair.w + pair.b
        log_x = X * torch.nn.functional.logsigmoid(logits) + (1 - X) * torch.nn.functional.logsigmoid(-logits)
        (prior.sum() + log_x.sum() - log_q.sum()).backward()
        phi = pair.phi[0].detach().clone().requires_grad_()
        (exact,) = torch.autograd.grad(pair.exact_bound(X, 1, phi), phi)
        assert z_scores(pair.phi.grad, exact).abs().max() > 10

    def test_one_particle_has_no_baseline_and_is_refused(self):
        """Fact 5: leave-one-out of one is 0/0."""
        with pytest.raises(ShapeError, match=r"needs k >= 2 .* got k=1: pass k=5 or use TraceELBO\(\)"):
            IWAE(1)(TinySBN(4), rows(4))


class TwoLayer(nn.Module):
    """z2 ~ N(0, 1), z1 ~ N(a z2, 1), x ~ N(z1, s); the guide draws z1 from x and z2 from z1."""

    def __init__(self, n):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.8))
        self.phi = nn.Parameter(torch.tensor([0.4, 0.1, 0.3, -0.2]).expand(n, 4).clone())

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.phi[:, 0] * x, self.phi[:, 1].exp()))
            pyro.sample("z2", dist.Normal(self.phi[:, 2] * z1, self.phi[:, 3].exp()))


class TestDReG:
    """Oracle O17: the doubly reparameterised gradient has the plain one's mean, and less variance."""

    @pytest.mark.parametrize("k", [2, 8])
    def test_same_mean_smaller_variance_in_a_hierarchy(self, k):
        n = 60_000
        x = torch.full((n,), 1.3)
        grads = {}
        for gradient in ("plain", "dreg"):
            pair = TwoLayer(n)
            estimate = IWAE(k, gradient)(pair, x)
            estimate.loss.backward()
            grads[gradient] = pair.phi.grad * n, pair.a.grad
        plain, dreg = grads["plain"][0], grads["dreg"][0]
        se = ((plain.var(0) + dreg.var(0)) / n).sqrt()
        assert ((plain.mean(0) - dreg.mean(0)) / se).abs().max() < 4
        assert (dreg.var(0) < plain.var(0)).all()

    def test_the_models_own_gradient_is_the_plain_one(self):
        grads = []
        for gradient in ("plain", "dreg"):
            torch.manual_seed(5)
            pair = TwoLayer(50)
            IWAE(4, gradient)(pair, torch.linspace(-1, 2, 50)).loss.backward()
            grads.append(pair.a.grad)
        torch.testing.assert_close(*grads, rtol=1e-10, atol=0)

    def test_a_network_that_the_pair_does_not_know_is_refused(self):
        hidden = nn.Linear(1, 1)  # in a closure, without pyro.module: it could not be frozen

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(hidden(x.unsqueeze(-1)).squeeze(-1), 1.0))
                pyro.sample("z2", dist.Normal(x, 1.0))

        with pytest.raises(UnsupportedModelError, match="'z1' depends on a parameter that the pair does not know"):
            IWAE(3, "dreg")((TwoLayer(5).model, guide), torch.randn(5))

    def test_dropout_is_refused(self):
        from ppl_models import VAE

        with pytest.raises(UnsupportedModelError, match="dropout would differ"):
            IWAE(3, "dreg")(VAE(4, 2, (3,), input_dropout=0.2), torch.rand(5, 4).round())

    def test_discrete_sites_are_refused(self):
        with pytest.raises(UnsupportedModelError, match="'h1' is not: use gradient='plain'"):
            IWAE(3, "dreg")(TinySBN(4), rows(4))


class TestNumerics:
    """Oracle O17: finite differences, and the logarithm of a sum under large offsets."""

    @pytest.mark.parametrize("objective", [TraceELBO(), TraceELBO(2, False), IWAE(3)])
    def test_gradients_by_finite_differences(self, objective):
        pair, x = linear(), torch.randn(3, 4)

        def loss():
            torch.manual_seed(7)
            return objective(pair, x).loss

        loss().backward()
        for p in pair.parameters():
            if p.grad is None:
                continue
            for i in range(p.numel()):
                flat = p.data.view(-1)
                old, step = flat[i].item(), 1e-6
                flat[i] = old + step
                up = loss().item()
                flat[i] = old - step
                down = loss().item()
                flat[i] = old
                assert (up - down) / (2 * step) == pytest.approx(p.grad.view(-1)[i].item(), rel=1e-6, abs=1e-8)

    @pytest.mark.parametrize("offset", [1e4, -1e4])
    def test_a_large_offset_moves_the_bound_and_not_the_gradient(self, offset):
        class Shifted(LinearGaussian):
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(self.w.new_zeros(2), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(z @ self.w.T + self.b, self.log_s.exp()).to_event(1), obs=x)
                    pyro.factor("offset", self.w.new_full((len(x),), offset))

        plain = linear()
        moved = Shifted(plain.w.detach().clone(), plain.b.detach().clone(), 0.6, "diagonal")
        x = torch.randn(3, 4)
        out = []
        for pair in (plain, moved):
            torch.manual_seed(2)
            e = IWAE(6)(pair, x)
            e.loss.backward()
            out.append((e.bound, pair.w.grad, pair.q_w.grad))
        assert (out[1][0] - out[0][0]).item() == pytest.approx(offset, rel=1e-12)
        torch.testing.assert_close(out[0][1:], out[1][1:], rtol=1e-6, atol=0)


class Mixture(nn.Module):
    """y ~ Cat(pi), z ~ N(0, 1), x ~ N(m_y + z, s): evidence, and every branch, in closed form."""

    def __init__(self, guide_y: str):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.2, -0.5, 0.9]))
        self.m = nn.Parameter(torch.tensor([-1.0, 1.0, 0.5]))
        self.q_y = nn.Parameter(torch.tensor([0.3, -0.3, 0.1]))
        self.q_z = nn.Parameter(torch.tensor(0.4))
        self.guide_y = guide_y

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.m[y] + z, 0.7), obs=x)

    def guide(self, x):
        infer = {"enumerate": "parallel"} if self.guide_y == "enumerated" else {}
        with pyro.plate("data", len(x), dim=-1):
            shift = 0.0
            if self.guide_y != "none":
                y = pyro.sample("y", dist.Categorical(logits=self.q_y), infer=infer)
                shift = self.m[y]
            pyro.sample("z", dist.Normal(self.q_z * (x - shift), 0.8))

    def log_evidence(self, x):
        parts = dist.Normal(self.m, math.sqrt(1 + 0.49)).log_prob(x.unsqueeze(-1))
        return (parts + self.logits.log_softmax(0)).logsumexp(-1)

    def exact_elbo(self, x):
        """sum_y q(y) E_q(z|y)[log p(x, y, z) - log q(y, z)] in closed form."""
        q = self.q_y.softmax(0)
        total = 0.0
        for y in range(3):
            mean, s = self.q_z * (x - self.m[y]), 0.8
            log_x = dist.Normal(self.m[y] + mean, 0.7).log_prob(x) - 0.5 * s**2 / 0.49
            kl = 0.5 * (mean**2 + s**2 - 1) - math.log(s)
            total = total + q[y] * (log_x - kl + self.logits.log_softmax(0)[y] - q[y].log())
        return total


class TestEnumeration:
    """Fact 3: enumerated sites are summed inside each particle's weight."""

    @pytest.mark.parametrize("guide_y", ["none", "enumerated"])
    def test_the_mean_weight_is_the_evidence(self, guide_y):
        pair, x = Mixture(guide_y), torch.tensor([0.3, -1.2, 2.0])
        with torch.no_grad():
            ratio = (log_weights(pair, x, k=30_000) - pair.log_evidence(x)).exp()
        assert z_scores(ratio, torch.ones(3)).abs().max() < 4

    def test_pyros_own_bound_is_no_bound_there(self):
        from pyro.infer import RenyiELBO

        pair, x = Mixture("none"), torch.tensor([0.3, -1.2, 2.0])
        evidence = pair.log_evidence(x).sum().item()
        renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True)
        with torch.no_grad():
            ours = torch.stack([IWAE(50)(pair, x).bound * 3 for _ in range(200)])
            with pytest.warns(UserWarning, match="Found vars in model but not guide"):
                theirs = torch.tensor([-renyi.loss(pair.model, pair.guide, x) for _ in range(200)])
        # it samples the site that it was told to sum out, and counts its probability all the same
        assert z_scores(theirs, torch.tensor(evidence - 1.0)) < -4
        assert evidence - 0.1 < ours.mean() < evidence + 4 * ours.std() / math.sqrt(200)

    @pytest.mark.parametrize("guide_y", ["enumerated", "sampled"])
    def test_the_gradient_of_a_latent_label_is_exact_in_the_mean(self, guide_y):
        objective = TraceEnumELBO() if guide_y == "enumerated" else TraceELBO(2, closed_form_kl=False)
        pair, x = Mixture(guide_y), torch.tensor([1.1])
        exact = torch.autograd.grad(pair.exact_elbo(x).sum(), [pair.q_y, pair.q_z, pair.m])
        draws = []
        for _ in range(1500):
            pair.zero_grad()
            (-objective(pair, x).loss).backward()
            draws.append([pair.q_y.grad.clone(), pair.q_z.grad.clone(), pair.m.grad.clone()])
        for i, value in enumerate(exact):
            assert z_scores(torch.stack([d[i] for d in draws]), value).abs().max() < 4

    def test_the_parts_of_an_enumerated_bound_sum_to_it(self):
        for guide_y in ("none", "enumerated"):
            e = TraceEnumELBO(2)(Mixture(guide_y), torch.tensor([0.3, -1.2, 2.0]))
            assert e.bound == pytest.approx((e.reg + e.rec).item(), abs=1e-12)

    def test_a_sampled_bound_refuses_what_only_enumeration_can_do(self):
        with pytest.raises(UnsupportedModelError, match=r"'y': use TraceEnumELBO\(\)"):
            TraceELBO()(Mixture("none"), torch.tensor([0.3]))

    def test_a_markov_chain_is_summed_by_the_forward_algorithm(self):
        t = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        m = torch.tensor([-1.0, 1.0])

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = 0
                for i in pyro.markov(range(x.shape[1])):
                    y = pyro.sample(f"y{i}", dist.Categorical(t[y]), infer={"enumerate": "parallel"})
                    pyro.sample(f"x{i}", dist.Normal(m[y], 1.0), obs=x[:, i])

        x = torch.randn(4, 6)
        alpha = torch.tensor([0.0, -math.inf]).expand(4, 2)
        for i in range(6):
            alpha = (alpha.unsqueeze(-1) + t.log()).logsumexp(1) + dist.Normal(m, 1.0).log_prob(x[:, i : i + 1])
        for k in (1, 3):
            got = log_weights((model, lambda x: None), x, k=k)
            torch.testing.assert_close(got, alpha.logsumexp(1).expand(k, 4), rtol=1e-10, atol=0)


class TestSubsampling:
    """Fact 2: the scale of a subsampled data plate stays outside the logarithm."""

    x = torch.tensor([0.5, -1.0, 2.0, 0.1, 1.5, -0.7, 0.3, 3.0], dtype=torch.float64)

    def model(self, x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(self, x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-1) as rows:
            pyro.sample("z", dist.Normal(0.2 * x[rows], 0.9))

    def exact(self, k):
        """L_k of all rows by quadrature-free Monte Carlo on the full plate, with its standard error."""
        z = 0.2 * self.x + 0.9 * torch.randn(20_000, k, 8)
        log_w = (
            dist.Normal(0.0, 1.0).log_prob(z)
            + dist.Normal(z, 1.0).log_prob(self.x)
            - dist.Normal(0.2 * self.x, 0.9).log_prob(z)
        )
        per_draw = (log_w.logsumexp(1) - math.log(k)).mean(1)
        return per_draw.mean(), per_draw.std() / math.sqrt(len(per_draw))

    def test_the_subsampled_bound_is_the_full_one_in_the_mean(self):
        pair = Pair(self.model, self.guide)
        with torch.no_grad():
            samples = torch.stack([IWAE(4)(pair, self.x).bound for _ in range(3000)])
        exact, exact_se = self.exact(4)
        se = (samples.var() / len(samples) + exact_se**2).sqrt()
        assert (samples.mean() - exact).abs() / se < 4
        evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(self.x).mean()
        assert samples.mean() < evidence

    def test_pyros_own_value_is_no_bound(self):
        from pyro.infer import RenyiELBO

        evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(self.x).sum()
        renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True)
        with torch.no_grad():
            values = torch.tensor([-renyi.loss(self.model, self.guide, self.x) for _ in range(400)])
        assert values.mean() - 4 * values.std() / 20 > evidence  # above the evidence: not a lower bound

    def test_wake_sleep_weights_of_pyro_mix_the_rows_of_a_plate(self):
        """Its value on two independent rows is not the sum of its values on each; ours is."""
        from pyro.infer import ReweightedWakeSleep

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h1", dist.Bernoulli(0.3))
                pyro.sample("x", dist.Normal(4 * h, 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h1", dist.Bernoulli(torch.full((len(x),), 0.5)))

        x = torch.tensor([4.0, 0.0, 4.0, 0.0, 4.0, 0.0])
        # L_10 of a row: of ten draws from the even guide, j have h = 1
        w0 = 2 * 0.7 * dist.Normal(0.0, 1.0).log_prob(x).exp()
        w1 = 2 * 0.3 * dist.Normal(4.0, 1.0).log_prob(x).exp()
        exact = sum(math.comb(10, j) / 2**10 * ((j * w1 + (10 - j) * w0) / 10).log() for j in range(11)).sum()
        rws = ReweightedWakeSleep(num_particles=10, vectorize_particles=True)
        with torch.no_grad():
            theirs = torch.tensor([-rws.loss(model, guide, x)[0] for _ in range(400)])
            ours = torch.stack([IWAE(10)((model, guide), x).bound * 6 for _ in range(400)])
        assert z_scores(ours, exact).abs() < 4
        assert z_scores(theirs, exact).abs() > 10


class TestDiscreteGradientsOfTheHosts:
    """Fact 1: what Pyro's and NumPyro's own estimators say of a discrete guide, and what is true."""

    def exact(self, k=2):
        phi = TinySBN(1).phi[0].detach().clone().requires_grad_()
        return torch.autograd.grad(TinySBN(1).exact_bound(X, k, phi), phi)[0]

    def test_pyros_iwae_gives_zero(self):
        from pyro.infer import SVI as PyroSVI
        from pyro.infer import RenyiELBO

        pair = TinySBN(1)
        gradient = []
        pyro.clear_param_store()

        def guide(x):
            phi = pyro.param("phi", pair.phi.detach().clone())
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h1", dist.Bernoulli(logits=phi).to_event(1))

        renyi = RenyiELBO(alpha=0, num_particles=2, vectorize_particles=True)
        svi = PyroSVI(pair.model, guide, pyro.optim.SGD({"lr": 0.0}), loss=renyi)
        for _ in range(20):
            svi.loss_and_grads(pair.model, guide, X.unsqueeze(0))
            gradient.append(pyro.get_param_store()._params["phi"].grad.clone())
        pyro.clear_param_store()
        assert torch.stack(gradient).abs().max() == 0
        assert self.exact().abs().min() > 1e-3

    def test_numpyros_iwae_gradient_is_wrong(self):
        numpyro = pytest.importorskip("numpyro")
        import jax
        import jax.numpy as jnp
        import numpyro.distributions as npd

        pair = TinySBN(1)
        b_h, w, b = (jnp.asarray(p.detach().numpy()) for p in (pair.b_h, pair.w, pair.b))
        x = jnp.asarray(X.numpy())

        def model(phi):
            h = numpyro.sample("h1", npd.Bernoulli(logits=b_h).to_event(1))
            numpyro.sample("x", npd.Bernoulli(logits=h @ w + b).to_event(1), obs=x)

        def guide(phi):
            numpyro.sample("h1", npd.Bernoulli(logits=phi).to_event(1))

        renyi = numpyro.infer.RenyiELBO(alpha=0, num_particles=2)

        def loss(phi, key):
            return renyi.loss(key, {}, model, guide, phi)

        keys = jax.random.split(jax.random.PRNGKey(0), 20_000)
        phi = jnp.asarray(pair.phi[0].detach().numpy())
        grads = -jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(phi, keys)
        got = torch.from_numpy(__import__("numpy").array(grads)).double()
        assert z_scores(got, self.exact()).abs().max() > 10

    def test_renyi_has_no_differentiable_loss_and_ours_is_one(self):
        """Fact 4."""
        from pyro.infer import RenyiELBO

        assert not hasattr(RenyiELBO(alpha=0, num_particles=2), "differentiable_loss")
        assert IWAE(2)(TinySBN(1), X.unsqueeze(0)).loss.requires_grad


def test_a_look_at_the_sites_moves_no_running_mean():
    class Normed(LinearGaussian):
        def __init__(self):
            super().__init__(torch.ones(4, 2), torch.zeros(4), 0.6, "diagonal")
            self.norm = nn.BatchNorm1d(4)

        def q(self, x):
            return super().q(self.norm(x))

    pair = Normed()
    as_pair(pair).structure(torch.randn(6, 4))
    assert pair.norm.num_batches_tracked == 0 and not pair.norm.running_mean.any()


def test_a_program_that_takes_one_particle_only_says_so():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.t()[0], 1.0), obs=x)  # no room for a leading dim

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.randn(3)
    assert log_weights((model, guide), x).shape == (1, 3)
    with pytest.raises(UnsupportedModelError, match="does not run with 4 particles at once .*take one particle"):
        log_weights((model, guide), x, k=4)


def test_particles_below_one_are_refused():
    for make in (lambda: TraceELBO(0), lambda: TraceEnumELBO(0), lambda: IWAE(0)):
        with pytest.raises(ShapeError, match="at least 1, got"):
            make()
    with pytest.raises(ValueError, match="'plain' or 'dreg'"):
        IWAE(2, "double")
