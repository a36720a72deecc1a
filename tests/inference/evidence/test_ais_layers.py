"""Annealing of several layers: units that hang closely on the layer above move relative to it, others as they are."""

import math

import pytest
import torch

from inference.evidence.ais import AIS, bdmc
from inference.evidence.ais_density import read_density
from inference.pair import as_pair
from ppl_models import DLGM


def two_layers(noise: float) -> DLGM:
    """A linear model of two layers in float64, z1 | z2 of this deviation in its first unit and of 1.3 in the others."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = DLGM(4, (3, 2), ((), ()), likelihood="gaussian", guide="ladder", noise="learned").double()
    with torch.no_grad():
        model.prior[0].log_scale.fill_(0.3)[0] = torch.tensor(noise).log()  # pyright: ignore
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    return model


def rows(n: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_the_evidence_of_a_collapsed_model(noise, start):
    """E[w] = p(x). With independent normals of z1 and z2 alone the closer ones stand thousands of nats too low."""
    model, x = two_layers(noise), rows(1).expand(3000, -1).contiguous()
    found = AIS(steps=100, chains=1, start=start)(model, x, seed=0)
    ratio = (found.log_p - model.marginal().log_prob(x[:1]).detach()).exp()
    se = float(ratio.std()) / math.sqrt(len(ratio))
    assert se < 0.05 and abs(float(ratio.mean()) - 1) < 4 * se
    assert found.values["z1"].shape == (1, 3000, 3) and found.values["z2"].shape == (1, 3000, 2)


def test_both_ways_meet():
    sandwich = bdmc(two_layers(1e-3), rows(40), ais=AIS(steps=200, chains=4), seed=1)
    gap, se = sandwich.gap
    assert abs(gap) < 0.1 and se < 0.05


def test_what_is_relative_is_what_hangs_closely():
    model, x = two_layers(1e-3), rows(5)
    density = read_density(as_pair(model), (x,))
    with density.running(), torch.random.fork_rng():
        torch.manual_seed(0)
        density.whiten("prior", 500)
    at = dict(zip(density.latents, density.relative.split(density.sizes, -1), strict=True))
    assert {name: latent.hangs for name, latent in density.latents.items()} == {"z1": True, "z2": False}
    assert at["z1"][:, 0].all() and not at["z2"].any()


def test_coordinates_there_and_back():
    """The value of g less log |dz / dy| is log p(x, z) at the z that `sites` gives, and `whitened` finds y again."""
    model, x = two_layers(0.1), rows(6)
    density = read_density(as_pair(model), (x,))
    with density.running(), torch.random.fork_rng():
        torch.manual_seed(0)
        density.whiten("guide", 300)
        assert density.relative.any() and not density.relative.all()
        y = torch.randn(7, *density.mean.shape).double()
        values, log_det = density.sites(y)
        z1, z2 = (values[name] for name in ("z1", "z2"))
        above = torch.distributions.Normal(*model.p_z(1, z2)).log_prob(z1).sum(-1)
        top = torch.distributions.Normal(0.0, 1.0).log_prob(z2).sum(-1)
        log_p = model.p_x(z1).log_prob(x) + above + top
        assert torch.allclose(density(y) - log_det, log_p, atol=1e-9)
        assert torch.allclose(density.whitened(values), y, atol=1e-6)

        def moved(flat: torch.Tensor) -> torch.Tensor:  # of the first chain and row
            other = y.clone()
            other[0, 0] = flat
            found, _ = density.sites(other)
            return torch.cat([found["z1"][0, 0], found["z2"][0, 0]])

        jacobian = torch.autograd.functional.jacobian(moved, y[0, 0])
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det[0, 0], atol=1e-9)
