"""`ppl evaluate` of a model of labels: the error of q(y | x) and of p(y | x), log p(x, y), and other classifiers."""

import warnings
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from inference.cli.few_labels import split
from inference.cli.runs import Run, test_rows
from inference.errors import RunError
from inference.evidence.importance import summarise
from inference.evidence.labels import label_posterior
from ppl_models import StackedVAE, data
from ppl_models.data import Dataset

__all__ = ["baselines", "classification", "label_lines", "other_lines", "own_posterior"]


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


def own_posterior(pair: Any, test: Dataset, k: int, seed: int) -> dict[str, Any]:
    """Log p(x, y) of the labels, and the error of the model's own p(y | x), each class by k importance samples."""
    assert test.y is not None
    found = label_posterior(pair, test.x, k, seed=seed)
    joint = summarise(found.log_joint.gather(1, test.y.unsqueeze(1)).squeeze(1), k)
    by_q, by_p = found.errors(test.y)
    return {
        "k": k,
        "images": joint.num_data,
        "log_p_xy": joint.mean,
        "se": joint.se if joint.num_data > 1 else None,
        "error_q": by_q,
        "error_p": by_p,
        "agreement": found.agreement,
        "kl": float(found.kl.mean()),
    }


def baselines(model: Any, run: Run) -> list[dict[str, Any]]:
    """Classifiers of scikit-learn on the same labels: of the pixels, and of M1's codes where there is an M1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    if run.labels == 0:
        raise RunError("--baselines learn from labels, and this run saw none: leave it out")
    train, test = data.load(run.data, seed=run.seed)
    labelled, _ = split(run, train)
    assert labelled.y is not None and test.y is not None
    rows = {"pixels": (labelled.x, test.x)}
    if isinstance(model, StackedVAE):
        rows["M1's codes"] = (_code(model, labelled.x), _code(model, test.x))
    found = []
    for of, (x, x_test) in rows.items():
        classifiers = {
            "nearest neighbour": KNeighborsClassifier(1),
            "support vectors, C = 10": SVC(C=10),
            "network, hidden " + ",".join(map(str, run.options["hidden"])): MLPClassifier(
                run.options["hidden"], max_iter=500, random_state=run.seed
            ),
        }
        for name, classifier in classifiers.items():
            with warnings.catch_warnings():  # of few rows 500 passes are few steps, and more change no label
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(x.numpy(), labelled.y.numpy())
            label = torch.from_numpy(classifier.predict(x_test.numpy()))
            errors = _errors(label, test.y, run.options["n_classes"])
            found.append({"name": f"{name}, on {of}"} | {key: errors[key] for key in ("error", "low", "high")})
    return found


@torch.no_grad()
def _code(model: StackedVAE, x: Tensor) -> Tensor:
    """The mean of q(z1 | x): (N, D) -> (N, Z1)."""
    device = next(model.parameters()).device
    return torch.cat([model.m1.q_z(part.to(device)).mean.cpu() for part in x.split(1000)])


def label_lines(found: dict[str, Any]) -> list[str]:
    """What was found, in sentences."""
    lines = [f"Error of q(y | x): {_error_words(found)}."]
    own = found["posterior"]
    if own is not None:
        se = "" if own["se"] is None else f" +- {own['se']:.3f}"
        lines += [
            f"Bound on log p(x, y): {own['log_p_xy']:.3f}{se} nats on {own['images']:,} images, k = {own['k']}.",
            f"On these images the model's own p(y | x) errs in {100 * own['error_p']:.2f} %, q(y | x) in "
            f"{100 * own['error_q']:.2f} %; they agree on {100 * own['agreement']:.2f} %, "
            f"KL(q(y | x) || p(y | x)) is {own['kl']:.3f} nats.",
        ]
    return lines


def other_lines(found: dict[str, Any]) -> list[str]:
    """Errors of other classifiers on the same labels, a line each."""
    return [
        f"{other['name']}: {100 * other['error']:.2f} % ({100 * other['low']:.2f} to {100 * other['high']:.2f})"
        for other in found["baselines"] or ()
    ]


def _error_words(found: dict[str, Any]) -> str:
    """The error in a line, in per cent."""
    low, high = 100 * found["low"], 100 * found["high"]
    return (
        f"{100 * found['error']:.2f} % (95 % interval {low:.2f} to {high:.2f}) of {found['images']:,} test images, "
        f"{found['seen']:,} labels seen, drawn by seed {found['label_seed']}"
    )
