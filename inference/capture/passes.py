"""Rewriting of a recorded graph before it is compiled: nothing twice, and large products by oneDNN.

MKL, torch's own choice for float32 products on the CPU, keeps to AVX2 on AMD's processors: half of what AVX-512 can do.
Products become `mkldnn._linear_pointwise`, x W^T + b with an activation in the same pass over memory.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["LINEAR", "merge_equal", "use_onednn"]

aten = torch.ops.aten
LINEAR = torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
_WORTH_IT = 2**18  # multiplications: below, the call costs more than it saves
_ACTIVATIONS = {aten.tanh.default: "tanh", aten.relu.default: "relu", aten.sigmoid.default: "sigmoid"}
_VIEWS = (aten.view.default, aten._unsafe_view.default)


def merge_equal(graph: fx.Graph) -> None:
    """Compute the same thing once: a guide that runs twice on the same data has one encoder."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not _is_pure(node):
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def use_onednn(graph: fx.Graph) -> None:
    """Turn float32 products on an AVX-512 CPU into oneDNN's, with the bias and the activation that follow."""
    if LINEAR is None or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return
    for node in list(graph.nodes):
        if node.target is aten.mm.default:
            _as_linear(graph, node, node.args[0], node.args[1], None)
        elif node.target is aten.addmm.default and not node.kwargs and _value(node.args[0]).dim() == 1:
            _as_linear(graph, node, node.args[1], node.args[2], node.args[0])
    for node in list(graph.nodes):
        if node.target in _ACTIVATIONS:
            _fuse_activation(graph, node)
    graph.eliminate_dead_code()


def _as_linear(graph: fx.Graph, node: fx.Node, a: Any, b: Any, bias: Any) -> None:  # a: (N, I), b: (I, O)
    value = _value(node)
    size = value.numel() * _value(a).shape[1]
    if value.dtype != torch.float32 or value.device.type != "cpu" or size < _WORTH_IT:
        return
    with graph.inserting_before(node):
        weight = graph.call_function(aten.t.default, (b,))
        product = graph.call_function(LINEAR, (a, weight, bias, "none", [], ""))  # pyright: ignore[reportArgumentType]
    weight.meta = {"val": _value(b).t()}
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _fuse_activation(graph: fx.Graph, node: fx.Node) -> None:
    """Let the product apply an activation, where nothing else reads what it is applied to."""
    source: Any = node.args[0]
    while source.target in _VIEWS and len(source.users) == 1:
        source = source.args[0]
    if source.target is LINEAR and len(source.users) == 1 and source.args[3] == "none":
        source.args = (*source.args[:3], _ACTIVATIONS[node.target], [], "")  # pyright: ignore[reportArgumentType]
        node.replace_all_uses_with(node.args[0])  # pyright: ignore[reportArgumentType]
        graph.erase_node(node)


def _value(node: Any) -> Tensor:
    return node.meta["val"]


def _is_pure(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    schema = getattr(node.target, "_schema", None)
    return torch.Tag.nondeterministic_seeded not in tags and schema is not None and not schema.is_mutable


def _frozen(arg: Any) -> Any:
    """An argument as a dict's key; numbers with their type, for 1 == 1.0 == True."""
    if isinstance(arg, tuple | list):
        return tuple(_frozen(part) for part in arg)
    if isinstance(arg, dict):
        return tuple((name, _frozen(part)) for name, part in arg.items())
    if isinstance(arg, float):
        return float, arg, math.copysign(1.0, arg)
    return type(arg), arg
