"""A model's own p(y | x) of a discrete site y, and how near its guide's q(y | x) comes.

    p(y | x) = p(x, y) / sum_c p(x, c),     log p(x, y) ~ log 1/k sum_j p(x, y, z_j) / q(z_j | x, y)

The guide of a semi-supervised model classifies by a network of its own, q(y | x). The model classifies, too, by Bayes'
rule, at the cost of an importance sampling of every class. The distance between the two is what the bound loses on the
label, one of the two terms of log p(x) - L(x) = KL(q(y | x) || p(y | x)) + E_q[KL(q(z | x, y) || p(z | x, y))].
"""

import math
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.evidence.classify import bayes
from inference.evidence.importance import bound_per_datum, device_of, importance_weights
from inference.pair import Pair, as_pair, refuse_untrained
from inference.weights import PARTICLES, layout_of, particles, per_unit

__all__ = ["Labels", "label_posterior"]

_ROWS = 100  # that the guide takes at once, k runs side by side


class Labels(NamedTuple):
    """The guide's and the model's own distribution of a discrete site, row by row."""

    log_q: Tensor  # (N, Y) log q(y | x)
    log_joint: Tensor  # (N, Y) log p(x, y), nats: the bound L_k of each class
    values: Tensor  # (Y,) of the site

    @property
    def log_posterior(self) -> Tensor:
        """Log p(y | x) = log p(x, y) - log p(x), (N, Y)."""
        return bayes(self.log_joint).log_prob

    @property
    def log_p(self) -> Tensor:
        """Log p(x) = log sum_y p(x, y), (N,) nats."""
        return self.log_joint.logsumexp(1)

    @property
    def kl(self) -> Tensor:
        """KL(q(y | x) || p(y | x)), (N,) nats, what the bound loses on the label."""
        q = self.log_q.exp()
        return torch.where(q > 0, q * (self.log_q - self.log_posterior), 0.0).sum(1)

    @property
    def agreement(self) -> float:
        """The share of rows in which both have the same likeliest value."""
        return float((self.log_q.argmax(1) == self.log_joint.argmax(1)).double().mean())

    def errors(self, y: Tensor) -> tuple[float, float]:
        """The share of rows whose likeliest value is not their label y (N,): by q(y | x), and by p(y | x)."""
        if y.shape != self.log_p.shape:
            raise ShapeError(f"there is a label for each of {len(self.log_p)} rows, got shape {tuple(y.shape)}")
        found = (self.values[part.argmax(1)] for part in (self.log_q, self.log_joint))
        by_q, by_p = (float((each != y.to(each.device)).double().mean()) for each in found)
        return by_q, by_p


@torch.no_grad()
def label_posterior(pair: Any, x: Tensor, k: int = 100, *, site: str = "y", seed: int = 0) -> Labels:
    """Hold a guide's q(y | x) against p(y | x) of its model, every value of y by importance sampling of the rest.

    For any pair whose programs take (x, y): with x alone `site` is a discrete latent of both, one value for each row;
    with y (N,) as well it is observed in the model, and the guide draws what else is latent, q(z | x, y), as those of
    Kingma's M2 and M1+M2 do [kingma2014m2]. Where the guide's q(y | x) depends on draws of other sites, as that of
    M1+M2 on z1, it is averaged over k of them.

    Args:
        pair: a model/guide pair, its latents all in the data plate.
        x: rows (N, D).
        k: importance samples of each row and value.
        site: the discrete site's name.
        seed: of the draws; the caller's RNG is left as it was.

    Raises:
        ShapeError: k < 1, no rows, or weights that are not per datum.
        UnsupportedModelError: the site is not in the guide, has no finite support, or is not one value for each row.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """
    given, pair = pair, as_pair(pair)
    if k < 1 or len(x) == 0:
        raise ShapeError(f"k and the number of rows are at least 1, got k={k} and {len(x)} rows: pass k=100 and x")
    x = x.to(device_of(pair, x))
    with torch.random.fork_rng(), pair.evaluating():
        torch.manual_seed(seed)
        parts = [_guide(pair, part, k, site) for part in x.split(_ROWS)]
        refuse_untrained(given, pair)
        values = parts[0][1]
        columns = [
            bound_per_datum(importance_weights(pair, (x, value.expand(len(x))), k, seed=seed), k) for value in values
        ]
    return Labels(torch.cat([log_q for log_q, _ in parts]).double().cpu(), torch.stack(columns, 1), values.cpu())


def _guide(pair: Pair, x: Tensor, k: int, site: str) -> tuple[Tensor, Tensor]:
    """Log q(y | x) (N, Y), averaged over k runs of the guide, and the values (Y,)."""
    structure = pair.structure(x)
    with pair.scope(), pyro.validation_enabled(False), particles(k, structure):
        trace: Any = poutine.trace(pair.guide).get_trace(x)
    node = trace.nodes.get(site)
    if node is None or node["type"] != "sample" or not getattr(node["fn"], "has_enumerate_support", False):
        raise UnsupportedModelError(
            f"the guide has no discrete site '{site}' of finite support when it sees x alone: name another by site="
        )
    fn, layout = node["fn"], layout_of([node], k, structure)[0]
    values = fn.enumerate_support(expand=False).flatten()
    log_q = torch.stack([per_unit(fn.log_prob(value), layout) for value in values], -1)  # (K or 1, N, Y)
    plates = {frame.name for frame in node["cond_indep_stack"] if frame.vectorized}
    if plates - {PARTICLES} != {structure.plate} or log_q.shape[1] != len(x):
        raise UnsupportedModelError(
            f"site '{site}' is not one value for each of {len(x)} rows, in the data plate and no other: name such a "
            "site by site="
        )
    return log_q.logsumexp(0) - math.log(len(log_q)), values
