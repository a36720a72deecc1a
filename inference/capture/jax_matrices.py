"""Products, factorisations and convolutions of ATen as functions of jax.numpy."""

from typing import Any

import jax.numpy as jnp
from jax import lax

__all__ = [
    "addmm",
    "bmm",
    "cholesky",
    "cholesky_solve",
    "convolution",
    "linear_pointwise",
    "solve_triangular",
    "triangular_solve",
]

Array = Any


def addmm(c: Array, a: Array, b: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    """Beta c + alpha a b."""
    return (c if beta == 1 else beta * c) + (a @ b if alpha == 1 else alpha * (a @ b))


def bmm(a: Array, b: Array) -> Array:
    """Products of many matrices."""
    if a.shape[1] * a.shape[2] * b.shape[2] <= 64:  # a loop over so small products costs more than their sums
        return (a[:, :, :, None] * b[:, None]).sum(2)
    return a @ b


def linear_pointwise(x: Array, weight: Array, bias: Array | None, *_: Any) -> Array:
    """OneDNN's x W^T + b, without what it could fuse."""
    out = x @ weight.T
    return out if bias is None else out + bias


def cholesky(x: Array, *, upper: bool = False, check_errors: bool = False) -> tuple[Array, Array]:
    """The factor, and a code of success that nobody reads: a matrix without one gives NaN."""
    lower = jnp.linalg.cholesky(x)
    return (jnp.swapaxes(lower, -1, -2) if upper else lower), jnp.zeros(x.shape[:-2], jnp.int32)


def solve_triangular(a: Array, b: Array, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Array:
    """A solution x of a x = b, or of x a = b."""
    shape = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = jnp.broadcast_to(a, shape + a.shape[-2:]), jnp.broadcast_to(b, shape + b.shape[-2:])
    return lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular)


def triangular_solve(
    b: Array, a: Array, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Array, Array]:
    """The older form: b first, and a transposed on demand, which it returns too."""
    a = jnp.swapaxes(a, -1, -2) if transpose else a
    return solve_triangular(a, b, upper=upper != transpose, unitriangular=unitriangular), a


def cholesky_solve(b: Array, a: Array, upper: bool = False) -> Array:
    """A solution of a a^T x = b, a triangular."""
    a = jnp.swapaxes(a, -1, -2) if upper else a
    half = solve_triangular(a, b, upper=False)
    return solve_triangular(jnp.swapaxes(a, -1, -2), half, upper=True)


def convolution(
    x: Array, w: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Array:  # fmt: skip
    """A convolution in any number of dims, or its transpose."""
    spatial = w.ndim - 2
    if transposed:  # the gradient of a convolution: dilate the input, turn the kernel round
        w = jnp.flip(w, range(2, w.ndim))
        w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        w = jnp.swapaxes(w, 1, 2).reshape(-1, w.shape[1], *w.shape[3:])
        reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        pads = [(r - p, r - p + o) for r, p, o in zip(reach, padding, output_padding, strict=True)]
        out = lax.conv_general_dilated(
            x, w, (1,) * spatial, pads, lhs_dilation=stride, rhs_dilation=dilation, feature_group_count=groups
        )
    else:
        pads = [(p, p) for p in padding]
        out = lax.conv_general_dilated(x, w, stride, pads, rhs_dilation=dilation, feature_group_count=groups)
    return out if bias is None else out + bias.reshape(-1, *(1,) * spatial)
