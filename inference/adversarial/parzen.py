"""Parzen-window log-likelihood: the figure that the first papers on adversarial networks reported.

    log p(x) = log 1/S sum_s N(x; x_s, sigma^2 I)

x_s are S samples of the generator, and sigma is the width under which validation rows are likeliest [goodfellow2014].
It cannot rank models: in many dimensions S would have to be astronomic, samples of a k-means codebook beat those of the
truth [theis2016], and its order contradicts that of good estimates of the likelihood [wu2017].
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inference.adversarial.rows import check_rows
from inference.errors import ShapeError

__all__ = ["Parzen", "parzen"]

_GRID = [10 ** (i / 9 - 1) for i in range(10)]  # from 0.1 to 1
_CELLS = 2**24  # distances held at once: 128 MiB


class Parzen(NamedTuple):
    """Mean log-likelihood of the test rows under the windows, nats a datum."""

    mean: float
    se: float  # of the mean, over test rows
    sigma: float  # the width chosen on validation rows
    num_samples: int  # S

    def __str__(self) -> str:
        """One line with what it cannot say."""
        return (
            f"Parzen log-likelihood {self.mean:.1f} +- {self.se:.1f} nats (sigma {self.sigma:.3g}, "
            f"{self.num_samples} samples); it cannot rank models"
        )


def parzen(samples: Tensor, validation: Tensor, test: Tensor, sigmas: Sequence[float] | None = None) -> Parzen:
    """Parzen-window log-likelihood of test rows, the width chosen on validation rows [goodfellow2014].

    A GAN had 225 +- 2 nats on MNIST there. A warning says so where the best width is an end of the grid. Report it
    beside what the papers reported; never rank by it [theis2016] [wu2017].

    Args:
        samples: of the generator (S, D).
        validation: held-out rows (V, D) to choose the width on, none of them in test.
        test: rows (N, D) to report on.
        sigmas: widths to choose from; by default ten from 0.1 to 1, evenly in the logarithm, for pixels in [0, 1].

    Raises:
        ShapeError: rows of different lengths, fewer than two of samples or test, a width that is not above 0.
        NonFiniteError: a row that is NaN or infinite.
    """
    check_rows({"samples": samples, "validation": validation})
    check_rows({"samples": samples, "test": test}, least=2)
    widths = torch.as_tensor(_GRID if sigmas is None else list(sigmas), dtype=torch.float64)
    if not len(widths) or not bool(((widths > 0) & torch.isfinite(widths)).all()):
        raise ShapeError(
            f"Parzen widths are above 0 and finite, got {widths.tolist()}: pass for example (0.1, 0.2, 0.4)"
        )
    means = _log_density(samples, validation, widths).mean(1)  # (W,)
    best = int(means.argmax())
    if len(widths) > 1 and float(widths[best]) in (float(widths.min()), float(widths.max())):
        warnings.warn(
            f"the best Parzen width of the grid is its end, {float(widths[best]):.3g}: pass sigmas beyond it",
            UserWarning,
            stacklevel=2,
        )
    values = _log_density(samples, test, widths[best : best + 1])[0]
    return Parzen(float(values.mean()), float(values.std()) / math.sqrt(len(values)), float(widths[best]), len(samples))


def _log_density(samples: Tensor, x: Tensor, sigmas: Tensor) -> Tensor:
    """Log density under windows on samples (S, D) of rows x (N, D), for each width: (W, N), float64."""
    samples, parts = samples.double(), []
    constant = math.log(len(samples)) + 0.5 * x.shape[1] * (2 * math.pi * sigmas.square()).log()  # (W,)
    for part in x.split(max(1, _CELLS // len(samples))):
        squared = torch.cdist(part.double(), samples).square()  # (B, S)
        parts.append(torch.stack([(squared / (-2 * float(sigma) ** 2)).logsumexp(1) for sigma in sigmas]).cpu())
    return torch.cat(parts, 1) - constant.unsqueeze(1)
