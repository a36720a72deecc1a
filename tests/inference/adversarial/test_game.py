"""The game: its steps against a hand-written loop, its equilibrium against closed forms, and exact resumption."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.optim import Adam

from inference import (
    R1,
    Adversarial,
    FeatureMatching,
    FreezeOnAccuracy,
    FreezeSchedule,
    GradientPenalty,
    HistoricalAveraging,
    LabelSmoothing,
    LeastSquares,
    Minimax,
    NonSaturating,
    Saving,
    Wasserstein,
    fit,
    virtual_batch_norm,
)
from inference.adversarial.freezing import Freeze
from inference.adversarial.virtual import refresh, virtual_layers
from inference.errors import CheckpointError, NonFiniteError, RunError, ShapeError
from inference.training.fit import linear
from ppl_models import data
from ppl_models.gan import Discriminator, Generator

X = torch.randn(96, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.3])


def players(pack=1, norm=None, x_dim=2, seed=0, **options):
    torch.manual_seed(seed)
    return Generator(x_dim, z_dim=3, hidden=(16,), norm=norm), Discriminator(x_dim, hidden=(16,), pack=pack, **options)


def game(g, d, lr=1e-2, **options):
    return Adversarial(g, d, Adam(g.parameters(), lr), Adam(d.parameters(), lr), **options)


def weights(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("smoothing", [None, LabelSmoothing(0.9, 0.2)])
@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_steps_are_those_of_a_hand_written_loop(smoothing, pack, gamma):
    g, d = players(pack)
    ours = game(g, d, smoothing=smoothing, pack=pack, penalties=(R1(gamma),) if gamma else ())
    ours.init(X)
    torch.manual_seed(1)
    infos = [ours.step(X[:32]) for _ in range(3)]

    g2, d2 = players(pack)
    opt_g, opt_d = Adam(g2.parameters(), 1e-2), Adam(d2.parameters(), 1e-2)
    real_label, fake_label = (1.0, 0.0) if smoothing is None else (0.9, 0.2)
    torch.manual_seed(1)
    for info in infos:
        x = X[:32].reshape(32 // pack, -1).requires_grad_()
        fake = g2(torch.randn(32, 3)).reshape(32 // pack, -1)
        a_real, a_fake = d2(x), d2(fake.detach())
        loss = cross_entropy(a_real, torch.full_like(a_real, real_label))
        loss = loss + cross_entropy(a_fake, torch.full_like(a_fake, fake_label))
        slope = torch.autograd.grad(a_real.sum(), x, create_graph=True)[0]
        penalty = gamma / 2 * slope.square().sum(1).mean()
        opt_d.zero_grad()
        (loss + penalty).backward()
        opt_d.step()
        torch.testing.assert_close(info.d_loss, loss.detach())
        torch.testing.assert_close(info.penalty, penalty.detach())
        torch.testing.assert_close(info.d_real, a_real.sigmoid().mean().detach())
        right = ((a_real > 0).float().mean() + (a_fake < 0).float().mean()) / 2
        torch.testing.assert_close(info.accuracy, right)
        a = d2(fake)
        loss = cross_entropy(a, torch.ones_like(a))
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        torch.testing.assert_close(info.g_loss, loss.detach())
        torch.testing.assert_close(info.loss, info.d_loss + info.g_loss)
    for own, other in zip(weights(g, d), weights(g2, d2), strict=True):
        torch.testing.assert_close(own, other)


class Shifted(nn.Module):
    """x = mean + sd z in one dimension: a generator whose density is known."""

    z_dim, x_dim = 1, 1

    def __init__(self, mean, sd):
        super().__init__()
        self.mean, self.sd = nn.Parameter(torch.tensor([mean])), sd

    def noise(self, n):
        return torch.randn(n, 1)

    def forward(self, z):
        return self.mean + self.sd * z


def trained_discriminator(mean, sd):
    """D after learning on p = N(0, 1) and g = N(mean, sd), its generator frozen for ever, and the last d_loss."""
    torch.manual_seed(0)
    g, d = Shifted(mean, sd), Discriminator(1, hidden=(32, 32), activation="tanh")
    x = torch.randn(100_000, 1)
    adversarial = game(g, d, 1e-2, loss=Minimax(), freeze=FreezeSchedule(generator=[(0, math.inf)]))
    history = fit(adversarial, data.Batches(x, 2000), epochs=16, seed=0, schedule=linear(0.0))
    assert float(g.mean.detach()) == pytest.approx(mean)  # it did not move
    return d, history[-1]["d_loss"]


@pytest.mark.parametrize(("mean", "sd"), [(1.5, 0.8), (0.0, 1.0)])
def test_the_trained_discriminator_is_the_best_one(mean, sd):
    d, loss = trained_discriminator(mean, sd)
    p, g = norm(0, 1), norm(mean, sd)
    x = torch.linspace(*(min(p.ppf(0.01), g.ppf(0.01)), max(p.ppf(0.99), g.ppf(0.99))), 200).reshape(-1, 1)
    best = torch.as_tensor(p.pdf(x) / (p.pdf(x) + g.pdf(x))).squeeze(1)  # the survey's Equation 16
    with torch.no_grad():
        assert (d(x).sigmoid() - best).abs().max() < 0.02
    fine = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    p_x, g_x = torch.as_tensor(p.pdf(fine)), torch.as_tensor(g.pdf(fine))
    value = torch.trapezoid(torch.xlogy(p_x, p_x / (p_x + g_x)) + torch.xlogy(g_x, g_x / (p_x + g_x)), fine)
    # -V(D*) from 100,000 draws of each, whose log D* have deviations below 1
    assert abs(loss + float(value)) < 4 / math.sqrt(100_000) + 1e-3
    if mean == 0.0:
        assert float(value) == pytest.approx(-math.log(4))


def test_a_frozen_player_does_not_move_nor_its_optimiser_and_thaws():
    for player in ("generator", "discriminator"):
        g, d = players()
        adversarial = game(g, d, freeze=FreezeSchedule(**{player: [(1, 3)]}))
        module = {"generator": g, "discriminator": d}[player]
        optimizer = adversarial.optimizers[{"discriminator": 0, "generator": 1}[player]]
        other = d if module is g else g
        seen = []
        for _ in range(5):
            before, others = weights(module), weights(other)
            slots = [{k: v.clone() for k, v in slot.items()} for slot in optimizer.state.values()]
            info = adversarial.step(X)
            frozen = float(getattr(info, f"{player[0]}_frozen"))
            seen.append(frozen)
            assert not same(others, weights(other))
            assert same(before, weights(module)) == bool(frozen)
            if frozen:
                for slot, now in zip(slots, optimizer.state.values(), strict=True):
                    assert all(torch.equal(slot[key], now[key]) for key in slot)
        assert seen == [0, 1, 1, 0, 0]
        assert adversarial.freezes == [Freeze(player, 1, 3)]


def test_a_winning_discriminator_is_frozen_until_the_generator_has_caught_up():
    g, d = players()
    adversarial = game(g, d, 2e-3, freeze=FreezeOnAccuracy(0.75, 0.6))
    history = fit(adversarial, data.Batches(X + 3, 32), epochs=150, seed=0)
    ends = [freeze for freeze in adversarial.freezes if freeze.player == "discriminator" and freeze.stop]
    assert len(ends) >= 2  # more than once, and thawed
    steps = sum(freeze.stop - freeze.start for freeze in ends)
    open_ones = sum(450 - freeze.start for freeze in adversarial.freezes if freeze.stop is None)
    assert sum(row["d_frozen"] * 3 for row in history) == pytest.approx(steps + open_ones)


def test_the_generators_gradient_goes_through_the_discriminator_and_not_into_it():
    g, d = players()
    adversarial = game(g, d, freeze=FreezeSchedule(discriminator=[(0, math.inf)]))
    adversarial.step(X)
    assert all(p.grad is None and p.requires_grad for p in d.parameters())
    assert all(p.grad is not None for p in g.parameters())


def test_both_players_are_pulled_towards_their_own_past():
    g, d = players()
    adversarial = game(g, d, history=HistoricalAveraging(1000.0))
    adversarial.init(X)
    seen = [weights(g, d)]
    for _ in range(3):
        adversarial.step(X)
        pulls = [p.grad for p in (*g.parameters(), *d.parameters())]
        seen.append(weights(g, d))
    # at the last step the mean was of the states before it, and its pull, 2000 (theta - mean), outweighs the loss
    for before, *rest, pull in zip(*seen, pulls, strict=True):
        past = torch.stack([before, *rest[:-2]]).mean(0)
        assert float(torch.cosine_similarity(pull.flatten(), (rest[-2] - past).flatten(), dim=0)) > 0.9
    for name, start in (("generator", 0), ("discriminator", len(weights(g)))):
        means = [torch.stack(each[:-1]).mean(0) for each in zip(*seen, strict=True)]
        torch.testing.assert_close(adversarial.named_buffers()[f"history.{name}.0"], means[start])


def test_data_that_are_not_finite_are_named():
    with pytest.raises(NonFiniteError, match="the data hold NaN"):
        game(*players()).step(torch.cat([X, torch.full((1, 2), math.nan)]))


def test_several_moves_of_the_discriminator_to_one_of_the_generator():
    g, d = players()
    adversarial = game(g, d, loss=Wasserstein(), penalties=(GradientPenalty(),), d_steps=3)
    moved = []
    for _ in range(7):
        before = weights(g)
        adversarial.step(X)
        moved.append(not same(before, weights(g)))
    # the first step shows a loss of the generator, so it moves there too
    assert moved == [True, False, True, False, False, True, False]


def test_feature_matching_takes_the_place_of_the_generators_loss():
    g, d = players()
    adversarial = game(g, d, feature_matching=FeatureMatching(), freeze=FreezeSchedule(discriminator=[(0, math.inf)]))
    info = adversarial.step(X)
    torch.manual_seed(0)
    matched = fit(adversarial, data.Batches(X, 48), epochs=150, seed=0)
    assert matched[-1]["g_loss"] < 0.25 * float(info.g_loss)
    with torch.no_grad():
        far = (d.features(X).mean(0) - d.features(g(g.noise(2000))).mean(0)).square().sum()
    assert float(far) == pytest.approx(matched[-1]["g_loss"], abs=0.05)


def test_a_discriminator_with_virtual_batch_norm_learns_with_the_statistics_of_its_present_weights():
    def build():
        torch.manual_seed(0)
        d = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Flatten(0))
        return Generator(2, z_dim=3, hidden=(8,)), virtual_batch_norm(d, X[:16])

    g, d = build()
    g2, d2 = build()
    ours = Adversarial(g, d, torch.optim.SGD(g.parameters(), 0.5), torch.optim.SGD(d.parameters(), 0.5))
    torch.manual_seed(1)
    for _ in range(3):
        ours.step(X)
    torch.manual_seed(1)
    for _ in range(3):
        fake = g2(torch.randn(96, 3))
        for player, loss in (
            (d2, lambda fake=fake: NonSaturating().discriminator(d2(X), d2(fake.detach()))),
            (g2, lambda fake=fake: NonSaturating().generator(d2(fake))),
        ):
            refresh(virtual_layers(d2), d2)
            gradients = torch.autograd.grad(loss(), list(player.parameters()))
            with torch.no_grad():
                for p, gradient in zip(player.parameters(), gradients, strict=True):
                    p.sub_(0.5 * gradient)
    for own, other in zip(weights(g, d), weights(g2, d2), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_a_class_conditional_game():
    torch.manual_seed(0)
    g, d = Generator(1, z_dim=2, hidden=(32,), n_classes=2), Discriminator(1, hidden=(32,), n_classes=2)
    y = torch.arange(2000) % 2
    x = (4.0 * y - 2.0).unsqueeze(1) + 0.1 * torch.randn(2000, 1)
    adversarial = game(g, d, 5e-3, penalties=(R1(0.3),), average=0.99)
    fit(adversarial, data.Batches((x, y), 200), epochs=40, seed=0, schedule=linear(0.0))
    means = [float(adversarial.best.generate(500, 0, torch.full((500,), label)).mean()) for label in (0, 1)]
    assert means == pytest.approx([-2, 2], abs=0.4)


FULL = {
    "plain": ({}, {}, None),
    "packed": ({"pack": 2, "penalties": (R1(0.1),), "average": 0.9}, {"pack": 2}, None),
    "frozen": ({"freeze": FreezeOnAccuracy(0.6, 0.55), "history": HistoricalAveraging(0.1)}, {}, None),
    "critic": ({"loss": Wasserstein(), "penalties": (GradientPenalty(),), "d_steps": 4}, {}, None),
    "virtual": (
        {"feature_matching": FeatureMatching(1.0, 0.5), "smoothing": LabelSmoothing(), "average": 0.9},
        {"spectral_norm": True, "minibatch_kernels": 2},
        "virtual",
    ),
    "batch": ({"loss": LeastSquares(), "average": 0.9}, {}, "batch"),
}


def run(name, epochs, saving=None, resume=False):
    options, of_d, norm = FULL[name]
    g, d = players(norm=norm and "batch", **of_d)
    if norm == "virtual":
        reference = torch.randn(8, 3, generator=torch.Generator().manual_seed(5))
        virtual_batch_norm(g, torch.zeros(8, 3) if resume else reference)  # the checkpoint brings it back
    adversarial = game(g, d, **options)
    history = fit(adversarial, data.Batches(X, 16), epochs, 3, saving=saving, resume=resume, schedule=lambda done: 1.0)
    return adversarial, history


@pytest.mark.parametrize("name", FULL)
def test_a_resumed_game_is_the_one_that_never_stopped_bit_for_bit(name, tmp_path):
    whole, history = run(name, 5)
    run(name, 2, Saving(tmp_path))
    resumed, again = run(name, 5, Saving(tmp_path), resume=True)
    mine, theirs = whole.state(), resumed.state()
    assert mine[0].keys() == theirs[0].keys()
    for key, value in mine[0].items():
        assert torch.equal(value, theirs[0][key]), key
    assert json.loads(json.dumps(mine[1])) == json.loads(json.dumps(theirs[1]))  # betas come back as a list
    assert [row["loss"] for row in history] == [row["loss"] for row in again]
    z = torch.randn(5, 3)
    assert torch.equal(whole.best.eval()(z), resumed.best.eval()(z))
    if name == "frozen":
        assert whole.freezes  # else it would show nothing


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    run("plain", 1, Saving(tmp_path))
    with pytest.raises(CheckpointError, match="another model"):
        run("packed", 2, Saving(tmp_path), resume=True)


def test_statistics_of_a_checkpoint_are_those_of_its_weights():
    adversarial, _ = run("virtual", 2)
    z = torch.randn(4, 3)
    for network in (adversarial.generator, adversarial.best):
        tensors, _ = adversarial.state()
        network.eval()
        before = network(z)
        with torch.no_grad():
            refresh(virtual_layers(network), network)
        assert torch.equal(before, network(z))


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_nan_in_either_player_is_named(player):
    g, d = players()
    adversarial = game(g, d)
    adversarial.init(X)
    with torch.no_grad():
        next({"generator": g.net, "discriminator": d.head}[player].parameters()).fill_(math.nan)
    before = weights(d)
    with pytest.raises(NonFiniteError, match="discriminator's loss is nan at step 1"):
        adversarial.step(X)  # NaN of the generator too comes to the discriminator first
    assert same(before[:2], weights(d)[:2])
    assert all(p.requires_grad for p in d.parameters())


def test_nan_of_the_generators_loss_alone():
    class Odd(NonSaturating):
        def generator(self, fake):
            return super().generator(fake) * math.nan

    with pytest.raises(NonFiniteError, match="generator's loss is nan at step 1: lower its learning rate"):
        game(*players(), loss=Odd()).step(X)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: game(players(x_dim=3)[0], players()[1]), r"makes rows of shape \(96, 3\) and the data have \(96, 2\)"),
        (lambda: game(players()[0], players(x_dim=3)[1]), r"takes rows of 3, .* makes has shape \(96, 2\)"),
        (lambda: game(*players(pack=2)), r"takes rows of 4, .* makes has shape \(96, 2\)"),
        (lambda: game(nn.Linear(2, 2), players()[1]), "has no noise"),
        (lambda: game(players()[0], nn.Linear(2, 1)), r"one logit a row, \(96,\), got \(96, 1\)"),
        (lambda: game(*players(pack=200), pack=200), "a pack is of 200 rows, and the batch has 96"),
    ],
)
def test_parts_that_do_not_fit(make, words):
    with pytest.raises((ShapeError, RunError), match=words):
        make().step(X)


def test_a_batch_of_one_has_nothing_to_average():
    with pytest.raises(RunError, match="batch norm, which has nothing to average in a batch of one"):
        game(*players(norm="batch")).step(X[:1])
    g, d = players(norm="batch")
    game(virtual_batch_norm(g, g.noise(8)), d).step(X[:1])  # virtual batch norm can


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda g, d: game(g, d, loss=Wasserstein(), smoothing=LabelSmoothing()), "no labels to smooth"),
        (lambda g, d: game(g, nn.Linear(2, 1), feature_matching=FeatureMatching()), "features"),
        (lambda g, d: Adversarial(g, d, Adam(d.parameters()), Adam(d.parameters())), "opt_g holds other parameters"),
        (lambda g, d: Adversarial(g, d, Adam(g.parameters()), Adam([*d.parameters()][:1])), "opt_d holds other"),
        (lambda g, d: game(g, d, pack=0), "at least 1"),
        (lambda g, d: game(g, d, d_steps=0), "at least 1"),
        (lambda g, d: game(g, d, pack=2).step(X, X), "without conditions"),
    ],
)
def test_options_that_cannot_be_meant(make, words):
    with pytest.raises(RunError, match=words):
        make(*players())


def test_the_check_leaves_random_state_and_modes_alone():
    g, d = players(norm="batch")
    adversarial = game(g, d)
    rng, mean = torch.get_rng_state(), g.state_dict()["net.0.1.running_mean"].clone()
    adversarial.init(X)
    assert torch.equal(rng, torch.get_rng_state())
    assert g.training and d.training
    assert torch.equal(mean, g.state_dict()["net.0.1.running_mean"])


def test_words_for_the_progress_bar():
    adversarial = game(*players())
    assert (
        adversarial.words({"d_loss": 1.386, "g_loss": 0.693, "accuracy": 0.5}) == "losses D 1.39, G 0.69, D right 50%"
    )


def joint(fabric=None):
    """Three steps with a penalty and a freeze by accuracy; noise that does not depend on the process."""
    torch.manual_seed(0)
    g, d = Generator(2, z_dim=2, hidden=(8,)), Discriminator(2, hidden=(8,))
    count = [0]

    def noise(n):  # rows of a fixed draw, shared out as the data are
        count[0] += 1
        whole = torch.randn(32, 2, generator=torch.Generator().manual_seed(count[0]))
        return whole if fabric is None else whole[fabric.global_rank :: fabric.world_size]

    g.noise = noise
    adversarial = game(g, d, penalties=(R1(0.1),), freeze=FreezeOnAccuracy(0.6, 0.55), average=0.9)
    history = fit(adversarial, data.Batches(X, 32), epochs=2, seed=0, fabric=fabric)
    return adversarial, history


def test_two_processes_take_the_steps_of_one_on_the_joint_batch(tmp_path):
    path = tmp_path / "two.pt"
    done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = torch.load(path, weights_only=True)
    one, history = joint()
    for name, value in one.named_parameters().items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=0)
    torch.testing.assert_close(two["readings"], torch.tensor(one.state()[1]["readings"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(two["losses"], torch.tensor([row["loss"] for row in history]), atol=1e-5, rtol=0)


if __name__ == "__main__":
    from lightning_fabric import Fabric

    torch.set_num_threads(1)
    both = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    both.launch()
    played, rows = joint(both)
    if both.is_global_zero:
        found = {name: p.detach() for name, p in played.named_parameters().items()}
        found |= {"losses": torch.tensor([row["loss"] for row in rows])}
        torch.save(found | {"readings": torch.tensor(played.state()[1]["readings"])}, Path(sys.argv[1]))
