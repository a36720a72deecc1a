"""NVIL: what its baselines may see, what they are worth, and that a run with them can be stopped and taken up."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from inference import IWAE, NVIL, SVI, Saving, TraceELBO, fit
from inference.errors import CheckpointError, RunError, ShapeError, UnsupportedModelError
from inference.pair import as_pair
from inference.training.checkpoint import load
from inference.training.run import CHECKPOINT
from ppl_models import VAE, SigmoidBeliefNetwork, data
from tests.inference.oracles import DeepSBN

X = torch.tensor([1.0, 0.0, 1.0])


def stepper(seed: int = 0, **options) -> SVI:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sbn = SigmoidBeliefNetwork((64, 8))
    return SVI(sbn, NVIL(hidden=5, **options), lambda p: Adam(p, 1e-2))


def batches() -> data.Batches:
    return data.Batches(data.digits()[0].x[:150], 50, binarize=True)


class TestRuns:
    def test_a_stopped_run_goes_on_bit_for_bit(self, tmp_path):
        whole, first, second = stepper(), stepper(), stepper(seed=9)
        fit(whole, batches(), 4, seed=3, saving=Saving(tmp_path / "whole"))
        fit(first, batches(), 2, seed=3, saving=Saving(tmp_path / "half"))
        fit(second, batches(), 4, seed=3, saving=Saving(tmp_path / "half"), resume=True)
        (tensors, _), (tensors2, _) = load(tmp_path / "whole" / CHECKPOINT), load(tmp_path / "half" / CHECKPOINT)
        names = {name for name in tensors if name.startswith("objective.")}
        assert {"objective.mean", "objective.variance", "objective.baseline.1.weight"} <= names
        assert tensors.keys() == tensors2.keys()
        assert all(torch.equal(tensors[name], tensors2[name]) for name in tensors)

    def test_the_optimiser_trains_the_baseline(self):
        svi, x = stepper(), next(iter(batches().epoch(0, 0)))[0]
        svi.init(x)
        before = {name: value.clone() for name, value in svi.state()[0].items() if name.startswith("objective.")}
        for _ in range(2):
            svi.step(x)
        after = svi.state()[0]
        assert all(not torch.equal(value, after[name]) for name, value in before.items())

    def test_an_optimiser_without_the_baseline_is_refused(self):
        sbn = SigmoidBeliefNetwork((64, 8))
        svi = SVI(sbn, NVIL(), SGD(sbn.parameters(), 0.1))
        with pytest.raises(RunError, match=r"'objective.baseline.1.weight', which the objective learns: pass a func"):
            svi.step(torch.zeros(5, 64))
        net = nn.Linear(64, 1)
        SVI(sbn, NVIL(net), SGD([*sbn.parameters(), *net.parameters()], 0.1)).step(torch.zeros(5, 64))
        SVI(sbn, NVIL(hidden=0), SGD(sbn.parameters(), 0.1)).step(torch.zeros(5, 64))

    @pytest.mark.parametrize("other", [TraceELBO(), NVIL(hidden=7)])
    def test_a_checkpoint_of_another_objective_is_refused(self, other):
        svi, x = stepper(), torch.zeros(5, 64)
        theirs = SVI(SigmoidBeliefNetwork((64, 8)), other, lambda p: Adam(p, 1e-2))
        theirs.step(x)
        svi.init(x)
        before = {name: value.clone() for name, value in svi.state()[0].items()}
        with pytest.raises(CheckpointError, match="another objective: .* take the run's own objective"):
            svi.load_state(*theirs.state())
        assert all(torch.equal(value, svi.state()[0][name]) for name, value in before.items())

    def test_it_may_also_come_first(self):
        sbn, x = SigmoidBeliefNetwork((64, 8)), torch.zeros(5, 64)
        svi = SVI(sbn, IWAE(2), lambda p: Adam(p, 1e-2), before=[(NVIL(hidden=3), 2)])
        for _ in range(4):
            svi.step(x)
        again = SVI(sbn, IWAE(2), lambda p: Adam(p, 1e-2), before=[(NVIL(hidden=3), 2)])
        again.init(x)
        again.load_state(*svi.state())
        assert torch.equal(again.state()[0]["before0.mean"], svi.state()[0]["before0.mean"])

    def test_making_the_baseline_leaves_the_callers_rng(self):
        state = torch.get_rng_state()
        stepper().init(torch.zeros(5, 64))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.usefixtures("double")
class TestWhatTheBaselineSees:
    def gradient(self, objective: NVIL, pair: DeepSBN, x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        pair.zero_grad()
        objective(pair, x).loss.backward()
        assert pair.phi.grad is not None
        return pair.phi.grad.clone()

    def test_the_moments_of_a_step_come_from_steps_before(self):
        """With decay 0 and one row, a mean that saw its own draw would be the signal itself, and the gradient 0."""
        pair, x = DeepSBN(1), X.double().expand(1, 3)
        objective = NVIL(hidden=0, decay=0.0)
        objective.init(pair, x)
        mean = objective.mean.clone()
        frozen = self.gradient(objective.eval(), pair, x)
        assert torch.equal(objective.mean, mean)
        moving = self.gradient(objective.train(), pair, x)
        torch.testing.assert_close(moving, frozen, rtol=0, atol=0)
        assert not torch.equal(objective.mean, mean)

    def test_the_baseline_descends_the_square_of_the_signal_alone(self):
        """For C = b, a constant: the derivative of the loss is minus the mean of the centred, divided signal."""
        pair, x = DeepSBN(6), X.double().expand(6, 3)
        net = nn.Linear(3, 1)
        nn.init.zeros_(net.weight)
        objective = NVIL(net)
        objective.init(pair, x)
        objective.variance.fill_(4.0)
        mean = objective.mean.clone()
        e = objective(pair, x)
        e.loss.backward()
        centred = e.bound - net.bias.detach() - mean
        torch.testing.assert_close(net.bias.grad, -centred / 2.0, rtol=1e-10, atol=0)

    def test_the_first_moments_come_from_other_draws_than_the_first_step(self):
        pair, x = DeepSBN(50), X.double().expand(50, 3)
        objective = NVIL(hidden=0)
        torch.manual_seed(5)
        objective.init(pair, x)
        assert objective(pair, x).bound.item() != pytest.approx(objective.mean.item(), abs=1e-6)

    def test_a_bound_that_is_not_finite_leaves_the_moments(self):
        sbn, x = DeepSBN(4), X.double().expand(4, 3)
        objective, pair = NVIL(hidden=0), as_pair(sbn)
        objective.init(pair, x)
        mean, variance = objective.mean.clone(), objective.variance.clone()
        with torch.no_grad():
            sbn.theta.fill_(torch.nan)
        objective(pair, x)
        assert torch.equal(objective.mean, mean) and torch.equal(objective.variance, variance)

    def test_an_input_dependent_baseline_takes_out_what_x_explains(self):
        """Rows of two kinds: c cannot know which is which."""
        n = 1000
        pair = DeepSBN(n)
        x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).repeat(n // 2, 1)
        with torch.no_grad():
            pair.theta[:, -3:] = torch.tensor([9.0, -9.0, 9.0])
        variances = []
        for hidden in (0, 10):
            objective = NVIL(hidden=hidden, normalise=False)
            objective.init(pair, x)
            if hidden:
                optimizer = Adam(objective.parameters(), 0.05)
                for _ in range(100):
                    optimizer.zero_grad()
                    objective(pair, x).loss.backward()
                    optimizer.step()
            variances.append(self.gradient(objective.eval(), pair, x).var(0).mean())
        assert variances[1] < 0.1 * variances[0]


class TestBadInput:
    def test_sizes(self):
        for options in ({"num_particles": 0}, {"hidden": -1}, {"decay": 1.0}):
            with pytest.raises(ShapeError, match="NVIL needs num_particles >= 1"):
                NVIL(**options)

    def test_a_guide_without_discrete_sites(self):
        with pytest.raises(UnsupportedModelError, match=r"every site here is reparameterised: use TraceELBO\(\)"):
            NVIL()(VAE(4, 2, (3,)), torch.rand(5, 4).round())

    def test_an_enumerated_site(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

        with pytest.raises(UnsupportedModelError, match=r"use TraceEnumELBO\(\)"):
            NVIL()((model, lambda x: None), torch.zeros(3))

    def test_a_latent_that_all_rows_share_has_no_baseline_of_a_row(self):
        def model(x):
            h = pyro.sample("h", dist.Bernoulli(0.5))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(h, 1.0), obs=x)

        def guide(x):
            pyro.sample("h", dist.Bernoulli(logits=pyro.param("a", torch.tensor(0.3))))

        x = torch.zeros(6)
        with pytest.raises(UnsupportedModelError, match=r"shape \(6, 1\) for 1 independent units .*NVIL\(hidden=0\)"):
            NVIL()((model, guide), x)
        assert NVIL(hidden=0)((model, guide), x).loss.requires_grad

    def test_a_batch_that_starts_with_no_tensor(self):
        def model(n, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(pyro.sample("h", dist.Bernoulli(0.5)), 1.0), obs=x)

        def guide(n, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h", dist.Bernoulli(torch.full((len(x),), 0.5)))

        with pytest.raises(UnsupportedModelError, match=r"first argument, which is a int: pass a tensor"):
            NVIL()((model, guide), 3, torch.zeros(3))
