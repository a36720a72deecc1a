"""Each site's share of the KL against closed forms, in both orders of sampling."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from inference import kl_by_site
from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import as_pair
from inference.weights import weigh

pytestmark = pytest.mark.usefixtures("double")

N, A, B, S, T = 400, 0.7, 1.3, 0.6, 0.8


def two_layers(upwards: bool):
    """z2 ~ N(0, 1), z1 | z2 ~ N(A z2, 1); q(z1 | x) = N(x, S^2), then q(z2 | z1) = N(B z1, T^2), or top-down."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(()), 1.0))
            z1 = pyro.sample("z1", dist.Normal(A * z2, 1.0))
            pyro.sample("x", dist.Normal(z1.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            if upwards:
                z1 = pyro.sample("z1", dist.Normal(x[:, 0], S))
                pyro.sample("z2", dist.Normal(B * z1, T))
            else:
                z2 = pyro.sample("z2", dist.Normal(B * x[:, 0], T))
                pyro.sample("z1", dist.Normal(x[:, 0] + z2, S))

    return SimpleNamespace(model=model, guide=guide)


def test_top_down_the_top_is_exact_and_the_layer_below_averages_over_it():
    x = torch.randn(N, 1)
    found = kl_by_site(two_layers(upwards=False), x, draws=50)
    assert list(found) == ["z2", "z1"]
    top = kl_divergence(Normal(B * x[:, 0], T), Normal(0.0, 1.0))
    assert found["z2"].mean == pytest.approx(float(top.mean()), rel=1e-12)
    # E over z2 ~ N(B x, T^2) of (x + z2 - A z2)^2 / 2, beside the two deviations' part
    mean_square = (x[:, 0] + (1 - A) * B * x[:, 0]) ** 2 + ((1 - A) * T) ** 2
    below = (mean_square + S**2 - 1) / 2 - torch.tensor(S).log()
    assert found["z1"].mean == pytest.approx(float(below.mean()), abs=0.01)
    assert (found["z1"].num_data, found["z1"].k) == (N, 50)


def test_upwards_the_shares_are_means_of_log_ratios():
    x = torch.randn(N, 1)
    found = kl_by_site(two_layers(upwards=True), x, draws=400, seed=3)
    assert list(found) == ["z1", "z2"]
    top = ((B * x[:, 0]) ** 2 + (B * S) ** 2 + T**2 - 1) / 2 - torch.tensor(T).log()
    assert found["z2"].mean == pytest.approx(float(top.mean()), abs=0.02)
    # log q(z1 | x) - log p(z1 | z2), z2 = B z1 + T e: its variance given x is that of z1 (1 - A B) - A T e
    gap = (1 - A * B) ** 2 * (x[:, 0] ** 2 + S**2) + (A * T) ** 2
    below = (gap - 1) / 2 - torch.tensor(S).log()
    assert found["z1"].mean == pytest.approx(float(below.mean()), abs=0.02)


@pytest.mark.parametrize("upwards", [True, False])
def test_the_shares_add_up_to_the_regulariser(upwards):
    pair, x = two_layers(upwards), torch.randn(150, 1)
    found = kl_by_site(pair, x, draws=3, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        reg = weigh(as_pair(pair), (x,), 3, closed_form_kl=True).reg
    assert sum(nats.mean for nats in found.values()) == pytest.approx(-float(reg.mean()), rel=1e-12)


def test_the_random_state_is_left_alone_and_the_seed_decides():
    pair, x = two_layers(upwards=True), torch.randn(20, 1)
    before = torch.get_rng_state()
    one, same, other = (kl_by_site(pair, x, seed=seed)["z1"].mean for seed in (1, 1, 2))
    assert one == same != other and torch.equal(torch.get_rng_state(), before)


def test_what_has_no_shares_is_refused():
    pair, x = two_layers(upwards=True), torch.randn(4, 1)
    with pytest.raises(ShapeError, match="at least 1, got k=0"):
        kl_by_site(pair, x, draws=0)
    with pytest.raises(ShapeError, match="at least one row"):
        kl_by_site(pair, x[:0])

    def shared(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    with pytest.raises(ShapeError, match="outside the data plate"):
        kl_by_site((shared, lambda x: pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))), x)

    def mixture(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(x.new_ones(2) / 2), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(k.to(x), 1.0), obs=x[:, 0])

    with pytest.raises(UnsupportedModelError, match="'k' is summed out"):
        kl_by_site((mixture, lambda x: None), x)
