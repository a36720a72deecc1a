"""What the players of adversarial games share: noise and samples, classes as inputs, and layers that steady them.

    generator:      z ~ N(0, I), forward(z, *conditions) -> x        rows x (N, D)
    discriminator:  forward(x, *conditions) = head(features(x, *conditions)), a logit for each row

Conditions are classes y (N,), coded one-hot beside the input, or coarse images (the Laplacian pyramid's).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ppl_models.nn import ACTIVATIONS

__all__ = [
    "PLAYER_ACTIVATIONS", "MinibatchDiscrimination", "check_player", "check_rows", "draw_noise", "generate",
    "spectral_norms", "with_classes",
]  # fmt: skip

PLAYER_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {**ACTIVATIONS, "leaky_relu": partial(nn.LeakyReLU, 0.2)}
_CHUNK = 500  # rows made at once: ten thousand images of 64 channels would need gigabytes


def draw_noise(network: nn.Module, n: int, z_dim: int) -> Tensor:
    """Standard normal noise (n, Z) on the network's device and in its dtype, by torch's current RNG."""
    like = next(network.parameters())
    return torch.randn(n, z_dim, device=like.device, dtype=like.dtype)


@torch.no_grad()
def generate(
    network: nn.Module, noise: Callable[[int], Tensor], n: int, seed: int, conditions: tuple[Tensor, ...]
) -> Tensor:
    """Rows (n, D) of n draws of `noise`, by the network in eval mode; RNG and modes are left as they were.

    Raises ValueError: n below 1, or a condition of other than n rows.
    """
    if n < 1:
        raise ValueError(f"generate needs n >= 1 rows, got n={n}: pass for example n=64")
    for condition in conditions:
        if len(condition) != n:
            raise ValueError(f"a condition has a row for each sample, got {len(condition)} for n={n}: pass {n} rows")
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            z = noise(n)
            chunks = zip(*(t.to(z.device).split(_CHUNK) for t in (z, *conditions)), strict=True)
            return torch.cat([network(*chunk) for chunk in chunks])
    finally:
        for module, training in modes:
            module.training = training


def with_classes(h: Tensor, y: Tensor | None, n_classes: int | None) -> Tensor:
    """One-hot classes y (N,) beside h (N, F, ...), as constant planes where h is an image: (N, F + K, ...).

    h itself where the network has no classes. Raises ValueError: classes without a network of classes or the reverse,
    labels that are not N integers from 0 to K - 1.
    """
    if n_classes is None:
        if y is not None:
            raise ValueError("classes y were given to a network without: build it with n_classes=10, or leave y out")
        return h
    if y is None:
        raise ValueError(f"a network of n_classes={n_classes} needs classes y (N,): call it with y after the rows")
    if y.shape != h.shape[:1] or y.is_floating_point():
        raise ValueError(f"classes y are {len(h)} integers (N,), got {y.dtype} of {tuple(y.shape)}: pass y.long()")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(
            f"classes go from 0 to {n_classes - 1}, got {int(y.min())} to {int(y.max())}: pass another n_classes"
        )
    one_hot = (y[:, None] == torch.arange(n_classes, device=y.device)).to(h)
    planes = one_hot.reshape(*one_hot.shape, *(1 for _ in h.shape[2:])).expand(-1, -1, *h.shape[2:])
    return torch.cat([h, planes], 1)


class MinibatchDiscrimination(nn.Module):
    """Closeness to the other rows of the batch, so that a generator that repeats itself is seen [salimans2016].

        M_i = x_i T (B, C),   o(x_i)_b = sum_{j != i} exp(-|M_ib - M_jb|_1)

    Shapes: (N, n_in) -> (N, B). The sum is over the batch: it grows with N.

    Args:
        n_in: features of a row.
        kernels: B, the number of closenesses.
        dim: C, dimensions in which each is measured.
    """

    def __init__(self, n_in: int, kernels: int = 16, dim: int = 4):
        super().__init__()
        self.kernels, self.dim = kernels, dim
        self.project = nn.Linear(n_in, kernels * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Closenesses o (N, B) of features x (N, n_in)."""
        m = self.project(x).reshape(len(x), self.kernels, self.dim)
        # not torch.cdist: it has no second derivative, and gradient penalties need one
        distance = (m[:, None] - m[None]).abs().sum(-1)  # (N, N, B)
        return distance.neg().exp().sum(1) - 1.0  # j = i gives exactly 1


def spectral_norms(*networks: nn.Module) -> None:
    """Divide each weight of linear layers and convolutions by its largest singular value [miyato2018].

    The value is followed by one power iteration a forward pass in train mode (torch's parametrization).
    """
    for network in networks:
        for module in list(network.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                parametrizations.spectral_norm(module)


def check_rows(x: Tensor, x_dim: int, what: str) -> None:
    """Raise ValueError unless x is (N, x_dim)."""
    if x.dim() != 2 or x.shape[1] != x_dim:
        raise ValueError(f"{what} takes rows (N, {x_dim}), got {tuple(x.shape)}: pass flat rows of that length")


def check_player(
    sizes: dict[str, int], norm: str | None, pack: int = 1, n_classes: int | None = None, minibatch_kernels: int = 0
) -> None:
    """Raise ValueError unless sizes are at least 1, the norm is known and packed games have no classes."""
    for name, value in {**sizes, "pack": pack, **({} if n_classes is None else {"n_classes": n_classes})}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}: pass for example {name}=10")
    if minibatch_kernels < 0:
        raise ValueError(f"minibatch_kernels is at least 0, got {minibatch_kernels}: pass 0 for none, or 16")
    if norm not in (None, "batch"):
        raise ValueError(f"unknown norm '{norm}': choose \"batch\" or None")
    if pack > 1 and n_classes is not None:
        raise ValueError(f"pack={pack} with n_classes={n_classes}: packed data have no common class, pass pack=1")
