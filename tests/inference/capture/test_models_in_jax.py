"""Every model of the package in JAX: values and gradients equal torch's to 1e-5.

Models with continuous latents by their potential, discrete ones by the log joint of one draw given their parameters.
The networks' potentials in float32, and the units of a belief network, are in `test_to_jax`.
"""

import os
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from inference.capture.potential import read_potential
from inference.pair import is_latent
from ppl_models import VAE, BayesianNetwork, BeliefNetwork, SigmoidBeliefNetwork
from ppl_models.bayesian_network import Variable
from ppl_models.classic import EXAMPLES
from ppl_models.posteriordb import NAMES, load
from tests.inference.capture.test_to_jax import agree

CONV = {"conv": True, "hidden": (2, 8), "image_shape": (1, 5, 5)}


def agree_on_potential(model, *data: Tensor) -> None:
    potential = read_potential(model, tuple(x.double() for x in data))
    agree(potential, potential.start(torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_classic_models(name, double):
    agree_on_potential(EXAMPLES[name].model, *EXAMPLES[name].data())


@pytest.mark.skipif("PPL_DATA" not in os.environ, reason="PPL_DATA names no folder of data")
@pytest.mark.parametrize("name", NAMES)
def test_posteriors_of_posteriordb(name, double):
    posterior = load(name)
    agree_on_potential(posterior.model, *posterior.data)


@pytest.mark.parametrize("settings", [{"hidden": (8,)}, CONV], ids=["mlp", "conv"])
def test_a_vaes_latents(settings, double):
    agree_on_potential(VAE(25, z_dim=3, **settings), torch.rand(4, 25).round())


class LogJoint(nn.Module):
    """The log joint of one draw of a network's units, called with other parameters by `functional_call`."""

    def __init__(self, net: Any, x: Tensor):
        super().__init__()
        self.net: Any = net
        self.x = x
        sites = poutine.trace(net.model).get_trace(x).nodes.items()
        self.units = {name: site["value"] for name, site in sites if site["type"] == "sample" and is_latent(site)}

    def forward(self) -> Any:
        return poutine.trace(poutine.condition(self.net.model, self.units)).get_trace(self.x).log_prob_sum()


@pytest.mark.parametrize(
    "make", [lambda: SigmoidBeliefNetwork((6, 4, 3)), lambda: BeliefNetwork(6)], ids=["layered", "ordered"]
)
def test_a_belief_network_given_its_parameters(make, double):
    joint = LogJoint(make(), torch.rand(5, 6).round())
    named = dict(joint.named_parameters())

    def log_joint(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in named.values()])
        moved = {name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)}
        return torch.func.functional_call(joint, moved, ())

    agree(log_joint, torch.cat([p.detach().flatten() for p in named.values()]) + 0.1)


def test_a_bayesian_network_given_its_tables(double):
    coin, states = torch.tensor([0.3, 0.7]), ("yes", "no")
    tables = {"a": Variable(states, (), coin), "b": Variable(states, ("a",), torch.stack([coin, coin.flip(0)]))}
    net = BayesianNetwork(tables)
    drawn = {name: value.clone() for name, value in net.model().items()}

    def log_joint(flat: Tensor) -> Any:
        parts = {"a": flat[:2], "b": flat[2:].view(2, 2)}
        net.variables = {name: tables[name]._replace(table=part) for name, part in parts.items()}
        return poutine.trace(poutine.condition(net.model, drawn)).get_trace().log_prob_sum()

    agree(log_joint, torch.cat([variable.table.flatten() for variable in tables.values()]))
