"""What a DRAW step costs: Pyro's SVI on the same program, ours, and a hand-written PyTorch loop; how it grows.

DRAW of T = 10 steps on 28 x 28 pixels, z_t of 100, LSTMs of 256, no attention, batches of 100: the same data for all,
in turn in one process. The loop is what one writes with nn.LSTMCell, closed-form KL and fused Adam. Ratios of medians,
float32:

    draw_step.ours_over_handwritten    ours, compiled / the loop
    draw_step.pyro_over_ours           Pyro's SVI.step on our DRAW's model and guide / ours, compiled
    draw_step.pyro_lstmcell_over_ours  Pyro's SVI.step on a program of its own, nn.LSTMCell and nn.Linear / ours
    draw_step.first_step_seconds       the first compiled step, nothing of it taken from an earlier run's cache
    draw_step.break_even_steps         that time / the time that compilation saves a step

`pyro` on our object holds gains that are the program's own: oneDNN's products, the image that goes to the gates once
and not T times, and the canvas that the model takes over from the guide; `pyro, nn.LSTMCell` is without them.
Then tables: the step as Pyro runs it, uncompiled, by T, with and without attention, and a DLGM's by its layers L.
"""

import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pyro
import pyro.infer
import pyro.optim
import torch
from common import in_turn, machine, matmul_speed, parser, report
from pyro.distributions import Bernoulli, Normal
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import inference
from inference import TraceELBO
from ppl_models import DLGM, DRAW

D, H, Z, T, N = 784, 256, 100, 10, 100
Step = Callable[[], object]


def our_step(model: nn.Module, batches: Tensor, compile: bool) -> Step:
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    svi = inference.SVI(model, TraceELBO(), adam, compile=compile)
    data = cycle(batches)
    return lambda: svi.step(next(data))


def pyro_step(draw: Any, batches: Tensor) -> Step:
    def model(x: Tensor) -> None:
        pyro.module(type(draw).__name__, draw)
        draw.model(x)

    adam = pyro.optim.Adam({"lr": 1e-3})
    svi = pyro.infer.SVI(model, draw.guide, adam, loss=pyro.infer.TraceMeanField_ELBO())  # closed-form KL
    data = cycle(batches)
    return lambda: svi.step(next(data))


class HandWritten(nn.Module):
    """DRAW without attention, as one writes it in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTMCell(2 * D + H, H), nn.LSTMCell(Z, H)
        self.head, self.write = nn.Linear(H, 2 * Z), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        """Minus the ELBO, nats per row of x (N, D)."""
        e = d = (x.new_zeros(len(x), H), x.new_zeros(len(x), H))
        c, kl = x.new_zeros(len(x), D), x.new_zeros(())
        for _ in range(T):
            e = self.encoder(torch.cat([x, x - torch.sigmoid(c), d[0]], 1), e)
            mean, log_var = self.head(e[0]).chunk(2, dim=-1)
            kl = kl - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
            d = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean), d)
            c = c + self.write(d[0])
        return (binary_cross_entropy_with_logits(c, x, reduction="sum") + kl) / len(x)


class PyroDRAW(HandWritten):
    """The same networks as a program in Pyro: the guide draws to see what is lacking, and the model draws again."""

    def guide(self, x: Tensor) -> None:
        """q(z1 ... zT | x)."""
        e = d = (x.new_zeros(len(x), H), x.new_zeros(len(x), H))
        c = x.new_zeros(len(x), D)
        with pyro.plate("data", len(x)):
            for t in range(T):
                e = self.encoder(torch.cat([x, x - torch.sigmoid(c), d[0]], 1), e)
                mean, log_var = self.head(e[0]).chunk(2, dim=-1)
                d = self.decoder(pyro.sample(f"z{t}", Normal(mean, torch.exp(0.5 * log_var)).to_event(1)), d)
                c = c + self.write(d[0])

    def model(self, x: Tensor) -> None:
        """p(x, z1 ... zT)."""
        d = (x.new_zeros(len(x), H), x.new_zeros(len(x), H))
        c = x.new_zeros(len(x), D)
        with pyro.plate("data", len(x)):
            for t in range(T):
                prior = Normal(x.new_zeros(len(x), Z), x.new_ones(len(x), Z)).to_event(1)
                d = self.decoder(pyro.sample(f"z{t}", prior), d)
                c = c + self.write(d[0])
            pyro.sample("x", Bernoulli(logits=c, validate_args=False).to_event(1), obs=x)


def handwritten_step(batches: Tensor) -> Step:
    draw = HandWritten()
    optimizer = torch.optim.Adam(draw.parameters(), 1e-3, fused=True)
    data = cycle(batches)

    def step() -> float:
        loss = draw(next(data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def growth(batches: Tensor) -> dict[str, Step]:
    """Steps of longer and deeper models, as Pyro runs them."""
    times = (5, 10, 20, 40)
    draws = {f"DRAW, T = {t}": DRAW(D, None, t, Z, H) for t in times}
    draws |= {f"DRAW 5 x 5, T = {t}": DRAW(D, (1, 28, 28), t, Z, H, read=5, write=5) for t in times}
    layers = {f"DLGM, L = {n}": DLGM(D, (50,) * n, ((200, 200),) * n) for n in (1, 2, 3, 4)}
    return {name: our_step(model, batches, compile=False) for name, model in (draws | layers).items()}


def main() -> None:
    args = parser(__doc__, rounds=10).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    speed = matmul_speed(N, D, 4 * H)
    once, by_step = D * 4 * H, (D + 2 * H) * 4 * H + H * 2 * Z + (Z + H) * 4 * H + H * D
    floor = 1e3 * 3 * 2 * N * (once + T * by_step) / speed
    print(f"({N}x{D}) x ({D}x{4 * H}): {speed / 1e9:.0f} GFLOP/s; at that speed a step's products take {floor:.1f} ms")
    batches = torch.bernoulli(torch.rand(20, 1, D).expand(20, N, D))
    ours = our_step(DRAW(D, None, T, Z, H), batches, compile=True)
    start = time.perf_counter()
    ours()
    first_step = time.perf_counter() - start
    print(f"the first compiled step took {first_step:.1f} s")
    times = in_turn(
        {
            "ours": ours,
            "uncompiled": our_step(DRAW(D, None, T, Z, H), batches, compile=False),
            "handwritten": handwritten_step(batches),
            "pyro": pyro_step(DRAW(D, None, T, Z, H), batches),
            "pyro, nn.LSTMCell": pyro_step(PyroDRAW(), batches),
        },
        rounds=args.rounds, warmup=2, block=2,
    )  # fmt: skip
    grown = in_turn(growth(batches), rounds=max(1, args.rounds // 3), warmup=1)
    for name, t in (times | grown).items():
        print(f"  {name:<20} {t.ms:8.2f} ms  {t.cpu_ms:8.2f} CPU-ms a step")
    ratios = {
        "draw_step.ours_over_handwritten": times["ours"].ms / times["handwritten"].ms,
        "draw_step.pyro_over_ours": times["pyro"].ms / times["ours"].ms,
        "draw_step.pyro_lstmcell_over_ours": times["pyro, nn.LSTMCell"].ms / times["ours"].ms,
        "draw_step.first_step_seconds": first_step,
        "draw_step.break_even_steps": 1e3 * first_step / (times["uncompiled"].ms - times["ours"].ms),
    }
    report(ratios, args.json)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        main()
