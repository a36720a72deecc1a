"""A checkpoint is one safetensors file: tensors, and in its header a JSON text with everything that is no tensor.

One file, written beside its place and renamed into it, is either the old state or the new one, never half of each, and
loading it runs no code.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.errors import CheckpointError

__all__ = ["FORMAT", "flatten_optimizer", "load", "restore", "save", "unflatten_optimizer", "write_text"]

FORMAT = "ppl-models checkpoint 1"


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON-able `meta` to `path`, atomically; on any error the file at `path` is as it was."""
    header = {"format": FORMAT, "meta": json.dumps(meta)}
    # safetensors refuses tensors that share memory, and wants them contiguous
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        _replace(path, lambda temporary: save_file(own, temporary, metadata=header))
    except SafetensorError as error:  # its only cause here is the disk, and its own words hide which file it was
        raise OSError(f"the checkpoint {path} cannot be written ({error})") from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a checkpoint.

    Raises:
        CheckpointError: the file is missing, truncated, or no checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}: name a folder that `ppl train` wrote")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file but no checkpoint of ours: name a folder that `ppl train` wrote"
                )
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["meta"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}): it is truncated or of another kind; train anew"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    _replace(path, lambda temporary: Path(temporary).write_text(text))


def restore(pair: Any, tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint's parameters and buffers into a pair, in place.

    Raises:
        CheckpointError: a name or a shape differs: the checkpoint is of another model.
    """
    own = {f"parameter.{n}": p for n, p in pair.named_parameters().items()}
    own |= {f"buffer.{n}": b for n, b in pair.named_buffers().items()}
    there = {name for name in tensors if name.startswith(("parameter.", "buffer."))}
    if there != own.keys():
        odd = sorted(there ^ own.keys())[0]
        raise CheckpointError(
            f"the checkpoint is of another model: '{odd.split('.', 1)[1]}' is "
            f"{'only in the checkpoint' if odd in there else 'missing there'}: build the model with the run's options"
        )
    for name, target in own.items():
        if target.shape != tensors[name].shape:
            raise CheckpointError(
                f"the checkpoint is of another model: '{name.split('.', 1)[1]}' is {tuple(tensors[name].shape)} there "
                f"and {tuple(target.shape)} here: build the model with the run's own options"
            )
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(tensors[name])


def flatten_optimizer(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """Optimisers as named tensors and JSON-able groups."""
    tensors: dict[str, Tensor] = {}
    groups = []
    for i, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        plain: dict[str, Any] = {}
        for index, slots in state["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{i}.{index}.{key}"] = value
                else:
                    plain[f"{index}.{key}"] = value
        groups.append({"groups": state["param_groups"], "plain": plain})
    return tensors, groups


def unflatten_optimizer(
    optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor], groups: list[Any]
) -> None:
    """The inverse of `flatten_optimizer`, into existing optimisers."""
    for i, (optimizer, saved) in enumerate(zip(optimizers, groups, strict=True)):
        slots: dict[int, dict[str, Any]] = {}
        prefix = f"optimizer.{i}."
        for name, value in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".", 1)
                slots.setdefault(int(index), {})[key] = value
        for name, value in saved["plain"].items():
            index, key = name.split(".", 1)
            slots.setdefault(int(index), {})[key] = value
        try:
            optimizer.load_state_dict({"state": slots, "param_groups": saved["groups"]})
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint's optimiser does not fit ({error}): train anew") from None


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(str(temporary))
        temporary.chmod(mode)  # safetensors leaves a file that only its owner may read
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # where the folder itself is none, the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
