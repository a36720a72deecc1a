"""`ppl evaluate` of a model of labels: the classifier's test error, and log p(x, y) beside log p(x)."""

from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from inference.cli.runs import Run, test_rows
from inference.errors import RunError

__all__ = ["classification", "error_words"]


@torch.no_grad()
def classification(model: Any, run: Run) -> dict[str, Any]:
    """What evaluation.json says of q(y | x) on all test images, grey ones as they are."""
    device = next(model.parameters()).device
    test = test_rows(run, None, run.seed, drawn=False)
    if test.y is None:
        raise RunError(f"{run.data} has no test labels, so there is no error: take a data set that has, such as mnist")
    probabilities = torch.cat([model.classify(part.to(device)).cpu() for part in test.x.split(1000)])
    found = _errors(probabilities.argmax(1), test.y, probabilities.shape[1])
    return {"seen": run.labels, "label_seed": run.label_seed, "balanced": run.balanced, **found}


def _errors(label: Tensor, y: Tensor, classes: int) -> dict[str, Any]:
    """Error with its Wilson interval, and the confusion matrix (truth, prediction)."""
    classes = max(classes, int(y.max()) + 1)
    wrong, n = int((label != y).sum()), len(y)
    interval = binomtest(wrong, n).proportion_ci(method="wilson")
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((y, label), torch.ones_like(y), accumulate=True)
    return {
        "error": wrong / n,
        "low": float(interval.low),
        "high": float(interval.high),
        "images": n,
        "confusion": confusion.tolist(),
    }


def error_words(found: dict[str, Any]) -> str:
    """The error in a line, in per cent."""
    low, high = 100 * found["low"], 100 * found["high"]
    return (
        f"{100 * found['error']:.2f} % (95 % interval {low:.2f} to {high:.2f}) of {found['images']:,} test images, "
        f"{found['seen']:,} labels seen, drawn by seed {found['label_seed']}"
    )
