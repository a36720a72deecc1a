"""How far a car runs before it stands: on while its driver reacts, then braking. Fifty cars of the 1920s [ezekiel1930].

ppl compare examples/own_model/cars.py:model --data examples/own_model/cars.csv --out runs/cars
"""

import pyro
import torch
from pyro.distributions import Beta, HalfNormal, LogNormal, Normal, constraints


def model(speed, dist):  # (N,) miles per hour, (N,) feet: the columns of cars.csv
    whole = pyro.sample("distance_at_20", LogNormal(4.0, 0.5))  # feet at 20 miles per hour
    share = pyro.sample("share", Beta(2.0, 2.0))  # of it run before the brakes are on
    spread = pyro.sample("spread", HalfNormal(20.0))
    pyro.deterministic("reaction", share * whole / 29.3)  # seconds: 20 miles per hour are 29.3 feet a second
    v = speed / 20
    with pyro.plate("data", len(speed)):
        pyro.sample("dist", Normal(whole * (share * v + (1 - share) * v**2), spread * v), obs=dist)


def guide(speed, dist):
    """A guide of one's own, for `--guide examples/own_model/cars.py:guide`: each latent on its own."""
    for name, start in (("distance_at_20", 50.0), ("spread", 15.0)):
        loc = pyro.param(f"{name}_loc", torch.tensor(start).log())
        scale = pyro.param(f"{name}_scale", torch.tensor(0.1), constraint=constraints.positive)
        pyro.sample(name, LogNormal(loc, scale))
    ab = pyro.param("share_ab", torch.tensor([4.0, 4.0]), constraint=constraints.positive)
    pyro.sample("share", Beta(ab[0], ab[1]))
