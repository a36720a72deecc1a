"""What an engine leaves out is filled in: assignments from their exact conditional, deterministic sites as they are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate

from inference.comparison.compare import compare
from inference.comparison.completion import complete, read_sites
from inference.comparison.drawing import vectorises
from inference.comparison.guided import Guided, _fitting, automatic, full_rank
from inference.errors import UnsupportedModelError
from inference.pair import Pair, as_pair
from inference.types import Draws
from inference.vi.objectives import IWAE
from ppl_models import classic
from tests.conftest import z_scores

Y = torch.tensor([-1.0, 0.3, 2.0])


def theta(s: int) -> dict[str, torch.Tensor]:
    """The same weights, means and widths in each of s draws of a mixture."""
    values = {"w": torch.tensor([0.3, 0.7]), "mu": torch.tensor([-0.5, 1.5]), "sigma": torch.tensor([1.0, 0.8])}
    return {name: value.expand(1, s, 2).clone() for name, value in values.items()}


def responsibilities() -> torch.Tensor:
    one = {name: value[0, 0] for name, value in theta(1).items()}
    return (dist.Normal(one["mu"], one["sigma"]).log_prob(Y[:, None]) + one["w"].log()).softmax(-1)[:, 1]


def test_assignments_come_from_their_conditional_and_the_weight_stays():
    model, s = classic.gaussian_mixture_enumerated, 20_000
    draws = Draws(theta(s), torch.full((1, s, 1), -7.0), torch.full((1, s, 1), -2.0))
    done = complete(model, (Y,), draws, read_sites(model, (Y,)), seed=3)
    z = done.values["z"]
    assert z.shape == (1, s, 3) and list(done.values) == ["w", "mu", "sigma", "z"]
    assert float(z_scores(z[0].double(), responsibilities().double()).abs().max()) < 4
    # log p is that of all sites, and log q moved with it
    values = {name: value[0, 5] for name, value in done.values.items()}
    trace = pyro.poutine.trace(pyro.poutine.condition(model, values)).get_trace(Y)
    torch.testing.assert_close(done.log_p[0, 5, 0], trace.log_prob_sum())
    assert done.log_q is not None
    torch.testing.assert_close(done.log_p - done.log_q, torch.full((1, s, 1), -5.0), rtol=0, atol=1e-4)


def test_a_hidden_path_is_drawn_whole():
    """Pairs of neighbouring states have their joint posterior, by enumeration of the paths."""
    y = torch.tensor([[0.1, -0.4, 1.0]])
    a, mu, sigma = torch.tensor([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([-1.0, 1.5]), torch.tensor(0.8)
    paths = torch.cartesian_prod(*[torch.arange(2)] * 3)
    log_p = a[paths[:, :-1], paths[:, 1:]].log().sum(1) + dist.Normal(mu[paths], sigma).log_prob(y).sum(1)
    s = 20_000
    values = {"a": a.expand(1, s, 2, 2), "mu": mu.expand(1, s, 2), "sigma": sigma.expand(1, s)}
    sites = read_sites(classic.hidden_markov, (y,))
    z = complete(classic.hidden_markov, (y,), Draws(values, torch.zeros(1, s, 1)), sites).values
    drawn = (4 * z["z_0"] + 2 * z["z_1"] + z["z_2"])[0, :, 0]
    share = torch.nn.functional.one_hot(drawn.long(), 8).double()
    assert float(z_scores(share, log_p.softmax(0).double()).abs().max()) < 4


def by_index(y, county):
    """A multilevel model as people write them: `a[county]` takes the first dim, and no particle dim comes in front."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("counties", 3):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
    mean = pyro.deterministic("mean", a[county])
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


DATA = (torch.tensor([0.5, -1.0, 2.0, 0.1]), torch.tensor([0, 1, 2, 2]))


def test_a_program_that_cannot_take_many_draws_at_once_is_seen_and_runs_one_by_one():
    pair = Pair(by_index, automatic(by_index, *DATA), whole=True)
    assert not vectorises(pair, DATA)
    schools = classic.eight_schools_data()
    assert vectorises(Pair(classic.eight_schools, automatic(classic.eight_schools, *schools), whole=True), schools)
    sites = read_sites(by_index, DATA)
    for engine in (
        Guided(steps=5, num_samples=40, guide=automatic),
        Guided(IWAE(3), steps=5, num_samples=20, resample=2, guide=full_rank),
    ):
        draws = engine(by_index, *DATA)
        done = complete(by_index, DATA, draws, sites)
        torch.testing.assert_close(done.values["mean"], done.values["a"][..., DATA[1]])
        # log p of each draw is the model's own
        values = {name: done.values[name][0, 7] for name in ("mu", "a")}
        trace = pyro.poutine.trace(pyro.poutine.condition(by_index, values)).get_trace(*DATA)
        torch.testing.assert_close(done.log_p[0, 7, 0], trace.log_prob_sum())


def test_particles_one_by_one_have_the_same_bound_and_gradient():
    """Each expectation of 100 estimates, of a guide whose program takes both ways."""
    schools = classic.eight_schools_data()
    pair = Pair(classic.eight_schools, automatic(classic.eight_schools, *schools), whole=True)
    pair.structure(*schools)
    parameters = list(pair.named_parameters().values())
    found = []
    for objective in (IWAE(3), _fitting(IWAE(3), enumerated=False, vectorised=False)):
        each = [objective(pair, *schools) for _ in range(100)]
        gradients = [torch.cat([g.reshape(-1) for g in torch.autograd.grad(e.loss, parameters)]) for e in each]
        found.append(torch.cat([torch.stack([e.bound for e in each])[:, None], torch.stack(gradients)], 1))
    difference = found[0].mean(0) - found[1].mean(0)
    se = torch.sqrt(found[0].var(0) / 100 + found[1].var(0) / 100)
    assert float((difference / se.clamp(min=1e-6)).abs().max()) < 4


def test_models_without_a_data_plate_are_one_unit_in_a_comparison_only():
    example = classic.EXAMPLES["gp"]
    data = example.data()
    guide = automatic(example.model, *data)
    with pytest.raises(UnsupportedModelError, match="no data plate"):
        as_pair((example.model, guide)).structure(*data)
    structure = Pair(example.model, guide, whole=True).structure(*data)
    assert structure.plate == "" and not structure.local
    assert Guided(steps=2, num_samples=9, guide=automatic)(example.model, *data).log_p.shape == (1, 9, 1)


def test_engines_that_sum_out_and_engines_that_draw_are_compared_on_all_sites():
    """A mixture known but for its first mean: the reference draws z, the other sums it out; both are right."""

    @config_enumerate
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.6))
            pyro.sample("y", dist.Normal(torch.where(z > 0, mu, torch.tensor(3.0)), 1.0), obs=y)

    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    each = torch.stack([
        math.log(0.4) + dist.Normal(3.0, 1.0).log_prob(Y.double()).expand(4001, 3),
        math.log(0.6) + dist.Normal(grid[:, None], 1.0).log_prob(Y.double()),
    ])  # fmt: skip
    log_p = dist.Normal(0.0, 2.0).log_prob(grid) + each.logsumexp(0).sum(1)

    def drawn(draw_z, n=4000):
        def engine(model, y, seed=0):
            torch.manual_seed(seed + 7 * draw_z)
            at = torch.multinomial(log_p.softmax(0), n, replacement=True)
            values = {"mu": grid[at].float()[None]}
            if not draw_z:
                return Draws(values, log_p[at][None, :, None])
            z = torch.bernoulli(each.softmax(0)[1][at])
            joint = dist.Normal(0.0, 2.0).log_prob(grid[at]) + torch.where(z > 0, each[1][at], each[0][at]).sum(1)
            return Draws(values | {"z": z.float()[None]}, joint[None, :, None])

        return engine

    result = compare(model, Y, {"sums": drawn(False), "draws": drawn(True)}, reference="draws")
    assert result.coordinates == ("mu", "z[0]", "z[1]", "z[2]")
    row = result.rows[0]
    assert row.error_z < 4 and abs(row.log_p_error) < 4 * row.log_p_mcse and row.whole
    assert result.draws["sums"].values["z"].shape == (1, 4000, 3)


def test_coordinates_that_never_move_are_not_compared():
    def model(y):
        tri = pyro.sample("tri", dist.LKJCholesky(2, 1.0))
        pyro.sample("y", dist.Normal(tri[..., 1, 0], 1.0), obs=y)

    def engine(model, y, seed=0):
        torch.manual_seed(seed)
        values = dist.LKJCholesky(2, 1.0).sample((2, 200))
        return Draws({"tri": values}, torch.randn(2, 200, 1))

    result = compare(model, torch.tensor(0.3), {"one": engine}, reference="one")
    assert result.coordinates == ("tri[1, 0]", "tri[1, 1]")
