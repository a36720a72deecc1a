"""The exact log-evidence of models with finite discrete latents, and its exact gradient.

    log p(x) = log sum_h p(x, h),   d log p(x) = E_{p(h | x)}[d log p(x, h)]

Two passes over the states, a chunk at a time: one for the value, one in the backward call for the gradient.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from inference.evidence.states import States

__all__ = ["exact_log_marginal", "log_sum", "log_term"]


def exact_log_marginal(model: Any, *data: Any) -> Tensor:
    """Log-evidence of each datum, log p(x_n) = log sum_h p(x_n, h), differentiable in every parameter [neal1992].

    The gradient is that of E_{p(h | x)}[log p(x, h)] at a fixed posterior, which a second pass over the states takes in
    the backward call; it has no second derivative. Memory: some ten tensors of 16 MiB (float64), or of one state of all
    data where that is more: split data of many rows.

    Args:
        model: a Pyro program with Bernoulli, Categorical or Binomial latents, or a model/guide pair.
        data: its arguments.

    Returns:
        (N,) nats for the N rows of the plate that holds every site; (1,) for a model without such a plate.

    Raises:
        UnsupportedModelError: more than 2^20 joint states; no latent, a continuous one or one of infinite support; a
            scaled site; rows that depend on one another.
        RunError: a tuple (model, guide) with a pyro.param, which has no trained value.
    """
    states = States(model, data)
    leaves = _leaves(states) if torch.is_grad_enabled() else []
    return _LogMarginal.apply(states, *leaves)  # pyright: ignore[reportReturnType]


class _LogMarginal(torch.autograd.Function):
    """log p(x) in one pass over the states, its gradient in another: no graph of all states is ever held."""

    @staticmethod
    def forward(ctx: Any, states: States, *leaves: Tensor) -> Tensor:
        log_p = log_sum(states)
        ctx.states = states
        ctx.save_for_backward(log_p, *leaves)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_p, *leaves = ctx.saved_tensors
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for index in ctx.states.chunks("gradient"):
            with torch.enable_grad():
                term = log_term(ctx.states, index)
            posterior = (term.detach() - log_p).exp()
            # what the caller computed before the model's run is in every chunk's graph
            parts = torch.autograd.grad(term, leaves, posterior * grad, retain_graph=True, allow_unused=True)
            total = [t if part is None else t + part for t, part in zip(total, parts, strict=True)]
        return None, *total


def log_sum(states: States) -> Tensor:
    """Log p(x) of each unit (N,), nats, float64."""
    total = torch.full((states.units,), -math.inf, dtype=torch.float64, device=states.device)
    for index in states.chunks("log p(x)"):
        total = torch.logaddexp(total, log_term(states, index).logsumexp(0))
    return total


def log_term(states: States, index: Tensor) -> Tensor:
    """What each state adds to p(x): (K, N) nats, float64."""
    joint = states.joint(index)
    return (joint.log_p - joint.log_free).double()


def _leaves(states: States) -> list[Tensor]:
    """Every tensor that log p(x, h) has a gradient to: the ends of one state's graph."""
    stack, seen, found = [states.joint(torch.zeros(1, dtype=torch.long, device=states.device)).log_p.grad_fn], set(), []
    while stack:
        node: Any = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(before for before, _ in node.next_functions)
            if type(node).__name__ == "AccumulateGrad":
                found.append(node.variable)
    return found
