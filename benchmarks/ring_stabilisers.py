"""What each stabiliser does on the ring of 8: the plain GAN with each alone, the recommended settings less each part.

    modes and share of high quality of 10,000 samples, reverse KL in nats: means and standard errors over seeds

Everything else is equal: networks, optimiser, batches, steps. Seeds are the outer loop, so that a run that is stopped
has still treated all rows alike; with --json each run is a line of that file, and one that is there is not run again.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import torch

from inference import (
    R1,
    Adversarial,
    FeatureMatching,
    FreezeOnAccuracy,
    GradientPenalty,
    Hinge,
    HistoricalAveraging,
    LabelSmoothing,
    LeastSquares,
    Minimax,
    NonSaturating,
    Wasserstein,
    fit,
    linear,
    virtual_batch_norm,
)
from inference.adversarial.modes import mode_coverage
from ppl_models import Discriminator, Generator, data


@dataclass(frozen=True)
class Setting:
    """The plain game, and what may be added to it."""

    game: tuple[tuple[str, Any], ...] = ()  # arguments of Adversarial
    loss: Any = NonSaturating()
    pack: int = 1
    decay: bool = False  # the rate falls to 0 on a straight line
    fourier: tuple[float, ...] = ()  # scales of Fourier features, in the discriminator
    norm: str | None = None  # "batch" or "virtual", in the generator
    discriminator: tuple[tuple[str, Any], ...] = ()  # arguments of Discriminator

    def less(self, name: str) -> "Setting":
        """The same without an argument of the game."""
        return replace(self, game=tuple(pair for pair in self.game if pair[0] != name))


SLOPE = 0.05  # R1's gamma: 0.1 in units of the ring's variance, 1/2
PLAIN = Setting()
BEST = Setting(game=(("penalties", (R1(SLOPE),)), ("average", 0.999)), pack=2, decay=True, fourier=(1.0, 2.0, 4.0, 8.0))

ROWS = {
    "plain": PLAIN,
    "freezing by accuracy": Setting((("freeze", FreezeOnAccuracy(0.6, 0.55)),)),
    "one-sided smoothing, 0.9": Setting((("smoothing", LabelSmoothing(0.9)),)),
    "two-sided smoothing, 0.9 and 0.1": Setting((("smoothing", LabelSmoothing(0.9, 0.1)),)),
    "batch norm in G": Setting(norm="batch"),
    "virtual batch norm in G": Setting(norm="virtual"),
    "feature matching": Setting((("feature_matching", FeatureMatching()),)),
    "minibatch discrimination": Setting(discriminator=(("minibatch_kernels", 16),)),
    "historical averaging": Setting((("history", HistoricalAveraging(1e-3)),)),
    "spectral norm": Setting(discriminator=(("spectral_norm", True),)),
    "R1": Setting((("penalties", (R1(SLOPE),)),)),
    "packing 2": Setting(pack=2),
    "averaged weights": Setting((("average", 0.999),)),
    "rate falling to 0": Setting(decay=True),
    "Fourier features": Setting(fourier=BEST.fourier),
    "minimax": Setting(loss=Minimax()),
    "least squares": Setting(loss=LeastSquares()),
    "hinge": Setting(loss=Hinge()),
    "Wasserstein, gradient penalty": Setting((("penalties", (GradientPenalty(),)), ("d_steps", 5)), loss=Wasserstein()),
    "recommended": BEST,
    "less packing": replace(BEST, pack=1),
    "less R1": BEST.less("penalties"),
    "less averaging": BEST.less("average"),
    "less the falling rate": replace(BEST, decay=False),
    "less Fourier features": replace(BEST, fourier=()),
}


def play(name: str, seed: int, steps: int, batch_size: int) -> dict[str, Any]:
    """One game, judged."""
    torch.set_num_threads(1)
    setting, toy = ROWS[name], data.ring()
    x = toy.sample(100_000, seed)
    mean, scale = x.mean().item(), x.std().item()
    torch.manual_seed(seed)
    norm = "batch" if setting.norm else None
    g = Generator(2, z_dim=8, hidden=(128,) * 4, activation="tanh", norm=norm, mean=mean, scale=scale)
    more = dict(setting.discriminator)
    d = Discriminator(2, pack=setting.pack, fourier=setting.fourier, mean=mean, scale=scale, **more)
    if setting.norm == "virtual":
        virtual_batch_norm(g, g.noise(64))
    rates = ((g, 3e-3), (d, 2e-3))
    opt_g, opt_d = (torch.optim.Adam(p.parameters(), lr, (0.5, 0.99), fused=True) for p, lr in rates)
    game = Adversarial(g, d, opt_g, opt_d, setting.loss, pack=setting.pack, **dict(setting.game))
    batches = data.Batches(x[: batch_size * 100], batch_size)  # an epoch of 100 steps
    start = time.process_time()
    try:
        fit(game, batches, steps // 100, seed=seed, schedule=linear(0.0) if setting.decay else None)
        found = mode_coverage(game.best.generate(10_000, seed=seed), toy.means, toy.sd)  # pyright: ignore
    except ValueError as error:  # a player that is NaN
        return {"name": name, "seed": seed, "error": str(error)}
    return {"name": name, "seed": seed, "modes": found.modes, "good": 100 * found.high_quality,
            "kl": found.reverse_kl, "seconds": time.process_time() - start}  # fmt: skip


def _play(task: tuple[Any, ...]) -> dict[str, Any]:
    return play(*task)


def table(runs: Iterable[dict[str, Any]]) -> str:
    """Markdown, a line a setting."""

    def mean(values: list[float], digits: int) -> str:
        values = [v for v in values if math.isfinite(v)]
        if not values:
            return "-"
        se = f" ({statistics.stdev(values) / len(values) ** 0.5:.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{se}"

    lines = ["| | modes of 8 | high quality, % | reverse KL | CPU-seconds |", "|---|---|---|---|---|"]
    runs = list(runs)
    for name in ROWS:
        tried = [run for run in runs if run["name"] == name]
        own = [run for run in tried if "error" not in run]
        if len(own) < len(tried):
            name += f", {len(tried) - len(own)} of {len(tried)} not finite"
        if own:
            columns = [mean([run[key] for run in own], n) for key, n in (("modes", 1), ("good", 1), ("kl", 4))]
            lines.append(f"| {name} | {' | '.join(columns)} | {statistics.mean(r['seconds'] for r in own):.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch-size", type=int, default=128)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--json", type=Path, metavar="FILE", help="a line for each run, added to what is there")
    args = p.parse_args()
    runs = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json and args.json.exists() else []
    done = {(run["name"], run["seed"]) for run in runs}
    tasks = [(name, seed, args.steps, args.batch_size) for seed in range(args.seeds) for name in ROWS]
    with Pool(args.processes) as pool:
        for run in pool.imap(_play, [task for task in tasks if task[:2] not in done]):
            runs.append(run)
            print(json.dumps(run), flush=True)
            if args.json:
                with args.json.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    print(table(runs))
    for name in ("plain", "recommended"):
        good = [run["good"] for run in runs if run["name"] == name and "error" not in run]
        if good:
            print(f"ring.{name}.high_quality {statistics.mean(good):.2f}")


if __name__ == "__main__":
    main()
