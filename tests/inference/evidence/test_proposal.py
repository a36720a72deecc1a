"""A guide that learns from the model's own draws: against a posterior in closed form, and what it must leave alone."""

import itertools

import pytest
import torch

from inference import IWAE, log_marginal
from inference.evidence.proposal import tune_guide
from inference.pair import as_pair
from inference.vi.wake_sleep import Sleep
from ppl_models import SigmoidBeliefNetwork
from tests.inference.oracles import LinearGaussian


def linear_gaussian():
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(4, 2, generator=g).double(), torch.randn(4, generator=g).double()
    return LinearGaussian(w, b, 0.8, guide="diagonal"), torch.randn(200, 4, generator=g).double()


def test_the_guide_finds_the_posteriors_means_and_marginal_deviations():
    """KL(p || q) over diagonal Gaussians is least at the posterior's own means and standard deviations."""
    model, x = linear_gaussian()
    tuned = tune_guide(model, x, 3000, lr=2e-2, seed=1)
    mean, covariance = model.posterior(x)
    q = tuned.owner.q(x).base_dist
    assert (q.mean - mean).abs().max() < 0.05 * mean.std()
    assert torch.allclose(q.stddev[0].log(), covariance.diagonal().sqrt().log(), atol=0.03)


def test_the_bound_rises_towards_the_evidence_and_the_model_is_the_same():
    model, x = linear_gaussian()
    before = {name: p.clone() for name, p in as_pair(model).named_parameters().items()}
    state = torch.get_rng_state()
    tuned = tune_guide(model, x, 500, lr=2e-2)
    assert torch.equal(state, torch.get_rng_state())
    for name, p in as_pair(model).named_parameters().items():
        assert torch.equal(p, before[name]) and p.grad is None, name
        assert torch.equal(tuned.named_parameters()[name], p) == (not name.startswith("q_")), name
    exact = model.log_evidence(x).mean()
    loose, tight = (log_marginal(pair, x, k=50).mean for pair in (model, tuned))
    assert loose < tight < exact + 0.01
    assert exact - tight < 0.1 * (exact - loose)


def test_a_seed_decides():
    model, x = linear_gaussian()
    first, same, other = (tune_guide(model, x, 20, seed=seed).named_parameters()["q_w"] for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_sleep_has_the_gradient_of_its_sum_over_all_states_and_data():
    torch.manual_seed(0)
    net = SigmoidBeliefNetwork((3, 2)).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    x, h = every[:, :3], every[:, 3:]
    log_q = torch.distributions.Bernoulli(logits=net.up[0](x - net.centre)).log_prob(h).sum(-1)
    exact = -(net.log_joint((h,), x).exp().detach() * log_q).sum()
    guide = {name: p for name, p in net.named_parameters() if name.startswith("up")}
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, list(guide.values()))])
    torch.manual_seed(1)
    draws = []
    for _ in range(200):
        net.zero_grad()
        Sleep()(net, torch.zeros(500, 3).double()).loss.backward()
        draws.append(torch.cat([p.grad.flatten() for p in guide.values()]))
    assert all(p.grad is None for name, p in net.named_parameters() if name not in guide)
    found = torch.stack(draws)
    assert ((found.mean(0) - wanted) / (found.std(0) / len(found) ** 0.5)).abs().max() < 4


def test_no_steps_are_refused():
    model, x = linear_gaussian()
    with pytest.raises(ValueError, match="at least 1, got 0: pass 8000"):
        tune_guide(model, x, 0)
    assert torch.isfinite(IWAE(2)(model, x).bound)
