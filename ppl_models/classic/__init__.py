"""The traditional models, as plain Pyro functions of their data: no networks, no guides, latents outside the plate.

    from ppl_models import classic
    NUTS()(classic.eight_schools, *classic.eight_schools_data())

Each file holds a family; `examples` lists every model with data of its own, which is what `ppl compare NAME` runs.
"""

from ppl_models.classic.examples import EXAMPLES, Example
from ppl_models.classic.latent import (
    OrderedNormal,
    forward_algorithm,
    gaussian_mixture,
    gaussian_mixture_enumerated,
    hidden_markov,
)
from ppl_models.classic.regression import autoregression, gaussian_process, linear_regression, logistic_regression
from ppl_models.classic.schools import (
    MU_SD,
    TAU_SCALE,
    SchoolsPosterior,
    eight_schools,
    eight_schools_centred,
    eight_schools_data,
    eight_schools_posterior,
)

__all__ = [
    "MU_SD",
    "TAU_SCALE",
    "EXAMPLES",
    "Example",
    "OrderedNormal",
    "SchoolsPosterior",
    "autoregression",
    "eight_schools",
    "eight_schools_centred",
    "eight_schools_data",
    "eight_schools_posterior",
    "forward_algorithm",
    "gaussian_mixture",
    "gaussian_mixture_enumerated",
    "gaussian_process",
    "hidden_markov",
    "linear_regression",
    "logistic_regression",
]
