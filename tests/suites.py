"""The contract of a model/guide pair, as tests that every model inherits by saying how to make one."""

import pyro
import torch
from pyro import poutine

from inference import IWAE, SVI, TraceELBO, log_weights
from inference.pair import as_pair, is_latent, is_stochastic


class ModelGuideSuite:
    """Subclass with `make() -> pair`, `batch(n) -> tuple`, `latents`: names; the rest is inherited.

    Set `gradients = False` for a guide with discrete sites, whose single-particle checks do not apply.
    """

    latents: frozenset[str] = frozenset({"z"})
    observed: frozenset[str] = frozenset({"x"})

    def make(self):
        raise NotImplementedError

    def batch(self, n):
        raise NotImplementedError

    def traces(self, n=5):
        pair = self.make()
        with torch.no_grad():
            guide = poutine.trace(pair.guide).get_trace(*self.batch(n))
            model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*self.batch(n))
        return model, guide

    def test_sites_and_plate(self):
        model, guide = self.traces()
        sites = {name: site for name, site in model.nodes.items() if is_stochastic(site)}
        assert {name for name, site in sites.items() if is_latent(site)} == set(self.latents)
        assert {name for name, site in sites.items() if site["is_observed"]} == set(self.observed)
        assert {name for name, site in guide.nodes.items() if is_latent(site)} == set(self.latents)
        for site in sites.values():
            frames = {f.name: f.dim for f in site["cond_indep_stack"]}
            assert frames["data"] == -1

    def test_one_log_probability_a_datum(self):
        model, guide = self.traces(5)
        for trace in (model, guide):
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                if is_stochastic(site):
                    assert site["log_prob"].shape == (5,), name

    def test_weights_have_particles_before_data(self):
        pair, batch = self.make(), self.batch(5)
        for k in (1, 3):
            assert log_weights(pair, *batch, k=k).shape == (k, 5)

    def test_each_weight_sees_its_own_datum_alone(self):
        """Changing one row leaves the weights of the others as they were."""
        pair, batch = self.make(), self.batch(5)
        other = [part.clone() for part in batch]
        other[0][2] = 1.0 - other[0][2]
        with torch.no_grad():
            torch.manual_seed(1)
            first = log_weights(pair, *batch, k=4)
            torch.manual_seed(1)
            second = log_weights(pair, *other, k=4)
        changed = ~torch.isclose(first, second, rtol=1e-5, atol=1e-4).all(0)
        assert changed.tolist() == [False, False, True, False, False]

    def test_every_parameter_gets_a_gradient(self):
        for objective in (TraceELBO(), IWAE(3)):
            pair = self.make()
            objective(pair, *self.batch(5)).loss.backward()
            missing = [n for n, p in as_pair(pair).named_parameters().items() if p.grad is None]
            assert not missing

    def test_a_step_learns_and_touches_no_global_store(self):
        pair = self.make()
        svi = SVI(pair, TraceELBO(), lambda p: torch.optim.Adam(p, 1e-3))
        before = [p.detach().clone() for p in as_pair(pair).named_parameters().values()]
        info = svi.step(*self.batch(5))
        after = list(as_pair(pair).named_parameters().values())
        assert torch.isfinite(info.loss)
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not list(pyro.get_param_store().keys())

    def test_dtype_follows_the_data(self):
        pair = self.make().double()
        batch = tuple(part.double() if part.is_floating_point() else part for part in self.batch(3))
        assert log_weights(pair, *batch).dtype == torch.float64
