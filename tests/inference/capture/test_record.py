"""A recorded program against the program itself: same random numbers, same values, whatever it reads or writes."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference import IWAE, TraceELBO
from inference.capture import record
from inference.errors import UnsupportedModelError
from inference.pair import as_pair
from ppl_models import VAE, SigmoidBeliefNetwork

X = torch.bernoulli(torch.full((5, 12), 0.5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("build", "objective"),
    [
        (lambda: VAE(12, z_dim=3, hidden=(6,)), TraceELBO()),
        (lambda: VAE(12, z_dim=3, hidden=(6,), input_dropout=0.3), IWAE(3)),
        (lambda: VAE(12, z_dim=3, hidden=(6,)), IWAE(3, "dreg")),
        (lambda: SigmoidBeliefNetwork((12, 4)), IWAE(3)),
    ],
)
def test_a_bound_and_its_gradient(build, objective):
    pair = as_pair(build())
    parameters = list(pair.named_parameters().values())
    objective(pair, X)

    def joint(x):
        estimate = objective(pair, x)
        return {"loss": estimate.loss.detach(), "gradient": torch.autograd.grad(estimate.loss, parameters)}

    recorded = record(joint, X)
    for _ in range(2):  # the second run draws other numbers
        before = torch.get_rng_state()
        ours = recorded(X)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        theirs = joint(X)
        assert torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        with torch.no_grad():
            parameters[0].add_(0.1)  # captured, not copied


def draws(p, c):
    """Draws of all kinds: of fixed arguments, of a shape alone, of computed values."""
    return [
        dist.Normal(torch.zeros(3), 2.0).rsample(), dist.Exponential(c).rsample(), dist.Bernoulli(p).sample(),
        torch.randn_like(p), torch.nn.functional.dropout(p, 0.3), dist.Categorical(p).sample(), torch.rand(2),
        dist.Gamma(c, 1.0).sample(), dist.Laplace(p, 1.0).rsample(),
    ]  # fmt: skip


def test_draws_are_inputs_up_to_the_first_on_computed_values():
    args = torch.rand(40), torch.rand(6) + 1
    recorded = record(draws, *args)
    assert len(recorded.draw()) == 5 and recorded.draws_inside
    before = torch.get_rng_state()
    ours = recorded(*args)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.testing.assert_close(ours, draws(*args), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_pure_function_of_its_noise():
    recorded = record(lambda x: x + torch.randn(5, 12), X)
    noise = recorded.draw()
    assert torch.equal(recorded.pure((X,), recorded.captured, noise), X + noise[0])
    assert torch.equal(recorded.pure((X + 1,), recorded.captured, noise), X + 1 + noise[0])


def test_what_is_read_from_outside_is_an_input_and_what_is_written_is_written():
    total, rate = torch.zeros(12), torch.tensor(0.5)

    def observe(x):
        total.add_(rate * x.sum(0))
        return total.square()

    recorded = record(observe, X)
    assert [t is u for t, u in zip(recorded.captured, (rate, total), strict=True)] == [True, True]
    total.zero_()
    assert torch.equal(recorded(X), (0.5 * X.sum(0)).square()) and torch.equal(total, 0.5 * X.sum(0))
    rate.fill_(1.0)
    recorded(X)
    assert torch.equal(total, 1.5 * X.sum(0))


def test_structure_and_constants_are_kept():
    recorded = record(lambda x, how: {"b": x * 2, "a": (x, how, None)}, X, "twice")
    out = recorded(X, "twice")
    assert list(out) == ["b", "a"] and out["a"][1:] == ("twice", None) and torch.equal(out["b"], X * 2)
    with pytest.raises(ValueError, match="record it again"):
        recorded(X, "thrice")


def test_nodes_know_their_line():
    def model(x):
        return torch.sin(x)

    nodes = record(model, X).graph.graph.nodes
    (line,) = [node.meta["line"] for node in nodes if "sin" in str(node.target)]
    assert "test_record.py" in line and line.endswith("in model: return torch.sin(x)")


def test_recording_leaves_the_callers_rng():
    before = torch.get_rng_state()
    record(lambda x: x + torch.randn(5, 12), X)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_program_that_reads_a_value_is_refused_by_its_line():
    def model(x):
        z = pyro.sample("z", dist.Normal(x, 1.0))
        if z.sum() > 0:
            z = z + 1
        return z

    with pytest.raises(UnsupportedModelError, match=r"test_record\.py:\d+ in model: if z\.sum\(\) > 0:"):
        record(model, X)
