"""Virtual batch norm: each row is normalised with one fixed reference batch and itself, never with its batch.

Batch norm makes a row's output depend on the rows beside it, so that samples of one batch look alike. Here the
reference batch is chosen once, before training; it travels through the network first, normalised by its own
statistics, and each row is then normalised by those statistics with itself added as one row more [salimans2016].

    mean_i = (R mean_ref + mean(h_i)) / (R + 1),    var_i likewise of all R + 1 rows

The reference's statistics belong to the weights of the moment: `refresh` renews them, with their gradient, before a
network is used in training. Reference and statistics are buffers, so that a checkpoint holds them; in eval mode the
buffers are what counts.
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inference.errors import RunError, ShapeError

__all__ = ["VirtualBatchNorm", "refresh", "virtual_batch_norm", "virtual_layers"]

_PREFIX = "reference_batch_"


class VirtualBatchNorm(nn.Module):
    """The layer: in the place of a batch norm, with its scale and shift. Shapes: (N, C, ...) -> (N, C, ...)."""

    mean: Tensor  # (C,) of the reference
    var: Tensor  # (C,)

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, rows: int):
        super().__init__()
        self.eps, self.rows = norm.eps, rows
        self.weight, self.bias = norm.weight, norm.bias  # (C,), the same parameters: an optimiser keeps them
        like = norm.weight if norm.weight is not None else torch.empty(0)
        self.register_buffer("mean", torch.zeros(norm.num_features, dtype=like.dtype, device=like.device))
        self.register_buffer("var", torch.ones(norm.num_features, dtype=like.dtype, device=like.device))
        self._live: tuple[Tensor, Tensor] | None = None  # the reference's statistics with their gradient
        self.is_reference = False  # whether what comes now is the reference batch

    def forward(self, h: Tensor) -> Tensor:
        """Normalise each row with the reference and itself; the reference with itself alone."""
        rest = list(range(2, h.dim()))
        shape = (-1, h.shape[1], *[1] * len(rest))
        if self.is_reference:
            mean, var = h.mean([0, *rest]), h.var([0, *rest], unbiased=False)
            self._live = (mean, var)
            self.mean.copy_(mean.detach())
            self.var.copy_(var.detach())
        else:
            mean_ref, var_ref = (self.mean, self.var) if self._live is None or not self.training else self._live
            own_mean = h.mean(rest) if rest else h  # (N, C)
            own_var = h.var(rest, unbiased=False) if rest else torch.zeros_like(h)
            share = 1.0 / (self.rows + 1)
            mean = torch.lerp(mean_ref.expand_as(own_mean), own_mean, share)
            # of the reference and the row about their common mean: nothing cancels, as it would in E h^2 - mean^2
            var = (1 - share) * (var_ref + (mean_ref - mean).square()) + share * (own_var + (own_mean - mean).square())
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return h * scale.reshape(shape) + shift.reshape(shape)


def virtual_batch_norm(network: nn.Module, *reference: Tensor) -> nn.Module:
    """Turn every batch norm inside a network into a virtual one, in place, and give it its reference batch.

    Args:
        network: a generator, a discriminator, any module; parameters stay the same objects.
        reference: what the network's forward takes, R rows each: for a generator noise z (R, Z), for a discriminator
            data (R, D), conditions behind them.

    Raises:
        RunError: there is no batch norm in the network.
        ShapeError: fewer than 2 rows, or tensors of different lengths.
    """
    if not reference or len({len(part) for part in reference}) > 1 or len(reference[0]) < 2:
        lengths = [len(part) for part in reference]
        raise ShapeError(f"a reference batch has one number of rows, at least 2, got {lengths}: 64 are usual")
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    if not places:
        raise RunError('the network has no batch norm that could be made virtual: build it with norm="batch"')
    for parent, name, child in places:
        setattr(parent, name, VirtualBatchNorm(child, len(reference[0])))
    for i, part in enumerate(reference):
        network.register_buffer(f"{_PREFIX}{i}", part.detach().clone())
    with torch.no_grad():
        refresh(virtual_layers(network), network)
    return network


def virtual_layers(network: nn.Module) -> list[VirtualBatchNorm]:
    """The virtual batch norms inside a network."""
    return [module for module in network.modules() if isinstance(module, VirtualBatchNorm)]


def refresh(layers: list[VirtualBatchNorm], network: nn.Module) -> None:
    """Send the reference batch through, so that the statistics in `layers` are those of the present weights.

    Nothing happens to a network without virtual batch norm. Under `torch.no_grad()` the statistics are numbers; else
    they carry their gradient, good for one backward pass.
    """
    if not layers:
        return
    with _as_reference(layers):
        network(*(buffer for name, buffer in network.named_buffers() if name.startswith(_PREFIX)))


@contextmanager
def _as_reference(layers: list[VirtualBatchNorm]):
    for layer in layers:
        layer.is_reference = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_reference = False
