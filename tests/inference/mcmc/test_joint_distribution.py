"""Is the sampler right for its model? Geweke's joint test [geweke2004] and simulation-based calibration [talts2018].

Each row of a plate is a replicate of its own, so thousands of simulations go through one vectorised chain.
"""

from dataclasses import replace

import torch
from scipy.stats import chi2, norm

from inference.mcmc import gibbs
from inference.mcmc.gibbs import init, step
from tests.inference.mcmc import models


def joint_draw(n):
    """(h1, h2, x) of n independent draws of the model."""
    h2 = torch.bernoulli(torch.sigmoid(models.B1 - 0.3).expand(n, -1))
    h1 = torch.bernoulli(torch.sigmoid(h2 @ models.W2 + models.B1))
    return h1, h2, data_given(h1)


def data_given(h1):
    return torch.bernoulli(torch.sigmoid(h1 @ models.W1 + models.B0))


def start(h1, h2, x):
    return init(models.sbn, x, values={"h1": h1.unsqueeze(0), "h2": h2.unsqueeze(0)}, seed=1)


def with_data(state, x):
    joint = replace(state.target.joint, args=(x,))
    return state._replace(target=state.target._replace(joint=joint))


def flipped(logits, generator):
    """A wrong draw: the sign of every conditional log-odds is turned."""
    return RIGHT(-logits, generator)


RIGHT = gibbs.draw


def geweke(n=20000, sweeps=12):
    """Largest |z| over test functions between the two simulators of (h, x), and its Bonferroni bound at 0.1 %."""

    def functions(h1, h2, x):
        units = torch.cat([h1, h2, x], 1)
        pairs = torch.stack([units[:, i] * units[:, j] for i in range(7) for j in range(i)], 1)
        return torch.cat([units, pairs], 1)

    marginal = functions(*joint_draw(n))
    h1, h2, x = joint_draw(n)
    state = start(h1, h2, x)
    for _ in range(sweeps):  # successive-conditional: h given x, x given h; stationary from the first on
        state, _ = step(with_data(state, x))
        x = data_given(state.values["h1"][0])
    successive = functions(state.values["h1"][0], state.values["h2"][0], x)
    se = ((marginal.var(0) + successive.var(0)) / n).sqrt()
    z = ((marginal.mean(0) - successive.mean(0)) / se).abs()
    return float(z.max()), float(norm.isf(0.001 / (2 * len(z))))


def test_gewekes_joint_test():
    z, bound = geweke()
    assert z < bound


def test_gewekes_joint_test_sees_a_flipped_sign(monkeypatch):
    monkeypatch.setattr(gibbs, "draw", flipped)
    z, bound = geweke(n=2000, sweeps=3)
    assert z > 3 * bound


def test_gewekes_joint_test_sees_a_forgotten_term(monkeypatch):
    """The conditional of h1 without its own prior, as if its Markov blanket were too small."""
    right = gibbs.log_conditional

    def forgetful(joint, group, update, values, current=None):
        own = group._replace(affected=tuple(name for name in group.affected if name != "h1"))
        return right(joint, own if group.names == ("h1",) else group, update, values)

    monkeypatch.setattr(gibbs, "log_conditional", forgetful)
    monkeypatch.setattr(gibbs, "_check_books", lambda *args: None)
    z, bound = geweke(sweeps=3)
    assert z > 1.5 * bound


def calibration(replicates=2000, draws=15):
    """p-value of the chi-square test that ranks of the prior draw among posterior draws are uniform."""
    h1, h2, x = joint_draw(replicates)

    def statistic(one, two):  # with noise that breaks ties
        return one @ torch.tensor([1.0, 2.0]).double() + 1.5 * two.sum(-1) + torch.rand(len(one))

    truth = statistic(h1, h2)
    state = start(*joint_draw(replicates)[:2], x)  # not where the truth is
    rank = torch.zeros(replicates)
    for i in range(10 + 4 * draws):
        state, _ = step(state)
        if i >= 10 and i % 4 == 0:
            rank += statistic(state.values["h1"][0], state.values["h2"][0]) < truth
    counts = torch.bincount(rank.long(), minlength=draws + 1)
    expected = replicates / (draws + 1)
    return float(chi2.sf(float(((counts - expected) ** 2 / expected).sum()), draws))


def test_simulation_based_calibration():
    assert calibration() > 0.001


def test_simulation_based_calibration_sees_a_flipped_sign(monkeypatch):
    monkeypatch.setattr(gibbs, "draw", flipped)
    assert calibration() < 1e-12


def test_simulation_based_calibration_sees_conditionals_too_sharp(monkeypatch):
    monkeypatch.setattr(gibbs, "draw", lambda logits, generator: RIGHT(1.7 * logits, generator))
    assert calibration() < 1e-3
