"""Random operations lifted out of a graph: what they draw becomes an input.

A draw whose arguments are the same in every run (`randn`, `rand`, `normal_`, `exponential_`) moves, with what makes
its arguments, into a graph of its own that has no inputs. `bernoulli(p)` becomes `rand < p`, which is how torch draws
it. Any other draw on computed values (multinomial, gamma) stays where it is, and all later ones with it, so that the
order of draws from the generator is that of the program.
"""

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["lift_noise"]

aten = torch.ops.aten
# these read a tensor's shape and not its values
_SHAPE_ONLY = {
    aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like,
    aten.randint_like, aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty_strided,
}  # fmt: skip


def lift_noise(module: fx.GraphModule) -> tuple[fx.GraphModule, bool]:
    """Move draws into a graph of their own; their results become the module's last inputs.

    Returns:
        The graph of draws, and whether draws are left inside the module.
    """
    graph, noise = module.graph, fx.Graph()
    for node in list(graph.nodes):
        if node.target is aten.bernoulli.default:
            _as_comparison(graph, node)
    twins: dict[fx.Node, fx.Node] = {}  # nodes that are the same in every run, and their copies
    drawn: list[fx.Node] = []
    left = False
    for node in graph.nodes:
        if node.op == "get_attr":  # a literal
            twins[node] = noise.node_copy(node)
        if node.op != "call_function" or left:
            continue
        random = _is_random(node)
        if _is_fixed(node, twins):
            twins[node] = _copy(node, twins, noise)
            if random:
                drawn.append(node)
        else:
            left = random
    noise.output([twins[node] for node in drawn])
    made = fx.GraphModule(module, noise)  # literals are shared
    made.graph.eliminate_dead_code()
    made.recompile()
    last = [node for node in graph.nodes if node.op == "placeholder"]
    for i, node in enumerate(drawn):
        with graph.inserting_after(last[-1]) if last else graph.inserting_before(next(iter(graph.nodes))):
            last.append(graph.placeholder(f"noise_{i}"))
        last[-1].meta = dict(node.meta)
        node.replace_all_uses_with(last[-1])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return made, left


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_fixed(node: fx.Node, twins: dict[fx.Node, fx.Node]) -> bool:
    """Whether a node is the same in every run, but for its draw: nothing that it reads is an input."""
    if getattr(node.target, "overloadpacket", None) in _SHAPE_ONLY:
        return all(other in twins for other in node.all_input_nodes[1:])
    return all(other in twins for other in node.all_input_nodes)


def _copy(node: fx.Node, twins: dict[fx.Node, fx.Node], noise: fx.Graph) -> fx.Node:
    def twin(other: fx.Node) -> Any:
        if other in twins:
            return twins[other]
        value: Tensor = other.meta["val"]
        options = {"dtype": value.dtype, "device": value.device}
        return noise.call_function(aten.empty_strided.default, (value.shape, value.stride()), options)

    return noise.node_copy(node, twin)


def _as_comparison(graph: fx.Graph, node: fx.Node) -> None:
    """bernoulli(p) as (rand < p)."""
    value: Tensor = node.meta["val"]
    options = {"dtype": value.dtype, "device": value.device}
    with graph.inserting_before(node):
        uniform = graph.call_function(aten.rand.default, (list(value.shape),), options)
        less = graph.call_function(aten.lt.Tensor, (uniform, node.args[0]))
        drawn = graph.call_function(aten._to_copy.default, (less,), {"dtype": value.dtype})
    for new in (uniform, less, drawn):
        new.meta = dict(node.meta)
    less.meta["val"] = value.bool()
    node.replace_all_uses_with(drawn)
    graph.erase_node(node)
