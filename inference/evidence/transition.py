"""Gibbs sampling as matrices: what a sweep does to every state of a small model, exactly.

    T_b(s, s') = p(s'_b | s_-b) where s' differs from s in block b alone, else 0;    sweep T = T_1 T_2 ...
    pi T = pi,   tau(f) = 1 + 2 sum_{t >= 1} corr(f(s_0), f(s_t)),   s_0 ~ pi

Made from the joint distribution and from no sampler, so that samplers can be held against it. S is the number of
states, numbered as in `exact_table`: the last coordinate fastest. A distribution is a row vector.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from inference.errors import ShapeError, UnsupportedModelError

__all__ = ["autocorrelation_time", "gibbs_sweep", "gibbs_update", "stationary"]

_STATES = 2**12  # a matrix of 128 MB in float64


def gibbs_update(log_joint: Tensor, block: Sequence[int]) -> Tensor:
    """Transition matrix of one Gibbs update: the coordinates of `block` drawn together given all others.

    A state whose neighbours all have probability 0 stays where it is.

    Args:
        log_joint: (V_1, ..., V_C) log p(x, h) up to a constant: a dim for each coordinate.
        block: coordinates, 0 ... C - 1.

    Returns:
        (S, S) float64, rows sum to 1.

    Raises:
        ShapeError: a block that is empty, has a coordinate twice or one that is not there.
        UnsupportedModelError: more than 2^12 states.
    """
    sizes = log_joint.shape
    if log_joint.numel() > _STATES:
        raise UnsupportedModelError(
            f"a transition matrix takes at most 2^12 states, got {log_joint.numel()}: make the model smaller"
        )
    if not block or len(set(block)) < len(block) or not all(0 <= c < len(sizes) for c in block):
        raise ShapeError(f"a block holds different coordinates of 0 ... {len(sizes) - 1}, got {tuple(block)}")
    index = torch.arange(log_joint.numel(), device=log_joint.device).reshape(sizes)
    for c in block:  # the number of a state with its block's coordinates at 0: what an update leaves alone
        index = index.select(c, 0).unsqueeze(c).expand(sizes)
    rest = index.flatten()
    p = log_joint.double().flatten()
    reached = rest.unsqueeze(1) == rest
    matrix = torch.where(reached, p, -math.inf).softmax(1)
    stuck = matrix.isnan().any(1)
    return torch.where(stuck.unsqueeze(1), torch.eye(len(p), dtype=p.dtype, device=p.device), matrix)


def gibbs_sweep(log_joint: Tensor, blocks: Iterable[Sequence[int]] | None = None) -> Tensor:
    """Transition matrix of a sweep: the updates of `blocks` in order, by default one for each coordinate [neal1992].

    Args:
        log_joint: (V_1, ..., V_C) log p(x, h) up to a constant: a dim for each coordinate.
        blocks: coordinates that are drawn together, in the order of the sweep.

    Returns:
        (S, S) float64, rows sum to 1.

    Raises:
        ShapeError: no block, or as gibbs_update.
        UnsupportedModelError: as gibbs_update.
    """
    updates = [gibbs_update(log_joint, block) for block in blocks or [(c,) for c in range(log_joint.dim())]]
    sweep = updates[0]
    for update in updates[1:]:
        sweep = sweep @ update
    return sweep


def stationary(transition: Tensor) -> Tensor:
    """The distribution pi (S,) with pi T = pi, for a chain that has only one.

    Raises:
        UnsupportedModelError: several such distributions, one for each set of states that the chain never leaves.
    """
    n = len(transition)
    system = torch.cat([transition.t() - torch.eye(n).to(transition), transition.new_ones(1, n)]).cpu()
    right = torch.cat([torch.zeros(n), torch.ones(1)]).to(system)
    solved = torch.linalg.lstsq(system, right.unsqueeze(1), driver="gelsy")  # it tells the rank
    if solved.rank < n:
        raise UnsupportedModelError(
            "the chain never leaves some sets of states, so where it ends depends on where it starts: "
            "draw the coordinates that determine one another in one block"
        )
    return solved.solution.squeeze(1).to(transition)


def autocorrelation_time(transition: Tensor, f: Tensor) -> Tensor:
    """Integrated autocorrelation time of a function of the state, in steps of the stationary chain.

    tau = 1 + 2 sum_{t >= 1} rho_t = 2 <f_0, Z f_0>_pi / <f_0, f_0>_pi - 1 with f_0 = f - E_pi[f] and the fundamental
    matrix Z = (I - T + 1 pi)^-1 = I + sum_{t >= 1} (T^t - 1 pi): a chain of n steps is worth n / tau independent draws.

    Args:
        transition: T (S, S).
        f: (S,), or (F, S) for several functions.

    Returns:
        () or (F,); NaN for a function that is constant.

    Raises:
        UnsupportedModelError: a chain with several stationary distributions.
    """
    pi = stationary(transition)
    f = f.to(transition) - f[..., :1].to(transition)  # a constant is now 0 without rounding
    centred = (f - (f @ pi).unsqueeze(-1)).reshape(-1, len(pi))
    z = torch.eye(len(pi)).to(transition) - transition + pi
    summed = torch.linalg.solve(z, centred.t()).t()
    tau = 2 * (centred * summed) @ pi / (centred.square() @ pi) - 1
    return tau.reshape(f.shape[:-1])
