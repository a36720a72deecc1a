"""A pass over a recorded graph: a sum of products is one product of factors laid side by side.

    A_1 B_1 + ... + A_T B_T = [A_1 ... A_T] [B_1; ...; B_T]

Such a sum is the gradient of weights that are used T times, by a recurrent network. T products write a matrix as large
as the weights T times, and read it as often to add it up: of DRAW's step on a CPU some 5 %, uncompiled 10 to 15 %.
"""

from typing import Any

import torch
from torch import Tensor, fx

from inference.capture.passes import LINEAR

__all__ = ["merge_sums"]

aten = torch.ops.aten
Factors = tuple[Any, Any]  # nodes of A (O, N) and B (N, I)


def merge_sums(graph: fx.Graph) -> None:
    """Do so wherever the factors are smaller than the matrices that need not be written."""
    graph.eliminate_dead_code()  # what nothing reads is no reader
    for root in list(graph.nodes):
        if not _is_sum(root) or (len(root.users) == 1 and _is_sum(next(iter(root.users)))):
            continue
        terms = _terms(root)
        alike: dict[Any, list[Any]] = {}
        for term in terms:
            product = _product(term)
            if product is not None:
                alike.setdefault(_value(product).dtype, []).append(term)
        merged = [group for group in alike.values() if len(group) > 1]
        if not merged:
            continue
        done = {term for group in merged for term in group}
        with graph.inserting_before(root):
            parts = [_side_by_side(graph, group) for group in merged] + [t for t in terms if t not in done]
            total = parts[0]
            for part in parts[1:]:
                total = _call(graph, aten.add.Tensor, (total, part), _value(part))
        root.replace_all_uses_with(total)
    graph.eliminate_dead_code()


def _is_sum(node: Any) -> bool:
    if node.target is not aten.add.Tensor or node.kwargs:
        return False
    like = _value(node)
    return all(
        isinstance(arg, fx.Node) and _value(arg).shape == like.shape and _value(arg).dtype == like.dtype
        for arg in node.args
    )


def _terms(node: Any) -> list[Any]:
    """What a tree of additions adds whose partial sums nothing else reads."""
    terms = []
    for arg in node.args:
        terms += _terms(arg) if _is_sum(arg) and len(arg.users) == 1 else [arg]
    return terms


def _product(term: Any) -> Any:
    """The product that a term is, up to transposition and precision, if it is worth to be merged."""
    node = term
    while len(node.users) == 1 and (node.target is aten.t.default or _is_cast(node)):
        node = node.args[0]
    plain = node.target is aten.mm.default or (
        node.target is LINEAR and LINEAR is not None and node.args[2] is None and node.args[3] == "none"
    )
    if not plain or len(node.users) != 1 or _value(node).dim() != 2:
        return None
    n_out, n_in = _value(node).shape
    inner = _value(node.args[0]).shape[1]
    return node if n_out * n_in >= inner * (n_out + n_in) else None


def _is_cast(node: Any) -> bool:
    return node.target is aten._to_copy.default and _value(node).device == _value(node.args[0]).device


def _factors(graph: fx.Graph, term: Any) -> Factors:
    """A and B of a term A B."""
    node, flipped = term, False
    while node.target in (aten.t.default, aten._to_copy.default):
        flipped ^= node.target is aten.t.default
        node = node.args[0]
    a, b = node.args[:2]
    if node.target is LINEAR:  # x W^T
        b = _transposed(graph, b)
    return (_transposed(graph, b), _transposed(graph, a)) if flipped else (a, b)


def _side_by_side(graph: fx.Graph, terms: list[Any]) -> fx.Node:
    """The one product of some terms' factors, in the precision of the terms."""
    pairs = [_factors(graph, term) for term in terms]
    first, second = (list(side) for side in zip(*pairs, strict=True))
    like, term = _value(first[0]), _value(terms[0])
    n_out, n_in = term.shape
    inner = sum(_value(a).shape[1] for a in first)
    a = _call(graph, aten.cat.default, (first, 1), like.new_empty(n_out, inner))
    b = _call(graph, aten.cat.default, (second, 0), like.new_empty(inner, n_in))
    product = _call(graph, aten.mm.default, (a, b), like.new_empty(n_out, n_in))
    if like.dtype == term.dtype:
        return product
    return _call(graph, aten._to_copy.default, (product,), term, dtype=term.dtype)


def _transposed(graph: fx.Graph, node: Any) -> Any:
    return node.args[0] if node.target is aten.t.default else _call(graph, aten.t.default, (node,), _value(node).t())


def _call(graph: fx.Graph, target: Any, args: tuple[Any, ...], value: Tensor, **kwargs: Any) -> fx.Node:
    node = graph.call_function(target, args, kwargs)
    node.meta = {"val": value}
    return node


def _value(node: Any) -> Tensor:
    return node.meta["val"]
