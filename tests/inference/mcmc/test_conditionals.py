"""Every update, as a matrix over all states, leaves the exact posterior as it is, and so does the sweep."""

import pytest
import torch

from inference.mcmc.gibbs import init
from inference.mcmc.plates import same
from tests.inference.mcmc import models
from tests.inference.mcmc.models import chain, transition

MIXES = "mixes elements of plate"
ALONE = "does not run with many states at once"
CASES = {
    "sbn": (models.sbn, (), None, {"h2": 1, "h1": 1}),
    "mixture": (models.mixture, (), None, {"g": 0, "z": 1}),
    "nested": (models.nested, (), None, {"c": 0, "g": 1, "z": 2}),
    "supports": (models.supports, (), None, {"kind": 0, "n": 1, "loose": 0}),
    "ranged": (models.ranged, (), None, {"n": 1}),
    "undefined": (models.undefined, (), None, {"z": 0}),
    "mixing": (models.mixing, (), MIXES, {"z": 0}),
    "grouped": (models.grouped, (), MIXES, {"g": 0}),
    "half_mixing": (models.half_mixing, (), MIXES, {"z": 1}),
    "joined": (models.joined, (), None, {"a": 1, "b": 1}),
    "masked": (models.masked, (), None, {"h": 1, "x0_unobserved": 1, "x1_unobserved": 1}),
    "sbn block": (models.sbn, [("h2", "h1")], None, {"h2": 1}),
    "mixture block": (models.mixture, [("g", "z")], None, {"g": 0}),
    "nested block": (models.nested, [("g", "z")], None, {"c": 0, "g": 1}),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    model, blocks, warning, plates = CASES[request.param]
    if warning:
        with pytest.warns(UserWarning, match=warning):
            found = chain(model, blocks=blocks)
    else:
        found = chain(model, blocks=blocks)
    return *found, plates


def matrices(target, values):
    return [transition(target.joint, g, update, values) for g in target.groups for update in g.updates]


def test_updates_and_sweep_leave_the_posterior_as_it_is(case):
    target, values, pi, _ = case
    sweep = torch.eye(len(pi)).double()
    for t in matrices(target, values):
        assert (t.sum(1) - 1).abs().max() < 1e-12
        assert (pi @ t - pi).abs().max() <= 1e-12
        flow = pi.unsqueeze(1) * t
        assert (flow - flow.t()).abs().max() <= 1e-12  # detailed balance
        sweep = sweep @ t
    assert (pi @ sweep - pi).abs().max() <= 1e-12
    assert (torch.linalg.matrix_power(sweep, 2**14) - pi).abs().max() < 1e-9  # it is the only such distribution


def test_plates_are_drawn_at_once_where_they_are_independent(case):
    target, *_, plates = case
    assert {group.names[0]: len(group.plates) for group in target.groups} == plates


def test_only_the_terms_that_change_are_computed(case):
    target, *_ = case
    for group in target.groups:
        assert set(group.names) <= set(group.affected)
    if target.groups[0].names == ("h2",):
        assert target.groups[0].affected == ("h2", "h1") and target.groups[1].affected == ("h1", "x")


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_wrong_conditional_does_not(monkeypatch, shift):
    target, values, pi = chain(models.sbn)
    right = models.log_conditional
    monkeypatch.setattr(models, "log_conditional", lambda *args: right(*args) * (1 + shift))
    assert all((pi @ t - pi).abs().max() > 1e-4 for t in matrices(target, values))


@pytest.mark.parametrize("model", [models.alone])
def test_a_program_for_one_state_at_a_time_is_run_so(model):
    with pytest.warns(UserWarning) as caught:
        target, values, pi = chain(model)
    assert ALONE in str(caught[0].message) and MIXES in str(caught[1].message)
    assert target.joint.mode == "loop"
    for t in matrices(target, values):
        assert (pi @ t - pi).abs().max() <= 1e-12


def test_the_ways_to_run_a_program():
    assert init(models.sbn).target.joint.mode == "broadcast"
    assert init(models.joined, chains=3).target.joint.mode == "expand"


def test_what_counts_as_the_same_term():
    low, one = torch.tensor(-torch.inf), torch.tensor(1.0)
    assert same(low, low) and same(one, one + 1e-6) and same(one * torch.nan, one * torch.nan)
    assert not same(low, one) and not same(one, low) and not same(one, one + 1e-3) and not same(one, one * torch.nan)
