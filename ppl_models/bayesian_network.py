"""A Bayesian network of discrete variables, as a Pyro program, from tables or from a BIF file.

    p(x) = prod_v p(x_v | x_parents(v))

One sample site for each variable, named as it is, a Categorical over its states; evidence comes by `pyro.condition`.
"""

import gzip
import re
from graphlib import CycleError, TopologicalSorter
from itertools import product
from math import isclose
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["BayesianNetwork", "Variable"]


class Variable(NamedTuple):
    """A variable given its parents."""

    states: tuple[str, ...]  # names of its K values
    parents: tuple[str, ...]
    table: Tensor  # (K of parent 1, K of parent 2, ..., K): p(value | parents); rows sum to 1


class BayesianNetwork:
    """A network of discrete variables; `model()` takes no data, and every site is a latent until conditioned on.

    Args:
        variables: name -> Variable.

    Raises:
        ValueError: a table that does not fit its parents or whose rows do not sum to 1, an unknown parent, a cycle.
    """

    def __init__(self, variables: dict[str, Variable]):
        self.variables = variables
        for name, variable in variables.items():
            unknown = [parent for parent in variable.parents if parent not in variables]
            if unknown:
                raise ValueError(f"variable '{name}' has the parent '{unknown[0]}', which the network does not define")
            shape = tuple(len(variables[parent].states) for parent in variable.parents) + (len(variable.states),)
            if tuple(variable.table.shape) != shape:
                raise ValueError(f"the table of '{name}' has shape {tuple(variable.table.shape)}, not {shape}")
            off = float((variable.table.sum(-1) - 1).abs().max())
            if off > 1e-6 or bool((variable.table < 0).any()):
                raise ValueError(f"a row of the table of '{name}' is no distribution: its sum is off 1 by {off:.2g}")
        try:
            self.order = tuple(TopologicalSorter({k: v.parents for k, v in variables.items()}).static_order())
        except CycleError as error:
            raise ValueError(f"the network has a cycle: {' -> '.join(error.args[1])}") from error

    @classmethod
    def from_bif(cls, path: str | Path) -> "BayesianNetwork":
        """Read a BIF file, gzipped where its name ends in .gz.

        Raises:
            ValueError: what is not understood, with the variable's name.
        """
        path = Path(path)
        data = path.read_bytes()
        return cls(_parse((gzip.decompress(data) if path.suffix == ".gz" else data).decode()))

    def model(self) -> dict[str, Tensor]:
        """Draw every variable in the order of the graph; returns the index of each one's state, by name."""
        values: dict[str, Tensor] = {}
        for name in self.order:
            variable = self.variables[name]
            # advanced indexing broadcasts: parents may carry any leading dims
            table = variable.table[tuple(values[p] for p in variable.parents)] if variable.parents else variable.table
            values[name] = pyro.sample(name, dist.Categorical(probs=table))
        return values

    def index(self, name: str, state: str) -> Tensor:
        """The value that stands for a state: pyro.condition(net.model, {"asia": net.index("asia", "yes")}).

        Raises:
            ValueError: an unknown variable or state.
        """
        if name not in self.variables:
            raise ValueError(f"the network has no variable '{name}': choose among {tuple(self.variables)}")
        if state not in self.variables[name].states:
            raise ValueError(f"'{name}' has no state '{state}': choose among {self.variables[name].states}")
        return torch.tensor(self.variables[name].states.index(state))


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _parse(text: str) -> dict[str, Variable]:
    """Variables of a BIF text, in the file's order."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/|property[^;]*;", "", text, flags=re.DOTALL)
    states: dict[str, tuple[str, ...]] = {}
    for name, count, listed in re.findall(
        r"variable\s+(\S+)\s*\{\s*type\s+discrete\s*\[\s*(\d+)\s*\]\s*\{([^}]*)\}\s*;\s*\}", text
    ):
        states[name] = tuple(_words(listed))
        if len(states[name]) != int(count):
            raise ValueError(f"variable '{name}' declares {count} states and lists {len(states[name])}")
    blocks = re.findall(r"probability\s*\(([^)]*)\)\s*\{([^}]*)\}", text)
    variables = {}
    for head, body in blocks:
        name, _, given = head.partition("|")
        name, parents = name.strip(), tuple(_words(given))
        for each in (name, *parents):
            if each not in states:
                raise ValueError(f"the table of '{name}' speaks of '{each}', which the file does not declare")
        variables[name] = Variable(states[name], parents, _table(name, parents, states, body))
    missing = [name for name in states if name not in variables]
    if missing or not states:
        raise ValueError(f"the file has no probability table for {missing}" if missing else "the file has no variable")
    return {name: variables[name] for name in states}


def _table(name: str, parents: tuple[str, ...], states: dict[str, tuple[str, ...]], body: str) -> Tensor:
    rows: dict[tuple[str, ...], list[float]] = {}
    default = None
    for line in filter(None, (line.strip() for line in body.split(";"))):
        row = re.fullmatch(r"\(([^)]*)\)(.*)", line, re.DOTALL)
        word = re.match(r"table|default", line)
        numbers = [float(number) for number in re.findall(_NUMBER, row[2] if row else line)]
        if len(numbers) != len(states[name]) or not (row or word) or (word and word[0] == "table" and parents):
            raise ValueError(
                f"'{' '.join(line.split())}' is no row of the table of '{name}': write "
                f"{'(states of ' + ', '.join(parents) + ')' if parents else 'table'} and {len(states[name])} numbers"
            )
        if not all(number >= 0 for number in numbers) or not isclose(sum(numbers), 1.0, abs_tol=1e-3):
            raise ValueError(f"a row of the table of '{name}' is no distribution: {numbers}")
        if row:
            rows[tuple(_words(row[1]))] = numbers
        elif word and word[0] == "table":
            rows[()] = numbers
        else:
            default = numbers
    wanted = list(product(*(states[parent] for parent in parents)))
    unknown = [key for key in rows if key not in wanted]
    lacking = [key for key in wanted if key not in rows]
    if unknown or (lacking and default is None):
        raise ValueError(f"the table of '{name}' {f'has an unknown row {unknown[0]}' if unknown else 'lacks row'} "
                         f"{'' if unknown else lacking[0]}".rstrip())  # fmt: skip
    full = torch.tensor([rows.get(key, default) for key in wanted], dtype=torch.float64)
    full = full / full.sum(-1, keepdim=True)  # files round to a few digits
    return full.reshape(*(len(states[parent]) for parent in parents), len(states[name]))


def _words(text: str) -> list[str]:
    return [word.strip().strip('"') for word in text.split(",") if word.strip()]
