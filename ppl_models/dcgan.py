"""Convolutional generator and discriminator by the rules of Radford et al. 2016 (the survey's Section 4).

    size   G, from noise to image       D, from image to logit
    28     4 -> 7 -> 14 -> 28           28 -> 14 -> 7 -> 4
    32     4 -> 8 -> 16 -> 32           32 -> 16 -> 8 -> 4
    64     4 -> 8 -> 16 -> 32 -> 64     64 -> 32 -> 16 -> 8 -> 4

Strided convolutions and no pooling, no hidden dense layers, batch norm everywhere but at G's output and D's input,
ReLU and at the end tanh in G, leaky ReLU of slope 0.2 in D, weights from N(0, 0.02^2). Kernels are 4 x 4, and
3 x 3 between 4 and 7 pixels; with 7 as the coarsest size digits come out worse (docs/dcgan.md).
"""

import torch
from torch import Tensor, nn

from ppl_models.players import (
    MinibatchDiscrimination,
    check_player,
    check_rows,
    draw_noise,
    generate,
    spectral_norms,
    with_classes,
)

__all__ = ["DCGAN28", "DCGAN32", "DCGAN64", "DCGANDiscriminator", "DCGANGenerator"]

_SIZES = {28: (28, 14, 7, 4), 32: (32, 16, 8, 4), 64: (64, 32, 16, 8, 4)}


class DCGANGenerator(nn.Module):
    """A generator of images in [0, 1] by fractionally strided convolutions [radford2016]: (N, Z) -> (N, C*H*W).

    Args:
        image_shape: (C, H, W), square, of 28, 32 or 64 pixels.
        z_dim: Z, dimensions of the noise.
        channels: of the finest hidden layer; each coarser one has twice as many.
        norm: "batch", or None.
        n_classes: K, for a generator of (z, y) with classes y.

    Raises:
        ValueError: another size, a size below 1, an unknown norm.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        z_dim: int = 100,
        channels: int = 64,
        norm: str | None = "batch",
        n_classes: int | None = None,
    ):
        super().__init__()
        sizes = _sizes(image_shape)[::-1]
        check_player({"z_dim": z_dim, "channels": channels}, norm, n_classes=n_classes)
        c, size, _ = image_shape
        self.x_dim, self.z_dim, self.n_classes, self.image_shape = c * size * size, z_dim, n_classes, image_shape
        widths = [channels * 2**i for i in reversed(range(len(sizes) - 1))]
        layers: list[nn.Module] = [nn.Unflatten(1, (-1, 1, 1))]
        n_in = z_dim + (n_classes or 0)
        for i, n_out in enumerate(widths):
            shape = (sizes[0], 1, 0) if i == 0 else _stride(sizes[i])  # the first spreads one pixel over 4 x 4
            layers += [nn.ConvTranspose2d(n_in, n_out, *shape, bias=norm is None), *_norm(norm, n_out), nn.ReLU()]
            n_in = n_out
        layers += [nn.ConvTranspose2d(n_in, c, 4, 2, 1), nn.Tanh(), nn.Flatten()]
        self.net = nn.Sequential(*layers)
        self.apply(_initialise)

    def noise(self, n: int) -> Tensor:
        """Draws z ~ N(0, I): (n, Z), by torch's current RNG."""
        return draw_noise(self, n, self.z_dim)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise (N, Z), and classes (N,) where there are some, to images (N, C*H*W) in [0, 1]."""
        check_rows(z, self.z_dim, "this generator's noise")
        return 0.5 * self.net(with_classes(z, y, self.n_classes)) + 0.5

    def generate(self, n: int, seed: int = 0, *conditions: Tensor) -> Tensor:
        """Images (n, C*H*W) in eval mode; the caller's RNG and the network's mode are left as they were."""
        return generate(self, self.noise, n, seed, conditions)


class DCGANDiscriminator(nn.Module):
    """A discriminator of images by strided convolutions [radford2016]: (N, C*H*W) -> logits (N,).

    Its features are the last convolution's activations, flat, and after them the closenesses of minibatch
    discrimination.

    Args:
        image_shape: (C, H, W), square, of 28, 32 or 64 pixels.
        channels: of the finest layer; each coarser one has twice as many.
        pack: m images beside one another in a row, as m * C channels [lin2018].
        norm: "batch", or None.
        spectral_norm: divide each weight by its largest singular value [miyato2018]; with norm=None.
        minibatch_kernels: closenesses to the rest of the batch [salimans2016], or 0 for none.
        n_classes: K, for a discriminator of (x, y): classes y are constant planes beside the image.

    Attributes:
        x_dim: the length of the rows it takes, m*C*H*W.

    Raises:
        ValueError: another size, a size below 1, an unknown norm, packing with classes, spectral and batch norm.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 64,
        pack: int = 1,
        norm: str | None = "batch",
        spectral_norm: bool = False,
        minibatch_kernels: int = 0,
        n_classes: int | None = None,
    ):
        super().__init__()
        sizes = _sizes(image_shape)
        check_player({"channels": channels}, norm, pack, n_classes, minibatch_kernels)
        if spectral_norm and norm:
            raise ValueError("batch norm undoes the bound of spectral_norm=True on the slope: pass norm=None with it")
        c, size, _ = image_shape
        self.x_dim, self.n_classes = pack * c * size * size, n_classes
        self.packed_shape = (pack * c, size, size)
        layers: list[nn.Module] = []
        n_in = pack * c + (n_classes or 0)
        for i, finer in enumerate(sizes[:-1]):
            n_out, norm_i = channels * 2**i, norm if i else None  # no norm at the input: it would hide its mean
            conv = nn.Conv2d(n_in, n_out, *_stride(finer), bias=norm_i is None)
            layers += [conv, *_norm(norm_i, n_out), nn.LeakyReLU(0.2)]
            n_in = n_out
        self.net = nn.Sequential(*layers, nn.Flatten())
        n_features = n_in * sizes[-1] ** 2
        self.minibatch = MinibatchDiscrimination(n_features, minibatch_kernels) if minibatch_kernels else None
        self.head = nn.Linear(n_features + minibatch_kernels, 1)
        self.net.apply(_initialise)
        _initialise(self.head)
        if spectral_norm:
            spectral_norms(self.net, self.head)

    def features(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The last convolution's activations of images (N, D), and closenesses where there are some: (N, F)."""
        check_rows(x, self.x_dim, "this discriminator")
        image = 2.0 * x.unflatten(1, self.packed_shape) - 1.0
        h = self.net(with_classes(image, y, self.n_classes))
        return h if self.minibatch is None else torch.cat([h, self.minibatch(h)], 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (N,) of images (N, D), and classes (N,) where there are some."""
        return self.head(self.features(x, y)).squeeze(1)


class DCGAN28(nn.Module):
    """Both players for images of 28 x 28, such as MNIST's: `generator` and `discriminator`."""

    def __init__(self, colours: int = 1, z_dim: int = 100, channels: int = 64):
        super().__init__()
        self.generator, self.discriminator = _players((colours, 28, 28), z_dim, channels)


class DCGAN32(nn.Module):
    """Both players for images of 32 x 32, such as CIFAR-10's: `generator` and `discriminator`."""

    def __init__(self, colours: int = 3, z_dim: int = 100, channels: int = 64):
        super().__init__()
        self.generator, self.discriminator = _players((colours, 32, 32), z_dim, channels)


class DCGAN64(nn.Module):
    """Both players for images of 64 x 64: `generator` and `discriminator`. At 128 channels Radford's own sizes."""

    def __init__(self, colours: int = 3, z_dim: int = 100, channels: int = 64):
        super().__init__()
        self.generator, self.discriminator = _players((colours, 64, 64), z_dim, channels)


def _players(image_shape: tuple[int, int, int], z_dim: int, channels: int) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    return DCGANGenerator(image_shape, z_dim, channels), DCGANDiscriminator(image_shape, channels)


def _sizes(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Pixels a side of each layer, the image's first."""
    if len(image_shape) != 3 or image_shape[0] < 1 or image_shape[1] != image_shape[2]:
        raise ValueError(f"image_shape is (C, H, W) with H = W, got {tuple(image_shape)}: pass for example (1, 28, 28)")
    if image_shape[1] not in _SIZES:
        raise ValueError(
            f"DCGAN makes images of 28, 32 or 64 pixels a side, got {image_shape[1]}: rescale them to one of these"
        )
    return _SIZES[image_shape[1]]


def _stride(finer: int) -> tuple[int, int, int]:
    """Kernel, stride and padding between a size and the half of it: 4 <-> 7 pixels take an odd kernel."""
    return (3 if finer % 2 else 4), 2, 1


def _norm(norm: str | None, channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if norm else []


def _initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02^2), gains N(1, 0.02^2), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
