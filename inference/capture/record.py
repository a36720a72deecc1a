"""A Pyro program recorded once: a function of tensors as a graph whose random numbers are inputs.

    record(fn, *example)  ->  Recorded:   fn(*args) = graph(args, captured, noise)

`captured` are the tensors that fn reads from outside: parameters, buffers, data in a closure. `noise` are the random
numbers that fn would draw, in the same order and by the same operations, so that a recorded run and an ordinary one
from one seed see the same numbers. The graph holds ATen operations only, without in-place ones on intermediate values;
each node's meta["line"] is the line of the user's program that it comes from.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from inference.capture.lines import Stamp, current_line, failing_line, with_lines
from inference.capture.noise import lift_noise
from inference.errors import UnsupportedModelError

__all__ = ["Recorded", "record"]


class Recorded:
    """A function as a graph of ATen operations: call it like the function, or `pure` with all that it reads.

    Attributes:
        graph: inputs (*argument tensors, *captured, *noise), outputs the tensors of fn's result, flat; a GraphModule as
            recorded, any callable once compiled.
        captured: what fn reads from outside, the very tensors (a Parameter stays one).
        noise: no inputs, outputs the random numbers of one run.
        draws_inside: random operations on computed values (a Categorical's draw) stay in the graph, so that it still
            reads torch's generator.
    """

    def __init__(
        self, graph: Any, noise: fx.GraphModule, captured: tuple[Tensor, ...], draws_inside: bool,
        constants: list[Any], out_spec: Any, out_constants: list[Any],
    ):  # fmt: skip
        self.graph, self.noise, self.captured, self.draws_inside = graph, noise, captured, draws_inside
        self._constants, self._out_spec, self._out_constants = constants, out_spec, out_constants

    def __call__(self, *args: Any) -> Any:
        """The function's result for arguments of the recorded shapes; draws from torch's generator."""
        return self.pure(args, self.captured, self.draw())

    def pure(self, args: tuple[Any, ...], captured: tuple[Tensor, ...], noise: tuple[Tensor, ...]) -> Any:
        """The result as a function of everything that it depends on."""
        return self.unflatten(self.graph(*self.inputs(args), *captured, *noise))

    def with_graph(self, graph: Callable[..., Any]) -> "Recorded":
        """The same function by another graph, or by compiled code, of the same inputs and outputs."""
        return Recorded(
            graph, self.noise, self.captured, self.draws_inside, self._constants, self._out_spec, self._out_constants
        )

    def draw(self) -> tuple[Tensor, ...]:
        """The random numbers of one run, from torch's generator."""
        with torch.no_grad():
            return tuple(self.noise())

    def inputs(self, args: tuple[Any, ...]) -> list[Tensor]:
        """The tensors among the arguments, as the graph takes them; what is no tensor must be as it was recorded."""
        leaves = pytree.tree_leaves(args)
        if [leaf for leaf in leaves if not isinstance(leaf, Tensor)] != self._constants:
            raise ValueError("a recorded function holds its arguments that are no tensors fixed: record it again")
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def unflatten(self, tensors: Any) -> Any:
        """The graph's flat outputs in the structure of the function's result."""
        rest = iter(tensors)
        leaves = [next(rest) if constant is _TENSOR else constant for constant in self._out_constants]
        return pytree.tree_unflatten(leaves, self._out_spec)


_TENSOR = object()


def record(fn: Callable[..., Any], *example: Any) -> Recorded:
    """Record a function of tensors, gradients taken inside it included.

    Args:
        fn: runs a Pyro program: an ELBO and its gradient, a log-joint, a potential. Lists, tuples and dicts of tensors
            are taken and returned; a dict's order of keys is kept.
        example: arguments; their shapes, dtypes and what is no tensor among them are held fixed.

    Raises:
        UnsupportedModelError: the program reads a value (`.item()`, `if x > 0`), so that no graph holds all its runs;
            names the line.
    """
    leaves, spec = pytree.tree_flatten(example)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    constants = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
    result: list[Any] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        rest = iter(inputs)
        args = pytree.tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
        with Stamp(current_line):
            out = fn(*args)
        out_leaves, out_spec = pytree.tree_flatten(out)
        result[:] = [out_spec, [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in out_leaves]]
        return [leaf for leaf in out_leaves if isinstance(leaf, Tensor)]

    with torch.random.fork_rng(), pyro.validation_enabled(False):
        try:
            first = make_fx(flat)(*tensors)
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"the program cannot be recorded: {failing_line(error)} ({_first_sentence(error)}): "
                "use torch.where in place of a choice by value, or run it uncompiled"
            ) from error
        captured = _lift_captured(first)
        graph = _functional(first, [t.detach().clone() for t in (*tensors, *captured)])
    noise, draws_inside = lift_noise(graph)
    return Recorded(graph, noise, tuple(captured), draws_inside, constants, *result)


def _lift_captured(module: fx.GraphModule) -> list[Tensor]:
    """Make inputs of the tensors that the program read from outside, in order of first use; literals stay."""
    graph, found, inputs = module.graph, list[Tensor](), list[fx.Node]()
    last = next((node for node in reversed(graph.nodes) if node.op == "placeholder"), None)
    for node in list(graph.nodes):
        if node.op != "get_attr" or all("lift_fresh" in str(user.target) for user in node.users):
            continue
        value = getattr(module, str(node.target))
        index = next((i for i, other in enumerate(found) if other is value), None)
        if index is None:
            with graph.inserting_before(next(iter(graph.nodes))) if last is None else graph.inserting_after(last):
                last = graph.placeholder(f"captured_{len(found)}")
            index = len(found)
            found.append(value)
            inputs.append(last)
        node.replace_all_uses_with(inputs[index])
        graph.erase_node(node)
    module.recompile()
    return found


def _functional(module: fx.GraphModule, inputs: list[Tensor]) -> fx.GraphModule:
    """The same graph without in-place operations, its nodes' lines kept; a captured buffer is written at the end."""
    with torch.no_grad():
        graph = make_fx(torch.func.functionalize(with_lines(module), remove="mutations"))(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(" - erroring out")[0].split(". ")[0]
