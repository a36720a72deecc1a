"""Generator and discriminator as fully connected networks (Goodfellow et al. 2014; the survey's Section 4).

    G:  z ~ N(0, I) (Z,)  ->  x (D,)          D(x) = sigmoid(a(x)):  x (D,)  ->  logit a

Networks only: the game that trains them is `inference.Adversarial`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ppl_models.nn import mlp
from ppl_models.players import (
    PLAYER_ACTIVATIONS,
    MinibatchDiscrimination,
    check_player,
    check_rows,
    draw_noise,
    generate,
    spectral_norms,
    with_classes,
)  # fmt: skip

__all__ = ["Discriminator", "FourierFeatures", "Generator"]


class Generator(nn.Module):
    """A fully connected generator x = m + s f(z), z ~ N(0, I) [goodfellow2014].

    Args:
        x_dim: D, values of one datum.
        z_dim: Z, dimensions of the noise.
        hidden: units of the hidden layers.
        activation: "relu", "leaky_relu", "tanh", "softplus", "elu" or "gelu".
        norm: "batch" for batch norm after each hidden layer, or None.
        bounded: a sigmoid at the end, for images in [0, 1].
        n_classes: K, for a generator of (z, y) with classes y.
        mean: m, one value or (D,), of the data: with `scale`, data of any size train alike.
        scale: s > 0, one value or (D,).

    Raises:
        ValueError: a size below 1, an unknown word, a mean or scale that does not fit, or beside `bounded`.
    """

    mean: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        x_dim: int,
        z_dim: int = 16,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        norm: str | None = None,
        bounded: bool = False,
        n_classes: int | None = None,
        mean: Tensor | float | None = None,
        scale: Tensor | float | None = None,
    ):
        super().__init__()
        _check(hidden, activation)
        check_player({"x_dim": x_dim, "z_dim": z_dim}, norm, n_classes=n_classes)
        if bounded and (mean is not None or scale is not None):
            raise ValueError("bounded=True gives x in [0, 1] already: leave mean and scale out, or bounded=False")
        self.x_dim, self.z_dim, self.n_classes, self.bounded = x_dim, z_dim, n_classes, bounded
        sizes = (z_dim + (n_classes or 0), *hidden)
        self.net = nn.Sequential(_layers(sizes, PLAYER_ACTIVATIONS[activation], norm), mlp((hidden[-1], x_dim)))
        _keep_moments(self, mean, scale, x_dim)

    def noise(self, n: int) -> Tensor:
        """Draws z ~ N(0, I): (n, Z), by torch's current RNG."""
        return draw_noise(self, n, self.z_dim)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise (N, Z), and classes (N,) where there are some, to rows (N, D)."""
        out = self.net(with_classes(z, y, self.n_classes))
        if self.bounded:
            return out.sigmoid()
        if self.mean is not None and self.scale is not None:
            return self.mean + self.scale * out
        return out

    def generate(self, n: int, seed: int = 0, *conditions: Tensor) -> Tensor:
        """Rows (n, D) in eval mode; the caller's RNG and the network's mode are left as they were."""
        return generate(self, self.noise, n, seed, conditions)


class Discriminator(nn.Module):
    """A fully connected discriminator of rows x (N, D): logits a(x) (N,), D(x) = sigmoid(a(x)) [goodfellow2014].

    Its features are the last hidden layer, and after it the closenesses of minibatch discrimination.

    Args:
        x_dim: values of one datum.
        hidden: units of the hidden layers.
        activation: as the generator's; "leaky_relu" has slope 0.2.
        pack: m data beside one another in a row, D = m * x_dim, so that a lack of variety shows [lin2018].
        spectral_norm: divide each weight by its largest singular value [miyato2018].
        minibatch_kernels: closenesses to the rest of the batch [salimans2016], or 0 for none.
        fourier: scales of random Fourier features beside the input, (1, 2, 4, 8) for data of few dimensions whose
            detail is much finer than their extent [tancik2020]; pass mean and scale too.
        n_classes: K, for a discriminator of (x, y) with classes y.
        mean: of the data, one value or (x_dim,): the network sees (x - mean) / scale.
        scale: > 0, one value or (x_dim,).

    Attributes:
        x_dim: D, the length of the rows it takes.

    Raises:
        ValueError: a size below 1, an unknown activation, a mean or scale that does not fit, packing with classes.
    """

    mean: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        x_dim: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "leaky_relu",
        pack: int = 1,
        spectral_norm: bool = False,
        minibatch_kernels: int = 0,
        fourier: Sequence[float] = (),
        n_classes: int | None = None,
        mean: Tensor | float | None = None,
        scale: Tensor | float | None = None,
    ):
        super().__init__()
        _check(hidden, activation)
        check_player({"x_dim": x_dim}, None, pack, n_classes, minibatch_kernels)
        self.x_dim, self.n_classes = pack * x_dim, n_classes
        self.fourier = FourierFeatures(self.x_dim, fourier) if fourier else None
        n_in = self.x_dim if self.fourier is None else self.fourier.n_out
        sizes = (n_in + (n_classes or 0), *hidden)
        self.net = _layers(sizes, PLAYER_ACTIVATIONS[activation], None)
        self.minibatch = MinibatchDiscrimination(hidden[-1], minibatch_kernels) if minibatch_kernels else None
        self.head = mlp((hidden[-1] + minibatch_kernels, 1))
        _keep_moments(self, mean, scale, x_dim, pack)
        if spectral_norm:
            spectral_norms(self.net, self.head)

    def features(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The last hidden layer of rows x (N, D), and closenesses where there are some: (N, F)."""
        check_rows(x, self.x_dim, "this Discriminator")
        if self.mean is not None and self.scale is not None:
            x = (x - self.mean) / self.scale
        if self.fourier is not None:
            x = self.fourier(x)
        h = self.net(with_classes(x, y, self.n_classes))
        return h if self.minibatch is None else torch.cat([h, self.minibatch(h)], 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (N,) of rows x (N, D), and classes (N,) where there are some."""
        return self.head(self.features(x, y)).squeeze(1)


class FourierFeatures(nn.Module):
    """Rows beside sines and cosines of random projections of them, x -> (x, sin xB, cos xB) [tancik2020].

    Networks learn slowly what changes fast; with frequencies B ~ N(0, scale^2), 16 for each scale, they need not. The
    frequencies are drawn once, and are a buffer. Shapes: (N, n_in) -> (N, n_out).

    Raises:
        ValueError: a scale that is not above 0 and finite.
    """

    frequencies: Tensor  # (n_in, 16 * len(scales))

    def __init__(self, n_in: int, scales: Sequence[float]):
        super().__init__()
        if not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales of Fourier features are above 0 and finite, got {tuple(scales)}: (1, 2, 4, 8)")
        self.register_buffer("frequencies", torch.cat([scale * torch.randn(n_in, 16) for scale in scales], 1))
        self.n_out = n_in + 2 * self.frequencies.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """The rows and 2 * 16 values for each scale."""
        turned = x @ self.frequencies
        return torch.cat([x, turned.sin(), turned.cos()], 1)


def _layers(sizes: Sequence[int], activation: Callable[[], nn.Module], norm: str | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [mlp((n_in, n_out)), *([nn.BatchNorm1d(n_out)] if norm else []), activation()]
    return nn.Sequential(*layers)


def _keep_moments(
    network: nn.Module, mean: Tensor | float | None, scale: Tensor | float | None, x_dim: int, pack: int = 1
) -> None:
    """Register mean and scale, each (1,) or (pack * x_dim,), as buffers: both, or None twice."""
    given: dict[str, Tensor] = {}
    if mean is not None or scale is not None:
        for name, value in (("mean", 0.0 if mean is None else mean), ("scale", 1.0 if scale is None else scale)):
            value = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone().reshape(-1)
            if len(value) not in (1, x_dim) or not value.isfinite().all() or (name == "scale" and value.min() <= 0):
                raise ValueError(
                    f"{name} is 1 finite value or one for each of x_dim={x_dim}{', above 0' * (name == 'scale')}, "
                    f"got {len(value)} from {float(value.min()):g} to {float(value.max()):g}: "
                    f"pass x.{'mean' if name == 'mean' else 'std'}(0)"
                )
            given[name] = value.repeat(pack) if len(value) > 1 else value
    for name in ("mean", "scale"):
        network.register_buffer(name, given.get(name))


def _check(hidden: Sequence[int], activation: str) -> None:
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden needs at least one layer of at least 1 unit, got {tuple(hidden)}: pass (128, 128)")
    if activation not in PLAYER_ACTIVATIONS:
        raise ValueError(f"unknown activation '{activation}': choose one of {', '.join(PLAYER_ACTIVATIONS)}")
