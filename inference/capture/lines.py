"""Which line of the user's program an operation comes from: the innermost frame outside torch, Pyro and the engines."""

import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Stamp", "current_line", "failing_line", "with_lines"]

LINE = "line"  # the key in a node's meta
_ENGINES = Path(__file__).parent.parent
_HOSTS = tuple(
    str(folder) + "/" for folder in (Path(str(torch.__file__)).parent, Path(str(pyro.__file__)).parent, _ENGINES)
)


class Stamp(TorchDispatchMode):
    """Write the line that `where()` gives into every node that make_fx records within."""

    def __init__(self, where: Callable[[], str]):
        super().__init__()
        self.where = where

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; the nodes that it added to the graph get the line."""
        mode = get_proxy_mode()
        graph = None if mode is None else mode.tracer.graph
        last = None if graph is None else next(iter(reversed(graph.nodes)), None)
        out = func(*args, **(kwargs or {}))
        if graph is not None:
            for node in reversed(graph.nodes):
                if node is last:
                    break
                node.meta.setdefault(LINE, self.where())
        return out


def with_lines(module: fx.GraphModule) -> Callable[..., list[Any]]:
    """A graph as a function to be recorded anew: each new node gets the line of the old one that it comes from."""
    line = ""

    class Rerun(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal line
            line = n.meta.get(LINE, "")
            return super().run_node(n)

    def run(*inputs: Any) -> list[Any]:
        with Stamp(lambda: line):
            return list(Rerun(module).run(*inputs))

    return run


def current_line() -> str:
    """The line of the user's program that runs now, as "file:12 in model: code"; "" in a backward pass."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return _say(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return ""


def failing_line(error: BaseException) -> str:
    """The line of the user's program in which an error arose, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if _is_users(frame.filename)]
    last = (users or frames)[-1]
    return _say(last.filename, last.lineno or 0, last.name)


def _is_users(path: str) -> bool:
    return not path.startswith(_HOSTS) and not path.startswith("<") and "/lib/python" not in path


def _say(path: str, line: int, name: str) -> str:
    return f"{path}:{line} in {name}: {linecache.getline(path, line).strip()}"
