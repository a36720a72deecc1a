"""Minibatches of tensors that already lie on their device: one `index_select` a tensor, no worker process.

An epoch is a pure function of (seed, epoch): its permutation, and its binary draws when `binarize` is set,
come from generators made for that epoch alone. So a run that stops in epoch 7 and resumes there sees the same
batches, and nothing of the caller's random state is touched.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ppl_models.data.dataset import DataError, binarize, check, permutation, seeds, shifted

__all__ = ["Batches"]


class Batches:
    """Walk through tensors with a common first axis, in batches of `batch_size` rows.

    With `binarize` the first tensor is grey, in [0, 1], and each visit to a row draws it anew as
    Bernoulli(grey) (dynamic binarisation: another draw every epoch). The last batch is smaller if batch_size
    does not divide the rows, or left out with `drop_last`. With `shift` each visit moves each image by up to so many
    pixels, along each side on its own, zeros moving in: the first tensor holds images of `image_shape`.

    Raises DataError: no rows, tensors of different lengths or devices, batch_size < 1, nothing left by
    `drop_last`, a shift that leaves nothing of an image.
    """

    def __init__(
        self,
        tensors: Tensor | Sequence[Tensor],  # each (N, ...)
        batch_size: int = 100,
        *,
        binarize: bool = False,
        shuffle: bool = True,
        drop_last: bool = False,
        shift: int = 0,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        """Keep the tensors as they are, on their device."""
        self.tensors: tuple[Tensor, ...] = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
        self.batch_size = batch_size
        self.binarize = binarize
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.shift, self.image_shape = shift, image_shape
        odd = [t for t in self.tensors if not isinstance(t, Tensor)]
        if any(t is not None for t in odd):
            kind = next(type(t).__name__ for t in odd if t is not None)
            raise DataError(f"Batches takes tensors, got a {kind}: pass train.x or (train.x, train.y)")
        if odd:
            raise DataError(
                "this data set has no labels (its y is None): take one that has, such as digits or mnist, "
                "or save a .npz with x and y"
            )
        lengths = [len(t) if t.ndim else 0 for t in self.tensors]
        if not lengths or lengths[0] == 0:
            raise DataError("Batches needs at least 1 row, got none: check the split that made these tensors")
        if len(set(lengths)) > 1:
            raise DataError(f"the tensors of Batches must have one length, got {lengths}: give each row its label")
        if len({t.device for t in self.tensors}) > 1:
            devices = [str(t.device) for t in self.tensors]
            raise DataError(f"the tensors of Batches must be on one device, got {devices}: move them with .to()")
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}: pass for example 100")
        if drop_last and lengths[0] < batch_size:
            raise DataError(
                f"drop_last with batch_size={batch_size} leaves nothing of {lengths[0]} rows: "
                "pass a smaller batch_size or drop_last=False"
            )
        if shift and (image_shape is None or not 0 < shift < min(image_shape[1:])):
            raise DataError(
                f"shift is at least 0 and less than the sides of the images, got {shift} with "
                f"image_shape={image_shape}: pass for example shift=2, image_shape=(1, 28, 28)"
            )
        if binarize:
            if not self.tensors[0].is_floating_point():
                raise DataError(
                    f"binarize=True takes grey images as floats, got {self.tensors[0].dtype}: divide by 255 as a float"
                )
            # on a GPU a value outside [0, 1] would kill the whole CUDA context later, instead of raising here
            check(self.tensors[0], "the first tensor of Batches(binarize=True)", least=1)

    @property
    def num_rows(self) -> int:
        """The number of rows, N."""
        return len(self.tensors[0])

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        whole, rest = divmod(self.num_rows, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def epoch(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:  # yields (B, ...) of each tensor
        """Yield the batches of one epoch, a function of (seed, epoch) and of the kind of device.

        The order of the rows is the same on every device; the binary draws of a GPU and a CPU differ.
        """
        device = self.tensors[0].device
        order_seed, draw_seed = seeds(seed, epoch)
        n = self.num_rows
        order = (permutation(n, order_seed) if self.shuffle else torch.arange(n)).to(device)
        draws = torch.Generator(device).manual_seed(draw_seed)
        for i in range(len(self)):
            index = order[i * self.batch_size : (i + 1) * self.batch_size]
            x, *rest = (t.index_select(0, index) for t in self.tensors)
            if self.image_shape is not None and self.shift:
                x = shifted(x, self.image_shape, self.shift, draws)
            yield binarize(x, draws) if self.binarize else x, *rest

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over epoch 0 of seed 0."""
        return self.epoch(0, seed=0)

    def to(self, device: torch.device | str) -> "Batches":
        """Return the same batches with the tensors on `device`."""
        return Batches(
            [t.to(device) for t in self.tensors],
            self.batch_size,
            binarize=self.binarize,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            shift=self.shift,
            image_shape=self.image_shape,
        )
