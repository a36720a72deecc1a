"""Factor analysis with a linear encoder, to be trained on rows of numbers: a class with a model and a guide.

python -c "import numpy; from sklearn.datasets import load_digits; numpy.savez('digits.npz', x=load_digits().data)"
ppl train examples/own_model/factors.py:FactorAnalysis --data digits.npz --epochs 50 --out runs/factors
"""

import pyro
import torch
from pyro.distributions import Normal
from torch import nn


class FactorAnalysis(nn.Module):
    def __init__(self, x_dim=64, z_dim=8):
        super().__init__()
        self.z_dim = z_dim
        self.decoder, self.encoder = nn.Linear(z_dim, x_dim), nn.Linear(x_dim, z_dim)
        self.log_noise = nn.Parameter(torch.ones(x_dim))
        self.log_scale = nn.Parameter(torch.zeros(z_dim))

    def model(self, x):  # (N, D)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            pyro.sample("x", Normal(self.decoder(z), self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Normal(self.encoder(x), self.log_scale.exp()).to_event(1))
