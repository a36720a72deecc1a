"""One check that whatever judges samples makes of its rows."""

import torch
from torch import Tensor

from inference.errors import NonFiniteError, ShapeError

__all__ = ["check_rows"]


def check_rows(rows: dict[str, Tensor], least: int = 1) -> None:
    """Raise unless each tensor is (N, D), all of one D, with `least` rows or more, and finite.

    Raises:
        ShapeError: of another shape, or too few rows.
        NonFiniteError: a value that is NaN or infinite.
    """
    width = None
    for name, x in rows.items():
        if x.ndim != 2 or x.shape[1] < 1:
            raise ShapeError(f"{name} holds rows of numbers (N, D), got {tuple(x.shape)}: flatten each datum to a row")
        width = x.shape[1] if width is None else width
        if x.shape[1] != width:
            first = next(iter(rows))
            raise ShapeError(
                f"rows to compare have one length, got {width} numbers in {first} and {x.shape[1]} in {name}: "
                "take both from one data set or one network"
            )
        if len(x) < least:
            raise ShapeError(f"{name} needs at least {least} rows, got {len(x)}: draw more")
        bad = int((~torch.isfinite(x)).any(1).sum())
        if bad:
            raise NonFiniteError(f"{bad} of {len(x)} rows of {name} are NaN or infinite: look for what made them so")
