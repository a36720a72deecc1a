"""Few labels: a data set split into labelled and unlabelled rows, and batches that hold some of each.

labelled, unlabelled = split_labels(train, 100, seed=0)
for x, y in Interleave(labelled, unlabelled).epoch(0, seed=1):
...     # x (L + U, D) with the labelled rows first, y (L,) their labels
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ppl_models.data.batches import Batches
from ppl_models.data.dataset import DataError, Dataset, permutation, seeds

__all__ = ["Interleave", "split_labels"]


def split_labels(train: Dataset, n_labelled: int, balanced: bool = True, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Draw the rows whose labels may be seen: (labelled, unlabelled), each row in one of the two.

    Args:
        train: with labels 0 ... C-1, C their largest plus one.
        n_labelled: 0 ... N. Both ends leave one of the two without rows.
        balanced: the same number of each class, to one.
        seed: of the draw.

    Raises:
        DataError: no labels; n_labelled below 0, above N or, unless 0, below C; a class that never occurs, or, with
            `balanced`, too seldom; a draw that is not balanced and misses a class.
    """
    if train.y is None:
        raise DataError(f"{train.name} has no labels: take a data set that has, such as mnist or digits")
    if int(train.y.min()) < 0:
        raise DataError(f"{train.name}: a label is a class 0, 1, ..., got {int(train.y.min())}: number them from 0")
    n, counts = len(train.x), torch.bincount(train.y)
    if not 0 <= n_labelled <= n:
        raise DataError(f"{train.name} has {n} rows, so 0 to {n} of them can be labelled, got {n_labelled}")
    if not bool((counts > 0).all()):
        missing = int((counts == 0).nonzero()[0])
        raise DataError(
            f"{train.name}: class {missing} never occurs among labels up to {len(counts) - 1}: "
            "number the classes 0, 1, ... without a gap"
        )
    if 0 < n_labelled < len(counts):
        raise DataError(
            f"{n_labelled} labels are fewer than the {len(counts)} classes of {train.name}, so a class would have "
            f"none: take at least {len(counts)}"
        )
    order = permutation(n, seeds(seed)[0]).to(train.y.device)
    chosen = _balanced(train, order, n_labelled, counts) if balanced and n_labelled < n else order[:n_labelled]
    seen = torch.bincount(train.y[chosen], minlength=len(counts))
    if n_labelled and not bool((seen > 0).all()):
        raise DataError(
            f"the draw of {n_labelled} labels with seed {seed} has none of class {int((seen == 0).nonzero()[0])}: "
            "draw more, pass balanced=True, or another seed"
        )
    rest = torch.ones(n, dtype=torch.bool, device=chosen.device)
    rest[chosen] = False
    unlabelled = rest.nonzero().squeeze(1)
    return (
        train._replace(x=train.x[chosen], y=train.y[chosen]),
        train._replace(x=train.x[unlabelled], y=train.y[unlabelled]),
    )


def _balanced(train: Dataset, order: Tensor, n_labelled: int, counts: Tensor) -> Tensor:
    """The first rows of each class in a random order; the classes that get one more are those that come first."""
    assert train.y is not None
    y, classes = train.y[order], len(counts)
    rows = []
    for c in range(classes):
        wanted = n_labelled // classes + (c < n_labelled % classes)
        if wanted > int(counts[c]):
            raise DataError(
                f"{train.name} has {int(counts[c])} rows of class {c}, fewer than the {wanted} of a balanced draw: "
                "ask for fewer labels, or pass balanced=False"
            )
        rows.append(order[y == c][:wanted])
    return torch.cat(rows)


class Interleave:
    """Batches of labelled and unlabelled rows together: x (L + U, D), the labelled rows first, and y (L,).

    An epoch is a pass over the unlabelled rows, U a batch, the labelled ones walked through as often as it takes, L a
    batch; what does not fill a batch is left to the next epoch's order, so that all batches are of one shape. With no
    unlabelled row an epoch is a pass over the labelled ones; with no labelled row y is empty.

    Args:
        labelled: rows with labels; their number is at least 1, or 0 where unlabelled has rows.
        unlabelled: rows whose labels are not read.
        batch_size: U.
        labelled_size: L, at most the number of labelled rows.
        binarize: draw grey images anew at each visit, as `Batches` does.
        shift: move each image by up to so many pixels at each visit, as `Batches` does.

    Raises:
        DataError: no rows at all, labelled rows without y, a size below 1.
    """

    def __init__(
        self,
        labelled: Dataset,
        unlabelled: Dataset,
        batch_size: int = 100,
        labelled_size: int = 100,
        *,
        binarize: bool = False,
        shift: int = 0,
    ) -> None:
        """Keep the two sets, each with its batches."""
        if labelled.y is None and len(labelled.x):
            raise DataError(f"{labelled.name}: the labelled rows have no labels: take those of split_labels")
        if not len(labelled.x) and not len(unlabelled.x):
            raise DataError("Interleave needs at least 1 row, labelled or not, got none: check the split")
        for name, size in (("batch_size", batch_size), ("labelled_size", labelled_size)):
            if size < 1:
                raise DataError(f"{name} must be at least 1, got {size}: pass for example 100")
        self._no_labels = torch.empty(0, dtype=torch.int64, device=unlabelled.x.device)
        few = min(labelled_size if len(unlabelled.x) else batch_size, len(labelled.x))
        many = min(batch_size, len(unlabelled.x))
        how: dict[str, Any] = {
            "binarize": binarize,
            "drop_last": True,
            "shift": shift,
            "image_shape": labelled.image_shape,
        }
        self.labelled = Batches([labelled.x, labelled.y], few, **how) if labelled.y is not None and few else None
        self.unlabelled = Batches(unlabelled.x, many, **how) if many else None

    @property
    def num_rows(self) -> int:
        """The rows of an epoch."""
        return sum(b.batch_size for b in (self.labelled, self.unlabelled) if b is not None) * len(self)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        source = self.labelled if self.unlabelled is None else self.unlabelled
        assert source is not None
        return len(source)

    def epoch(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:  # yields (L + U, D), (L,)
        """Yield the batches of one epoch, a function of (seed, epoch)."""
        if self.labelled is None:
            assert self.unlabelled is not None
            yield from ((x, self._no_labels) for (x,) in self.unlabelled.epoch(epoch, seed))
        elif self.unlabelled is None:
            yield from self.labelled.epoch(epoch, seed)
        else:
            # another seed: with the same one both sets would be shuffled, and drawn, alike
            with_labels = self._passes(seeds(seed, epoch)[0])
            for (x,), (known, y) in zip(self.unlabelled.epoch(epoch, seed), with_labels, strict=False):
                yield torch.cat([known, x]), y

    def _passes(self, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """The labelled batches, pass after pass, each in an order of its own."""
        assert self.labelled is not None
        for number in range(len(self)):
            yield from self.labelled.epoch(number, seed)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over epoch 0 of seed 0."""
        return self.epoch(0, seed=0)

    def to(self, device: torch.device | str) -> "Interleave":
        """Return the same batches with their rows on `device`."""
        moved = object.__new__(Interleave)
        moved._no_labels = self._no_labels.to(device)
        moved.labelled = None if self.labelled is None else self.labelled.to(device)
        moved.unlabelled = None if self.unlabelled is None else self.unlabelled.to(device)
        return moved
