"""Learning from few labels: the survey's Equations 8 and 9 in one objective, with the classifier's own term.

    J = 1/N [ sum_labelled L(x, y) + sum_unlabelled U(x) ] + alpha * mean_labelled log q(y | x)
      = s * mean_labelled L(x, y) + (1 - s) * mean_unlabelled U(x) + alpha * mean_labelled log q(y | x),    s = N_l / N

L is the bound with the label observed, U with the label latent. A labelled row never asks the guide for its label, so
the classifier q(y | x) would learn from unlabelled rows alone; the last term is its own (Kingma et al. 2014).
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import NonlocalExit
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import Pair, as_pair
from inference.types import Estimate, Objective
from inference.vi.objectives import TraceEnumELBO

__all__ = ["SemiSupervisedELBO"]


@dataclass(frozen=True)
class SemiSupervisedELBO:
    """The semi-supervised bound of [kingma2014m2], in nats per datum.

    A batch is x (N, D) and y (L,): the labelled rows come first, y holds their labels (L = 0 or None: there are none).
    Labels are summed out exactly on the other rows, sum_y q(y | x) L(x, y) + H(q), by `TraceEnumELBO()`; `IWAE(k)` sums
    them inside each particle's weight, where q(y | x) cancels, so that the classifier learns from labelled rows alone;
    `TraceELBO()` samples them.

    Args:
        alpha: weight of the classification term: alpha * N / N_l for each labelled row, as the paper's alpha N.
        labelled_share: s, the share of the data that is labelled; by default the batch's own. Batches that hold more
            labelled rows than their share, as those of `Interleave` do, estimate the data's bound without bias by it.
        bound: of labelled and of unlabelled rows.
        site: the name of the label's site.

    Raises:
        ValueError: alpha < 0, labelled_share outside [0, 1].
        ShapeError (when called): more labels than rows.
        UnsupportedModelError (when called): the guide has no such site, or draws others before it.
    """

    alpha: float = 0.1
    labelled_share: float | None = None
    bound: Objective = TraceEnumELBO()
    site: str = "y"

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha weighs the classification term and is at least 0, got {self.alpha}: pass 0.1")
        if self.labelled_share is not None and not 0 <= self.labelled_share <= 1:
            raise ValueError(f"labelled_share is a share in [0, 1], got {self.labelled_share}: leave it out")

    def __call__(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs L_reg in the loss. The bound has no classification term, the loss has."""
        pair = as_pair(pair)
        x: Tensor = batch[0]
        y: Tensor | None = batch[1] if len(batch) > 1 else None
        n, labelled = len(x), 0 if y is None else len(y)
        if labelled > n:
            raise ShapeError(f"there are {labelled} labels for {n} rows: y holds those of the first rows, at most all")
        share = labelled / n if self.labelled_share is None or labelled in (0, n) else self.labelled_share
        parts: list[tuple[Estimate, float]] = []
        if labelled:
            parts.append((self.bound(pair, x[:labelled], y, beta=beta), share))
        if labelled < n:
            parts.append((self.bound(pair, x[labelled:], beta=beta), 1 - share))
        loss, bound, reg, rec = (_mean([(e[i], share) for e, share in parts]) for i in range(4))
        assert loss is not None and bound is not None
        if y is not None and labelled and self.alpha:
            loss = loss - self.alpha * self._log_q(pair, x[:labelled], y).mean()
        return Estimate(loss, bound, reg, rec)

    def _log_q(self, pair: Pair, x: Tensor, y: Tensor) -> Tensor:
        """Log q(y | x) of the guide's label site: (L,); the guide runs no further than that site."""
        here = poutine.escape(escape_fn=lambda site: site.get("name") == self.site)
        with pair.scope(), pyro.validation_enabled(False), suppress(NonlocalExit):
            with here, poutine.trace() as tracer, poutine.condition(data={self.site: y}):
                pair.guide(x)
        nodes: Any = tracer.trace.nodes
        if self.site not in nodes:
            raise UnsupportedModelError(
                f"the guide has no site '{self.site}' where the label is latent: sample it there, or pass site="
            )
        return nodes[self.site]["fn"].log_prob(y)


def _mean(parts: list[tuple[Tensor | None, float]]) -> Tensor | None:
    if any(part is None for part, _ in parts):
        return None
    return torch.stack([part * share for part, share in parts if part is not None]).sum(0)
