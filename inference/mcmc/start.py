"""Where a chain starts: a state of positive probability, found by drawing from the prior."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError
from inference.mcmc.joint import LogJoint

__all__ = ["start"]

_TRIES = 200


def start(joint: LogJoint, chains: int, values: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Values of every latent, (C, *site shape), at which log p is finite; uses the caller's RNG.

    Data with latents of their own are drawn anew each for itself, until all of them are possible.

    Raises:
        ShapeError: values that do not fit the latents.
        UnsupportedModelError: no state of positive probability among 200 draws for each chain.
    """
    joint = replace(joint, mode="loop")  # whether it runs otherwise is not known yet
    if values is not None:
        _check_values(joint, chains, values)
    else:
        values = _draws(joint, chains)
    log_p = _log_p(joint, values)
    for _ in range(_TRIES):
        bad = log_p == -math.inf
        if not bad.any():
            return values
        other = _draws(joint, chains)
        take = bad & (_log_p(joint, other) > -math.inf)  # (C, N)
        for site in joint.latents:
            shape = [chains] + [1] * len(site.shape)
            if joint.data is not None:
                shape[1 + site.batch + joint.data.dim] = take.shape[1]
            values[site.name] = torch.where(take.reshape(shape), other[site.name], values[site.name])
        log_p = _log_p(joint, values)
    raise UnsupportedModelError(
        f"no state of positive probability was found among {_TRIES} draws from the prior for each of {chains} chains: "
        "pass gibbs.init the values= of one, or check that the data are possible under the model"
    )


def _draws(joint: LogJoint, chains: int) -> dict[str, Tensor]:
    drawn = [joint.draw() for _ in range(chains)]
    return {
        site.name: torch.stack([values[site.name].expand(site.shape) for values in drawn]) for site in joint.latents
    }


def _log_p(joint: LogJoint, values: dict[str, Tensor]) -> Tensor:
    terms = joint.terms(values)
    for name, term in terms.items():
        if bool(term.isnan().any()):
            raise UnsupportedModelError(
                f"the log-probability of site '{name}' is NaN at a draw from the prior: check its parameters there"
            )
    return joint.log_p(terms)


def _check_values(joint: LogJoint, chains: int, values: dict[str, Tensor]) -> None:
    expected = {site.name: (chains, *site.shape) for site in joint.latents}
    got = {name: tuple(value.shape) for name, value in values.items()}
    if got != expected:
        raise ShapeError(f"values holds (chains, *site shape) for every latent, {expected}, got {got}")
