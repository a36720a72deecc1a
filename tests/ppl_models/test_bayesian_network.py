"""BayesianNetwork: networks from BIF text, against enumeration and published marginals."""

import gzip
import itertools
import os
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine

from ppl_models.bayesian_network import BayesianNetwork, Variable

REAL = Path(os.environ["PPL_DATA"]) / "bif" if "PPL_DATA" in os.environ else None
needs_bif = pytest.mark.skipif(REAL is None or not REAL.is_dir(), reason="needs bif/ in the folder named by PPL_DATA")
GRASS = """
network grass { property version 1; }  // a comment
variable wet { type discrete [ 3 ] { dry, damp, wet }; }
variable rain { type discrete [ 2 ] { "yes", "no" }; }
/* children may come before
   their parents */
probability ( wet | rain ) {
  (yes) 0.1, 0.3, 0.6;
  default 0.8, 0.15, 5e-2;
}
probability ( rain ) { table .2, .8; }
"""


def from_text(tmp_path, text, name="net.bif"):
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return BayesianNetwork.from_bif(tmp_path / name)


def marginals(net, evidence):
    """p(variable = its first state | evidence) and log p(evidence), summed over every joint state in one run."""
    sizes = [range(len(v.states)) for v in net.variables.values()]
    grid = torch.tensor(list(itertools.product(*sizes)))
    values = {name: grid[:, i] for i, name in enumerate(net.variables)}
    trace = poutine.trace(poutine.condition(net.model, values)).get_trace()
    trace.compute_log_prob()
    p = sum(trace.nodes[name]["log_prob"].expand(len(grid)) for name in net.variables).exp()
    for name, state in evidence.items():
        p = p * (values[name] == net.index(name, state))
    return {name: float((p * (v == 0)).sum() / p.sum()) for name, v in values.items()}, float(p.sum())


@pytest.mark.parametrize("name", ["net.bif", "net.bif.gz"])
def test_a_small_file(tmp_path, name):
    net = from_text(tmp_path, GRASS, name)
    assert net.order == ("rain", "wet") and list(net.variables) == ["wet", "rain"]
    assert net.variables["wet"].states == ("dry", "damp", "wet") and net.variables["wet"].parents == ("rain",)
    found, total = marginals(net, {})
    assert abs(found["wet"] - (0.2 * 0.1 + 0.8 * 0.8)) < 1e-12 and abs(total - 1) < 1e-12
    found, total = marginals(net, {"wet": "wet"})
    assert abs(found["rain"] - 0.12 / 0.16) < 1e-12 and abs(total - 0.16) < 1e-12


def test_it_samples_and_takes_evidence(tmp_path):
    net = from_text(tmp_path, GRASS)
    with pyro.plate("many", 20000):
        drawn = net.model()
    assert abs(float((drawn["wet"] == 0).double().mean()) - 0.66) < 0.015
    trace = poutine.trace(pyro.condition(net.model, {"wet": net.index("wet", "damp")})).get_trace()
    assert trace.nodes["wet"]["is_observed"] and int(trace.nodes["wet"]["value"]) == 1


@needs_bif
@pytest.mark.parametrize(
    "evidence, total, exact",
    [
        ({}, 1.0, {
            "tub": 0.0104, "lung": 0.055, "bronc": 0.45, "either": 0.064828, "xray": 0.11029, "dysp": 0.435971,
        }),
        ({"asia": "yes", "dysp": "yes"}, 0.00450138, {
            "tub": 0.087751, "smoke": 0.62592, "lung": 0.099525, "bronc": 0.811402, "either": 0.1823, "xray": 0.219539,
        }),
    ],
)  # fmt: skip
def test_asia(evidence, total, exact):
    """The chest clinic [lauritzen1988]."""
    found, p = marginals(BayesianNetwork.from_bif(REAL / "asia.bif.gz"), evidence)
    assert abs(p - total) < 1e-6
    for name, value in exact.items():
        assert abs(found[name] - value) < 1e-6, name


@needs_bif
@pytest.mark.parametrize("name, size", [("cancer", 5), ("earthquake", 5)])
def test_other_files(name, size):
    net = BayesianNetwork.from_bif(REAL / f"{name}.bif.gz")
    assert len(net.variables) == size and abs(marginals(net, {})[1] - 1) < 1e-12


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[ 3 ]", "[ 4 ]", "'wet' declares 4 states and lists 3"),
        ("0.1, 0.3, 0.6;", "0.1, 0.3;", "is no row of the table of 'wet'"),
        ("0.1, 0.3, 0.6;", "0.1, 0.3, 0.7;", "'wet' is no distribution"),
        ("(yes) 0.1", "(maybe) 0.1", "unknown row"),
        ("default 0.8, 0.15, 5e-2;", "", r"lacks row \('no',\)"),
        ("default 0.8", "table 0.8", "is no row of the table of 'wet'"),
        ("( wet | rain )", "( wet | snow )", "speaks of 'snow'"),
        ("probability ( rain ) { table .2, .8; }", "", r"no probability table for \['rain'\]"),
        ("variable", "word", "no variable|does not declare"),
    ],
)
def test_what_a_file_may_get_wrong(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        from_text(tmp_path, GRASS.replace(old, new))


def test_what_tables_may_get_wrong():
    coin, copy = torch.tensor([0.5, 0.5]), torch.eye(2)
    a = Variable(("t", "f"), (), coin)
    with pytest.raises(ValueError, match="parent 'c', which the network does not define"):
        BayesianNetwork({"a": a, "b": Variable(("t", "f"), ("c",), copy)})
    with pytest.raises(ValueError, match="has a cycle"):
        BayesianNetwork({n: Variable(("t", "f"), (p,), copy) for n, p in (("a", "b"), ("b", "a"))})
    with pytest.raises(ValueError, match=r"shape \(2, 2\), not \(2,\)"):
        BayesianNetwork({"a": Variable(("t", "f"), (), copy)})
    with pytest.raises(ValueError, match="off 1 by 0.5"):
        BayesianNetwork({"a": Variable(("t", "f"), (), coin * 1.5)})
    with pytest.raises(ValueError, match="no state 'maybe'"):
        BayesianNetwork({"a": a}).index("a", "maybe")
    with pytest.raises(ValueError, match="no variable 'b'"):
        BayesianNetwork({"a": a}).index("b", "t")
