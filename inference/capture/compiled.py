"""Training steps as compiled code: which batches are worth it, and when.

    eager      the Pyro program itself, read anew at every step
    recorded   its graph, run operation by operation: no Pyro, nothing to wait for but one run of the program
    compiled   machine code: several times faster, after 10 s of compilation

A kind of batch (shapes, dtypes, what is no tensor) is compiled once it has come up `PATIENCE` times, where the time
saved so far would have paid for it; with `always`, the first kind at once. Once there is compiled code, other kinds
(the short last batch of an epoch) run recorded from their second time on. The counts are part of a checkpoint, so that
a resumed run changes over at the same steps.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inference.capture.inductor import compiled, rewritten
from inference.capture.record import Recorded, record
from inference.errors import UnsupportedModelError

__all__ = ["CompiledSteps", "Outcome"]

PATIENCE = 3000  # steps; some 10 s of compilation against 2 to 4 ms saved a step
_CHECK = 1000  # steps between two comparisons of a recorded program with the program itself
_KINDS = 64  # kinds of batch that are counted; a number that is never the same twice is none
_TOLERANCE = 1e-4  # of a recorded run against the program, relative to a tensor's largest value
_TOLERANCE_REDUCED = 3e-2  # where bfloat16 or float16 is in it: the order of sums shows in the third digit


class Outcome(NamedTuple):
    """A step's bound and gradient, before any update."""

    estimate: tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # loss, bound, reg, rec
    gradients: Sequence[Tensor | None]
    parameters: Sequence[nn.Parameter]

    def give_gradients(self) -> None:
        """Put each parameter's gradient where its optimiser looks for it."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


class _Kind(NamedTuple):
    """A kind of batch, recorded."""

    program: Recorded  # as it was written, for comparison
    fast: Recorded
    is_compiled: bool


class CompiledSteps:
    """Runs a bound and its gradient in the fastest way that is there, or says that the program itself must run.

    Args:
        bound: the objective on a batch: (loss, bound, reg, rec) from (*batch, beta).
        parameters: what the loss is differentiated in.
        modules: those of the pair and of its objective: their buffers may be written, and a run for comparison's sake
            leaves them as they were.
        always: compile the first kind of batch at once.
    """

    def __init__(
        self,
        bound: Callable[..., tuple[Tensor, Tensor, Tensor | None, Tensor | None]],
        parameters: Sequence[nn.Parameter],
        modules: Sequence[nn.Module],
        always: bool,
    ):
        self.bound, self.parameters, self.always = bound, parameters, always
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        self._parts = [part for module in modules for part in module.modules()]
        self.seen: dict[str, int] = {}
        self._kinds: dict[str, _Kind] = {}
        self._off = False

    def __call__(self, batch: tuple[Any, ...], beta: float, phase: int = 0) -> Outcome | None:
        """One step's outcome without an update; None where the program itself is to run.

        Args:
            batch: the arguments of the pair.
            beta: the weight of the regulariser; a number that changes does not record again.
            phase: which objective `bound` runs now.
        """
        if self._off:
            return None
        name = f"{phase}: {'' if beta == 1.0 else 'beta, '}{self._switches()}{describe(batch)}"
        count = self.seen.get(name, 0)
        if name not in self.seen and len(self.seen) >= _KINDS:
            return None
        self.seen[name] = count + 1
        wanted = self._wanted(name, count)
        if wanted == "eager":
            return None
        args = (batch, 1.0 if beta == 1.0 else torch.tensor(beta))
        is_new = name not in self._kinds or (wanted == "compiled" and not self._kinds[name].is_compiled)
        if is_new:
            with self._untouched():
                self._joint(*args)  # what happens only once happens now, and what is wrong with the program is said
        try:
            if is_new:
                self._kinds[name] = self._make(args, wanted == "compiled")
            elif count % _CHECK == 0:
                self._compare(self._kinds[name].program, args)
        except Exception as error:  # whatever the recorder and the compiler meet, the program itself still runs
            self._off = True
            warnings.warn(f"training goes on uncompiled: {_why(error)}", RuntimeWarning, stacklevel=3)
            return None
        return self._run(self._kinds[name].fast, args)

    def _wanted(self, name: str, count: int) -> str:
        if count >= PATIENCE or (self.always and name == next(iter(self.seen))):
            return "compiled"
        return "recorded" if count >= 1 and (self.always or max(self.seen.values()) > PATIENCE) else "eager"

    def _make(self, args: tuple[Any, Any], compile_it: bool) -> _Kind:
        with self._untouched():
            known = record(self._joint, *args)
        self._compare(known, args)
        return _Kind(known, compiled(known, *args) if compile_it else rewritten(known), compile_it)

    def _joint(self, batch: tuple[Any, ...], beta: Any) -> tuple[Any, ...]:
        """The bound with its gradient, laid out in memory as the parameters are."""
        loss, bound, reg, rec = self.bound(*batch, beta=beta)
        learnt = [p for p in self.parameters if p.requires_grad]
        found = dict(zip(learnt, torch.autograd.grad(loss, learnt, allow_unused=True), strict=True))
        gradients = [
            g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in ((p, found.get(p)) for p in self.parameters)
        ]
        return loss.detach(), bound, reg, rec, gradients

    def _switches(self) -> str:
        """Parameters that are frozen now and parts that evaluate, by number: another program."""
        frozen = [i for i, parameter in enumerate(self.parameters) if not parameter.requires_grad]
        evaluating = [i for i, part in enumerate(self._parts) if not part.training]
        return f"frozen {frozen}, " * bool(frozen) + f"evaluating {evaluating}, " * bool(evaluating)

    def _run(self, fast: Recorded, args: tuple[Any, Any]) -> Outcome:
        for parameter in self.parameters:
            parameter.grad = None  # its memory is free for the next one
        with torch.no_grad():
            *estimate, gradients = fast(*args)
        if estimate[0].is_cuda:  # the memory of a CUDA graph's outputs is written again by the next run
            estimate = [None if value is None else value.clone() for value in estimate]
        return Outcome(tuple(estimate), gradients, self.parameters)  # pyright: ignore[reportArgumentType]

    def _compare(self, recorded: Recorded, args: tuple[Any, Any]) -> None:
        """Refuse a recording that is not what the program does now, random numbers being equal."""
        with self._untouched():
            theirs = self._joint(*args)
        with self._untouched(), torch.no_grad():
            ours = recorded(*args)
        rtol = _TOLERANCE_REDUCED if _is_reduced(recorded) else _TOLERANCE
        for a, b in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
            if b is not None and not torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max()), equal_nan=True):
                raise UnsupportedModelError(
                    "the program does not do the same twice: something that is no tensor changes from step to step "
                    "(an attribute, a counter, Python's random): make it a tensor, a buffer of the module"
                )

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        kept = [buffer.detach().clone() for buffer in self.buffers]
        try:
            with torch.random.fork_rng():
                yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(self.buffers, kept, strict=True):
                    buffer.copy_(value)


def _is_reduced(recorded: Recorded) -> bool:
    """Whether a part of it runs in 16 bits, as under `precision="bf16-mixed"`."""
    values = (node.meta.get("val") for node in recorded.graph.graph.nodes)
    return any(isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) for value in values)


def describe(batch: tuple[Any, ...]) -> str:
    """The kind of a batch in words: shapes and dtypes of its tensors, and what is no tensor."""
    leaves = pytree.tree_leaves(batch)
    return ", ".join(
        f"{'x'.join(map(str, leaf.shape))} {str(leaf.dtype).removeprefix('torch.')}"
        if isinstance(leaf, Tensor)
        else repr(leaf)[:40]
        for leaf in leaves
    )


def _why(error: Exception) -> str:
    if isinstance(error, UnsupportedModelError):
        return str(error)
    words = " ".join(str(error).split())
    if "compiler" in words.lower() and "found" in words.lower():
        return "torch.compile finds no C++ compiler: install g++ or clang, or pass compile=False"
    return f"{type(error).__name__}: {words[:200]}"
