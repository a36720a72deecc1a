"""What a classifier of real data says of samples: how near their features are, how sure it is, which classes it sees.

The classifier is any object with `features(x) -> (N, F)` and `logits(x) -> (N, Y)` of flat rows x (N, D).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.adversarial.frechet import frechet_distance
from inference.adversarial.rows import check_rows
from inference.errors import ShapeError

__all__ = ["SampleScores", "StackedModes", "judge_samples", "stacked_modes"]


class SampleScores(NamedTuple):
    """Samples beside as many real test images, through one classifier."""

    frechet: float  # squared Frechet distance of samples to test images, in the classifier's features
    frechet_floor: float  # of training images to test images: what a perfect generator would have
    confidence: float  # mean probability of the most probable class
    confident: float  # share of samples whose most probable class has more than 0.9
    real_confidence: float  # both of test images
    real_confident: float
    class_entropy: float  # of the histogram of predicted classes, nats; log Y where all are as frequent
    real_class_entropy: float
    classes: Tensor  # (Y,) int64, samples of each predicted class
    num: int  # samples, test images and training images used, each


class StackedModes(NamedTuple):
    """Distinct tuples of digits among stacked images."""

    modes: int
    of: int  # Y^C
    reverse_kl: float  # nats, to the uniform distribution over all tuples
    num: int  # samples


def judge_samples(classifier: Any, samples: Tensor, real_test: Tensor, real_train: Tensor) -> SampleScores:
    """Compare samples (N, D) with real images that the generator has not seen, and these with training images.

    Of each set as many rows are used, the least of the three numbers, for the Frechet distance grows as rows become
    fewer; they are chosen by a fixed permutation, as data sets may be sorted. The distance is not the FID: its features
    are those of this classifier [heusel2017].

    Raises:
        ShapeError: rows of different lengths, fewer than two of them.
        NonFiniteError: a pixel that is NaN or infinite.
    """
    check_rows({"samples": samples, "real_test": real_test, "real_train": real_train}, least=2)
    num = min(len(samples), len(real_test), len(real_train))
    samples, test, train = (_chosen(x, num) for x in (samples, real_test, real_train))
    features = [_by_parts(classifier.features, x) for x in (samples, test, train)]
    (best, classes), (real_best, real_classes) = (_classes(classifier, x) for x in (samples, test))
    return SampleScores(
        frechet_distance(features[0], features[1]),
        frechet_distance(features[2], features[1]),
        float(best.mean()), float((best > 0.9).double().mean()),
        float(real_best.mean()), float((real_best > 0.9).double().mean()),
        _entropy(classes), _entropy(real_classes),
        classes, num,
    )  # fmt: skip


def stacked_modes(classifier: Any, samples: Tensor, channels: int = 3) -> StackedModes:
    """Count the modes of stacked images (N, C * D), each channel a digit of its own [srivastava2017] [lin2018].

        reverse KL = sum_m p_m log(M p_m),   M = Y^C = 1000 for three digits, p_m the share of mode m

    Of n draws of the truth it is about (M - 1) / 2n, so papers compare at one n, 26,000 for M = 1000. A classifier that
    errs on one digit in a hundred invents modes where few are made: read the count with its accuracy.

    Raises:
        ShapeError: rows that are not `channels` images of one size.
        NonFiniteError: a pixel that is NaN or infinite.
    """
    check_rows({"samples": samples})
    if channels < 1 or samples.shape[1] % channels:
        raise ShapeError(
            f"rows of {samples.shape[1]} numbers are not {channels} images of one size: pass the number of channels"
        )
    logits = _by_parts(classifier.logits, samples.reshape(len(samples) * channels, -1))  # (N * C, Y)
    digits, y = logits.argmax(1).reshape(len(samples), channels), logits.shape[1]
    codes = (digits * y ** torch.arange(channels, device=digits.device)).sum(1)  # (N,) in 0 ... Y^C - 1
    counts = torch.bincount(codes, minlength=y**channels)
    reverse_kl = channels * math.log(y) - _entropy(counts)
    return StackedModes(int((counts > 0).sum()), y**channels, reverse_kl, len(samples))


def _classes(classifier: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each row's most probable class (N,), and how many rows each class has (Y,)."""
    p = _by_parts(classifier.logits, x).double().softmax(1)
    best, index = p.max(1)
    return best, torch.bincount(index, minlength=p.shape[1]).cpu()


def _entropy(counts: Tensor) -> float:
    """-sum p log p of the shares p of counts (M,), nats."""
    p = counts.double() / counts.sum()
    return float(torch.special.entr(p).sum())


def _chosen(x: Tensor, num: int) -> Tensor:
    """So many of the rows, by a permutation of its own."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:num].to(x.device)]


@torch.no_grad()
def _by_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function's rows for x, a part at a time."""
    return torch.cat([function(part) for part in x.split(1000)])
