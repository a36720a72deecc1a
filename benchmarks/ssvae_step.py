"""What an M2 step costs with its ten classes summed out: Pyro's TraceEnum_ELBO, ours, and a hand-written PyTorch loop.

Kingma's M2, 784-500-(50 + 10 classes)-500-784 with softplus, batches of 100 unlabelled rows, float32: the same networks
and data for all, in turn in one process. Pyro's model is that of its own example, ss_vae_M2, with one-hot labels; the
loop runs the ten classes as one batch of 1000 rows, with closed-form KL and fused Adam. Ratios of medians:

    ssvae_step.ours_over_handwritten    ours, compiled / the loop
    ssvae_step.pyro_over_ours           Pyro's SVI.step with TraceEnum_ELBO / ours, compiled

Ours multiplies the images by the first layer's weights once, not once a class; `handwritten, shared` does so too, and
shows how much of the ratio that is.
"""

from collections.abc import Callable
from itertools import cycle

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from common import in_turn, machine, matmul_speed, parser, report
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import inference
from inference import SemiSupervisedELBO
from ppl_models import SemiSupervisedVAE

D, H, Z, C, N = 784, 500, 50, 10, 100


class PyroM2(nn.Module):
    """Pyro's examples/vae/ss_vae_M2.py, reduced to what the unlabelled step runs."""

    def __init__(self):
        super().__init__()
        self.encoder_y = nn.Sequential(nn.Linear(D, H), nn.Softplus(), nn.Linear(H, C), nn.Softmax(dim=-1))
        self.encoder_z = nn.Sequential(nn.Linear(D + C, H), nn.Softplus())
        self.z_loc, self.z_log_scale = nn.Linear(H, Z), nn.Linear(H, Z)
        self.decoder = nn.Sequential(nn.Linear(Z + C, H), nn.Softplus(), nn.Linear(H, D), nn.Sigmoid())

    def model(self, xs: Tensor) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), Z), xs.new_ones(len(xs), Z)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(xs.new_ones(len(xs), C) / C))
            shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            both = torch.cat([z.expand(*shape, Z), y.expand(*shape, C)], -1)
            pyro.sample("x", dist.Bernoulli(self.decoder(both), validate_args=False).to_event(1), obs=xs)

    def guide(self, xs: Tensor) -> None:
        with pyro.plate("data"):
            y = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            shape = torch.broadcast_shapes(xs.shape[:-1], y.shape[:-1])
            hidden = self.encoder_z(torch.cat([xs.expand(*shape, D), y.expand(*shape, C)], -1))
            pyro.sample("z", dist.Normal(self.z_loc(hidden), self.z_log_scale(hidden).exp()).to_event(1))


def pyro_step(batches: Tensor) -> Callable[[], object]:
    pyro.clear_param_store()
    m2 = PyroM2()
    guide = config_enumerate(m2.guide, "parallel", expand=True)
    svi = pyro.infer.SVI(m2.model, guide, pyro.optim.Adam({"lr": 3e-4}), loss=TraceEnum_ELBO(max_plate_nesting=1))
    data = cycle(batches)
    return lambda: svi.step(next(data))


def our_step(batches: Tensor, compile: bool) -> Callable[[], object]:
    m2 = SemiSupervisedVAE(D, Z, C, (H,), "softplus")
    adam = torch.optim.Adam(m2.parameters(), 3e-4, fused=True)
    svi = inference.SVI(m2, SemiSupervisedELBO(), adam, compile=compile)
    data = cycle(batches)
    return lambda: svi.step(next(data))


def handwritten_step(batches: Tensor, shared: bool) -> Callable[[], object]:
    classifier = nn.Sequential(nn.Linear(D, H), nn.Softplus(), nn.Linear(H, C))
    into_z, into_x = nn.Linear(D + C, H), nn.Linear(Z + C, H)
    head, output = nn.Linear(H, 2 * Z), nn.Linear(H, D)
    nets = nn.ModuleList([classifier, into_z, into_x, head, output])
    optimizer = torch.optim.Adam(nets.parameters(), 3e-4, fused=True)
    data, labels = cycle(batches), torch.eye(C).repeat_interleave(N, 0)  # (C N, C)

    def step() -> float:
        x = next(data)
        ten = x.repeat(C, 1)
        if shared:
            part = nn.functional.linear(x, into_z.weight[:, :D], into_z.bias)
            hidden = softplus((part + into_z.weight[:, D:].t().unsqueeze(1)).flatten(0, 1))
        else:
            hidden = softplus(into_z(torch.cat([ten, labels], 1)))
        mean, log_var = head(hidden).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        logits = output(softplus(into_x(torch.cat([z, labels], 1))))
        rec = -binary_cross_entropy_with_logits(logits, ten, reduction="none").sum(-1)
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), -1)
        log_q = classifier(x).log_softmax(-1).t()  # (C, N)
        bound = (log_q.exp() * ((rec - kl).reshape(C, N) - log_q)).sum(0).mean()  # log C, a constant, is left out
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        return bound.item()

    return step


def main() -> None:
    args = parser(__doc__, rounds=30).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    speed = matmul_speed(C * N, H, D)
    once, by_class = D * H + H * C + D * H, H * 2 * Z + Z * H + H * D
    floor = 1e3 * 3 * 2 * N * (once + C * by_class) / speed
    print(f"({C * N}x{H}) x ({H}x{D}): {speed / 1e9:.0f} GFLOP/s; at that speed a step's products take {floor:.1f} ms")
    batches = torch.bernoulli(torch.rand(20, 1, D).expand(20, N, D))
    times = in_turn(
        {
            "pyro": pyro_step(batches),
            "ours": our_step(batches, compile=True),
            "uncompiled": our_step(batches, compile=False),
            "handwritten": handwritten_step(batches, shared=False),
            "handwritten, shared": handwritten_step(batches, shared=True),
        },
        rounds=args.rounds, warmup=5, block=2,
    )  # fmt: skip
    for name, t in times.items():
        print(f"  {name:<20} {t.ms:8.2f} ms  {t.cpu_ms:8.2f} CPU-ms a step")
    ratios = {
        "ssvae_step.ours_over_handwritten": times["ours"].ms / times["handwritten"].ms,
        "ssvae_step.pyro_over_ours": times["pyro"].ms / times["ours"].ms,
    }
    report(ratios, args.json)


if __name__ == "__main__":
    main()
