"""LAPGAN: an image drawn coarse to fine, by a game at each level of its Laplacian pyramid (Denton et al. 2015).

    coarsest:   I = G(z),  z ~ N(0, I)
    then:       l_k = u(I),   h_k = G_k(z_k, l_k),   I <- l_k + h_k        for k from coarse to fine

u expands to twice the resolution (`ppl_models.pyramid`). Each level is a game of its own: G_k makes the band that its
low-pass image l_k lacks, and D_k(h, l) judges whether h + l is an image that l is the low-pass of.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppl_models.players import check_player, check_rows, draw_noise, generate, with_classes
from ppl_models.pyramid import downsampled, pyramid_shapes, upsampled

__all__ = ["LAPGAN", "BandGenerator", "CoarseGenerator", "LevelDiscriminator", "Players"]

Shape = tuple[int, int, int]


class BandGenerator(nn.Module):
    """G_k: a band h (N, C*H*W) in [-1, 1] for low-pass images l (N, C*H*W), the noise an image plane beside them.

    A strided convolution, two at half the resolution, and a fractionally strided one, batch norm between them: the
    first stride loses nothing of noise and low-pass image, and leaves the work a quarter of the pixels.

    Args:
        image_shape: (C, H, W) of the band; H and W even.
        channels: of the hidden layers.
        n_classes: K, for classes y as constant planes.
    """

    def __init__(self, image_shape: Shape, channels: int = 32, n_classes: int | None = None):
        super().__init__()
        c, h, w = image_shape
        self.image_shape, self.n_classes, self.x_dim, self.z_dim = image_shape, n_classes, c * h * w, h * w
        last = nn.ConvTranspose2d(channels, c, 4, 2, 1)
        nn.init.normal_(last.weight, 0.0, 0.02)  # bands are small
        self.net = nn.Sequential(
            *_block(nn.Conv2d(1 + c + (n_classes or 0), channels, 4, 2, 1, bias=False)),
            *_block(nn.Conv2d(channels, channels, 3, 1, 1, bias=False)),
            *_block(nn.Conv2d(channels, channels, 3, 1, 1, bias=False)),
            last, nn.Tanh(), nn.Flatten(),
        )  # fmt: skip

    def noise(self, n: int) -> Tensor:
        """A plane of standard normal noise for each image: (n, H*W)."""
        return draw_noise(self, n, self.z_dim)

    def forward(self, z: Tensor, low: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise (N, H*W) and low-pass images (N, C*H*W) to bands (N, C*H*W)."""
        check_rows(low, self.x_dim, "this generator's low-pass image")
        _, h, w = self.image_shape
        planes = torch.cat([z.reshape(-1, 1, h, w), 2.0 * low.unflatten(1, self.image_shape) - 1.0], 1)
        return self.net(with_classes(planes, y, self.n_classes))

    def generate(self, n: int, seed: int = 0, *conditions: Tensor) -> Tensor:
        """Bands (n, C*H*W) for n low-pass images in eval mode; RNG and mode are left as they were."""
        return generate(self, self.noise, n, seed, conditions)


class CoarseGenerator(nn.Module):
    """G of the coarsest level: noise (N, Z) to images (N, C*H*W) in [0, 1], a linear layer and two convolutions."""

    def __init__(self, image_shape: Shape, z_dim: int = 100, channels: int = 64, n_classes: int | None = None):
        super().__init__()
        c, h, w = image_shape
        self.z_dim, self.x_dim, self.n_classes = z_dim, c * h * w, n_classes
        self.net = nn.Sequential(
            nn.Linear(z_dim + (n_classes or 0), channels * h * w, bias=False),
            nn.Unflatten(1, (channels, h, w)), nn.BatchNorm2d(channels), nn.ReLU(),
            *_block(nn.Conv2d(channels, channels, 3, 1, 1, bias=False)),
            nn.Conv2d(channels, c, 3, 1, 1), nn.Flatten(), nn.Sigmoid(),
        )  # fmt: skip

    def noise(self, n: int) -> Tensor:
        """Draws z ~ N(0, I): (n, Z)."""
        return draw_noise(self, n, self.z_dim)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise (N, Z), and classes (N,) where there are some, to images (N, C*H*W)."""
        return self.net(with_classes(z, y, self.n_classes))

    def generate(self, n: int, seed: int = 0, *conditions: Tensor) -> Tensor:
        """Images (n, C*H*W) in eval mode; RNG and mode are left as they were."""
        return generate(self, self.noise, n, seed, conditions)


class LevelDiscriminator(nn.Module):
    """D_k: logits (N,) of bands h given low-pass images l, from h + l and l beside one another; or of images alone.

    Strided convolutions to at most 4 pixels a side and one more there, without batch norm: a row is judged by itself.
    Its features are the last convolution's activations, flat.

    Args:
        image_shape: (C, H, W).
        channels: of the first convolution; each further one has twice as many.
        conditional: whether there are low-pass images.
        n_classes: K, for classes y as constant planes.
    """

    def __init__(self, image_shape: Shape, channels: int = 32, conditional: bool = True, n_classes: int | None = None):
        super().__init__()
        c, h, w = image_shape
        self.image_shape, self.conditional, self.n_classes, self.x_dim = image_shape, conditional, n_classes, c * h * w
        layers: list[nn.Module] = []
        n_in, n_out = (2 * c if conditional else c) + (n_classes or 0), channels
        while max(h, w) > 4:
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2)]
            h, w, n_in, n_out = h // 2, w // 2, n_out, 2 * n_out
        layers += [nn.Conv2d(n_in, n_out, 3, 1, 1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(n_out * h * w, 1)

    def features(self, x: Tensor, *given: Tensor) -> Tensor:
        """Activations (N, F) of bands x given l, or l and y; or of images x, given none, or y."""
        check_rows(x, self.x_dim, "this level's discriminator")
        image = x.unflatten(1, self.image_shape)
        if self.conditional:
            if not given:
                raise ValueError("this level's discriminator needs low-pass images: call it with the rows (h, l)")
            low, given = given[0].unflatten(1, self.image_shape), given[1:]
            image = torch.cat([image + low, low], 1)
        return self.net(with_classes(2.0 * image - 1.0, given[0] if given else None, self.n_classes))

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """Logits (N,)."""
        return self.head(self.features(x, *given)).squeeze(1)


class Players(NamedTuple):
    """The two of one level's game."""

    generator: BandGenerator | CoarseGenerator
    discriminator: LevelDiscriminator


class LAPGAN(nn.Module):
    """A pyramid of games, and the generator of full images that they make together [denton2015].

    Level 0 is the finest, level `levels - 1` the coarsest. A level learns by itself, from real low-pass images:

        for k in range(lapgan.levels):
            g, d = lapgan.level(k)
            fit(Adversarial(g, d, Adam(g.parameters()), Adam(d.parameters())), Batches(lapgan.rows(x, k), 64), ...)

    The whole is a generator like any other, whose noise holds that of each level.

    Args:
        image_shape: (C, H, W).
        levels: of the pyramid, 3 for 32 -> 16 -> 8 pixels.
        z_dim: Z, dimensions of the coarsest level's noise; level k has H*W / 4^k besides.
        channels: of the finest level's networks; each coarser level has twice as many.
        n_classes: K, for games of batches that end with classes y.

    Raises:
        ValueError: sides not divisible by 2^(levels - 1), a size below 1.
    """

    def __init__(
        self,
        image_shape: Shape = (3, 32, 32),
        levels: int = 3,
        z_dim: int = 100,
        channels: int = 16,
        n_classes: int | None = None,
    ):
        super().__init__()
        check_player({"z_dim": z_dim, "channels": channels, "levels": levels}, None, n_classes=n_classes)
        self.shapes = pyramid_shapes(image_shape, levels)
        self.image_shape, self.levels, self.n_classes = self.shapes[0], levels, n_classes
        *fine, coarsest = self.shapes
        widths = [channels * 2**k for k in range(levels)]
        self.generators = nn.ModuleList(
            BandGenerator(shape, 2 * width, n_classes) for shape, width in zip(fine, widths[:-1], strict=True)
        )
        self.generators.append(CoarseGenerator(coarsest, z_dim, widths[-1], n_classes))
        self.discriminators = nn.ModuleList(
            LevelDiscriminator(shape, width, conditional=shape != coarsest, n_classes=n_classes)
            for shape, width in zip(self.shapes, widths, strict=True)
        )
        self.x_dim = math.prod(image_shape)
        self.z_dims = [self.level(k).generator.z_dim for k in range(levels)]  # finest first
        self.z_dim = sum(self.z_dims)

    def level(self, k: int) -> Players:
        """The two players of level k, of batches `rows(x, k)`; raises ValueError where there is no level k."""
        self._check(k)
        return Players(self.generators[k], self.discriminators[k])  # pyright: ignore[reportArgumentType]

    def rows(self, x: Tensor, k: int, y: Tensor | None = None) -> tuple[Tensor, ...]:
        """What level k learns from, of images x (N, C*H*W): (h_k, l_k), or (I,) at the coarsest; then y, if given."""
        self._check(k)
        for shape in self.shapes[:k]:
            x = downsampled(x, shape)
        if k < self.levels - 1:
            low = upsampled(downsampled(x, self.shapes[k]), self.shapes[k + 1])
            batch = (x - low, low)
        else:
            batch = (x,)
        return batch if y is None else (*batch, y)

    def noise(self, n: int) -> Tensor:
        """Draws z ~ N(0, I) of all levels, finest first, in one row: (n, Z)."""
        return draw_noise(self, n, self.z_dim)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Noise (N, Z), and classes (N,) where there are some, to images (N, C*H*W) in [0, 1], coarse to fine."""
        check_rows(z, self.z_dim, "this LAPGAN's noise")
        classes = () if y is None else (y,)
        *finer, coarsest = zip(z.split(self.z_dims, 1), self.generators, strict=True)
        x = coarsest[1](coarsest[0], *classes)
        for (z_k, generator), shape in zip(reversed(finer), reversed(self.shapes[1:]), strict=True):
            low = upsampled(x, shape)
            x = (low + generator(z_k, low, *classes)).clamp(0.0, 1.0)  # the next level has seen images in [0, 1] only
        return x

    def generate(self, n: int, seed: int = 0, *conditions: Tensor) -> Tensor:
        """Images (n, C*H*W) in eval mode; the caller's RNG and the network's mode are left as they were."""
        return generate(self, self.noise, n, seed, conditions)

    def _check(self, k: int) -> None:
        if not 0 <= k < self.levels:
            raise ValueError(f"levels go from 0 to {self.levels - 1}, got {k}: 0 is the finest")


def _block(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
