"""Codes of a fixed encoder in the place of images, drawn anew from q(z1 | x) at every visit: what M1+M2 learns from.

The encoder is fixed, so its means and deviations are computed once for all rows; what remains of a visit is a draw.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_models.data.dataset import Dataset, seeds
from ppl_models.data.labels import Interleave

__all__ = ["Codes"]


class Codes:
    """Batches of codes z1 (L + U, Z1), the labelled rows first, and labels y (L,); otherwise as `Interleave`.

    Args:
        m1: a trained VAE, `q_z(x)` a diagonal Gaussian; grey images go through it as they are.
        labelled: images with labels, from `split_labels`.
        unlabelled: images.
        batch_size: rows without a label in a batch.
        labelled_size: rows with one.

    Raises:
        DataError: as `Interleave`.
    """

    def __init__(
        self, m1: Any, labelled: Dataset, unlabelled: Dataset, batch_size: int = 100, labelled_size: int = 100
    ) -> None:
        """Run the encoder once over all rows."""
        coded = [part._replace(x=_moments(m1, part.x)) for part in (labelled, unlabelled)]
        self.batches = Interleave(coded[0], coded[1], batch_size, labelled_size)

    @property
    def num_rows(self) -> int:
        """The rows of an epoch."""
        return self.batches.num_rows

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:  # yields (L + U, Z1), (L,)
        """Yield the batches of one epoch, a function of (seed, epoch) and of the kind of device."""
        draws: torch.Generator | None = None
        for moments, y in self.batches.epoch(epoch, seed):
            if draws is None:
                draws = torch.Generator(moments.device).manual_seed(seeds(seed, epoch)[1])
            mean, deviation = moments.chunk(2, -1)
            noise = torch.randn(mean.shape, generator=draws, device=mean.device, dtype=mean.dtype)
            yield mean + deviation * noise, y

    def to(self, device: torch.device | str) -> "Codes":
        """Return the same batches with their rows on `device`."""
        moved = object.__new__(Codes)
        moved.batches = self.batches.to(device)
        return moved


@torch.no_grad()
def _moments(m1: Any, x: Tensor) -> Tensor:
    """Mean and deviation of q(z1 | x) side by side: (N, D) -> (N, 2 Z1)."""
    found = [m1.q_z(part).base_dist for part in x.split(5000)]  # of no rows, one part of no rows
    return torch.cat([torch.cat([q.loc, q.scale], -1) for q in found])
