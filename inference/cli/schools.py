"""Eight schools by quadrature, as an engine: the exact posterior that the others are judged by."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions import HalfCauchy, Normal

from inference.evidence.exact import Posterior
from inference.types import Draws
from ppl_models import classic

__all__ = ["Quadrature"]


@dataclass(frozen=True)
class Quadrature:
    """Independent draws from the posterior of `classic.eight_schools`, in either form, and its exact moments."""

    num_samples: int = 4000
    how = "quadrature"

    def __call__(self, model: Any, *data: Any, seed: int = 0) -> Draws:
        """Draw; the caller's RNG is left as it was."""
        start = time.perf_counter()
        posterior = classic.eight_schools_posterior(*data)
        middle = time.perf_counter()
        drawn = posterior.draw(self.num_samples, torch.Generator().manual_seed(seed))
        y, sigma = (each.double() for each in data)
        each = Normal(drawn["theta"], sigma).log_prob(y)
        own = "theta" if model is classic.eight_schools_centred else "e"
        tau = drawn["tau"].unsqueeze(-1)
        prior = Normal(drawn["mu"].unsqueeze(-1), tau) if own == "theta" else Normal(torch.zeros_like(tau), 1.0)
        log_p = (each + prior.log_prob(drawn[own])).sum(-1)
        log_p = log_p + Normal(0.0, classic.MU_SD).log_prob(drawn["mu"])
        log_p = log_p + HalfCauchy(classic.TAU_SCALE).log_prob(drawn["tau"])
        values = {name: drawn[name].unsqueeze(0) for name in ("mu", "tau", own)}
        done = time.perf_counter()
        return Draws(values, log_p[None, :, None], seconds=done - middle, warmup_seconds=middle - start)

    def posterior(self, model: Any, *data: Any) -> Posterior:
        """Moments and evidence."""
        found = classic.eight_schools_posterior(*data)
        return Posterior(torch.tensor([found.log_evidence]), found.mean, found.sd, {}, {})
