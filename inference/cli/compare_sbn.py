"""`ppl compare sbn`: a sigmoid belief network learnt by several methods, then drawn by several engines."""

from typing import Any

from inference.cli.bars import Bars
from inference.errors import RunError

__all__ = ["learnt"]


def learnt(data: str, hidden: str, methods: str | None, budget: float, images: int, seed: int) -> Any:
    """Learn by each method, then compare engines on the model that learnt best."""
    import torch

    from inference.cli import methods as known
    from inference.cli.running import integers, is_binary
    from inference.comparison.compare import compare
    from inference.comparison.learning import learn
    from ppl_models import SigmoidBeliefNetwork
    from ppl_models import data as datasets

    layers = integers("hidden", hidden)
    names = known.settled(methods, sum(layers))
    if not 0 < budget < float("inf"):
        raise RunError(f"--budget is above 0 seconds, got {budget}: pass for example --budget 10")
    train, test = datasets.load(data, seed=seed)
    grey = not is_binary(train.x)
    generator = torch.Generator().manual_seed(seed)
    # drawn once for all: every method and every engine sees the same pixels
    train_x, test_x = (datasets.binarize(each.x, generator) if grey else each.x for each in (train, test))
    test_x = test_x[torch.randperm(len(test_x), generator=generator)]
    if images > len(test_x):
        raise RunError(f"{data} has {len(test_x)} test images, fewer than the {images} asked for: lower --images")

    def make() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SigmoidBeliefNetwork((train_x.shape[1], *layers), mean=train_x.mean(0))

    make()  # refuses layers that cannot be, before anything is learnt
    evaluate, estimate = known.evaluation(test_x, sum(layers), seed)
    with Bars() as bars:
        curves = learn(
            make,
            known.learners(names, train_x),
            evaluate,
            budget=budget,
            seed=seed,
            estimate=estimate,
            on_time=lambda name, used: bars.at(f"learning: {name}", used, budget),
        )
        best = max(curves, key=lambda curve: curve.points[-1].log_p)
        made, reference = known.engines(names, sum(layers))
        told = bars.counter("engines", made)
        result = compare(best.model, test_x[:images], made, reference=reference, seed=seed, on_engine=told)
    notes = {
        "model": f"sigmoid belief network {train_x.shape[1]}-{'-'.join(map(str, layers))}, as {best.method} learnt it",
        "pixels": "binarised once, by seed" if grey else "static",
    }
    title = f"Sigmoid belief network on {data}: which engine to trust"
    return result._replace(title=title, learning=curves, notes=notes)
