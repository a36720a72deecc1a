"""Which layers of a deep latent Gaussian model stay in use: with and without KL warm-up, by a chain and by a ladder.

    active units of each layer by Burda's rule, Var_x(E_q[u | x]) > 0.01, and the bounds on test images [sonderby2016]

A layer that the first steps switch off rarely comes back: its Kullback-Leibler divergence is 0 and so is its use.
Warm-up raises the weight of that divergence from 0 over the first part of the training. All else is equal: model, data,
steps, rates. Seeds are the outer loop; with --json each run is a line of that file, and one that is there is not run
again.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import torch

from inference import SVI, TraceELBO, active_units_by_site, fit, importance_weights, linear
from inference.evidence.importance import bound_per_datum
from ppl_models import DLGM, data

LAYERS = {  # units of z1, z2, ..., and of the deterministic layers below each; epochs of batches of 100
    "digits": ((16, 8, 4), ((64,), (32,), (16,)), 200),
    "binarized_mnist": ((64, 32, 16, 8, 4), ((200,), (100,), (64,), (32,), (16,)), 10),  # Sonderby's latents
}
ROWS = [(guide, warm) for guide in ("chain", "ladder") for warm in (False, True)]
WARM = 0.4  # share of the steps over which the weight rises


def learn(guide: str, warm: bool, seed: int, name: str) -> dict[str, Any]:
    """One training, judged on at most 1000 test images."""
    torch.set_num_threads(1)
    train, test = data.load(name)
    z_dims, hidden, epochs = LAYERS[name]
    grey = name == "digits"
    torch.manual_seed(seed)
    model = DLGM(train.x.shape[1], z_dims, hidden, guide=guide, mean=train.x.mean(0))
    batches = data.Batches(train.x, 100, binarize=grey)
    svi = SVI(
        model,
        TraceELBO(),
        torch.optim.AdamW(model.parameters(), 3e-3, eps=1e-4, weight_decay=0.01, fused=True),
        kl_warmup_steps=int(WARM * epochs * len(batches)) if warm else 0,
    )
    start = time.process_time()
    fit(svi, batches, epochs, seed, schedule=linear(0.01))
    seconds = time.process_time() - start
    fixed = torch.Generator().manual_seed(0)
    x = test.x[torch.randperm(len(test.x), generator=fixed)[:1000]]
    x = data.binarize(x, fixed) if grey else x
    log_w = importance_weights(model, x, 500)
    units = active_units_by_site(model, x)
    return {
        "data": name, "guide": guide, "warm": warm, "seed": seed, "steps": epochs * len(batches), "seconds": seconds,
        "active": [units[f"z{layer + 1}"].active for layer in range(len(z_dims))],
        "L1": float(bound_per_datum(log_w, 1).mean()), "L500": float(bound_per_datum(log_w, 500).mean()),
    }  # fmt: skip


def _learn(task: tuple[Any, ...]) -> dict[str, Any]:
    return learn(*task)


def table(runs: Iterable[dict[str, Any]], z_dims: Sequence[int]) -> str:
    """Markdown, a line a setting: means over seeds, in brackets their standard errors."""

    def mean(values: list[float], digits: int) -> str:
        se = f" ({statistics.stdev(values) / math.sqrt(len(values)):.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{se}"

    layers = " | ".join(f"z{layer + 1}, of {size}" for layer, size in enumerate(z_dims))
    columns = ["guide", "warm-up", layers, "active layers", "−L₁", "−L₅₀₀", "CPU-seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * (len(columns) + len(z_dims) - 1) + "|"]
    runs = list(runs)
    for guide, warm in ROWS:
        own = [run for run in runs if (run["guide"], run["warm"]) == (guide, warm)]
        if own:
            cells = [guide, "yes" if warm else "no"]
            cells += [mean([run["active"][layer] for run in own], 1) for layer in range(len(z_dims))]
            cells.append(mean([sum(n > 0 for n in run["active"]) for run in own], 1))
            cells += [mean([-run[key] for run in own], 2) for key in ("L1", "L500")]
            lines.append("| " + " | ".join([*cells, mean([run["seconds"] for run in own], 0)]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", choices=list(LAYERS), default="digits")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--json", type=Path, metavar="FILE", help="a line for each run, added to what is there")
    args = p.parse_args()
    runs = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json and args.json.exists() else []
    runs = [run for run in runs if run["data"] == args.data]
    done = {(run["guide"], run["warm"], run["seed"]) for run in runs}
    tasks = [(*row, seed, args.data) for seed in range(args.seeds) for row in ROWS]
    with Pool(args.processes) as pool:
        for run in pool.imap(_learn, [task for task in tasks if task[:3] not in done]):
            runs.append(run)
            print(json.dumps(run), flush=True)
            if args.json:
                with args.json.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    print(table(runs, LAYERS[args.data][0]))
    for guide, warm in ROWS:
        layers = [sum(n > 0 for n in run["active"]) for run in runs if (run["guide"], run["warm"]) == (guide, warm)]
        if layers:
            print(f"active_layers.{guide}{'.warm' if warm else ''} {statistics.mean(layers):.2f}")


if __name__ == "__main__":
    main()
