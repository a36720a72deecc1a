"""Models whose evidence and gradients are known exactly, written as a Pyro user writes them."""

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


class LinearGaussian(nn.Module):
    """x = W z + b + e, z ~ N(0, I), e ~ N(0, s^2 I): log p(x) and the posterior in closed form (oracle O1)."""

    def __init__(self, w: Tensor, b: Tensor, s: float, guide: str = "exact"):
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)
        self.log_s = nn.Parameter(torch.as_tensor(s).log())
        self.how = guide
        d, z = w.shape
        self.q_w = nn.Parameter(0.3 * torch.randn(z, d, generator=torch.Generator().manual_seed(1)).to(w))
        self.q_log_s = nn.Parameter(torch.full((z,), -0.5).to(w))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.w.new_zeros(self.w.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T + self.b, self.log_s.exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q(x))

    def q(self, x):
        if self.how == "exact":
            mean, covariance = self.posterior(x)
            return dist.MultivariateNormal(mean, covariance)
        return dist.Normal((x - self.b) @ self.q_w.T, self.q_log_s.exp()).to_event(1)

    def posterior(self, x):
        """N(M^-1 W^T (x - b) / s^2, M^-1), M = I + W^T W / s^2."""
        s2 = (2 * self.log_s).exp()
        m = torch.eye(self.w.shape[1]).to(self.w) + self.w.T @ self.w / s2
        covariance = torch.linalg.inv(m)
        return (x - self.b) @ self.w @ covariance / s2, covariance

    def log_evidence(self, x):
        """Log N(x; b, W W^T + s^2 I) of each row."""
        covariance = self.w @ self.w.T + (2 * self.log_s).exp() * torch.eye(len(self.b)).to(self.w)
        return dist.MultivariateNormal(self.b, covariance).log_prob(x)


class TinySBN(nn.Module):
    """H binary hidden units over D binary visible ones, a factorised guide with logits of each row's own.

    With 2^H states everything is a finite sum (oracle O4).
    """

    def __init__(self, n_rows: int, h: int = 2, d: int = 3):
        super().__init__()
        g = torch.Generator().manual_seed(4)
        self.b_h = nn.Parameter(torch.randn(h, generator=g).double())
        self.w = nn.Parameter(torch.randn(h, d, generator=g).double())
        self.b = nn.Parameter(torch.randn(d, generator=g).double())
        self.phi = nn.Parameter(torch.tensor([0.7, -0.4, 0.2, 1.0][:h]).double().expand(n_rows, h).clone())

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h1", dist.Bernoulli(logits=self.b_h).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=h @ self.w + self.b).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("h1", dist.Bernoulli(logits=self.phi).to_event(1))

    def states(self) -> Tensor:
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(self.b_h)))).double()

    def log_joint(self, x: Tensor) -> Tensor:
        """Log p(x, h) of one row x (D,) for every state: (2^H,)."""
        h = self.states()
        prior = dist.Bernoulli(logits=self.b_h).log_prob(h).sum(-1)
        return prior + dist.Bernoulli(logits=h @ self.w + self.b).log_prob(x).sum(-1)

    def exact_bound(self, x: Tensor, k: int, phi: Tensor) -> Tensor:
        """L_k of one row by enumeration of all (2^H)^k draws; differentiable."""
        log_q = dist.Bernoulli(logits=phi).log_prob(self.states()).sum(-1)
        log_w = self.log_joint(x) - log_q
        total = log_q.new_zeros(())
        for draw in itertools.product(range(len(log_q)), repeat=k):
            index = torch.tensor(draw)
            total = total + log_q[index].sum().exp() * (log_w[index].logsumexp(0) - math.log(k))
        return total


class DeepSBN(nn.Module):
    """A sigmoid belief network 3-2 or 3-2-2, all its parameters and its guide's once for each row.

    With the same x in every row, one backward pass gives as many independent draws of the whole gradient, the model's
    included, as there are rows: `theta.grad * n` (N, P) and `phi.grad * n` (N, Q). The guide draws h1, then h2 from h1.
    """

    def __init__(self, n_rows: int, layers: int = 1):
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.depth = layers
        sizes = [3, 2, 2][: layers + 1]
        up = [(2,)] if layers == 1 else [(2,), (2, 2), (2,)]
        down = [(2,), *[shape for a, b in itertools.pairwise(sizes) for shape in ((b, a), (a,))]]
        self.up, self.down = up, down
        for name, shapes in (("theta", down), ("phi", up)):
            row = torch.randn(sum(math.prod(shape) for shape in shapes), generator=g).double()
            setattr(self, name, nn.Parameter(row.expand(n_rows, -1).clone()))

    def model(self, x):
        top, *rest = _cut(self.theta, self.down)
        with pyro.plate("data", len(x), dim=-1):
            logits = top
            for level in range(self.depth, 0, -1):
                h = pyro.sample(f"h{level}", dist.Bernoulli(logits=logits).to_event(1))
                w, b = rest[2 * level - 2 : 2 * level]
                logits = (h.unsqueeze(-2) @ w).squeeze(-2) + b
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        first, *rest = _cut(self.phi, self.up)
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h1", dist.Bernoulli(logits=first).to_event(1))
            if rest:
                pyro.sample("h2", dist.Bernoulli(logits=(h.unsqueeze(-2) @ rest[0]).squeeze(-2) + rest[1]).to_event(1))

    def row(self) -> tuple[Tensor, Tensor]:
        """Theta and phi of one row, to differentiate an enumeration."""
        return self.theta[0].detach().clone().requires_grad_(), self.phi[0].detach().clone().requires_grad_()

    def states(self) -> Tensor:
        """All values of (h1, h2): (S, H)."""
        return torch.tensor(list(itertools.product((0.0, 1.0), repeat=2 * self.depth))).double()

    def log_joint(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log p(x, h) of every state: (S,)."""
        return self.log_prior(theta) + self.log_likelihood(x, theta)

    def log_prior(self, theta: Tensor) -> Tensor:
        """Log p(h) of every state: (S,)."""
        top, _, _, *rest = _cut(theta, self.down)
        h = self.states().split(2, -1)
        return _bernoulli(top, h[-1]) + (_bernoulli(h[1] @ rest[0] + rest[1], h[0]) if rest else 0.0)

    def log_likelihood(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log p(x | h) of every state: (S,)."""
        _, w, b, *_ = _cut(theta, self.down)
        return _bernoulli(self.states()[:, :2] @ w + b, x)

    def log_guide(self, phi: Tensor) -> Tensor:
        """Log q(h) of every state: (S,)."""
        first, *rest = _cut(phi, self.up)
        h = self.states().split(2, -1)
        return _bernoulli(first, h[0]) + (_bernoulli(h[0] @ rest[0] + rest[1], h[1]) if rest else 0.0)

    def draws(self, x: Tensor, k: int, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All S^k draws of k particles: their probability (S^k,), log p and log q of each particle (S^k, k)."""
        log_p, log_q = self.log_joint(x, theta), self.log_guide(phi)
        index = torch.tensor(list(itertools.product(range(len(log_q)), repeat=k)))
        return log_q[index].sum(-1).exp(), log_p[index], log_q[index]

    def bound(self, x: Tensor, k: int, theta: Tensor, phi: Tensor) -> Tensor:
        """L_k, differentiable in both."""
        probability, log_p, log_q = self.draws(x, k, theta, phi)
        return (probability * ((log_p - log_q).logsumexp(-1) - math.log(k))).sum()


def _cut(flat: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    parts = flat.split([math.prod(shape) for shape in shapes], -1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return dist.Bernoulli(logits=logits).log_prob(value).sum(-1)
