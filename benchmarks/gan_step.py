"""What a step of a game costs: `Adversarial` against the loop that one writes by hand with two optimisers.

The loop is PyTorch's DCGAN example reduced to its step, with no readings but the two losses. Ours reads scores and
accuracy too at every step; in exchange the generator's move computes no gradient of the discriminator's weights. Same
networks, data, loss and fused Adam, in turn in one process. Ratios of medians:

    gan_step.ring       2-128-128-2 against 2-128-128-1, batch 500, non-saturating loss
    gan_step.ring_full  the same with packing, R1 and averaged weights, all by hand too
    gan_step.dcgan      DCGAN of 28 x 28, batch 64
"""

import copy
from collections.abc import Callable
from itertools import cycle

import torch
from common import in_turn, machine, parser, report
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from inference import R1, Adversarial
from ppl_models.dcgan import DCGANDiscriminator, DCGANGenerator
from ppl_models.gan import Discriminator, Generator

GAMMA, DECAY = 0.1, 0.999


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999), fused=True)


def ours(make: Callable[[], tuple[nn.Module, nn.Module]], batches: Tensor, pack: int = 1) -> Callable[[], object]:
    g, d = make()
    full = {"penalties": (R1(GAMMA),), "average": DECAY} if pack > 1 else {}
    game, data = Adversarial(g, d, adam(g), adam(d), pack=pack, **full), cycle(batches)
    return lambda: game.step(next(data))


def by_hand(make: Callable[[], tuple[nn.Module, nn.Module]], batches: Tensor, pack: int = 1) -> Callable[[], object]:
    g, d = make()
    opt_g, opt_d, data = adam(g), adam(d), cycle(batches)
    averaged = copy.deepcopy(g).requires_grad_(False)
    ones, zeros = torch.ones(batches.shape[1] // pack), torch.zeros(batches.shape[1] // pack)

    def step() -> tuple[float, float]:
        x = next(data).reshape(len(ones), -1)
        if pack > 1:
            x = x.detach().requires_grad_()
        fake = g(torch.randn(len(ones) * pack, g.z_dim)).reshape(len(ones), -1)
        opt_d.zero_grad()
        a_real = d(x)
        d_loss = cross_entropy(a_real, ones) + cross_entropy(d(fake.detach()), zeros)
        total = d_loss
        if pack > 1:
            (slope,) = torch.autograd.grad(a_real.sum(), x, create_graph=True)
            total = d_loss + GAMMA / 2 * slope.square().sum(1).mean()
        total.backward()
        opt_d.step()
        opt_g.zero_grad()
        g_loss = cross_entropy(d(fake), ones)
        g_loss.backward()
        opt_g.step()
        if pack > 1:
            with torch.no_grad():
                for mean, p in zip(averaged.parameters(), g.parameters(), strict=True):
                    mean.lerp_(p, 1 - DECAY)
        return d_loss.item(), g_loss.item()

    return step


def main() -> None:
    args = parser(__doc__, rounds=100).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    toy, images = torch.randn(20, 500, 2), torch.rand(20, 64, 784)

    def mlp(pack: int) -> Callable[[], tuple[nn.Module, nn.Module]]:
        return lambda: (Generator(2, z_dim=2, hidden=(128, 128)), Discriminator(2, hidden=(128, 128), pack=pack))

    def conv() -> tuple[nn.Module, nn.Module]:
        return DCGANGenerator((1, 28, 28)), DCGANDiscriminator((1, 28, 28))

    ratios = {}
    for name, make, batches, pack, rounds in (
        ("ring", mlp(1), toy, 1, args.rounds),
        ("ring_full", mlp(2), toy, 2, args.rounds),
        ("dcgan", conv, images, 1, max(1, args.rounds // 10)),
    ):
        times = in_turn(
            {"ours": ours(make, batches, pack), "by hand": by_hand(make, batches, pack)},
            rounds=rounds, warmup=3, block=3,
        )  # fmt: skip
        for who, t in times.items():
            print(f"  {name:<10} {who:<8} {t.ms:8.3f} ms  {t.cpu_ms:8.3f} CPU-ms a step")
        ratios[f"gan_step.{name}"] = times["ours"].ms / times["by hand"].ms
    report(ratios, args.json)


if __name__ == "__main__":
    main()
