"""A user's own program and data: `my_model.py:model`, and a file whose keys or columns are its arguments by name.

    data.json   {"J": 8, "y": [28, 8, ...], "sigma": [15, 10, ...]}     Stan's JSON files work as they are
    data.csv    a header of names, numbers below; an argument x takes column x, or x.1, x.2, ... (x[1], x1) as (N, D)
    data.npz    arrays by name

Arrays become float32 tensors; those of whole numbers become int64 where the model cannot run without (it indexes with
them). Single numbers stay Python's own. Keys that no argument asks for are left out, arguments with a default may lack
a key.
"""

import csv
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from inference.errors import RunError

__all__ = ["arguments", "is_program", "load_object", "probe", "read_data", "settle", "told"]

_MOST_WHOLE = 8  # arguments of whole numbers whose kinds are tried out


def is_program(target: str) -> bool:
    """Whether a word names something in a Python file: `folder/my_model.py:model`."""
    return ".py:" in target or target.endswith(".py")


def load_object(target: str) -> Any:
    """What `file.py:name` names; the file is run once.

    Raises:
        RunError: no such file or name, or an error in the file.
    """
    path_word, _, name = target.rpartition(":") if ".py:" in target else (target, "", "")
    path = Path(path_word)
    if not name:
        raise RunError(f"{target} names no object: write FILE.py:NAME, such as {target.rstrip(':')}:model")
    if not path.is_file():
        raise RunError(f"there is no file {path}: write the path of a Python file before the colon")
    spec = importlib.util.spec_from_file_location(f"_own_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a class's module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RunError(
            f"{path} cannot be imported, {told(error, path)}: mend it, or see the traceback by --debug"
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    if not hasattr(module, name):
        known = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise RunError(f"{path} has no '{name}': it has {', '.join(known) or 'nothing to call'}")
    return getattr(module, name)


def read_data(path: Path) -> dict[str, Any]:
    """Names -> numpy arrays and single numbers of a .json, .csv or .npz file.

    Raises:
        RunError: no such file, another kind of file, or one that is damaged or empty.
    """
    readers = {".json": _json, ".csv": _csv, ".npz": _npz}
    if path.suffix.lower() not in readers:
        raise RunError(f"{path} is none of {', '.join(readers)}: write the data in one of these, names and numbers")
    if not path.is_file():
        raise RunError(f"there is no file {path}: pass --data with the path of a .json, .csv or .npz file")
    try:
        table = readers[path.suffix.lower()](path)
    except (ValueError, KeyError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({' '.join(str(error).split())}): mend the file") from error
    if not table:
        raise RunError(f"{path} holds no data: it needs a name and numbers for each argument of the model")
    return table


def arguments(program: Callable[..., Any], table: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The program's arguments by name, in its order, as numpy arrays and single numbers.

    Raises:
        RunError: an argument without a key and without a default, or one of missing values or no numbers.
    """
    found: dict[str, Any] = {}
    waiting: dict[str, Any] = {}
    for name, parameter in inspect.signature(program).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _named(name, table)
        if value is None and parameter.default is parameter.empty:
            raise RunError(f"{what} needs '{name}', and the data have {', '.join(table)}: add it, or give it a default")
        if value is None:
            waiting[name] = parameter.default  # kept where a later argument comes from the data
            continue
        kind = np.asarray(value)
        if kind.dtype.kind not in "biuf":
            raise RunError(f"'{name}' is not made of numbers, and {what} asks for it: write numbers, codes for words")
        if not np.isfinite(kind).all():
            raise RunError(f"'{name}' has missing or infinite values: leave those rows out, or fill them in")
        found |= waiting | {name: value}
        waiting = {}
    return found


def probe(program: Callable[..., Any], data: tuple[Any, ...], what: str) -> None:
    """Run a program once; the RNG is left as it was.

    Raises:
        RunError: it fails, on whatever.
    """
    import torch
    from pyro import poutine

    try:
        with torch.random.fork_rng(), torch.no_grad():
            poutine.trace(program).get_trace(*data)
    except Exception as error:
        raise RunError(f"{what} fails on the data, {told(error, None)}: mend it; --debug shows more") from error


def settle(program: Callable[..., Any], named: Mapping[str, Any], what: str) -> tuple[Any, ...]:
    """The arguments as tensors, such that the program runs: as few arrays of int64 as it can do with.

    Raises:
        RunError: the program fails on the data, whichever of them are int64.
    """
    whole = [name for name, value in named.items() if _is_whole(value)][:_MOST_WHOLE]
    first: RunError | None = None
    for count in range(len(whole) + 1):
        for indices in combinations(whole, count):
            data = tuple(_tensor(value, name in indices) for name, value in named.items())
            try:
                probe(program, data, what)
                return data
            except RunError as error:
                first = error if first is None else first
    assert first is not None
    raise first


def told(error: Exception, path: Path | None) -> str:
    """An exception in a line: its kind, its words, and the line of the user's file that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    own = [f for f in frames if path is None or f.filename == str(path.resolve())]
    inner = [f for f in own if not f.filename.startswith(str(Path(__file__).parent.parent))]
    where = f" (line {inner[-1].lineno} of {Path(inner[-1].filename).name})" if inner else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RunError(f'{path} is no JSON object: write {{"y": [1, 2, 3]}}, a key for each argument of the model')
    table = {}
    for name, value in content.items():
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise RunError(f"'{name}' in {path} has rows of different lengths: make them equal") from error
        table[name] = value if array.ndim == 0 else array
    return table


def _csv(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise RunError(f"{path} has no rows below its header: the first line names the columns, numbers follow")
    header = [name.strip() for name in rows[0]]
    odd = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if odd is not None:
        raise RunError(
            f"row {odd + 1} of {path} has {len(rows[odd])} fields, the header {len(header)}: make them equal"
        )
    return {name: _column([row[i].strip() for row in rows[1:]]) for i, name in enumerate(header)}


def _column(words: list[str]) -> np.ndarray:
    blank = {"", "na", "nan", "null", "none"}
    try:
        values = np.array([np.nan if word.lower() in blank else float(word) for word in words])
    except ValueError:
        return np.array(words)  # refused only where an argument asks for it
    return values.astype(np.int64) if all(re.fullmatch(r"[-+]?\d+", word) for word in words) else values


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name].item() if arrays[name].ndim == 0 else arrays[name] for name in arrays.files}


def _named(name: str, table: Mapping[str, Any]) -> Any:
    """The value of an argument: its key, or its numbered columns side by side."""
    if name in table:
        return table[name]
    numbered = {}
    for key, value in table.items():
        match = re.fullmatch(rf"{re.escape(name)}(?:[._]?(\d+)|\[(\d+)\])", key)
        if match:
            numbered[int(match[1] or match[2])] = value
    return np.stack([numbered[i] for i in sorted(numbered)], -1) if numbered else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biu"


def _tensor(value: Any, index: bool) -> Any:
    import torch

    if not isinstance(value, np.ndarray):
        return value
    return torch.from_numpy(np.ascontiguousarray(value)).to(torch.int64 if index else torch.float32)
