"""`ppl evaluate --ais`: annealed importance sampling on a run's images, and its gap on data that the model draws."""

import math
import time
from typing import Any

from torch import Tensor

from inference.cli.bars import Bars
from inference.evidence.ais import AIS, bdmc
from inference.evidence.importance import summarise

__all__ = ["annealed", "words"]

SIMULATED = 100  # rows that the model draws, at most


def annealed(
    pair: Any, data: tuple[Tensor, ...], bounds: dict[int, Tensor], ais: AIS, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """What evaluation.json says of it, and the bound of each image (N,), nats.

    pair: its guide gives the start; data: tensors of N rows each; bounds: L_k (N,) of the same images for every k.
    """
    began, cpu = time.perf_counter(), time.process_time()
    n = len(data[0])
    dreamt = min(n, SIMULATED)
    with Bars() as bars:
        label = f"annealing, {n} images, {ais.steps} steps"
        found = ais(pair, *data, seed=seed, on_rows=lambda rows: bars.at(label, rows, n))
        both = f"annealing there and back, {dreamt} draws of the model"
        few = tuple(part[:dreamt] for part in data)
        sandwich = bdmc(pair, *few, ais=ais, seed=seed, on_rows=lambda rows: bars.at(both, rows, dreamt))
    k, nats = max(bounds), summarise(found.log_p, ais.chains)
    above = summarise(found.log_p - bounds[k].to(found.log_p), 1)
    gap, gap_se = sandwich.gap
    noise = float(found.mcse.square().mean().sqrt()) / math.sqrt(n)
    result = {
        "steps": ais.steps,
        "chains": ais.chains,
        "mean": nats.mean,
        "se": nats.se,
        "mcse": noise,
        "images": n,
        "above": {"k": k, "difference": above.mean, "se": above.se},
        "simulated": {
            "images": dreamt,
            "lower": float(sandwich.lower.mean()),
            "upper": float(sandwich.upper.mean()),
            "gap": gap,
            "se": gap_se,
            "largest": float((sandwich.upper - sandwich.lower).max()),
        },
        "acceptance": found.acceptance,
        "evaluations": found.evaluations,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    return _without_nan(result), found.log_p


def words(result: dict[str, Any], evidence: str) -> list[str]:
    """The result in two lines."""
    above, simulated = result["above"], result["simulated"]
    return [
        f"Annealed importance sampling, {result['steps']} steps, {result['chains']} chains: {evidence} at least "
        f"{_pm(result['mean'], result['se'])} nats on {result['images']} images, L_{above['k']} "
        f"{_pm(above['difference'], above['se'], '+')}.",
        f"On {simulated['images']} images that the model drew: {evidence} between {simulated['lower']:.3f} and "
        f"{simulated['upper']:.3f}, a gap of {_pm(simulated['gap'], simulated['se'])} nats.",
    ]


def _pm(mean: float, se: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.3f}" + ("" if se is None else f" +- {se:.3f}")


def _without_nan(content: dict[str, Any]) -> dict[str, Any]:
    """None for what a single image or chain cannot tell."""
    return {
        key: _without_nan(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for key, value in content.items()
    }
