"""Runs that learn from few labels: what `ppl train ssvae` and `ppl train m1m2` step on, and by which bound."""

from typing import Any

from torch import nn

from inference.errors import RunError
from inference.pair import Pair, as_pair
from inference.types import BatchSource, Objective
from inference.vi.objectives import IWAE, TraceEnumELBO
from inference.vi.semi_supervised import SemiSupervisedELBO
from ppl_models import StackedVAE
from ppl_models.data import Codes, Dataset, Interleave, split_labels

__all__ = ["batches_of", "few_label_objective", "number_of_labels", "pixels", "split", "trained_part"]


def number_of_labels(words: str) -> int | str:
    """The option --labels: a number, or "all"."""
    if words == "all" or words.removeprefix("-").isdecimal():
        return words if words == "all" else int(words)
    raise RunError(f"--labels takes a number of rows or the word all, got '{words}': pass --labels 100")


def pixels(words: str) -> int | str:
    """The option --shift: a number, or "auto"."""
    if words == "auto" or words.isdecimal():
        return words if words == "auto" else int(words)
    raise RunError(f"--shift takes a number of pixels or the word auto, got '{words}': pass --shift 2")


def few_label_objective(run: Any, rows: int) -> Objective:
    """The bound that the words of a run name, with its classification term; rows: of the training data."""
    bounds = {"elbo": lambda: TraceEnumELBO(num_particles=run.k), "iwae": lambda: IWAE(run.k, run.gradient)}
    if run.objective not in bounds:
        raise RunError(f"unknown objective '{run.objective}': choose elbo or iwae")
    if run.share not in ("batch", "data"):
        raise RunError(f"unknown share '{run.share}': choose batch or data")
    share = run.labels / rows if run.share == "data" else None
    return SemiSupervisedELBO(run.alpha, share, bounds[run.objective]())


def split(run: Any, train: Dataset) -> tuple[Dataset, Dataset]:
    """The rows whose labels are seen, and the others."""
    return split_labels(train, run.labels, run.balanced, run.label_seed)


def batches_of(run: Any, model: nn.Module, train: Dataset) -> BatchSource:
    """Images, labelled and not, or, for a stacked model, their codes."""
    labelled, unlabelled = split(run, train)
    if isinstance(model, StackedVAE):
        return Codes(model.m1, labelled, unlabelled, run.batch_size, run.labelled_batch)
    return Interleave(
        labelled, unlabelled, run.batch_size, run.labelled_batch,
        binarize=run.binarize == "dynamic", shift=run.shift,
    )  # fmt: skip


def trained_part(model: nn.Module, m1: nn.Module | None) -> Pair:
    """What learns: the model, or the M2 of a stacked one, whose M1 is taken over and fixed; all of it is saved."""
    if not isinstance(model, StackedVAE):
        return as_pair(model)
    assert m1 is not None
    model.m1.load_state_dict(m1.state_dict())
    model.m1.requires_grad_(False).eval()
    return Pair(model.m2.model, model.m2.guide, owner=model)
