"""A layered sigmoid belief network as flat arrays, ready for `layered_kernel`, and whether the kernel's products fit.

A product of doubles stays finite while its exponent is within some 700. A flip changes a logit by w, so a product of
factors over one row of weights is within sum_j |w_j|; where that is above 600 it is taken in blocks, and where logits
themselves can be larger, whatever the units, not at all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inference.errors import NonFiniteError, ShapeError, UnsupportedModelError
from inference.types import Layered

__all__ = ["Tables", "binary", "tables"]

RANGE = 600.0  # of exponents; exp(709) is the last finite double


class Tables(NamedTuple):
    """A network as the kernel reads it: flat arrays, float64; layers 0 (the data), 1, ..., L side by side."""

    sizes: NDArray[np.uint64]  # (L + 1,)
    offset: NDArray[np.uint64]  # (L + 2,) where a layer's units begin
    start: NDArray[np.uint64]  # (L + 2,) where the weights between layers k and k - 1 begin; the first is idle
    w: NDArray[np.float64]  # weights (H_k, H_{k-1}), layer after layer
    w_t: NDArray[np.float64]  # the same, each transposed
    factor: NDArray[np.float64]  # exp(w) and exp(-w) of each unit, (H_k, 2, H_{k-1}), layer after layer
    bias: NDArray[np.float64]
    block: NDArray[np.uint64]  # (L + 1,) pixels whose factors' product is safe in a double; 0: no product is
    block_q: NDArray[np.uint64]  # (L + 1,) the same for the product of sigmoids


def tables(network: Layered) -> Tables:
    """Prepare a network for the kernel; raises ShapeError or NonFiniteError where its layers are no network."""
    weights, below = zip(*((_array(weight), _array(bias)) for weight, bias in network.layers()), strict=True)
    biases = [*below, _array(network.top_bias)]
    _check_network(weights, biases)
    sizes = [len(bias) for bias in biases]
    # the largest |logit| that any state of the units above can give; RANGE bounds it with the flip on top
    reach = [np.maximum(b + w.clip(0).sum(0), -b - w.clip(max=0).sum(0)) for w, b in zip(weights, below, strict=True)]
    reach.append(np.abs(biases[-1]))
    change = [np.abs(w) for w in weights]
    fits = [r.max() + c.max() <= RANGE for r, c in zip(reach, change, strict=False)]
    block = [0, *(_block(c) if fit else 0 for c, fit in zip(change, fits, strict=True))]
    block_q = [
        _block(r[None] + 1.0) if fit else 0 for r, fit in zip(reach, [*fits, reach[-1].max() <= RANGE], strict=True)
    ]
    factor = [np.exp(np.stack([w, -w], 1).clip(-RANGE, RANGE)).ravel() for w in weights]
    return Tables(
        sizes=_offsets(sizes),
        offset=_offsets(np.cumsum([0, *sizes])),
        start=_offsets(np.cumsum([0, 0, *(w.size for w in weights)])),
        w=np.concatenate([w.ravel() for w in weights]),
        w_t=np.concatenate([w.T.ravel() for w in weights]),
        factor=np.concatenate(factor),
        bias=np.concatenate(biases),
        block=_offsets(block),
        block_q=_offsets(block_q),
    )


def binary(net: Tables, x: Tensor) -> NDArray[np.uint8]:
    """Data for the kernel; raises ShapeError or UnsupportedModelError where they are not the network's."""
    if x.dim() != 2 or x.shape[1] != net.sizes[0] or len(x) == 0:
        raise ShapeError(f"the data are (N, {net.sizes[0]}) with N >= 1, got {tuple(x.shape)}: reshape them to rows")
    if not bool(((x == 0) | (x == 1)).all()):
        raise UnsupportedModelError(
            "the data of a sigmoid belief network are 0 or 1, and these hold other values: binarise them first"
        )
    return np.ascontiguousarray(x.detach().cpu().numpy().astype(np.uint8))


def _block(size: NDArray[np.float64]) -> int:  # (H, D) bounds on |log factor|
    return size.shape[1] if size.sum(1).max() <= RANGE else max(1, int(RANGE / size.max()))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()


def _offsets(values: Any) -> NDArray[np.uint64]:
    return np.asarray(values, np.uint64)


def _check_network(weights: Sequence[NDArray[np.float64]], biases: Sequence[NDArray[np.float64]]) -> None:
    for k, weight in enumerate(weights, 1):
        right = (len(biases[k]), len(biases[k - 1]))
        if weight.shape != right:
            raise ShapeError(f"the weight between layers {k} and {k - 1} is {right}, got {weight.shape}: transpose it?")
    if not all(np.isfinite(array).all() for array in (*weights, *biases)):
        raise NonFiniteError("a weight or bias of the network is NaN or infinite: train it with a lower learning rate")
