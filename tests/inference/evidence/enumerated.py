"""Small discrete models, and brute force over their states: one run of Pyro for each state of each unit."""

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

G = torch.Generator().manual_seed(8)
W = torch.randn(3, 4, generator=G).double()
TABLE = torch.rand(2, 3, generator=G).double()
X = torch.randn(5, 2, generator=G).double()
BITS = torch.randint(0, 2, (5, 4), generator=G).double()
SEEN = torch.randint(0, 2, (5, 4), generator=G) > 0


def kinds(x=X):
    """A Categorical, a Binomial and two Bernoulli units a datum, then a normal."""
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Bernoulli(probs=torch.tensor([0.3, 0.6]).double()).to_event(1))
        c = pyro.sample("c", dist.Categorical(TABLE[a[..., 0].long()]))
        n = pyro.sample("n", dist.Binomial(2, logits=a[..., 1] - 0.4 * c))
        mean = torch.stack([n + c, a.sum(-1) * (1 + n)], -1)
        pyro.sample("x", dist.Normal(mean, 1.5).to_event(1), obs=x)


def inner(x=X):
    """Units in a plate of their own, left of the data plate, under a site of the datum."""
    with pyro.plate("data", len(x), dim=-1):
        s = pyro.sample("s", dist.Bernoulli(torch.tensor(0.4).double()))
        with pyro.plate("units", 2, dim=-2):
            u = pyro.sample("u", dist.Bernoulli(logits=2 * s - 0.7))
            pyro.sample("x", dist.Normal(2 * u - s, 1.0), obs=x.t())


def shared(x=X):
    """A site of the whole model beside one a datum: all data are one unit."""
    g = pyro.sample("g", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.6).double()))
        pyro.sample("x", dist.Normal((g * z).unsqueeze(-1).expand(*(g * z).shape, 2), 1.0).to_event(1), obs=x)


def bare():
    """No plate, a batch dim that none declares, a factor."""
    a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3).double()))
    b = pyro.sample("b", dist.Bernoulli(torch.tensor([0.2, 0.7]).double()))
    pyro.factor("tie", 1.3 * a * b.prod(-1, keepdim=True))


def missing(x=BITS, seen=SEEN):
    """Four binary units in order; those that are not seen are latent."""
    with pyro.plate("data", len(x), dim=-1):
        logits, s = torch.tensor(0.2).double().expand(len(x)), None
        for i in range(4):
            s = pyro.sample(f"s{i}", dist.Bernoulli(logits=logits), obs=x[:, i], obs_mask=seen[:, i])
            logits = logits + (i - 1.5) * s


def mixing(x=X):
    """Rows that look independent and are not."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4).double()))
        pyro.sample("x", dist.Normal(z + 2 * z.mean(-1, keepdim=True), 1.0), obs=x[:, 0])


def brute(model, *args) -> tuple[Tensor, dict[str, Tensor]]:
    """Log p(x, h) of every state of one unit (S,), and the states: site -> (S, *site shape)."""
    nodes = poutine.trace(model).get_trace(*args).nodes
    sites = {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"
    }
    values = {"Bernoulli": 2, "Categorical": 3, "Binomial": 3}
    counts = []
    for site in sites.values():
        kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
        counts += [values[kind]] * site["value"].numel()
    log_p, states = [], {name: [] for name in sites}
    for state in itertools.product(*(range(count) for count in counts)):
        given, at = {}, 0
        for name, site in sites.items():
            n = site["value"].numel()
            given[name] = torch.tensor(state[at : at + n]).reshape(site["value"].shape).to(site["value"])
            states[name].append(given[name])
            at += n
        log_p.append(poutine.trace(poutine.condition(model, given)).get_trace(*args).log_prob_sum())
    return torch.stack(log_p), {name: torch.stack(each) for name, each in states.items()}


def free_states(model, *args) -> float:
    """Log of how often brute force counts each state of a unit: 2 for each latent Bernoulli under a mask."""
    nodes = poutine.trace(model).get_trace(*args).nodes
    hidden = [s for s in nodes.values() if s["type"] == "sample" and not s["is_observed"] and s["mask"] is not None]
    return sum(float((~s["mask"]).sum()) for s in hidden) * math.log(2)
