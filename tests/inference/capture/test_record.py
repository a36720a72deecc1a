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


def test_a_program_that_reads_a_value_is_refused_by_its_line():
    def model(x):
        z = pyro.sample("z", dist.Normal(x, 1.0))
        if z.sum() > 0:
            z = z + 1
        return z

    with pytest.raises(UnsupportedModelError, match=r"test_record\.py:\d+ in model: if z\.sum\(\) > 0:"):
        record(model, X)
