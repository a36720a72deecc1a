"""Small discrete models, written as a Pyro user writes them, and what enumeration says of them."""

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex

from inference.mcmc.conditionals import assign, log_conditional
from inference.mcmc.gibbs import init

G = torch.Generator().manual_seed(2)
W2, W1, B1, B0 = (torch.randn(s, generator=G, dtype=torch.float64) for s in ((2, 2), (2, 3), (2,), (3,)))
ROWS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).double()
POINTS = torch.tensor([-1.3, 0.2, 2.1]).double()
LOCS = torch.tensor([[-1.0, 0.5, 2.0], [1.5, 0.0, -0.5]]).double()


def bernoulli(p):
    return dist.Bernoulli(torch.as_tensor(p, dtype=torch.float64))


def sbn(x=ROWS):
    """Two layers of two units over three pixels, two rows."""
    with pyro.plate("data", len(x), dim=-1):
        h2 = pyro.sample("h2", dist.Bernoulli(logits=B1 - 0.3).to_event(1))
        h1 = pyro.sample("h1", dist.Bernoulli(logits=h2 @ W2 + B1).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=h1 @ W1 + B0).to_event(1), obs=x)


def mixture(x=POINTS):
    """A global switch between two sets of three centres, and an assignment for each point."""
    g = pyro.sample("g", bernoulli(0.3)).long()
    with pyro.plate("points", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(Vindex(LOCS)[g, z], 1.6), obs=x)


def nested():
    """A global site, one in an outer plate, one in both plates, and children of each."""
    c = pyro.sample("c", bernoulli(0.4))
    with pyro.plate("a", 2, dim=-2):
        g = pyro.sample("g", bernoulli(0.2 + 0.5 * c))
        pyro.sample("y", dist.Normal(2 * g, 1.0), obs=torch.tensor([[0.3], [1.8]]).double())
        with pyro.plate("b", 2, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=g - 1.0 + c))
            pyro.sample("x", dist.Normal(z - g, 0.7), obs=torch.tensor([[0.1, -0.9], [0.8, 0.2]]).double())


def supports():
    """Binomials of unlike sizes in a plate, a one-hot vector, an undeclared batch dim, a factor."""
    kind = pyro.sample("kind", dist.OneHotCategorical(torch.tensor([0.5, 0.2, 0.3]).double()))
    p = (kind * torch.tensor([0.2, 0.5, 0.8]).double()).sum(-1)
    with pyro.plate("data", 2, dim=-1):
        n = pyro.sample("n", dist.Binomial(torch.tensor([2.0, 3.0]).double(), p))
        pyro.sample("x", dist.Poisson(n + 0.5), obs=torch.tensor([1.0, 3.0]).double())
    loose = pyro.sample("loose", dist.Bernoulli(torch.tensor([0.3, 0.6]).double()).to_event(0))
    pyro.factor("tie", 0.7 * loose.prod(-1, keepdim=True) * p)


def ranged():
    """Supports of unlike sizes in one plate, where what lies beyond the shorter one has log-probability NaN."""
    one = torch.ones(2).double()
    with pyro.plate("data", 2, dim=-1):
        n = pyro.sample("n", dist.BetaBinomial(one, one, torch.tensor([1.0, 2.0]).double()))
        pyro.sample("x", dist.Poisson(n + 0.5), obs=torch.tensor([1.0, 3.0]).double())


def undefined():
    """A value of probability 0, at which the child's scale is NaN."""
    z = pyro.sample("z", dist.Categorical(logits=torch.tensor([0.3, 0.1, -torch.inf]).double()))
    pyro.sample("x", dist.Normal(0.0, (1.5 - z.double()).sqrt()), obs=torch.tensor(0.7).double())


def mixing(x=POINTS):
    """Rows that look independent and are not: each mean depends on all of z."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", bernoulli(0.4))
        pyro.sample("x", dist.Normal(z + 2 * z.mean(-1, keepdim=True), 1.0), obs=x)


def grouped(x=POINTS):
    """A site in a plate of groups, its children in another plate, told by an index."""
    group = torch.tensor([0, 1, 1])
    with pyro.plate("groups", 2, dim=-1):
        g = pyro.sample("g", bernoulli(0.3))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(g[..., group], 1.0), obs=x)


def half_mixing():
    """Mixes the inner plate and not the outer one."""
    with pyro.plate("a", 2, dim=-2):
        with pyro.plate("b", 2, dim=-1):
            z = pyro.sample("z", bernoulli(0.3))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) ** 2, 1.0), obs=torch.tensor([[0.5], [3.0]]).double())


def alone(x=POINTS):
    """Runs on one state at a time only: Python numbers choose the mean."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", bernoulli(0.4))
    shift = 0.7 * float(z.sum() > 1)
    with pyro.plate("more", len(x), dim=-1):
        pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)


def joined(x=POINTS):
    """Stacks its sites, so that all need the same leading dims."""
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", bernoulli(0.4))
        b = pyro.sample("b", bernoulli(0.7))
        mean = torch.stack([a, b], -1) @ torch.tensor([1.0, 2.0]).double()
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def masked(x=ROWS):
    """Observed and latent in one site: half the pixels are missing."""
    with pyro.plate("data", len(x), dim=-1):
        h = pyro.sample("h", bernoulli(0.3))
        for d in range(2):
            seen = torch.tensor([d == 0, True])
            pyro.sample(f"x{d}", dist.Bernoulli(logits=2 * h - 1.0 + d), obs=x[:, d], obs_mask=seen)
        pyro.sample("last", bernoulli(0.5), obs=x[:, 2])


def copies():
    """A deterministic chain: b copies a, c copies b; single updates never move."""
    a = pyro.sample("a", bernoulli(0.3))
    b = pyro.sample("b", dist.Bernoulli(a))
    pyro.sample("c", dist.Bernoulli(b))
    pyro.sample("d", bernoulli(0.5))


def states(joint):
    """Every joint value of the discrete latents: site -> (S, *site shape)."""
    units, cells = [], []
    for site in joint.latents:
        count = math.prod(site.shape[: len(site.shape) - site.unit])
        units += [list(site.support)] * count
        cells.append((site, count))
    rows = list(itertools.product(*units))
    values, start = {}, 0
    for site, count in cells:
        column = torch.stack([torch.stack(row[start : start + count]) for row in rows])
        values[site.name], start = column.reshape(len(rows), *site.shape), start + count
    return values


def posterior(model, values, *data):
    """Of each state, by Pyro's own log-joint of one state at a time: (S,)."""
    size = len(next(iter(values.values())))
    log_p = []
    for i in range(size):
        one = {name: value[i] for name, value in values.items()}
        with pyro.validation_enabled(False):
            log_p.append(poutine.trace(poutine.condition(model, one)).get_trace(*data).log_prob_sum())
    log_p = torch.stack([torch.as_tensor(p) for p in log_p]).double()
    return log_p.masked_fill(log_p.isnan(), -torch.inf).softmax(0)  # what is impossible may be undefined as well


def chain(model, *data, blocks=(), **options):
    """The target of a model, every state of positive probability, and its exact posterior."""
    state = init(model, *data, chains=2, blocks=blocks, **options)
    values = states(state.target.joint)
    pi = posterior(model, values, *data)
    return state.target, {name: value[pi > 0] for name, value in values.items()}, pi[pi > 0]


def transition(joint, group, update, values):
    """The matrix of one update over all states: (S, S), every element of its plates drawn independently."""
    with joint.running():
        p = log_conditional(joint, group, update, values).softmax(0)  # (V, S, *E)
    v, size, *elements = p.shape
    codes = _codes(values)
    where = {int(code): i for i, code in enumerate(codes)}
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for picks in itertools.product(range(v), repeat=math.prod(elements)):
        choice = torch.tensor(picks, dtype=torch.long).reshape(elements).expand(size, *elements)
        weight = p.gather(0, choice.unsqueeze(0))[0].reshape(size, -1).prod(1)
        moved = {name: value.clone() for name, value in values.items()}
        assign(joint, update, moved, choice)
        to = torch.tensor([where.get(int(code), -1) for code in _codes(moved)])
        assert not weight[to < 0].any()  # states of probability 0
        matrix[torch.arange(size), to] += weight
    return matrix


def _codes(values):
    flat = torch.cat([value.reshape(len(value), -1).long() for value in values.values()], 1)
    return (flat * 4 ** torch.arange(flat.shape[1])).sum(1)
