"""DisARM on Pyro programs of every shape: plates, shared latents, continuous sites between binary ones."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from inference import SVI, DisARM
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair
from ppl_models import VAE, SigmoidBeliefNetwork
from tests.conftest import z_scores
from tests.inference.oracles import DeepSBN

X = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


class PlatedSBN(DeepSBN):
    """The two-layer network with its units in plates of their own, and its data at dim -2."""

    def model(self, x):
        n = len(x)
        top, w1, b1, w2, b2 = self.cut(self.theta, [(2,), (2, 3), (3,), (2, 2), (2,)])
        data = pyro.plate("data", n, dim=-2)
        with data, pyro.plate("second", 2, dim=-1):
            h2 = pyro.sample("h2", dist.Bernoulli(logits=top))
        with data, pyro.plate("first", 2, dim=-1):
            h1 = pyro.sample("h1", dist.Bernoulli(logits=(h2.unsqueeze(-2) @ w2).squeeze(-2) + b2))
        with data, pyro.plate("pixels", 3, dim=-1):
            pyro.sample("x", dist.Bernoulli(logits=(h1.unsqueeze(-2) @ w1).squeeze(-2) + b1), obs=x)

    def guide(self, x):
        a1, w, a2 = self.cut(self.phi, [(2,), (2, 2), (2,)])
        data = pyro.plate("data", len(x), dim=-2)
        with data, pyro.plate("first", 2, dim=-1):
            h1 = pyro.sample("h1", dist.Bernoulli(probs=torch.sigmoid(a1)))
        with data, pyro.plate("second", 2, dim=-1):
            pyro.sample("h2", dist.Bernoulli(logits=(h1.unsqueeze(-2) @ w).squeeze(-2) + a2))

    def cut(self, flat, shapes):
        parts = flat.split([math.prod(shape) for shape in shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


class Sandwich(nn.Module):
    """A Gaussian between two binary sites: guide b1, then z | b1, then b2 | z; parameters for each row."""

    def __init__(self, n):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.4, 0.9, -0.7, 1.5, -1.0]).expand(n, 5).clone())
        self.phi = nn.Parameter(torch.tensor([0.3, -0.2, 0.8, 1.1, -0.5]).expand(n, 5).clone())

    def model(self, x):
        t = self.theta.unbind(-1)
        with pyro.plate("data", len(x), dim=-1):
            b2 = pyro.sample("b2", dist.Bernoulli(logits=t[0]))
            z = pyro.sample("z", dist.Normal(t[1] * b2, 1.0))
            b1 = pyro.sample("b1", dist.Bernoulli(logits=t[2] * z))
            pyro.sample("x", dist.Normal(t[3] * b1 + t[4] * b2 + z, 1.0), obs=x)

    def guide(self, x):
        p = self.phi.unbind(-1)
        with pyro.plate("data", len(x), dim=-1):
            b1 = pyro.sample("b1", dist.Bernoulli(logits=p[0]))
            z = pyro.sample("z", dist.Normal(p[1] + p[2] * b1, 0.7))
            pyro.sample("b2", dist.Bernoulli(logits=p[3] * z + p[4]))

    def exact_elbo(self, x, t, p):
        """Sum over b1 and b2, Gauss-Hermite over z."""
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
        total = 0.0
        for b1, b2 in itertools.product(torch.tensor([0.0, 1.0]), repeat=2):
            z = p[1] + p[2] * b1 + 0.7 * nodes
            log_q1, log_q2 = (
                dist.Bernoulli(logits=p[0]).log_prob(b1),
                dist.Bernoulli(logits=p[3] * z + p[4]).log_prob(b2),
            )
            log_w = (
                dist.Bernoulli(logits=t[0]).log_prob(b2)
                + dist.Normal(t[1] * b2, 1.0).log_prob(z)
                + dist.Bernoulli(logits=t[2] * z).log_prob(b1)
                + dist.Normal(t[3] * b1 + t[4] * b2 + z, 1.0).log_prob(x)
                - dist.Normal(p[1] + p[2] * b1, 0.7).log_prob(z)
                - log_q1
                - log_q2
            )
            total = total + (weights / weights.sum() * (log_q1 + log_q2).exp() * log_w).sum()
        return total


@pytest.mark.usefixtures("double")
class TestMeanGradient:
    @pytest.mark.parametrize("k", [1, 2])
    def test_units_in_plates_of_their_own(self, k):
        n = 30_000
        pair = PlatedSBN(n, 2)
        theta, phi = pair.row()
        exact = torch.autograd.grad(pair.bound(X, 1, theta, phi), (theta, phi))
        (-DisARM(k)(pair, X.expand(n, 3)).loss * n).backward()
        assert z_scores(pair.theta.grad, exact[0]).abs().max() < 4
        assert z_scores(pair.phi.grad, exact[1]).abs().max() < 4

    @pytest.mark.parametrize("k", [1, 2])
    def test_a_continuous_site_between_binary_ones(self, k):
        n = 60_000
        pair = Sandwich(n)
        theta, phi = (p[0].detach().clone().requires_grad_() for p in (pair.theta, pair.phi))
        exact = torch.autograd.grad(pair.exact_elbo(torch.tensor(0.8), theta, phi), (theta, phi))
        (-DisARM(k)(pair, torch.full((n,), 0.8)).loss * n).backward()
        assert z_scores(pair.theta.grad, exact[0]).abs().max() < 4
        assert z_scores(pair.phi.grad, exact[1]).abs().max() < 4

    def test_latents_that_all_rows_share(self):
        """One signal for all data together: replicates are particles, so their mean gradient is compared."""
        x = torch.tensor([1.0, 0.2, -0.4])
        alpha = nn.Parameter(torch.tensor([0.3, -0.8]))

        def model(x):
            h = pyro.sample("h", dist.Bernoulli(torch.tensor([0.5, 0.3])).to_event(1))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(h.sum(-1), 1.0), obs=x)

        def guide(x):
            pyro.sample("h", dist.Bernoulli(logits=alpha).to_event(1))

        h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
        log_q = dist.Bernoulli(logits=alpha).log_prob(h).sum(-1)
        log_p = dist.Bernoulli(torch.tensor([0.5, 0.3])).log_prob(h).sum(-1)
        log_p = log_p + dist.Normal(h.sum(-1, keepdim=True), 1.0).log_prob(x).sum(-1)
        (exact,) = torch.autograd.grad((log_q.exp() * (log_p - log_q)).sum() / 3, alpha)
        draws = []
        for _ in range(30):
            alpha.grad = None
            (-DisARM(1000)(Pair(model, guide), x).loss).backward()
            draws.append(alpha.grad)
        assert z_scores(torch.stack(draws), exact).abs().max() < 4.8  # 29 degrees of freedom: t, not normal

    def test_both_runs_of_a_subsampled_plate_take_the_same_rows(self):
        seen = []

        def model(x):
            with pyro.plate("data", 100, subsample_size=5, dim=-1) as rows:
                h = pyro.sample("h", dist.Bernoulli(0.4))
                pyro.sample("x", dist.Normal(h, 1.0), obs=x[rows])

        def guide(x):
            with pyro.plate("data", 100, subsample_size=5, dim=-1) as rows:
                seen.append(rows)
                pyro.sample("h", dist.Bernoulli(logits=x[rows]))

        pair = Pair(model, guide)
        pair.structure(torch.zeros(100))
        seen.clear()
        DisARM()(pair, torch.randn(100))
        assert len(seen) == 2 and torch.equal(*seen)


class TestLearning:
    def test_a_network_learns(self):
        x = (torch.rand(100, 1) < 0.5).float().expand(100, 6).contiguous()  # all on or all off: one bit
        sbn = SigmoidBeliefNetwork((6, 3, 2))
        svi = SVI(sbn, DisARM(), torch.optim.Adam(sbn.parameters(), 0.05))
        losses = [svi.step(x).loss.item() for _ in range(150)]
        assert sum(losses[-10:]) / 10 < 0.5 * sum(losses[:10]) / 10


class TestBadInput:
    x = torch.rand(5, 4).round()

    def test_particles(self):
        with pytest.raises(ShapeError, match=r"at least 1, got num_particles=0: DisARM\(\)"):
            DisARM(0)

    def test_no_binary_site(self):
        with pytest.raises(UnsupportedModelError, match=r"Bernoulli sites, and this one has none: use TraceELBO\(\)"):
            DisARM()(VAE(4, 2, (3,)), self.x)

    def test_another_discrete_site(self):
        def program(x, obs=None):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
                if obs is not None:
                    pyro.sample("x", dist.Normal(y.double(), 1.0), obs=obs)

        with pytest.raises(UnsupportedModelError, match=r"'y' is a Categorical: use IWAE\(k=5\) or TraceELBO"):
            DisARM()((lambda x: program(x, x), program), torch.zeros(4).double())

    def test_binary_units_on_another_scale(self):
        spin = dist.TransformedDistribution(
            dist.Bernoulli(torch.full((5,), 0.3)), dist.transforms.AffineTransform(-1.0, 2.0)
        )

        def program(x, obs=None):
            with pyro.plate("data", len(x), dim=-1):
                s = pyro.sample("s", spin)
                if obs is not None:
                    pyro.sample("x", dist.Normal(s.unsqueeze(-1), 1.0).to_event(1), obs=obs)

        with pytest.raises(UnsupportedModelError, match="needs independent Bernoulli units .*'s' is a"):
            DisARM()((lambda x: program(x, x), program), self.x)

    def test_units_that_see_one_another(self):
        """They have logits and values of 0 and 1, and their logits are not their means."""
        with pytest.raises(UnsupportedModelError, match="needs independent Bernoulli units .*'h1' is a Chained"):
            DisARM()(SigmoidBeliefNetwork((4, 3), autoregressive=True), self.x)

    def test_dropout(self):
        sbn = SigmoidBeliefNetwork((4, 3))
        sbn.up[0] = nn.Sequential(nn.Dropout(0.5), sbn.up[0])
        with pytest.raises(UnsupportedModelError, match="DisARM runs the guide twice, and dropout"):
            DisARM()(sbn, self.x)
        assert DisARM()(sbn.eval(), self.x).loss.isfinite()
