"""inference.mcmc.gibbs: draws against exact posteriors, chains that cannot move, and every refusal."""

import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

from inference.errors import RunError, ShapeError, UnsupportedModelError
from inference.mcmc.conditionals import Group
from inference.mcmc.gibbs import Gibbs, init, step
from inference.mcmc.groups import make_group
from inference.mcmc.layered_program import is_layered
from ppl_models.bayesian_network import BayesianNetwork
from tests.conftest import z_scores
from tests.inference.mcmc import models

REAL = Path(os.environ["PPL_DATA"]) / "bif" if "PPL_DATA" in os.environ else None
needs_bif = pytest.mark.skipif(REAL is None or not REAL.is_dir(), reason="needs bif/ in the folder named by PPL_DATA")
ASIA = {"tub": 0.0104, "lung": 0.055, "bronc": 0.45, "either": 0.064828, "xray": 0.11029, "dysp": 0.435971}
ASIA_GIVEN = {
    "tub": 0.087751, "smoke": 0.62592, "lung": 0.099525, "bronc": 0.811402, "either": 0.1823, "xray": 0.219539,
}  # fmt: skip
SHORT = {"warmup_steps": 5, "num_samples": 10, "progress": False}


def network(name):
    return BayesianNetwork.from_bif(REAL / f"{name}.bif.gz")


def exact_marginals(model, *data):
    _, values, pi = models.chain(model, *data)
    return {name: (pi.reshape(-1, *[1] * (v.dim() - 1)) * v).sum(0) for name, v in values.items()}


def close(draws, exact):
    """The chains are independent, so the spread of their means is the Monte Carlo error."""
    for name, value in exact.items():
        means = draws.values[name].double().mean(1)  # (C, *site shape)
        assert (z_scores(means, torch.as_tensor(value)).abs() <= 4).all(), name


@pytest.mark.parametrize("model", [models.sbn, models.mixture, models.nested, models.masked])
def test_marginals_are_those_of_enumeration(model):
    close(Gibbs(chains=200, warmup_steps=15, num_samples=30, progress=False)(model), exact_marginals(model))


def test_a_plate_that_mixes_is_drawn_right():
    with pytest.warns(UserWarning, match="mixes elements of plate 'data' at site 'z'"):
        exact = exact_marginals(models.mixing)
    with pytest.warns(UserWarning, match="one at a time"):
        draws = Gibbs(chains=200, warmup_steps=15, num_samples=30, progress=False)(models.mixing)
    close(draws, exact)


def test_what_it_returns():
    x = models.ROWS
    draws = Gibbs(chains=3, warmup_steps=4, num_samples=5, thin=2, progress=False)(models.sbn, x, seed=1)
    assert draws.values["h1"].shape == (3, 5, 2, 2) and draws.log_p.shape == (3, 5, 2) and draws.log_q is None
    one = {name: v[2, 4] for name, v in draws.values.items()}
    trace = pyro.poutine.trace(pyro.condition(models.sbn, one)).get_trace(x)
    assert torch.allclose(draws.log_p[2, 4].sum(), trace.log_prob_sum(), rtol=1e-12)
    # a sweep: all terms before and after, those of h1 anew, one other value for each of 4 units
    assert draws.evaluations == 3 * 14 * (2 + 1 + 4)
    assert draws.stats["moved"].shape == (3, 5) and draws.seconds > 0 and draws.warmup_seconds > 0
    assert Gibbs(chains=2, **SHORT)(models.mixture).log_p.shape == (2, 10, 1)  # its switch is outside the plate


def test_thinning_keeps_every_second_sweep():
    all_of_them = Gibbs(chains=2, warmup_steps=4, num_samples=8, progress=False)(models.sbn)
    half = Gibbs(chains=2, warmup_steps=4, num_samples=4, thin=2, progress=False)(models.sbn)
    assert torch.equal(half.values["h1"], all_of_them.values["h1"][:, 1::2])
    assert torch.equal(half.log_p, all_of_them.log_p[:, 1::2])


def test_rows_find_a_possible_state_each_for_itself():
    x = torch.bernoulli(torch.full((60,), 0.5))  # one draw in 2^60 has all rows possible

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.factor("match", torch.where(z == x, 0.0, -torch.inf))

    assert torch.equal(init(model, x, chains=2).values["z"], x.expand(2, -1))


def test_a_seed_fixes_a_run_and_the_callers_generator_stays():
    before = torch.get_rng_state()
    runs = [Gibbs(chains=2, **SHORT)(models.sbn, seed=s).values["h1"] for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    state = init(models.sbn, chains=2)
    kept = {name: v.clone() for name, v in state.values.items()}
    once, again = step(state)[0], step(state)[0]
    assert torch.equal(once.values["h1"], again.values["h1"])
    assert all(torch.equal(state.values[name], v) for name, v in kept.items())  # a step leaves its state as it was


def test_a_pair_is_sampled_by_its_model_and_its_own_parameters():
    class Pair:
        def model(self, x):
            p = pyro.param("p", torch.tensor(0.9))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("h", dist.Bernoulli(p))

        def guide(self, x):
            raise AssertionError("a guide has no part in this")

    draws = Gibbs(chains=2, **SHORT)(Pair(), torch.zeros(50))
    assert abs(float(draws.values["h"].mean()) - 0.9) < 0.05
    assert "p" not in pyro.get_param_store()


def test_a_tuple_has_no_trained_parameters():
    def model():
        pyro.sample("h", dist.Bernoulli(pyro.param("p", torch.tensor(0.9))))

    with pytest.raises(RunError, match="no trained pyro.param: pass svi.pair"):
        Gibbs(**SHORT)((model, model))


def test_continuous_latents_stay_where_they_are():
    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("z", dist.Bernoulli(logits=mu))

    state = init(model, chains=2)
    state = state._replace(values=state.values | {"mu": torch.tensor([-20.0, 20.0])})
    state, _ = step(state)
    assert state.values["mu"].tolist() == [-20.0, 20.0] and state.values["z"].tolist() == [0.0, 1.0]
    with pytest.raises(UnsupportedModelError, match="'mu' is continuous: use HMCWithinGibbs"):
        Gibbs()(model)


class Layers(torch.nn.Module):
    """A network as `layered` knows it, with a program that may say something else."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.weight, self.bias, self.top_bias = models.W1, models.B0, models.B1
        self.shift = shift

    def layers(self):
        return [(self.weight, self.bias)]

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h1", dist.Bernoulli(logits=self.top_bias + self.shift).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=h @ self.weight + self.bias).to_event(1), obs=x)

    def guide(self, x):
        raise AssertionError("a guide has no part in this")


def test_layered_networks_take_the_fast_path_where_their_program_says_the_same():
    x, draws = models.ROWS, {}
    assert is_layered(Layers(), (x,)) and not is_layered(Layers(shift=0.5), (x,))
    for shift in (0.0, 0.5):
        net = Layers(shift)
        exact = exact_marginals(net.model, x)
        draws[shift] = Gibbs(chains=200, warmup_steps=15, num_samples=30, progress=False)(net, x)
        close(draws[shift], exact)
    assert draws[0.0].log_p.shape == (200, 30, 2) and not draws[0.0].stats and draws[0.5].stats
    assert Gibbs(**SHORT, blocks=[("h1",)])(Layers(), x).stats  # blocks take the general path


# ------------------------------------------------------------------------------------------ 0/1 probabilities


@needs_bif
@pytest.mark.parametrize("given, exact", [({}, ASIA), ({"asia": "yes", "dysp": "yes"}, ASIA_GIVEN)])
def test_asia_in_blocks(given, exact):
    net = network("asia")
    model = pyro.condition(net.model, {name: net.index(name, state) for name, state in given.items()})
    engine = Gibbs(chains=600, warmup_steps=20, num_samples=40, blocks=[("tub", "lung", "either")], progress=False)
    draws = engine(model)
    close(draws._replace(values={name: v == 0 for name, v in draws.values.items()}), exact)


@needs_bif
def test_asia_one_site_at_a_time_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"pass blocks=\[\('tub', 'lung', 'either'\)\]"):
        Gibbs(**SHORT)(network("asia").model)


@needs_bif
def test_what_the_evidence_settles_is_not_refused():
    net = network("asia")
    Gibbs(**SHORT)(pyro.condition(net.model, {"either": net.index("either", "no")}))


@needs_bif
@pytest.mark.parametrize("name, observed", [("cancer", ("Dyspnoea", "True")), ("earthquake", ("JohnCalls", "True"))])
def test_networks_without_zeros_need_no_blocks(name, observed):
    net = network(name)
    model = pyro.condition(net.model, {observed[0]: net.index(*observed)})
    close(Gibbs(chains=300, warmup_steps=60, num_samples=40, progress=False)(model), exact_marginals(model))


def test_a_chain_of_copies_asks_for_the_whole_block():
    with pytest.raises(UnsupportedModelError, match=r"single possible value at every one of 15 sweeps.*'a', 'b'"):
        Gibbs(**SHORT)(models.copies)
    with pytest.raises(UnsupportedModelError, match=r"pass blocks=\[\('a', 'b', 'c'\)\]"):
        Gibbs(**SHORT, blocks=[("a", "b")])(models.copies)  # too small a block is found as well
    draws = Gibbs(chains=300, **SHORT, blocks=[("a", "b", "c")])(models.copies)
    close(draws, {"a": 0.3, "b": 0.3, "c": 0.3, "d": 0.5})


def test_copies_within_a_plate_and_below_a_global_site():
    def model():
        g = pyro.sample("g", models.bernoulli(0.4))
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("y", dist.Bernoulli(g))

    with pytest.raises(UnsupportedModelError, match=r"pass blocks=\[\('g', 'y'\)\]"):
        Gibbs(**SHORT)(model)
    close(Gibbs(chains=300, **SHORT, blocks=[("g", "y")])(model), {"g": 0.4, "y": torch.full((3,), 0.4)})


def test_a_zero_whose_block_is_too_large_is_said():
    def model():
        h = pyro.sample("h", dist.Bernoulli(torch.full((20,), 0.5)).to_event(1))
        pyro.sample("all", dist.Bernoulli((h.sum(-1) > 30).float()))

    with pytest.warns(UserWarning, match="may be right or a chain that cannot move, .* 2097152 joint states"):
        Gibbs(**SHORT)(model)


def test_certain_units_of_a_trained_network_are_no_complaint():
    def model():
        with pyro.plate("data", 4, dim=-1):
            h = pyro.sample("h", dist.Bernoulli(logits=torch.tensor([30.0, -30.0])).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=50 * h - 25).to_event(1), obs=torch.tensor([1.0, 0.0]))

    assert Gibbs(**SHORT)(model).stats["moved"].max() == 0


def test_a_value_that_is_improbable_is_not_excluded():
    def model():
        h = pyro.sample("h", dist.Bernoulli(torch.full((20,), 0.5)).to_event(1))
        z = pyro.sample("z", dist.Categorical(logits=torch.tensor([40.0, 0.0, 0.0])))
        p = torch.where(z == 2, 0.0, 0.3 + 0.02 * h.sum(-1))  # 2 is impossible, 1 is not
        pyro.sample("c", dist.Bernoulli(p), obs=torch.tensor(1.0))

    assert not Gibbs(**SHORT)(model).values["z"].any()


# ------------------------------------------------------------------------------------------ refusals


def bad_poisson():
    pyro.sample("n", dist.Poisson(3.0))


def bad_nothing():
    pyro.sample("x", dist.Bernoulli(0.5), obs=torch.tensor(1.0))


def bad_delta():
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("copy", dist.Delta(z))


def bad_subsample():
    with pyro.plate("data", 10, subsample_size=5):
        pyro.sample("z", dist.Bernoulli(0.5))


def bad_impossible():
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.factor("never", torch.log(z - z))


def bad_missing():
    z = pyro.sample("z", dist.Bernoulli(0.5))
    with pyro.plate("data", 2, dim=-1):
        pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * z), obs=torch.tensor([1.0, float("nan")]))


def bad_branch():
    if pyro.sample("z", dist.Bernoulli(0.5)) > 0:
        pyro.sample("extra", dist.Bernoulli(0.5))


def bad_nan():
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.factor("root", (z - 0.5).sqrt())


def bad_range():
    n = pyro.sample("n", dist.Categorical(torch.ones(4)))
    pyro.sample("k", dist.Binomial(n.float(), 0.5))


REFUSALS = {
    bad_poisson: "'n' is a Poisson .* cannot be enumerated: truncate it",
    bad_nothing: "no discrete latent site, so Gibbs sampling has nothing to draw",
    bad_delta: "'copy' is a Delta.*use pyro.deterministic",
    bad_subsample: "plate 'data' is a subsample of 5 of 10 rows.*drop its subsample_size",
    bad_impossible: "no state of positive probability was found among 200 draws",
    bad_missing: "'x' mixes observed values with NaN: pass obs_mask",
    bad_branch: "in some runs and not in others",
    bad_nan: "'root' is NaN at a draw from the prior",
    bad_range: "support of 'k' depends on another latent",
}


@pytest.mark.parametrize("model", REFUSALS, ids=lambda model: model.__name__)
def test_models_it_cannot_treat(model):
    with pytest.raises(UnsupportedModelError, match=REFUSALS[model]):
        Gibbs(**SHORT)(model)


@pytest.mark.parametrize(
    "blocks, message",
    [
        ([("h1", "h3")], "blocks names 'h3', which is no discrete latent site.*'h2', 'h1'"),
        ([("h1", "x")], "blocks names 'x'"),
        ([("h1", "h2"), ("h2",)], "'h2' twice"),
    ],
)
def test_blocks_that_do_not_fit(blocks, message):
    with pytest.raises(UnsupportedModelError, match=message):
        Gibbs(**SHORT, blocks=blocks)(models.sbn)


def test_a_block_too_large_says_how_many_states():
    def model():
        a = pyro.sample("a", dist.Bernoulli(torch.full((20,), 0.5)).to_event(1))
        pyro.sample("b", dist.Bernoulli(0.5 + 0.1 * a[..., 0]))

    with pytest.raises(UnsupportedModelError, match="2097152 joint states .* 65536"):
        Gibbs(**SHORT, blocks=[("a", "b")])(model)


@pytest.mark.parametrize("option", ["chains", "num_samples", "thin"])
def test_counts_below_one(option):
    with pytest.raises(ShapeError, match=f"{option} is at least 1, got {option}=0: Gibbs"):
        Gibbs(**{option: 0})(models.sbn)


def test_init_checks_its_own():
    with pytest.raises(ShapeError, match="chains=0: pass chains=4"):
        init(models.sbn, chains=0)
    with pytest.raises(ShapeError, match="values holds .*h2"):
        init(models.sbn, values={"h2": torch.zeros(1, 2, 2)})
    start = {"h2": torch.ones(1, 2, 2).double(), "h1": torch.zeros(1, 2, 2).double()}
    assert torch.equal(init(models.sbn, values=start).values["h2"], start["h2"])


# ------------------------------------------------------------------------------------------ checked at every step


def test_a_dependence_that_probing_missed_is_refused_when_it_shows():
    with pytest.warns(UserWarning, match="mixes"):
        state = init(models.mixing, torch.randn(40))
    joint, (group,) = state.target
    believed = make_group(joint, group.names, joint.sites["z"].plates, group.affected)
    assert isinstance(believed, Group) and len(believed.plates) == 1
    with pytest.raises(UnsupportedModelError, match="elements of a plate depend on one another"):
        step(state._replace(target=state.target._replace(groups=(believed,))))


def test_random_numbers_outside_the_sites_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z + torch.rand(()), 1.0), obs=x)

    with pytest.raises(UnsupportedModelError, match="random numbers outside"):
        Gibbs(**SHORT)(model, torch.randn(5))


def test_dropout_is_off():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))

        def model(self, x):
            with pyro.plate("data", len(x), dim=-1):
                h = pyro.sample("h", dist.Bernoulli(logits=torch.zeros(len(x), 3)).to_event(1))
                pyro.sample("x", dist.Normal(self.net(h), 1.0).to_event(1), obs=x)

    net = Net()
    Gibbs(**SHORT)(net.model, torch.randn(5, 2))
    assert net.net.training
