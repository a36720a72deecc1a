"""A recorded torch function as a function of JAX arrays, operation by operation.

What does not depend on the inputs is computed once, in torch, and becomes a constant; the rest is decomposed and read
from the table of `jax_ops`. Floating point widens to the wanted precision, whatever the recording's was.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from inference.capture.jax_ops import OPS
from inference.capture.lines import LINE, with_lines
from inference.capture.record import Recorded
from inference.errors import UnsupportedModelError

__all__ = ["to_jax"]


def to_jax(recorded: Recorded, *example: Tensor, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The same function of JAX arrays, what it captured held fixed; a flat list of the function's results.

    Args:
        recorded: of `record`.
        example: its arguments, tensors of the shapes that it was recorded with.
        dtype: of every floating point number inside; None keeps the recording's own.

    Raises:
        UnsupportedModelError: an operation without a JAX twin, named with the line that used it; random numbers.
    """
    if recorded.draws_inside or recorded.draw():
        raise UnsupportedModelError(
            "the program draws random numbers outside its latent sites, so it is no fixed function: "
            "sample them at a site, or fix them before"
        )
    graph = _decomposed(recorded, example)
    constants, steps = _fold(graph)
    twins = [_twin(node) for node in steps]
    for node, twin in zip(steps, twins, strict=True):
        if twin is None:
            raise UnsupportedModelError(
                f"the operation {node.target} has no JAX twin (used at {node.meta.get(LINE, 'an unknown line')}): "
                'write it by others, or take backend="pyro", which runs the model in torch'
            )
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    (result,) = (node for node in graph.graph.nodes if node.op == "output")
    held = {node: _constant(value, dtype) for node, value in constants.items()}

    def run(*args: Any) -> list[Any]:
        values: dict[fx.Node, Any] = dict(held)
        values.update(zip(inputs, args, strict=True))
        for node, twin in zip(steps, twins, strict=True):
            assert twin is not None
            names = {name: arg for name, arg in node.kwargs.items() if name not in _PLACES}
            out = twin(*map_arg(node.args, values.__getitem__), **map_arg(names, values.__getitem__))
            values[node] = _cast(out, node, dtype)
        return list(map_arg(result.args[0], values.__getitem__))

    return run


def _decomposed(recorded: Recorded, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The graph with what it captured as constants, every operation that the table lacks broken into smaller ones."""
    rules: Any = {op: rule for op, rule in decomposition_table.items() if _name(op) not in OPS}
    captured = [tensor.detach() for tensor in recorded.captured]
    run = with_lines(recorded.graph)
    with torch.no_grad():
        return make_fx(lambda *inputs: run(*inputs, *captured), decomposition_table=rules)(*example)


_PLACES = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking")


def _fold(graph: fx.GraphModule) -> tuple[dict[fx.Node, Any], list[fx.Node]]:
    """Of the nodes that the result needs: the values of those that hang on no input, and the others in order."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
    known: dict[fx.Node, Any] = {}
    steps: list[fx.Node] = []
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                known[node] = _attribute(graph, str(node.target))
            elif node.op == "call_function" and node in needed:
                if all(arg in known for arg in node.all_input_nodes):
                    args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                    known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                else:
                    steps.append(node)
    read = {arg for node in steps for arg in node.all_input_nodes}
    read |= {arg for node in graph.graph.nodes if node.op == "output" for arg in node.all_input_nodes}
    return {node: value for node, value in known.items() if node in read}, steps


def _attribute(graph: fx.GraphModule, target: str) -> Any:
    value: Any = graph
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _twin(node: fx.Node) -> Callable[..., Any] | None:
    name = _name(node.target)
    return (lambda pair, i: pair[i]) if name == "getitem" else OPS.get(name)


def _name(op: Any) -> str:
    """The operation without namespace and overload."""
    schema = getattr(op, "_schema", None)
    return getattr(op, "__name__", str(op)) if schema is None else schema.name.split("::")[-1]


def _constant(value: Any, dtype: torch.dtype | None) -> Any:
    if not isinstance(value, Tensor):
        return type(value)(_constant(part, dtype) for part in value) if isinstance(value, tuple | list) else value
    value = value.detach().cpu()
    wide = dtype is not None and value.is_floating_point()
    return np.array((value.to(dtype) if wide else value).numpy())  # a copy: the tensor may change


def _cast(out: Any, node: fx.Node, dtype: torch.dtype | None) -> Any:
    """A result in the precision that torch recorded, or the one that all floating point is widened to."""
    meta = node.meta.get("val")
    if not isinstance(meta, Tensor):
        return out
    wanted = dtype if dtype is not None and meta.is_floating_point() else meta.dtype
    name = str(wanted).removeprefix("torch.")
    return out if out.dtype == name else jnp.asarray(out, name)
