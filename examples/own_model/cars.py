"""How far a car runs before it stands: on while its driver reacts, then braking. Fifty cars of the 1920s [ezekiel1930].

ppl compare examples/own_model/cars.py:model --data examples/own_model/cars.csv --out runs/cars
"""

import pyro
import torch
from pyro.distributions import HalfNormal, LogNormal, Normal, constraints


def model(speed, dist):  # (N,) miles per hour, (N,) feet: the columns of cars.csv
    reaction = pyro.sample("reaction", HalfNormal(2.0))  # feet for each mile per hour; one second is 1.47
    braking = pyro.sample("braking", HalfNormal(0.2))
    spread = pyro.sample("spread", HalfNormal(2.0))
    pyro.deterministic("distance_at_20", 20 * reaction + 400 * braking)
    with pyro.plate("data", len(speed)):
        pyro.sample("dist", Normal(reaction * speed + braking * speed**2, spread * speed), obs=dist)


def guide(speed, dist):
    """A guide of one's own, for `--guide examples/own_model/cars.py:guide`: each latent lognormal."""
    for name, start in (("reaction", 1.0), ("braking", 0.1), ("spread", 1.0)):
        loc = pyro.param(f"{name}_loc", torch.tensor(start).log())
        scale = pyro.param(f"{name}_scale", torch.tensor(0.1), constraint=constraints.positive)
        pyro.sample(name, LogNormal(loc, scale))
