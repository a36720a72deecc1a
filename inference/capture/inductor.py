"""A recorded function as machine code: its graph through torch.compile's backend, inductor.

The graph is what torch.compile would ask dynamo for; Pyro's messages break that, so it comes from `record`. Random
numbers stay inputs, or torch's own operations where they cannot be: compiled and recorded runs see the same numbers.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from inference.capture.passes import LINEAR, merge_equal, use_onednn
from inference.capture.record import Recorded
from inference.capture.sums import merge_sums

__all__ = ["compiled", "rewritten"]


def rewritten(recorded: Recorded) -> Recorded:
    """The same function after the passes of `passes.py` and `sums.py`, still a graph."""
    module = deepcopy(recorded.graph)
    merge_equal(module.graph)
    merge_sums(module.graph)
    use_onednn(module.graph)
    module.recompile()
    return recorded.with_graph(module)


def compiled(recorded: Recorded, *args: Any) -> Recorded:
    """The same function in machine code for arguments of these shapes; results agree to rounding.

    Raises:
        Exception: whatever the compiler raises; without a C++ compiler `torch._inductor.exc.InvalidCxxCompiler`.
    """
    with warnings.catch_warnings():  # what torch says of its own parts is nothing that a user could act on
        warnings.simplefilter("ignore")
        return _compile(recorded, args)


def _compile(recorded: Recorded, args: tuple[Any, ...]) -> Recorded:
    import torch._inductor as inductor
    from torch._inductor import config

    fast = rewritten(recorded)
    with torch.no_grad(), torch.random.fork_rng(), _products_as_they_are():
        inputs: list[Any] = [t.detach() for t in (*fast.inputs(args), *fast.captured, *fast.draw())]
        cuda = any(t.is_cuda for t in inputs)
        options = {
            "fallback_random": True,
            "triton.cudagraphs": cuda and not fast.draws_inside,
            "pattern_matcher": False,  # its patterns too take oneDNN's product for one with a constant weight
            "cpp.vec_isa_ok": True,  # what the CPU says of itself: to try each of its instruction sets takes 5 s
        }
        with config.patch(options):
            code: Any = inductor.compile(fast.graph, inputs)
    return fast.with_graph(code)


@contextmanager
def _products_as_they_are() -> Iterator[None]:
    """Inductor takes oneDNN's product for one with a constant weight; within, it calls it like any other operation."""
    if LINEAR is None:
        yield
        return
    from torch._inductor import lowering
    from torch._inductor.ir import ExternKernel

    call = lowering.fallback_handler(LINEAR, add_to_fallback_set=False)

    def product(x: Any, *rest: Any) -> Any:
        # oneDNN would copy a transposed operand by itself, slowly; inductor writes it transposed with what made it
        return call(ExternKernel.require_contiguous(x), *rest)

    table: dict[Any, Any] = lowering.lowerings
    before = {LINEAR: table[LINEAR]} if LINEAR in table else {}
    table[LINEAR] = product
    try:
        yield
    finally:
        del table[LINEAR]
        table.update(before)
