"""The compiled step against the program's own, when it takes over, and what happens where it cannot."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Adam

from inference import IWAE, NVIL, SVI, DisARM, Dreaming, ReweightedWakeSleep, TraceELBO
from inference.capture import compiled as module
from inference.capture import inductor, record
from inference.capture.inductor import rewritten
from inference.errors import RunError
from ppl_models import DRAW, VAE, SigmoidBeliefNetwork

X = torch.bernoulli(torch.full((20, 12), 0.5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graphs(monkeypatch):
    """Graphs in place of machine code, so that nothing waits for a compiler; the kinds that were asked for."""
    asked = []

    def stand_in(recorded, batch, beta):
        asked.append(tuple(batch[0].shape))
        return rewritten(recorded)

    monkeypatch.setattr(module, "compiled", stand_in)
    return asked


def trained(build, objective, compile, steps=4, batches=None, **options):
    """Losses and final parameters of a few steps from one seed."""
    torch.manual_seed(0)
    pair = build()
    svi = SVI(pair, objective(), lambda p: Adam(p, 1e-2, eps=1e-2), compile=compile, **options)
    batches = [X[i : i + 10] for i in range(steps)] if batches is None else batches
    torch.manual_seed(1)
    losses = [svi.step(batch).loss.item() for batch in batches]
    return svi, losses, svi.state()[0], torch.get_rng_state()


def vae():
    return VAE(12, z_dim=3, hidden=(6,))


CASES = {
    "elbo": (vae, TraceELBO, {}),
    "elbo with warm-up": (vae, TraceELBO, {"kl_warmup_steps": 3}),
    "dreg": (vae, lambda: IWAE(3, "dreg"), {"kl_warmup_steps": 3, "kl_weight": 0.4, "clip_norm": 1.0}),
    "dropout": (lambda: VAE(12, z_dim=3, hidden=(6,), input_dropout=0.3), lambda: IWAE(3), {}),
    "convolutions": (lambda: VAE(16, 2, (2, 5), conv=True, image_shape=(1, 4, 4)), TraceELBO, {}),
    "vimco": (lambda: SigmoidBeliefNetwork((12, 4)), lambda: IWAE(3), {}),
    "moments in buffers": (lambda: SigmoidBeliefNetwork((12, 4)), lambda: NVIL(hidden=3), {}),
    "antithetic pairs": (lambda: SigmoidBeliefNetwork((12, 4)), DisARM, {}),
    "dreams for the guide": (vae, lambda: Dreaming(IWAE(2)), {"before": [(IWAE(2), 2)]}),
    "dreams": (lambda: SigmoidBeliefNetwork((12, 4)), lambda: ReweightedWakeSleep(3), {}),
    "two objectives": (vae, lambda: IWAE(2), {"before": [(TraceELBO(), 2)]}),
}


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_are_the_programs_own(case, graphs):
    build, objective, options = CASES[case]
    batches = [torch.rand(5, 16) for _ in range(3)] if case == "convolutions" else None
    _, losses, state, rng = trained(build, objective, False, batches=batches, **options)
    svi, ours, there, ours_rng = trained(build, objective, True, batches=batches, **options)
    assert graphs and svi._compiled is not None and not svi._compiled._off
    assert ours == pytest.approx(losses, rel=1e-5)
    assert torch.equal(rng, ours_rng)
    for name, value in state.items():
        torch.testing.assert_close(there[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_a_product_that_something_is_added_to():
    """Inductor would fuse the sum into oneDNN's product, which it takes for one with a constant weight."""
    x, w, y = (torch.randn(64, 64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    fast = inductor.compiled(record(lambda x, w, y: x @ w.T + y, x, w, y), x, w, y)
    torch.testing.assert_close(fast(x, w, y), x @ w.T + y, rtol=1e-5, atol=1e-5)


def test_machine_code_is_the_programs_own():
    build = lambda: VAE(12, z_dim=3, hidden=(40,))  # noqa: E731
    _, losses, state, rng = trained(build, lambda: IWAE(50, "dreg"), False, steps=3)
    svi, ours, there, ours_rng = trained(build, lambda: IWAE(50, "dreg"), True, steps=3)
    assert [kind.is_compiled for kind in svi._compiled._kinds.values()] == [True]
    assert ours == pytest.approx(losses, rel=1e-5)
    assert torch.equal(rng, ours_rng)
    for name, value in state.items():
        torch.testing.assert_close(there[name], value, rtol=1e-5, atol=1e-5, msg=name)


class TestWhen:
    def test_auto_waits_until_it_is_worth_it(self, graphs, monkeypatch):
        monkeypatch.setattr(module, "PATIENCE", 3)
        batches = [X[:8]] * 3 + [X[:5]] + [X[:8]] * 3 + [X[:5]] * 2
        svi, *_ = trained(vae, TraceELBO, "auto", batches=batches[:4])
        assert not graphs
        svi, *_ = trained(vae, TraceELBO, "auto", batches=batches)
        assert graphs == [(8, 12)]
        # the short batch was run once by the program, then by its graph
        assert {name: kind.is_compiled for name, kind in svi._compiled._kinds.items()} == {
            "0: 8x12 float32": True, "0: 5x12 float32": False,
        }  # fmt: skip

    def test_the_first_kind_at_once(self, graphs):
        trained(vae, TraceELBO, True, batches=[X[:8], X[:5], X[:5], X[:8], X[:5]])
        assert graphs == [(8, 12)]

    def test_a_short_batch_that_comes_often_is_compiled_too(self, graphs, monkeypatch):
        monkeypatch.setattr(module, "PATIENCE", 3)
        trained(vae, TraceELBO, True, batches=[X[:8], *[X[:5]] * 5])
        assert graphs == [(8, 12), (5, 12)]

    @pytest.mark.parametrize("stop", [5, 7])
    def test_a_resumed_run_is_the_same_bit_for_bit(self, stop, graphs, monkeypatch):
        monkeypatch.setattr(module, "PATIENCE", 3)
        batches = [X[:8], X[8:16], X[16:]] * 3
        uninterrupted, losses, whole, _ = trained(vae, TraceELBO, "auto", batches=batches)
        first, _, _, rng = trained(vae, TraceELBO, "auto", batches=batches[:stop])
        second = SVI(vae(), TraceELBO(), lambda p: Adam(p, 1e-2, eps=1e-2), compile="auto")
        second.init(batches[0])
        second.load_state(*first.state())
        torch.set_rng_state(rng)
        assert [second.step(batch).loss.item() for batch in batches[stop:]] == losses[stop:]
        for name, value in second.state()[0].items():
            assert torch.equal(value, whole[name]), name
        # rounding alone would tell machine code from the program: it must take over at the same step
        assert (
            second.state()[1]["kinds"]
            == uninterrupted.state()[1]["kinds"]
            == {"0: 8x12 float32": 6, "0: 4x12 float32": 3}
        )

    @pytest.mark.parametrize("build", [vae, lambda: DRAW(12, glimpses=4, z_dim=3, units=8)])
    def test_half_precision_is_recorded(self, build, graphs):
        fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")

        def losses(compile):
            torch.manual_seed(0)
            model = build()
            svi = SVI(model, TraceELBO(), Adam(model.parameters(), 1e-2, eps=1e-2), compile=compile)
            svi.setup(fabric)
            return [svi.step(X).loss.item() for _ in range(3)]

        plain = losses(False)
        assert losses(True) == pytest.approx(plain, rel=1e-4)  # weights that are used T times: sums in another order
        assert graphs and plain != pytest.approx(trained(build, TraceELBO, False, batches=[X] * 3)[1], rel=1e-6)


def test_a_frozen_parameter_stays_and_dropout_ends_with_eval(graphs):
    svi, *_ = trained(lambda: VAE(12, z_dim=3, hidden=(6,), input_dropout=0.5), TraceELBO, True)
    owner = svi.pair.owner
    frozen = next(iter(owner.encoder.parameters()))
    frozen.requires_grad_(False)
    owner.eval()
    before, head = frozen.clone(), owner.head.linear.weight.clone()
    for _ in range(2):  # the program, then its graph
        svi.step(X)
        assert torch.equal(frozen, before) and frozen.grad is None and not torch.equal(owner.head.linear.weight, head)
    state = torch.get_rng_state()
    loss = svi.step(X).loss.item()
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randn(20, 3)  # one draw of z, none of a mask
    assert torch.equal(torch.get_rng_state(), after) and loss > 0


class Own:
    """A pair whose model is odd in a way that each test sets."""

    def __init__(self, odd=lambda self, z: z):
        self.odd, self.calls, self.temperature = odd, 0, 1.0
        self.net = nn.Linear(1, 1)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = self.odd(self, pyro.sample("z", dist.Normal(torch.zeros(()), 1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x[:, :1])[:, 0], 1.0))


def choose(self, z):
    return z + 1 if z.sum() > 0 else z


def count(self, z):
    self.calls += 1
    return z * self.calls


class TestFallback:
    @pytest.mark.parametrize(
        ("odd", "words"),
        [(choose, r"test_compiled\.py:\d+ in choose: return z \+ 1 if z\.sum\(\) > 0"), (count, "do the same twice")],
    )
    def test_what_cannot_be_recorded_runs_as_it_is_with_one_warning(self, odd, words, graphs):
        with pytest.warns(RuntimeWarning, match=words) as caught:
            _, losses, _, rng = trained(lambda: Own(odd), TraceELBO, True)
        assert len(caught) == 1 and not graphs
        _, plain, _, plain_rng = trained(lambda: Own(odd), TraceELBO, False)
        if odd is choose:
            assert losses == plain and torch.equal(rng, plain_rng)

    def test_an_attribute_that_changes_later_is_found(self, graphs, monkeypatch):
        monkeypatch.setattr(module, "_CHECK", 4)
        own = Own(lambda self, z: z * self.temperature)
        svi = SVI(own, TraceELBO(), lambda p: Adam(p, 1e-2), compile=True)
        for _ in range(4):
            svi.step(X)
        own.temperature = 0.5
        with pytest.warns(RuntimeWarning, match="do the same twice"):
            svi.step(X)
        torch.manual_seed(0)
        expected = TraceELBO()(svi.pair, X).loss.item()
        torch.manual_seed(0)
        assert svi.step(X).loss.item() == pytest.approx(expected, rel=1e-6)

    def test_without_a_compiler(self):
        from torch._inductor import config

        # not by monkeypatch: what it puts back of these settings is not what was there
        none = config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
        with none, pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler") as caught:
            _, losses, _, _ = trained(vae, TraceELBO, True)
        assert len(caught) == 1
        assert losses == trained(vae, TraceELBO, False)[1]

    def test_an_error_of_the_program_is_the_programs(self, graphs):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeError, match="mat1 and mat2"):
                trained(vae, TraceELBO, True, batches=[X, X[:, :5]])

    def test_a_word_that_is_none(self):
        with pytest.raises(RunError, match="compile is 'auto', True or False, got 'on'"):
            SVI(vae(), TraceELBO(), lambda p: Adam(p, 1e-2), compile="on")
