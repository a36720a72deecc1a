"""How noisy each gradient estimator for discrete latents is, on one trained sigmoid belief network.

A network 64-20 with a linear guide, trained with VIMCO on scikit-learn's digits, then frozen. For one batch of 100
images, the variance of the guide's gradient (of nats per datum) over many draws, averaged over its 1300 coordinates, at
2 and at 10 evaluations of log p(x, h) a datum. NVIL's baseline is trained on the frozen network first, its division by
the deviation off: all estimate one gradient, that of the ELBO; VIMCO that of its own bound, which is smaller, so that
the table also has the variance over the gradient's own mean square. Ratios of variances:

    estimator_variance.reinforce_over_X_K       the mean of K plain score-function draws / estimator X, K evaluations
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from common import machine, parser, report
from torch import Tensor
from torch.optim import Adam

from inference import IWAE, NVIL, SVI, DisARM, TraceELBO, fit
from inference.pair import Pair, as_pair
from ppl_models import SigmoidBeliefNetwork, data


class Row(NamedTuple):
    variance: float  # mean over coordinates
    size: float  # mean square of the mean gradient's coordinates, the variance of that mean taken off
    ms: float  # a draw


def trained(epochs: int) -> SigmoidBeliefNetwork:
    x = data.digits()[0].x
    sbn = SigmoidBeliefNetwork((64, 20), mean=x.mean(0))
    svi = SVI(sbn, IWAE(5), Adam(sbn.parameters(), 3e-3))
    history = fit(svi, data.Batches(x, 100, binarize=True), epochs, seed=0)
    print(f"SBN 64-20, VIMCO of 5 particles, {epochs} epochs: {history[-1]['loss']:.2f} nats on the training images")
    return sbn


def with_baseline(pair: Pair, hidden: int, k: int, epochs: int) -> NVIL:
    """NVIL whose baseline has seen the frozen network for a while; its moments stand still from here on."""
    objective = NVIL(hidden=hidden, num_particles=k, normalise=False)
    batches = data.Batches(data.digits()[0].x, 100, binarize=True)
    for epoch in range(epochs):
        for (x,) in batches.epoch(epoch, 0):
            objective.init(pair, x)
            if hidden and epoch == 0:
                optimizer = Adam(objective.parameters(), 1e-3)
            loss = objective(pair, x).loss
            if hidden:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return objective.eval()


def measure(objective: Callable[..., Any], pair: Pair, x: Tensor, draws: int) -> Row:
    guide = [p for name, p in pair.named_parameters().items() if name.startswith("up.")]
    total = torch.zeros(sum(p.numel() for p in guide), dtype=torch.float64)
    squares = torch.zeros_like(total)
    start = time.perf_counter()
    for _ in range(draws):
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(objective(pair, x).loss, guide)]).double()
        total += gradient
        squares += gradient**2
    ms = 1e3 * (time.perf_counter() - start) / draws
    mean = total / draws
    variance = (squares / draws - mean**2) * draws / (draws - 1)
    return Row(variance.mean().item(), (mean**2 - variance / draws).mean().item(), ms)


def main() -> None:
    p = parser(__doc__, rounds=400)
    p.add_argument("--epochs", type=int, default=100, help="of training the network (default 100)")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    pair = as_pair(trained(args.epochs))
    x = data.binarize(data.digits()[0].x[:100], torch.Generator().manual_seed(1))
    plain = measure(TraceELBO(), pair, x, args.rounds)
    ratios = {}
    print("\n| estimator | evaluations | variance | REINFORCE / it | variance / mean square | ms |")
    print("|---|---|---|---|---|---|")
    for k in (2, 10):
        candidates = {
            "NVIL, c alone": with_baseline(pair, 0, k, 3),
            "NVIL, c and C(x)": with_baseline(pair, 100, k, 30),
            "leave-one-out": TraceELBO(k),
            "DisARM": DisARM(k // 2),
            f"VIMCO, of its own bound L_{k}": IWAE(k),
        }
        rows = {"REINFORCE": Row(plain.variance / k, plain.size, k * plain.ms)}
        rows |= {name: measure(objective, pair, x, args.rounds) for name, objective in candidates.items()}
        for name, row in rows.items():
            gain = rows["REINFORCE"].variance / row.variance
            size = (row if name.startswith("VIMCO") else rows["DisARM"]).size  # the ELBO's, by its quietest estimate
            relative = row.variance / size
            print(f"| {name} | {k} | {row.variance:.2e} | {gain:.1f} | {relative:.2f} | {row.ms:.1f} |")
            if name != "REINFORCE":
                ratios[f"estimator_variance.reinforce_over_{_word(name)}_{k}"] = gain
    report(ratios, args.json)


def _word(name: str) -> str:
    words = {"NVIL, c alone": "nvil_centre", "NVIL, c and C(x)": "nvil", "leave-one-out": "leave_one_out"}
    return words.get(name, name.split(",")[0].lower())


if __name__ == "__main__":
    main()
