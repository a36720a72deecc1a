"""Which site of a guide is wrong: k-hats by site, against normals whose tail index is known (O19)."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from inference.comparison.diagnostics import khats
from inference.comparison.site_weights import site_log_weights
from inference.errors import ShapeError, UnsupportedModelError

X = torch.tensor([0.4, -1.0, 2.0]).double()


def model(x):
    """Rows of two latents; x sees the first alone."""
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)


def guide(narrow_a, narrow_b):
    """The posterior itself, but for the variances of both sites, which are times these."""

    def program(x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x / 2, (narrow_a / 2) ** 0.5))
            pyro.sample("b", dist.Normal(a, narrow_b**0.5))

    return program


def test_the_exact_guide_has_equal_weights():
    whole, sites = site_log_weights((model, guide(1.0, 1.0)), X, k=50)
    assert whole.shape == sites["a"].shape == (50, 3)
    assert whole.std(0).max() < 1e-10
    assert set(sites) == {"a", "b"} and sites["b"].std(0).max() < 1e-10


@pytest.mark.parametrize(("narrow", "bad", "good"), [((0.3, 1.0), "a", "b"), ((1.0, 0.3), "b", "a")])
def test_the_narrow_site_is_named(narrow, bad, good):
    """Given a, b's weight is exp((1/s^2 - 1) e^2 / 2), whose k is 1 - s^2; so is a's where b is right."""
    whole, sites = site_log_weights((model, guide(*narrow)), X, k=5_000)
    found = khats(whole.numpy(), {name: w.numpy() for name, w in sites.items()})
    assert abs(found.sites[bad].mean() - 0.7) < 0.15
    assert abs(found.datum.mean() - 0.7) < 0.15
    if bad == "a":  # b is right given a, whatever a is
        assert found.sites[good].max() < 0.1
    assert found.joint > 0.5


def shared(x):
    with pyro.plate("data", len(x), dim=-1):
        c = pyro.sample("c", dist.Gamma(torch.ones(()).double(), 1.0))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)
    pyro.sample("d", dist.Normal(torch.zeros(()).double(), 1.0))


def test_autoguides_by_site_and_a_joint_one_refused():
    site_by_site = AutoNormal(shared)
    before = torch.get_rng_state()
    site_by_site(X)
    whole, sites = site_log_weights((shared, site_by_site), X, k=10)
    assert whole.shape == (10, 1)  # d is outside the plate
    assert torch.allclose(sites["c"] + sites["d"], whole)
    torch.set_rng_state(before)
    again, _ = site_log_weights((shared, site_by_site), X, k=10)
    assert torch.equal(again, whole) and torch.equal(torch.get_rng_state(), before)
    together = AutoMultivariateNormal(shared)
    together(X)
    with pytest.raises(UnsupportedModelError, match="draws its sites as one"):
        site_log_weights((shared, together), X, k=10)


def test_refusals():
    with pytest.raises(ShapeError, match="at least 1"):
        site_log_weights((model, guide(1.0, 1.0)), X, k=0)

    def enumerated(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(UnsupportedModelError, match="'z' is summed out"):
        site_log_weights((enumerated, lambda x: None), X)
