"""Active units by site against closed forms: linear-Gaussian guides, whose means move by a known variance."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import active_units, active_units_by_site
from inference.errors import ShapeError

pytestmark = pytest.mark.usefixtures("double")

N = 2000
A = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.05, 0.5]]).double()  # x (2) -> the mean of z1 (3)
B = torch.tensor([[0.8, 0.0], [0.0, 0.3], [0.02, 0.1]]).double()  # z1 (3) -> the mean of z2 (2)
S = torch.tensor([0.5, 1.0, 2.0]).double()  # deviations of q(z1 | x)


def chain(lower=lambda mean: dist.Normal(mean, S).to_event(1)):
    """q(z1 | x) = N(x A, S^2), q(z2 | z1) = N(z1 B, 1): E_q[z2 | x] = x A B, whatever S is."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", lower(x @ A))
            pyro.sample("z2", dist.Normal(z1 @ B, 1.0).to_event(1))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ B.T, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ A.T, 1.0).to_event(1), obs=x)

    return SimpleNamespace(model=model, guide=guide)


def exact(x):
    """Variances over these rows of the means of z1 and of z2."""
    return (x @ A).var(0), (x @ A @ B).var(0)


def test_a_layer_that_hangs_on_x_alone_is_exact():
    x = torch.randn(N, 2)
    found = active_units_by_site(chain(), x, draws=2)
    assert list(found) == ["z1", "z2"]
    torch.testing.assert_close(found["z1"].variance, exact(x)[0])
    assert (found["z1"].active, found["z1"].units) == (2, 3)
    n, variance = active_units(lambda rows: rows @ A, x)
    assert n == 2
    torch.testing.assert_close(found["z1"].variance, variance)


@pytest.mark.parametrize("draws", [2, 5])
def test_an_upper_layer_is_unbiased_for_few_draws(draws):
    """Over seeds; the plain variance of the averages would be too large by (S^2 B^2) / draws, 0.08 at the least."""
    x = torch.randn(N, 2)
    found = [active_units_by_site(chain(), x, draws=draws, seed=seed)["z2"] for seed in range(40)]
    estimates = torch.stack([each.variance for each in found])
    assert ((estimates.mean(0) - exact(x)[1]).abs() < 4 * estimates.std(0) / math.sqrt(len(found))).all()


def test_the_standard_error_is_that_over_fresh_data():
    truth = (A @ B).square().sum(0)  # x ~ N(0, I)
    found = [active_units_by_site(chain(), torch.randn(300, 2), draws=3, seed=seed)["z2"] for seed in range(60)]
    estimates, se = torch.stack([each.variance for each in found]), torch.stack([each.se for each in found])
    assert ((estimates.mean(0) - truth).abs() < 4 * estimates.std(0) / math.sqrt(60)).all()
    torch.testing.assert_close(se.mean(0), estimates.std(0), rtol=0.3, atol=0)


def test_noise_alone_is_no_active_unit():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1[..., :2], 1.0).to_event(1))

    found = active_units_by_site(SimpleNamespace(model=chain().model, guide=guide), torch.randn(1000, 2))
    assert [each.active for each in found.values()] == [0, 0]
    assert (found["z1"].variance == 0).all()


def test_a_distribution_without_a_mean_is_averaged_over_its_draws():
    def flow(mean):
        return dist.TransformedDistribution(
            dist.Normal(mean, S).to_event(1), [dist.transforms.AffineTransform(0.0, 1.0, event_dim=1)]
        )

    x = torch.randn(N, 2)
    with pytest.raises(NotImplementedError):
        _ = flow(x @ A).mean
    found = active_units_by_site(chain(flow), x, draws=20)["z1"]
    assert ((found.variance - exact(x)[0]).abs() < 4 * found.se).all()


def test_inner_plates_scalars_and_several_tensors():
    """A site inside a plate of 3 left of the data has a unit for each; a scalar site has one."""

    def guide(x, c):
        with pyro.plate("data", len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(2 * c, 1.0))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("u", dist.Normal(torch.stack([x[:, 0], 0 * c, c]) + 0 * w, 1.0))
            pyro.sample("y", dist.Categorical(logits=x))

    def model(x, c):
        with pyro.plate("data", len(x), dim=-1):
            w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("u", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample("x", dist.Normal(w, 1.0), obs=c)

    x, c = torch.randn(500, 2), torch.randn(500)
    found = active_units_by_site(SimpleNamespace(model=model, guide=guide), (x, c))
    torch.testing.assert_close(found["w"].variance, 4 * c.var().reshape(1))
    torch.testing.assert_close(found["u"].variance, torch.stack([x[:, 0].var(), torch.zeros(()), c.var()]))
    assert found["u"].active == 2
    assert found["y"].active == 0 and found["y"].variance.isnan().all()


def test_seeds():
    x = torch.randn(50, 2)
    before = torch.get_rng_state()
    first = active_units_by_site(chain(), x, seed=1)["z2"].variance
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, active_units_by_site(chain(), x, seed=1)["z2"].variance)
    assert not torch.equal(first, active_units_by_site(chain(), x, seed=2)["z2"].variance)


def test_the_guide_evaluates_and_learns_again_afterwards():
    from ppl_models import VAE

    vae, x = VAE(9, 2, (5,), input_dropout=0.5), torch.rand(20, 9).round()
    found = active_units_by_site(vae, x)["z"]
    assert vae.training and vae.mask.training
    torch.testing.assert_close(found.variance, vae.eval().encode(x).var(0))


def test_what_it_refuses():
    def outside(x):
        pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))

    x = torch.randn(5, 2)
    with pytest.raises(ShapeError, match="draws >= 2"):
        active_units_by_site(chain(), x, draws=1)
    with pytest.raises(ShapeError, match="two rows"):
        active_units_by_site(chain(), x[:1])
    with pytest.raises(ShapeError, match="outside the data plate"):
        active_units_by_site((outside, guide), x)
