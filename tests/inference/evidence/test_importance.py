"""Evidence by importance sampling against closed forms: values, limits, errors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import Pair, importance_weights, log_marginal
from inference.errors import RunError, ShapeError
from inference.evidence.importance import bound_per_datum
from tests.inference.oracles import LinearGaussian

pytestmark = pytest.mark.usefixtures("double")


def toy():
    """Z ~ N(0, 1), x ~ N(z, 1), q = N(0.2 x, 0.9): log p(x) = log N(x; 0, 2)."""
    pair = LinearGaussian(torch.ones(1, 1), torch.zeros(1), 1.0, "diagonal")
    with torch.no_grad():
        pair.q_w.fill_(0.2)
        pair.q_log_s.fill_(math.log(0.9))
    return pair


def test_the_gap_falls_as_one_over_k_with_the_known_constant():
    """Oracle O9: log p - L_k -> Var(w / p) / (2 k)."""
    pair, x = toy(), torch.tensor([[1.0]])
    evidence = pair.log_evidence(x).item()
    log_w = importance_weights(pair, x, 2**21).double()
    relative = (log_w[:, 0] - evidence).exp().var().item()
    ks = [16, 32, 64, 128, 256]
    gaps, errors = [], []
    for k in ks:
        groups = (log_w.reshape(-1, k).logsumexp(1) - math.log(k)).double()
        gaps.append(evidence - groups.mean().item())
        errors.append(groups.std().item() / math.sqrt(len(groups)))
        second_order = (relative / k) ** 2 * 3  # the next term of the expansion, a few times over
        assert abs(gaps[-1] - relative / (2 * k)) < 4 * errors[-1] + second_order
    slopes = [math.log(gaps[i + 1] / gaps[i]) / math.log(2) for i in range(len(ks) - 1)]
    tolerance = 4 * math.sqrt((errors[0] / gaps[0]) ** 2 + (errors[-1] / gaps[-1]) ** 2) / math.log(2) / (len(ks) - 1)
    assert abs(sum(slopes) / len(slopes) + 1) < tolerance + 0.03


def test_more_draws_never_loosen_the_bound_on_the_same_data():
    pair, x = toy(), torch.randn(20, 1)
    log_w = importance_weights(pair, x, 400)
    bounds = [bound_per_datum(log_w, k) for k in (1, 5, 20, 100, 400)]
    for tighter, looser in zip(bounds[1:], bounds, strict=False):
        assert (tighter >= looser - 1e-12).all()


def test_the_mean_and_its_standard_error():
    pair, x = toy(), torch.randn(50, 1)
    nats = log_marginal(pair, x, k=2000)
    values = pair.log_evidence(x).detach()
    assert nats.mean == pytest.approx(values.mean().item(), abs=0.01)
    assert nats.se == pytest.approx(values.std().item() / math.sqrt(50), rel=0.02)
    assert (nats.num_data, nats.k) == (50, 2000)


def test_blocks_of_rows_and_draws_change_nothing_but_the_draws(monkeypatch):
    from inference.evidence import importance

    pair, x = toy(), torch.randn(230, 1)
    whole = log_marginal(pair, x, k=500).mean
    monkeypatch.setattr(importance, "_VALUES", 2000)
    assert log_marginal(pair, x, k=500).mean == pytest.approx(whole, abs=0.02)


def test_a_pair_of_several_tensors_takes_a_tuple(monkeypatch):
    """X | c ~ N(c + z, 1): the rows of x and c stay together, block by block; a tuple of one is that one."""
    from inference.evidence import importance

    plain = toy()

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = plain

        def model(self, x, c):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(c + z, 1.0).to_event(1), obs=x)

        def guide(self, x, c):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", self.plain.q(x - c))

    x, c = torch.randn(230, 1), torch.randn(230, 1)
    ours = importance_weights(Shifted(), (x, c), 5)
    torch.testing.assert_close(ours, importance_weights(plain, x - c, 5), rtol=1e-5, atol=1e-5)
    assert torch.equal(importance_weights(plain, (x,), 5), importance_weights(plain, x, 5))
    monkeypatch.setattr(importance, "_VALUES", 2000)
    whole = plain.log_evidence(x - c).mean().item()
    assert log_marginal(Shifted(), (x, c), k=500).mean == pytest.approx(whole, abs=0.02)
    with pytest.raises(ShapeError, match=r"rows of one length, got \[230, 229\]: give each datum its row"):
        log_marginal(Shifted(), (x, c[:229]))
    with pytest.raises(ShapeError, match="no datum"):
        log_marginal(Shifted(), ())


def test_seeds():
    pair, x = toy(), torch.randn(5, 1)
    before = torch.get_rng_state()
    first = importance_weights(pair, x, 7, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, importance_weights(pair, x, 7, seed=1))
    assert not torch.equal(first, importance_weights(pair, x, 7, seed=2))


def test_evaluation_sees_no_dropout_and_leaves_the_mode_as_it_was():
    from ppl_models import VAE

    vae = VAE(9, 2, (5,), input_dropout=0.5)
    x = torch.rand(4, 9).round()
    plain = VAE(9, 2, (5,))
    plain.load_state_dict(vae.state_dict())
    assert log_marginal(vae, x, k=20) == log_marginal(plain, x, k=20)
    assert vae.training and vae.mask.training


def test_a_tuple_has_no_trained_parameters_of_its_own():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.squeeze(-1) / 2, 0.8))

    pair = Pair(model, guide)
    assert log_marginal(pair, torch.randn(5, 1), k=50).num_data == 5
    with pytest.raises(RunError, match="pass svi.pair, or one Pair to both"):
        log_marginal((model, guide), torch.randn(5, 1), k=50)


def test_refusals():
    pair, x = toy(), torch.randn(5, 1)
    with pytest.raises(ShapeError, match="at least 1, got k=0"):
        log_marginal(pair, x, k=0)
    with pytest.raises(ShapeError, match="no datum"):
        log_marginal(pair, x[:0])

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0).expand([1]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ShapeError, match="outside the data plate"):
        log_marginal((model, guide), x)
