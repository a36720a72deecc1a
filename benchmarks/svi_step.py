"""What a training step costs: Pyro's SVI as a user writes it, ours, and a hand-written PyTorch loop.

The survey's VAE, 784-500-500-50 with ReLU, batches of 100, float32: the same network and the same data for all,
in turn in one process. Ours twice: the program run by Pyro at every step, and compiled. Ratios of medians:

    svi_step.pyro_over_ours           ELBO: Pyro's SVI.step / ours, compiled
    svi_step.ours_over_handwritten    ELBO: ours, compiled / a PyTorch loop with closed-form KL and fused Adam
    svi_step.iwae50_pyro_over_ours    Pyro's RenyiELBO(alpha=0, num_particles=50) / our IWAE(k=50), compiled

and what compilation costs, nothing of it taken from an earlier run's cache:

    svi_step.first_step_seconds       ELBO: the first step, compilation included
    svi_step.break_even_steps         ELBO: that time / the time that compilation saves a step
"""

import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from common import Timing, in_turn, machine, matmul_speed, parser, report
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import inference
from inference import IWAE, TraceELBO
from ppl_models import VAE

D, H, Z, N, K = 784, 500, 50, 100, 50


# Pyro's examples/vae.py, its networks one layer deeper and with ReLU.
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, H), nn.Linear(H, H)
        self.fc31, self.fc32 = nn.Linear(H, Z), nn.Linear(H, Z)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.reshape(-1, D)
        hidden = self.relu(self.fc2(self.relu(self.fc1(x))))
        return self.fc31(hidden), torch.exp(self.fc32(hidden))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(Z, H), nn.Linear(H, H), nn.Linear(H, D)
        self.relu = nn.ReLU()

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.relu(self.fc2(self.relu(self.fc1(z))))
        return torch.sigmoid(self.fc3(hidden))


class PyroVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], Z, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], Z, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, D))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def pyro_step(objective: pyro.infer.ELBO, batches: Tensor) -> Callable[[], object]:
    pyro.clear_param_store()
    vae = PyroVAE()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=objective)
    data = cycle(batches)
    return lambda: svi.step(next(data))


def our_step(objective: TraceELBO | IWAE, batches: Tensor, compile: bool) -> Callable[[], object]:
    vae = VAE(D, Z, (H, H), "relu")
    svi = inference.SVI(vae, objective, torch.optim.Adam(vae.parameters(), 1e-3, fused=True), compile=compile)
    data = cycle(batches)
    return lambda: svi.step(next(data))


def handwritten_step(batches: Tensor) -> Callable[[], object]:
    encoder = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 2 * Z))
    decoder = nn.Sequential(nn.Linear(Z, H), nn.ReLU(), nn.Linear(H, H), nn.ReLU(), nn.Linear(H, D))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3, fused=True)
    data = cycle(batches)

    def step() -> float:
        x = next(data)
        mean, log_var = encoder(x).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        loss = (binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def table(title: str, times: dict[str, Timing]) -> None:
    print(title)
    for name, t in times.items():
        print(f"  {name:<12} {t.ms:8.2f} ms  {t.cpu_ms:8.2f} CPU-ms a step")


def main() -> None:
    p = parser(__doc__, rounds=60)
    p.add_argument(
        "--iwae-rounds", type=int, default=10, help="turns of the IWAE contestants, one step each (default 10)"
    )
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())

    speed = matmul_speed(N, D, H)
    multiply_adds = 2 * (D * H + H * H) + H * 2 * Z + Z * H
    floor = 1e3 * 3 * 2 * multiply_adds * N / speed  # backward: one product for the weights, one for the input
    print(f"({N}x{D}) x ({D}x{H}): {speed / 1e9:.0f} GFLOP/s; at that speed a step's products take {floor:.2f} ms")

    batches = torch.bernoulli(torch.rand(20, 1, D).expand(20, N, D))
    ours = our_step(TraceELBO(), batches, compile=True)
    start = time.perf_counter()
    ours()
    first_step = time.perf_counter() - start
    print(f"the first compiled step took {first_step:.1f} s")
    elbo = in_turn(
        {
            "pyro": pyro_step(Trace_ELBO(), batches),
            "ours": ours,
            "uncompiled": our_step(TraceELBO(), batches, compile=False),
            "handwritten": handwritten_step(batches),
        },
        rounds=args.rounds, warmup=10, block=5,
    )  # fmt: skip
    table("ELBO", elbo)
    iwae = in_turn(
        {
            "pyro": pyro_step(RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True), batches),
            "ours": our_step(IWAE(K), batches, compile=True),
            "uncompiled": our_step(IWAE(K), batches, compile=False),
        },
        rounds=args.iwae_rounds, warmup=2,
    )  # fmt: skip
    table(f"IWAE, k = {K}", iwae)
    ratios = {
        "svi_step.pyro_over_ours": elbo["pyro"].ms / elbo["ours"].ms,
        "svi_step.ours_over_handwritten": elbo["ours"].ms / elbo["handwritten"].ms,
        "svi_step.iwae50_pyro_over_ours": iwae["pyro"].ms / iwae["ours"].ms,
        "svi_step.first_step_seconds": first_step,
        "svi_step.break_even_steps": 1e3 * first_step / (elbo["uncompiled"].ms - elbo["ours"].ms),
    }
    report(ratios, args.json)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        main()
