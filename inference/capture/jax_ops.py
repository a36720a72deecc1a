"""ATen operations as functions of jax.numpy: the table that `to_jax` reads.

An operation is here under its name without overload. What torch differentiates by a formula of its own (softplus,
logsumexp, xlogy, ...) has a twin with a gradient as stable; the rest is decomposed until only these are left.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import linalg, special

from inference.capture import jax_matrices as matrices

__all__ = ["OPS"]

Array = Any


def _dims(x: Array, dim: Any) -> tuple[int, ...] | None:
    """Torch's dims, where none named means all."""
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return None
    return tuple(dim) if isinstance(dim, Sequence) else (dim,)


def _reduce(by: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(x: Array, dim: Any = None, keepdim: bool = False, **_: Any) -> Array:
        return by(x, axis=_dims(x, dim), keepdims=keepdim)

    return reduced


def _extreme(
    value: Callable[..., Array], index: Callable[..., Array], pair: Callable[..., Array]
) -> Callable[..., Any]:
    """Max and min: of all, along a dim with indices, or of two."""

    def extreme(x: Array, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return value(x)
        if not isinstance(dim, int):
            return pair(x, dim)
        at = index(x, axis=dim, keepdims=True)
        found = jnp.take_along_axis(x, at, axis=dim)
        return (found, at) if keepdim else (found.squeeze(dim), at.squeeze(dim))

    return extreme


def _div(x: Array, y: Array, rounding_mode: str | None = None) -> Array:
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    return jnp.trunc(jnp.divide(x, y)) if rounding_mode == "trunc" else jnp.divide(x, y)


def _pow(x: Array, y: Any) -> Array:
    if isinstance(y, int | float) and y == int(y) and abs(y) <= 8:
        return lax.integer_pow(x, int(y))
    return jnp.power(x, y)


def _clamp(x: Array, min: Any = None, max: Any = None) -> Array:
    # torch's gradient at a bound is 1, that of jnp.clip one half
    low = x if min is None else jnp.where(x < min, min, x)
    return low if max is None else jnp.where(x > max, max, low)


def _var(x: Array, dim: Any = None, *, correction: float = 1, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=_dims(x, dim), ddof=1 if correction is None else int(correction), keepdims=keepdim)


def _layer_norm(x: Array, shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float) -> Any:
    dims = tuple(range(-len(shape), 0))
    mean = x.mean(dims, keepdims=True)
    scale = lax.rsqrt(((x - mean) ** 2).mean(dims, keepdims=True) + eps)
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, scale


def _softplus(x: Array, beta: float = 1, threshold: float = 20) -> Array:
    return jax.nn.softplus(x * beta) / beta


def _elu(x: Array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Array:
    negative = jnp.where(x > 0, 0.0, x)
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(negative * input_scale))


def _mvlgamma(x: Array, p: int) -> Array:
    return special.multigammaln(x, p)


def _slice(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    n = x.shape[dim]
    begin, stop, _ = slice(start, end, step).indices(n)
    return lax.slice_in_dim(x, begin, max(begin, stop), step, dim % x.ndim)


def _expand(x: Array, size: Sequence[int], implicit: bool = False) -> Array:
    lead = len(size) - x.ndim
    return jnp.broadcast_to(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(size)])


def _squeeze(x: Array, dim: Any = None) -> Array:
    dims = range(x.ndim) if dim is None else _dims(x, dim) or ()
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1)) if x.ndim else x


def _split(x: Array, sizes: Any, dim: int = 0) -> list[Array]:
    n = x.shape[dim]
    sizes = [min(sizes, n - i) for i in range(0, n, sizes)] if isinstance(sizes, int) else sizes
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _index(x: Array, indices: Sequence[Any]) -> Array:
    return jnp.asarray(x)[tuple(slice(None) if i is None else i for i in indices)]


def _index_put(x: Array, indices: Sequence[Any], values: Array, accumulate: bool = False) -> Array:
    at: Any = tuple(slice(None) if i is None else i for i in indices)
    if len(at) == 1 and getattr(at[0], "dtype", None) == jnp.bool_:
        (mask,) = at
        if isinstance(mask, np.ndarray):  # a constant: it says where
            at = np.nonzero(mask)
        else:
            if jnp.size(values) > 1:  # the k-th place takes the k-th value
                values = jnp.asarray(values)[jnp.cumsum(mask.reshape(-1)) - 1]
                values = values.reshape(mask.shape + values.shape[1:])
            mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
            return jnp.where(mask, x + values if accumulate else values, x)
    target = jnp.asarray(x).at[at]
    return target.add(values) if accumulate else target.set(values)


def _gather(x: Array, dim: int, index: Array, sparse_grad: bool = False) -> Array:
    if x.ndim == 0:
        return x
    cut = tuple(slice(None) if d == dim % x.ndim else slice(n) for d, n in enumerate(index.shape))
    return jnp.take_along_axis(x[cut], index, axis=dim)


def _scatter(x: Array, dim: int, index: Array, src: Any, *, add: bool = False) -> Array:
    grid = list(jnp.indices(index.shape, sparse=True))
    grid[dim] = index
    src = src[tuple(slice(n) for n in index.shape)] if jnp.ndim(src) else src
    target = jnp.asarray(x).at[tuple(grid)]
    return target.add(src) if add else target.set(src)


def _pad(x: Array, pad: Sequence[int], value: float = 0) -> Array:
    pairs = [(pad[2 * i], pad[2 * i + 1], 0) for i in range(len(pad) // 2)]
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs[::-1])


def _same(x: Array, *_: Any, **__: Any) -> Array:
    return x


def _scaled(by: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda x, y, alpha=1: by(x, y if alpha == 1 else alpha * y)


OPS: dict[str, Callable[..., Any]] = {
    # element by element
    **{name: getattr(jnp, name) for name in (
        "abs", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "sinh", "cosh",
        "tanh", "floor", "ceil", "trunc", "sign", "isnan", "isinf", "logaddexp", "fmod", "remainder", "maximum",
        "minimum", "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
        "bitwise_not", "bitwise_xor", "reciprocal", "square", "hypot",
    )},
    "neg": jnp.negative, "round": jnp.round, "rsqrt": lax.rsqrt, "asin": jnp.arcsin, "acos": jnp.arccos,
    "atan": jnp.arctan, "asinh": jnp.arcsinh, "acosh": jnp.arccosh, "atanh": jnp.arctanh, "atan2": jnp.arctan2,
    "eq": jnp.equal, "ne": jnp.not_equal, "lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater,
    "ge": jnp.greater_equal, "add": _scaled(jnp.add), "sub": _scaled(jnp.subtract), "mul": jnp.multiply, "div": _div,
    "rsub": lambda x, y, alpha=1: y - alpha * x, "pow": _pow, "where": jnp.where, "clamp": _clamp,
    "clamp_min": _clamp, "clamp_max": lambda x, max: _clamp(x, None, max),
    "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "silu": jax.nn.silu, "softplus": _softplus, "elu": _elu,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "log_sigmoid_forward": lambda x: (jax.nn.log_sigmoid(x), x),
    "erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv, "lgamma": special.gammaln,
    "digamma": special.digamma, "polygamma": lambda n, x: special.polygamma(n, x), "mvlgamma": _mvlgamma,
    "xlogy": special.xlogy, "special_xlog1py": special.xlog1py, "special_log_ndtr": special.log_ndtr,
    "special_ndtri": special.ndtri, "special_i0e": special.i0e, "special_i1e": special.i1e, "i0": special.i0,
    "special_i1": special.i1,
    # reductions
    "sum": _reduce(jnp.sum), "mean": _reduce(jnp.mean), "amax": _reduce(jnp.max), "amin": _reduce(jnp.min),
    "any": _reduce(jnp.any), "all": _reduce(jnp.all), "prod": _reduce(jnp.prod),
    "logsumexp": _reduce(special.logsumexp),
    "var": _var, "max": _extreme(jnp.max, jnp.argmax, jnp.maximum), "min": _extreme(jnp.min, jnp.argmin, jnp.minimum),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, axis=dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, axis=dim, keepdims=keepdim),
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, dim), "cumprod": lambda x, dim, dtype=None: jnp.cumprod(x, dim),
    "logcumsumexp": lambda x, dim: lax.cumlogsumexp(x, dim % x.ndim),
    "_softmax": lambda x, dim, half=False: jax.nn.softmax(x, dim),
    "native_layer_norm": _layer_norm, "_log_softmax": lambda x, dim, half=False: jax.nn.log_softmax(x, dim),
    # products and matrices
    "mm": jnp.matmul, "bmm": matrices.bmm, "mv": jnp.matmul, "dot": jnp.dot, "addmm": matrices.addmm,
    "addmv": matrices.addmm, "baddbmm": matrices.addmm, "_linear_pointwise": matrices.linear_pointwise,
    "convolution": matrices.convolution,
    "linalg_cholesky_ex": matrices.cholesky, "linalg_solve_triangular": matrices.solve_triangular,
    "triangular_solve": matrices.triangular_solve, "cholesky_solve": matrices.cholesky_solve,
    "cholesky": lambda x, upper=False: matrices.cholesky(x, upper=upper)[0],
    "linalg_inv_ex": lambda x, check_errors=False: (jnp.linalg.inv(x), jnp.zeros(x.shape[:-2], jnp.int32)),
    "_linalg_slogdet": lambda x: (*jnp.linalg.slogdet(x), x, x), "_linalg_det": lambda x: (jnp.linalg.det(x), x, x),
    "tril": jnp.tril, "triu": jnp.triu, "linalg_matrix_exp": linalg.expm,
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    # shapes
    "view": jnp.reshape, "_unsafe_view": jnp.reshape, "reshape": jnp.reshape, "expand": _expand, "squeeze": _squeeze,
    "permute": jnp.transpose, "transpose": jnp.swapaxes, "t": jnp.transpose, "unsqueeze": jnp.expand_dims,
    "slice": _slice, "select": lambda x, dim, i: lax.index_in_dim(x, i, dim, keepdims=False),
    "cat": lambda xs, dim=0: jnp.concatenate([x for x in xs if x.shape != (0,)], dim),
    "stack": lambda xs, dim=0: jnp.stack(xs, dim), "split": _split, "split_with_sizes": _split,
    "unbind": lambda x, dim=0: [lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])],
    "flip": jnp.flip, "repeat": lambda x, times: jnp.tile(x, times), "index": _index, "index_put": _index_put,
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim), "gather": _gather, "scatter": _scatter,
    "scatter_add": lambda x, dim, index, src: _scatter(x, dim, index, src, add=True),
    "select_scatter": lambda x, src, dim, i: jnp.asarray(x).at[(slice(None),) * (dim % x.ndim) + (i,)].set(src),
    "slice_scatter": lambda x, src, dim=0, start=None, end=None, step=1: (
        jnp.asarray(x).at[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)].set(src)
    ),
    "broadcast_in_dim": lambda x, shape, dims: lax.broadcast_in_dim(x, shape, dims),
    "constant_pad_nd": _pad, "embedding": lambda w, index, *_: jnp.take(w, index, axis=0),
    # copies; a detached tensor is a constant to the gradient
    **{name: _same for name in ("clone", "alias", "lift_fresh_copy", "lift_fresh", "contiguous", "_to_copy")},
    "detach": lax.stop_gradient, "copy": lambda x, y, *_: jnp.broadcast_to(y, x.shape).astype(x.dtype),
    "fill": lambda x, value: jnp.full(x.shape, value, x.dtype),
    "full_like": lambda x, value, **_: jnp.full(x.shape, value, x.dtype),
    "zeros_like": lambda x, **_: jnp.zeros_like(x), "ones_like": lambda x, **_: jnp.ones_like(x),
    "empty_like": lambda x, **_: jnp.zeros_like(x),
}  # fmt: skip
