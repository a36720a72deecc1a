"""How much of a mixture of Gaussians a generator has learnt: modes covered, share of high quality, evenness.

A sample is of high quality when it lies within three standard deviations of its nearest mean; a mode is covered when at
least one such sample is nearest to it [srivastava2017, lin2018]. True samples are not perfect: in two dimensions
P(chi2_2 < 9) = 98.9 % of them lie so near.
"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from inference.errors import NonFiniteError, ShapeError

__all__ = ["ModeCoverage", "mode_coverage", "warn_of_collapse"]


class ModeCoverage(NamedTuple):
    """What `mode_coverage` counted."""

    modes: int  # with at least one sample of high quality
    of: int  # M
    high_quality: float  # share of the samples, in [0, 1]
    reverse_kl: float  # nats; nan where no sample is of high quality
    counts: Tensor  # (M,) int64, samples of high quality nearest to each mean

    @property
    def collapse(self) -> str:
        """A sentence where modes are missing, with the remedy; else nothing."""
        if self.modes == self.of:
            return ""
        return (
            f"mode collapse: the generator makes {self.modes} of {self.of} modes: pack samples (pack=2), penalise the "
            "discriminator's slope (R1), or train longer"
        )

    def __str__(self) -> str:
        """One line: modes, share, reverse KL."""
        return (
            f"{self.modes} of {self.of} modes, {100 * self.high_quality:.1f} % of high quality, "
            f"reverse KL {self.reverse_kl:.4f} nats"
        )


def mode_coverage(x: Tensor, means: Tensor, sd: float, within: float = 3.0) -> ModeCoverage:
    """Count modes and judge samples by their distance to the nearest mean.

        reverse KL = sum_m p_m log(M p_m),   p_m the share of mode m among the samples of high quality

    Of n samples of the mixture itself the reverse KL is about (M - 1) / (2n), of one mode alone log M.

    Args:
        x: samples (N, D).
        means: of the modes (M, D), all of one weight.
        sd: standard deviation of each mode along each axis.
        within: the distance that still counts as high quality, in standard deviations.

    Raises:
        ShapeError: samples or means that are not rows of one length, none of them, sd or within not above 0.
        NonFiniteError: a sample that is NaN or infinite.
    """
    if x.ndim != 2 or means.ndim != 2 or x.shape[1] != means.shape[1] or 0 in x.shape or 0 in means.shape:
        raise ShapeError(
            f"mode_coverage needs samples (N, D) and means (M, D), got {tuple(x.shape)} and {tuple(means.shape)}: "
            "give each sample a row as long as a mean's"
        )
    if not (0 < sd < math.inf and 0 < within < math.inf):
        raise ShapeError(f"sd and within are above 0 and finite, got {sd} and {within}: pass the toy's own sd")
    bad = int((~torch.isfinite(x)).any(1).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(x)} samples are NaN or infinite: lower the learning rate of the game")
    # in float64 and without the expansion of the square, which loses the last digits far from 0
    distances = torch.cdist(x.double(), means.to(x.device).double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance, nearest = distances.min(1)  # (N,)
    counts = torch.bincount(nearest[distance < within * sd], minlength=len(means)).cpu()
    good = int(counts.sum())
    p = counts.double() / good if good else torch.full((len(means),), math.nan, dtype=torch.float64)
    kl = float(torch.special.xlogy(p, p * len(means)).sum())
    return ModeCoverage(int((counts > 0).sum()), len(means), good / len(x), kl, counts)


def warn_of_collapse(coverage: ModeCoverage) -> None:
    """Warn where modes are missing (UserWarning, one sentence); silent otherwise."""
    if coverage.collapse:
        warnings.warn(coverage.collapse, UserWarning, stacklevel=2)
