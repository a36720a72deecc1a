"""Codes of a fixed encoder in the place of images, drawn anew from q(z1 | x) at every visit: what M1+M2 learns from.

The encoder is fixed, so its means and deviations are computed once for all rows; what remains of a visit is a draw.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.data.dataset import Dataset, seeds
from ppl_models.data.labels import Interleave

__all__ = ["Codes", "standardised"]


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
def standardised(m1: Any, x: Tensor) -> Any:
    """A copy of a VAE in units of its codes: over rows x (N, D) each dimension of z1 has mean 0 and deviation 1.

    z1' = (z1 - m) / s is folded into the encoder's head and the decoder's first layer, so that q(z1' | x) and
    p(x | z1') are those of the same VAE. The prior of z1' is not N(0, I) any more: it is for an M2 to learn.
    """
    mean, deviation = _moments(m1, x).chunk(2, -1)
    centre = mean.mean(0)
    scale = (mean.var(0, correction=0) + deviation.square().mean(0)).sqrt()
    m1 = copy.deepcopy(m1)
    head, first = m1.head.linear, next(part for part in m1.decoder.modules() if isinstance(part, nn.Linear))
    size = len(centre)
    head.weight[:size] /= scale.unsqueeze(1)
    head.bias[:size] = (head.bias[:size] - centre) / scale
    head.bias[size:] -= 2 * scale.log()  # a log variance
    assert first.bias is not None
    first.bias.add_(first.weight @ centre)
    first.weight.mul_(scale)
    return m1


@torch.no_grad()
def _moments(m1: Any, x: Tensor) -> Tensor:
    """Mean and deviation of q(z1 | x) side by side: (N, D) -> (N, 2 Z1)."""
    found = [m1.q_z(part).base_dist for part in x.split(5000)]  # of no rows, one part of no rows
    return torch.cat([torch.cat([q.loc, q.scale], -1) for q in found])
