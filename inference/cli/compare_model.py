"""`ppl compare` of a classic model by name, of a user's own program, or of a Bayesian network in a BIF file."""

from collections.abc import Collection
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from inference.cli.bars import Bars
from inference.errors import RunError

__all__ = ["compared", "is_model", "unknown"]

_MOST_JOINT = 2**10  # states of a block


class Target(NamedTuple):
    """A model with its data, ready for the engines."""

    model: Any  # a Pyro program, or a Pair
    data: tuple[Any, ...]
    title: str
    notes: dict[str, str]
    small: bool = False  # Pyro's own NUTS takes it in a minute
    blocks: tuple[tuple[str, ...], ...] = ()  # discrete sites that single updates could not move


def is_model(target: str) -> bool:
    """Whether a word names a model: a classic one, FILE.py:NAME, or a BIF file."""
    from inference.cli.own import is_program
    from ppl_models import classic

    return target in classic.EXAMPLES or is_program(target) or _is_bif(target)


def unknown(target: str) -> str:
    """What to say of a word that names nothing."""
    from difflib import get_close_matches

    from ppl_models import classic

    names = ["sbn", *classic.EXAMPLES]
    close = get_close_matches(target, names, 1)
    meant = (
        f"did you mean '{close[0]}'?" if close else f"name a run's folder, FILE.py:MODEL, or one of {', '.join(names)}"
    )
    return f"there is no model and no folder '{target}': {meant}"


def compared(
    target: str, data: str | None, guide: str | None, methods: str | None, budget: float | None, seed: int
) -> Any:  # fmt: skip
    """Run the methods on a model and judge them; a Comparison."""
    from inference.cli import engines as known
    from inference.cli.own import is_program
    from inference.comparison.compare import compare

    if budget is not None and not 0 < budget < float("inf"):
        raise RunError(f"--budget is above 0 seconds, got {budget}: pass for example --budget 10")
    if guide is not None and not is_program(target):
        raise RunError(f"--guide is of a program of your own, FILE.py:NAME, and {target} has none: leave it out")
    found = _own(target, data, guide, seed) if is_program(target) else _bif(target, data) if _is_bif(target) else None
    found = _classic(target, data) if found is None else found
    kind = replace(known.kind_of(found.model, found.data), blocks=found.blocks)
    names = known.settled(methods, kind, found.small)
    model = _marked(found.model) if kind.continuous and kind.discrete and kind.countable else found.model
    reference, judge = known.reference_of(names, found.model, found.data, kind)
    made = known.engines(names, kind, known.SECONDS if budget is None else budget)
    made[reference] = judge
    with Bars() as bars:
        told = bars.counter("engines", made)
        result = compare(model, found.data, made, reference=reference, seed=seed, on_engine=told)
    return result._replace(title=found.title, notes=found.notes)


def _classic(name: str, data: str | None) -> Target:
    from inference.cli.own import arguments, read_data, settle
    from ppl_models import classic

    example = classic.EXAMPLES[name]
    values = example.data()
    if data is not None:
        values = settle(example.model, arguments(example.model, read_data(Path(data)), name), name)
    words = example.words if data is None else f"{name} on {data}"
    title = f"{words[0].upper()}{words[1:]}: which engine to trust"
    return Target(example.model, values, title, {"model": name, **_source(data)}, small=name not in ("gmm", "hmm"))


def _own(target: str, data: str | None, guide: str | None, seed: int) -> Target:
    import torch

    from inference.cli.own import arguments, load_object, probe, read_data, settle
    from inference.pair import Pair

    if data is None:
        raise RunError(f"{target} needs data: add --data with a .json, .csv or .npz file of its arguments by name")
    table = read_data(Path(data))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = load_object(target)
        if isinstance(made, type):
            made = made(**arguments(made, table, target))
    if not callable(made) and not hasattr(made, "model"):
        raise RunError(f"{target} is a {type(made).__name__}: name a function, or a class with a method `model`")
    program = made.model if callable(getattr(made, "model", None)) else made
    values = settle(program, arguments(program, table, target), target)
    if guide is not None:
        made = Pair(program, load_object(guide), whole=True)
    elif callable(getattr(made, "guide", None)):
        made = Pair(program, made.guide, made, whole=True)
    else:
        made = program
    if isinstance(made, Pair):
        with made.scope():
            probe(made.guide, values, guide or f"the guide of {target}")
    name = target.rpartition(":")[2]
    notes = {"model": target, **_source(data), **({} if guide is None else {"guide": guide})}
    return Target(made, values, f"{name} on {Path(data).name}: which engine to trust", notes)


def _bif(target: str, data: str | None) -> Target:
    """A network given evidence, a JSON object of states by variable."""
    import json

    import pyro

    from ppl_models import BayesianNetwork

    if not Path(target).is_file():
        raise RunError(f"there is no file {target}: write the path of a BIF file")
    network = BayesianNetwork.from_bif(target)
    evidence: dict[str, str] = {}
    if data is not None:
        try:
            evidence = json.loads(Path(data).read_text())
        except ValueError as error:
            raise RunError(f'{data} is no JSON ({error}): write the evidence as {{"smoke": "yes"}}') from error
        if not isinstance(evidence, dict):
            raise RunError(f'{data} is no JSON object: write the evidence as {{"smoke": "yes"}}')
    seen = {name: network.index(name, str(state)) for name, state in evidence.items()}
    model = pyro.condition(network.model, data=seen) if seen else network.model
    given = ", ".join(f"{name} = {state}" for name, state in evidence.items()) or "none"
    name = Path(target).name.split(".")[0]
    title = f"Bayesian network {name}: which engine to trust"
    return Target(model, (), title, {"model": target, "evidence": given}, blocks=_blocks(network, seen))


def _blocks(network: Any, seen: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Latent variables that probabilities of 0 tie together, each with its parents, where their states are few."""
    blocks: list[set[str]] = []
    for name, variable in network.variables.items():
        if bool((variable.table == 0).any()):
            tied = {name, *variable.parents}
            tied.update(*(block for block in blocks if block & tied))
            blocks = [block for block in blocks if not block & tied] + [tied]
    named = [tuple(name for name in network.order if name in block and name not in seen) for block in blocks]
    states = [prod(len(network.variables[name].states) for name in block) for block in named]
    return tuple(block for block, k in zip(named, states, strict=True) if len(block) > 1 and k <= _MOST_JOINT)


def _is_bif(target: str) -> bool:
    return target.lower().endswith((".bif", ".bif.gz"))


def _source(data: str | None) -> dict[str, str]:
    return {} if data is None else {"file": data}


def _marked(model: Any) -> Any:
    """The model with its discrete latents marked to be summed out; who draws them takes no notice of the mark."""
    from pyro.infer import config_enumerate

    from inference.pair import Pair

    if isinstance(model, Pair):
        return Pair(config_enumerate(model.model), model.guide, model.owner, whole=True)
    return config_enumerate(model)
