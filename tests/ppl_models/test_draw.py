"""ppl_models.DRAW against a DRAW written by hand, against a VAE at one step, and what the guide hands to the model."""

import copy
import math
from typing import Any

import pyro
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Normal

from inference import IWAE, SVI, TraceELBO, log_marginal, log_weights
from inference.capture import record
from inference.evidence.importance import importance_weights
from inference.pair import as_pair
from ppl_models import DRAW, VAE
from ppl_models.handover import Handover

ATTENTION: list[dict[str, Any]] = [{}, {"read": 2, "write": 3}, {"read": 3}, {"write": 2}]
SHAPES = [(1, 4, 5), (3, 3, 4)]


def make(shape: tuple[int, int, int] = (1, 4, 5), **options: Any) -> Any:
    """A small float64 DRAW whose parameters are all away from where they start."""
    small: dict[str, Any] = {"glimpses": 3, "z_dim": 2, "units": 5}
    draw = DRAW(math.prod(shape), shape, **(small | options)).double()
    with torch.no_grad():
        for p in draw.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return draw


def rows(draw: Any, n: int = 4) -> Tensor:
    return torch.rand(n, draw.x_dim, dtype=torch.float64).round()


def trace(draw: Any, x: Tensor) -> Any:
    return poutine.trace(draw.guide).get_trace(x)


# ---- DRAW as the paper writes it: one loop, torch's own LSTM cell, filters by their formula


def cell(lstm: Any, n_in: int) -> Any:
    """The cell of torch with the same weights: a function of (input, h, c)."""
    i, f, o, g = range(4)
    units = lstm.units
    order = torch.cat([torch.arange(units) + units * gate for gate in (i, f, g, o)])
    weight, bias = lstm.gates.weight[order], lstm.gates.bias[order]

    def step(inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.lstm_cell(inputs, (h, c), weight[:, :n_in], weight[:, n_in:], bias, torch.zeros_like(bias))

    return step


def filters(params: Tensor, n: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """F_x (N, n, W), F_y (N, n, H) and gamma (N, 1, 1, 1), pixels counted from 1."""
    gx, gy, log_variance, log_stride, log_gamma = params.t()
    stride = (max(height, width) - 1) / max(n - 1, 1) * log_stride.exp()
    banks = []
    for g, size in ((gx, width), (gy, height)):
        mean = ((size + 1) / 2 * (g + 1))[:, None] + (torch.arange(1, n + 1) - n / 2 - 0.5) * stride[:, None]
        bank = (-((torch.arange(1, size + 1) - mean[..., None]) ** 2) / (2 * log_variance.exp()[:, None, None])).exp()
        banks.append(bank / bank.sum(-1, keepdim=True))
    return banks[0], banks[1], log_gamma.exp()[:, None, None, None]


def hand_written(draw: Any, x: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
    """L_reg and L_rec of rows x (N, D) at the given noise (T of (N, Z))."""
    assert draw.image_shape is not None
    n, (channels, height, width) = len(x), draw.image_shape
    encoder: Any = cell(draw.encoder, draw.encoder.gates.in_features - draw.encoder.units)
    decoder: Any = cell(draw.decoder, draw.z_dim)
    he, ce = (p.expand(n, -1) for p in (draw.encoder.first_h, draw.encoder.first_c))
    hd, cd = (p.expand(n, -1) for p in (draw.decoder.first_h, draw.decoder.first_c))
    canvas, reg = draw.blank.expand(n, -1), x.new_zeros(n)
    reader, writer, gate = draw.reader, draw.writer, draw.encoder.gates
    for eps in noise:
        error = x - (torch.sigmoid(canvas) if draw.likelihood == "bernoulli" else canvas)
        if draw.read is None:  # the image's own product is the other half of one with [x, error]
            x_part = x @ reader.image.weight.t()
            gates = torch.cat([error, hd, he], -1) @ gate.weight.t() + gate.bias + x_part
            i, f, o, g = gates.chunk(4, -1)
            ce = f.sigmoid() * ce + i.sigmoid() * g.tanh()
            he = o.sigmoid() * ce.tanh()
        else:
            across, down, gamma = filters(hd @ reader.place.weight.t() + reader.place.bias, draw.read, height, width)
            seen = [
                gamma * torch.einsum("niy,ncyx,njx->ncij", down, image.reshape(n, channels, height, width), across)
                for image in (x, error)
            ]
            he, ce = encoder(torch.cat([torch.cat(seen, 1).flatten(1), hd], -1), he, ce)
        m, log_variance = (he @ draw.head.linear.weight.t() + draw.head.linear.bias).chunk(2, -1)
        reg = reg - 0.5 * (m**2 + log_variance.exp() - log_variance - 1).sum(-1)
        hd, cd = decoder(m + (log_variance / 2).exp() * eps, hd, cd)
        if draw.write is None:
            canvas = canvas + hd @ writer.canvas.weight.t()
        else:
            out = hd @ writer.patch.weight.t() + writer.patch.bias
            across, down, gamma = filters(out[:, :5], draw.write, height, width)
            patch = out[:, 5:].reshape(n, channels, draw.write, draw.write) / gamma
            canvas = canvas + torch.einsum("niy,ncij,njx->ncyx", down, patch, across).flatten(1)
    if draw.likelihood == "bernoulli":
        return reg, -nn.functional.binary_cross_entropy_with_logits(canvas, x, reduction="none").sum(-1)
    return reg, Normal(canvas, draw.log_scale.exp()).log_prob(x).sum(-1)


def noise_of(draw: Any, x: Tensor, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.normal(x.new_zeros(len(x), draw.z_dim), x.new_ones(len(x), draw.z_dim)) for _ in range(draw.glimpses)]


def gradients(draw: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(draw.parameters())))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("shape", SHAPES)
def test_bound_and_gradients_of_a_hand_written_loop(
    shape: tuple[int, int, int], attention: dict[str, Any], likelihood: str
) -> None:
    draw = make(shape, likelihood=likelihood, **attention)
    x = rows(draw)
    reg, rec = hand_written(draw, x, noise_of(draw, x, seed=5))
    theirs = gradients(draw, -(reg + rec).mean())
    torch.manual_seed(5)
    ours = TraceELBO()(draw, x)
    assert ours.reg is not None and ours.rec is not None
    torch.testing.assert_close(ours.reg, reg.mean().detach(), rtol=1e-10, atol=1e-12)  # the closed form, step by step
    torch.testing.assert_close(ours.rec, rec.mean().detach(), rtol=1e-10, atol=1e-12)
    for a, b in zip(gradients(draw, ours.loss), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class FirstGlance(nn.Module):
    """The encoder of a DRAW of one step: what its cell makes of x and x - mean(blank canvas)."""

    def __init__(self, draw: Any):
        super().__init__()
        self.image, self.gates, self.lstm = draw.reader.image, draw.encoder.gates, draw.encoder
        self.blank, self.h = draw.blank, draw.decoder.first_h

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        seen = torch.cat([x - self.blank.sigmoid(), self.h.expand(n, -1), self.lstm.first_h.expand(n, -1)], -1)
        i, f, o, g = (self.gates(seen) + self.image(x)).chunk(4, -1)
        return o.sigmoid() * (f.sigmoid() * self.lstm.first_c + i.sigmoid() * g.tanh()).tanh()


class FirstStroke(nn.Module):
    """The decoder of a DRAW of one step."""

    def __init__(self, draw: Any):
        super().__init__()
        self.lstm, self.canvas, self.blank = draw.decoder, draw.writer.canvas, draw.blank

    def forward(self, z: Tensor) -> Tensor:
        seen = torch.cat([z, self.lstm.first_h.expand(*z.shape[:-1], -1)], -1)
        i, f, o, g = self.lstm.gates(seen).chunk(4, -1)
        h = o.sigmoid() * (f.sigmoid() * self.lstm.first_c + i.sigmoid() * g.tanh()).tanh()
        return self.canvas(h) + self.blank


@pytest.mark.parametrize("objective", [TraceELBO(), TraceELBO(closed_form_kl=False), IWAE(4), IWAE(4, "dreg")])
def test_one_step_without_attention_is_a_vae(objective: Any) -> None:
    draw = make(glimpses=1)
    vae = VAE(draw.x_dim, z_dim=2, hidden=(5,)).double()
    vae.encoder, vae.decoder, vae.head = FirstGlance(draw), FirstStroke(draw), draw.head
    x = rows(draw)
    found = []
    for pair in (draw, vae):
        torch.manual_seed(7)
        estimate = objective(pair, x)
        found.append((estimate.bound, torch.autograd.grad(estimate.loss, list(draw.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


# ---- particles


@pytest.mark.parametrize("attention", ATTENTION)
def test_weights_of_particles_are_those_of_each_by_itself(attention: dict[str, Any]) -> None:
    draw = make((3, 3, 4), **attention)
    x, k = rows(draw, 3), 4
    torch.manual_seed(2)
    log_w = log_weights(draw, x, k=k)
    torch.manual_seed(2)
    with poutine.trace() as tape, pyro.plate("particles", k, dim=-2):
        draw.guide(x)
    nodes: dict[str, Any] = dict(tape.trace.nodes)
    z = {name: site["value"] for name, site in nodes.items() if name.startswith("z")}
    assert z["z2"].shape == (k, 3, 2)
    for i in range(k):
        alone = {name: value[i] for name, value in z.items()}
        q: Any = poutine.trace(poutine.condition(draw.guide, alone)).get_trace(x)
        p: Any = poutine.trace(poutine.condition(draw.model, alone)).get_trace(x)
        for one in (q, p):
            one.compute_log_prob()
        log_q = sum(q.nodes[name]["log_prob"] for name in z)
        log_p = sum(p.nodes[name]["log_prob"] for name in [*z, "x"])
        torch.testing.assert_close(log_w[i], log_p - log_q, rtol=1e-10, atol=1e-10)
    torch.manual_seed(2)
    bound = IWAE(k)(draw, x).bound
    torch.testing.assert_close(bound, (log_w.logsumexp(0) - math.log(k)).mean().detach())


@pytest.mark.parametrize("attention", [{}, {"read": 2, "write": 2}])
def test_evidence_by_quadrature(attention: dict[str, Any]) -> None:
    draw = make((1, 2, 3), glimpses=2, z_dim=1, **attention)
    with torch.no_grad():
        draw.decoder.gates.weight.mul_(4)  # codes that matter
    x = rows(draw, 3)
    at, weight = (torch.from_numpy(v) for v in hermegauss(60))  # for exp(-z^2 / 2)
    z = torch.cartesian_prod(at, at)  # (3600, 2)
    log_weight = torch.cartesian_prod(weight, weight).log().sum(1) - math.log(2 * math.pi)
    logits = draw.decode(z).logit()
    log_p_x = -nn.functional.binary_cross_entropy_with_logits(
        logits[:, None].expand(-1, 3, -1), x.expand(len(z), -1, -1), reduction="none"
    ).sum(-1)
    exact = (log_weight[:, None] + log_p_x).logsumexp(0)
    log_w = importance_weights(draw, x, 4000, seed=1).double()
    found = log_w.logsumexp(0) - math.log(len(log_w))
    error = (log_w - found).exp().std(0) / math.sqrt(len(log_w))  # of log p(x), by the delta method
    assert bool(((found - exact).abs() < 4 * error + 1e-5).all()) and float(error.max()) < 0.02
    torch.manual_seed(1)
    elbo = float(TraceELBO(num_particles=500)(draw, x).bound)
    assert elbo < float(exact.mean()) and elbo < log_marginal(draw, x, k=1000).mean


# ---- the canvas that the guide hands to the model


class Counting(nn.Module):
    """Counts how often a step's stroke is computed."""

    def __init__(self, writer: nn.Module):
        super().__init__()
        self.writer, self.strokes = writer, 0

    def forward(self, h: Tensor) -> Tensor:
        self.strokes += 1
        return self.writer(h)


def counted(draw: Any) -> Any:
    draw.writer = Counting(draw.writer)
    return draw.writer


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handover, "take", lambda self, owner, z: None)


@pytest.mark.parametrize(
    ("objective", "runs"),
    [(TraceELBO(), 1), (TraceELBO(3), 1), (IWAE(3), 1), (IWAE(3, "dreg"), 3)],  # dreg: two of the guide, one model
)
def test_a_step_draws_once_and_nothing_else_changes(objective: Any, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = make(read=2, write=2)
    x, writer, found = rows(draw), counted(draw), []
    pair = as_pair(draw)
    objective(pair, x)  # looks at its structure
    for _ in range(2):
        writer.strokes = 0
        torch.manual_seed(3)
        estimate = objective(pair, x)
        found.append((estimate.bound, gradients(draw, estimate.loss)))
        assert writer.strokes == (3 * runs if len(found) == 1 else 6 + 3 * (runs == 3))
        never(monkeypatch)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def log_p(draw: Any, x: Tensor, guide_trace: Any) -> Tensor:
    model: Any = poutine.trace(poutine.replay(draw.model, trace=guide_trace)).get_trace(x)
    return model.log_prob_sum()


def afresh(draw: Any, x: Tensor, guide_trace: Any) -> Tensor:
    """The same of a copy, which nobody has handed anything."""
    return log_p(copy.deepcopy(draw), x, guide_trace)


def test_a_canvas_is_handed_over_once() -> None:
    draw = make()
    x, writer = rows(draw), counted(draw)
    drawn = trace(draw, x)
    first = log_p(draw, x, drawn)
    assert writer.strokes == 3
    torch.testing.assert_close(log_p(draw, x, drawn), first, rtol=1e-13, atol=0.0)
    assert writer.strokes == 6


def test_a_canvas_of_other_codes_or_parameters_is_not_taken() -> None:
    draw = make()
    x = rows(draw)
    drawn, _ = trace(draw, x), trace(draw, x)  # what is left is that of the second
    torch.testing.assert_close(log_p(draw, x, drawn), afresh(draw, x, drawn), rtol=1e-12, atol=0.0)
    for change in (
        lambda: torch.optim.SGD(draw.parameters(), 0.1).step(),
        lambda: draw.blank.detach().add_(1.0),
        lambda: setattr(draw, "blank", nn.Parameter(draw.blank.detach() - 1.0)),
        lambda: draw.load_state_dict({n: v + 0.1 for n, v in draw.state_dict().items()}),
    ):
        drawn = trace(draw, x)
        before = log_p(draw, x, drawn).detach()
        for p in draw.parameters():
            p.grad = torch.ones_like(p)
        drawn = trace(draw, x)
        change()
        now = log_p(draw, x, drawn)
        torch.testing.assert_close(now, afresh(draw, x, drawn), rtol=1e-12, atol=0.0)
        assert abs(float(now.detach() - before)) > 1e-3


def test_a_canvas_without_its_gradient_is_not_taken() -> None:
    draw = make()
    x = rows(draw)
    with torch.no_grad():
        drawn = trace(draw, x)
    learnt = torch.autograd.grad(log_p(draw, x, drawn), [draw.blank, draw.decoder.gates.weight])
    again = copy.deepcopy(draw)
    fresh = torch.autograd.grad(log_p(again, x, drawn), [again.blank, again.decoder.gates.weight])
    torch.testing.assert_close(learnt, fresh)
    assert len(as_pair(draw).model_parameters(x)) == 6  # blank; gates, starts; strokes
    drawn = trace(draw, x)
    with torch.no_grad():
        assert not log_p(draw, x, drawn).requires_grad
    for p in draw.parameters():
        p.requires_grad_(False)
    drawn = trace(draw, x)
    for p in draw.parameters():
        p.requires_grad_(True)
    assert log_p(draw, x, drawn).requires_grad


def test_copies_hold_no_canvas_and_state_is_parameters_alone() -> None:
    draw = make()
    x = rows(draw)
    drawn = trace(draw, x)
    twin = copy.deepcopy(draw)
    writer = counted(twin)
    torch.testing.assert_close(log_p(twin, x, drawn), log_p(draw, x, drawn), rtol=1e-13, atol=0.0)
    assert writer.strokes == 3
    assert draw.state_dict().keys() == dict(draw.named_parameters()).keys()


class Loss(nn.Module):
    def __init__(self, draw: Any):
        super().__init__()
        self.draw, self.pair = draw, as_pair(draw)

    def forward(self, x: Tensor) -> Tensor:
        return TraceELBO()(self.pair, x).loss


def test_bound_under_torch_func() -> None:
    draw = make(write=2, likelihood="gaussian")  # BernoulliVector has a derivative that torch.func refuses
    loss, x = Loss(draw), rows(draw)
    params = {name: p.detach() for name, p in loss.named_parameters()}
    loss(x)

    def value(params: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(4)
        return torch.func.functional_call(loss, params, (x,))

    for shift in (0.0, 0.1):
        moved = {name: p + shift for name, p in params.items()}
        found = torch.func.grad(value)(moved)
        with torch.no_grad():
            for name, p in loss.named_parameters():
                p.copy_(moved[name])
        torch.manual_seed(4)
        for (name, _), gradient in zip(loss.named_parameters(), gradients(loss, loss(x)), strict=True):
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


# ---- recorded and compiled steps


def test_a_recorded_step_is_the_program() -> None:
    draw = make((1, 3, 3), glimpses=2, units=3, read=2, write=2)
    pair, x = as_pair(draw), rows(draw)

    def step(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        loss = TraceELBO()(pair, x).loss
        return loss.detach(), gradients(draw, loss)

    step(x)
    recorded, other = record(step, x), rows(draw)
    torch.manual_seed(6)
    theirs = step(other)
    torch.manual_seed(6)
    torch.testing.assert_close(recorded(other), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [{}, {"read": 2, "write": 2}])
def test_compiled_training_is_the_same_training(attention: dict[str, Any]) -> None:
    start = make((1, 3, 3), glimpses=2, **attention).float()
    losses = []
    for compiled in (False, True):
        draw = copy.deepcopy(start)
        svi = SVI(draw, TraceELBO(), torch.optim.Adam(draw.parameters(), 1e-2), compile=compiled)
        torch.manual_seed(8)
        losses.append(torch.stack([svi.step(rows(draw, 10).float()).loss for _ in range(20)]).detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)


def test_autocast_rounds_products_but_not_windows() -> None:
    draw = make((1, 28, 28), read=2, write=3).float()
    h = torch.randn(6, 5)
    x, error = torch.rand(2, 6, 784)
    exact = draw.reader(x, error, h), draw.writer(h)
    estimate = TraceELBO()(draw, rows(draw).float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(draw.reader(x, error, h), exact[0]) and torch.equal(draw.writer(h), exact[1])
        rough = TraceELBO()(draw, rows(draw).float())
    assert torch.isfinite(rough.loss) and rough.loss.dtype == estimate.loss.dtype


# ---- draws, codes and pictures


@pytest.mark.parametrize("attention", ATTENTION)
def test_pictures(attention: dict[str, Any]) -> None:
    draw = make((3, 4, 5), **attention)
    x = rows(draw, 6)
    assert draw.encode(x).shape == (6, 6)
    torch.testing.assert_close(draw.decode(draw.encode(x)), draw.reconstruct(x))
    assert draw.decode(torch.randn(2, 7, 6).double()).shape == (2, 7, 60)
    frames, of_x = draw.frames(5, seed=3), draw.frames_of(x)
    assert frames.images.shape == (3, 5, 60) and of_x.images.shape == (3, 6, 60)
    torch.testing.assert_close(frames.images[-1], draw.generate(5, seed=3))
    torch.testing.assert_close(of_x.images[-1], draw.reconstruct(x))
    assert frames.read is None
    for found, grid in ((frames.write, draw.write), (of_x.write, draw.write), (of_x.read, draw.read)):
        assert (found is None) == (grid is None)
    if of_x.write is not None:
        assert all(value.shape == (3, 6) for value in of_x.write)
    if of_x.read is not None:  # the first look comes before anything of x is known
        assert all(bool((value[0] == value[0, 0]).all()) for value in of_x.read)
        assert not bool((of_x.read.x[1] == of_x.read.x[1, 0]).all())


def test_generate_is_seeded_and_leaves_the_callers_rng() -> None:
    draw = make()
    before = torch.get_rng_state()
    first = draw.generate(5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draw.generate(5, seed=3), first)
    assert not torch.equal(draw.generate(5, seed=4), first)
    assert not first.requires_grad and bool(((first >= 0) & (first <= 1)).all())


def test_the_first_canvas_is_the_mean_of_the_data() -> None:
    mean = torch.tensor([0.0, 0.1, 0.5, 1.0])
    torch.testing.assert_close(DRAW(4, mean=mean).blank.sigmoid(), torch.tensor([0.001, 0.1, 0.5, 0.999]))
    assert torch.equal(DRAW(4, likelihood="gaussian", mean=mean).blank, mean)
    assert bool((DRAW(4).blank == 0).all())


def test_windows_begin_over_the_whole_image_and_ones_as_ones() -> None:
    draw: Any = DRAW(28 * 28, (1, 28, 28), read=4, write=7)
    with torch.no_grad():
        for at in (draw.reader.window(torch.zeros(256)), draw.writer.window(torch.zeros(256))):
            assert at is not None and (at.x, at.y, at.side) == (13.5, 13.5, 27.0)
        draw.writer.patch.bias[5:] = 1.0
        stroke = draw.writer(torch.zeros(256)).reshape(28, 28)[6:22, 6:22]
    torch.testing.assert_close(stroke, torch.ones(16, 16), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x_dim": 0}, "x_dim is at least 1, got 0: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"glimpses": 0}, "glimpses is at least 1, got 0: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"z_dim": 0}, "z_dim is at least 1, got 0: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"units": -1}, "units is at least 1, got -1: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"read": 0}, "read is at least 1, got 0: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"write": 0}, "write is at least 1, got 0: DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"),
        ({"read": 4}, "read=4 is larger than the image of 3 x 4: at most 3, or None"),
        ({"write": 5}, "write=5 is larger than the image of 3 x 4: at most 3, or None"),
        (
            {"image_shape": None, "read": 2},
            "read=2 is attention, which needs image_shape=(C, H, W): "
            "DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)",
        ),
        ({"image_shape": (1, 3, 3)}, "image_shape (1, 3, 3) does not hold x_dim=12 values"),
        ({"image_shape": (1, -3, -4)}, "image_shape (1, -3, -4) does not hold x_dim=12 values"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson': choose bernoulli or gaussian"),
        ({"mean": torch.rand(7)}, "mean holds 7 values, not x_dim=12: pass the mean of the training rows, x.mean(0)"),
    ],
)
def test_refusals_say_the_rule_and_the_remedy(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        DRAW(**(dict[str, Any](x_dim=12, image_shape=(1, 3, 4), glimpses=2, z_dim=2, units=5) | arguments))
    assert str(error.value) == sentence
