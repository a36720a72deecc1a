"""The Laplacian pyramid of images: what each halving of the resolution loses, and the coarsest image (Burt & Adelson).

    I_0 = x,   I_{k+1} = d(I_k),   h_k = I_k - u(I_{k+1}),   and at the coarsest level h_{L-1} = I_{L-1}
    back:      I_{L-1} = h_{L-1},  I_k = u(I_{k+1}) + h_k

d blurs and keeps every second pixel, u puts zeros between pixels and blurs: both with the binomial weights
(1, 4, 6, 4, 1) / 16 along each side, edge pixels repeated outside. The way back is exact whatever d and u are. Both
take averages, so that images in [0, 1] have coarser images in [0, 1] and bands in [-1, 1].
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

__all__ = ["collapse", "downsampled", "laplacian_pyramid", "pyramid_shapes", "upsampled"]


def laplacian_pyramid(x: Tensor, image_shape: tuple[int, int, int], levels: int = 3) -> list[Tensor]:
    """Bands of flat images x (N, C*H*W), finest first, and at the end the coarsest image [burt1983].

    Returns:
        `levels` tensors (N, C * H/2^k * W/2^k), k = 0, ..., levels - 1: linear in x.

    Raises:
        ValueError: H or W not divisible by 2^(levels - 1), or rows of another length than C*H*W.
    """
    pyramid = []
    for shape in pyramid_shapes(image_shape, levels)[1:]:
        coarse = downsampled(x, image_shape)
        pyramid.append(x - upsampled(coarse, shape))
        x, image_shape = coarse, shape
    return [*pyramid, _checked(x, image_shape)]


def collapse(pyramid: list[Tensor], image_shape: tuple[int, int, int]) -> Tensor:
    """The images (N, C*H*W) of a pyramid, the inverse of `laplacian_pyramid` to rounding [burt1983].

    Args:
        pyramid: bands, finest first, and the coarsest image.
        image_shape: (C, H, W) of the images.

    Raises:
        ValueError: H or W not divisible by 2^(len(pyramid) - 1), or a band of another length.
    """
    shapes = pyramid_shapes(image_shape, len(pyramid))
    x = _checked(pyramid[-1], shapes[-1])
    for k in reversed(range(len(pyramid) - 1)):
        x = upsampled(x, shapes[k + 1]) + _checked(pyramid[k], shapes[k])
    return x


def pyramid_shapes(image_shape: tuple[int, int, int], levels: int) -> list[tuple[int, int, int]]:
    """(C, H, W) of each level, finest first; raises ValueError unless each but the last has even sides."""
    c, h, w = image_shape
    if levels < 1 or min(image_shape) < 1:
        raise ValueError(f"a pyramid has at least 1 level and 1 pixel, got levels={levels} of {tuple(image_shape)}")
    if h % 2 ** (levels - 1) or w % 2 ** (levels - 1):
        fit = max(k for k in range(1, levels) if h % 2 ** (k - 1) == 0 and w % 2 ** (k - 1) == 0)
        raise ValueError(
            f"images of {h} x {w} cannot be halved {levels - 1} times: pass levels={fit}, "
            f"or pad or crop both sides to a multiple of {2 ** (levels - 1)}"
        )
    return [(c, h >> k, w >> k) for k in range(levels)]


def downsampled(x: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """d: images (N, C*H*W) of `image_shape`, blurred and at half the resolution (N, C*H*W/4)."""
    pixels = _planes(x, image_shape)
    return conv2d(pad(pixels, (2, 2, 2, 2), "replicate"), _weights(x), stride=2).reshape(len(x), -1)


def upsampled(x: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """u: images (N, C*H*W) of `image_shape`, smoothly expanded to twice the resolution (N, 4*C*H*W)."""
    _, h, w = image_shape
    pixels = pad(_planes(x, image_shape), (1, 1, 1, 1), "replicate")
    # four times the weights, as three of four pixels are zeros; pixel j of the coarse image, now j + 1, lies at 2j + 4
    expanded = conv_transpose2d(pixels, 4.0 * _weights(x), stride=2)
    return expanded[..., 4 : 4 + 2 * h, 4 : 4 + 2 * w].reshape(len(x), -1)


def _weights(like: Tensor) -> Tensor:
    w = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=like.dtype, device=like.device) / 16.0
    return (w[:, None] * w).reshape(1, 1, 5, 5)


def _planes(x: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Each colour as an image of its own: (N, C*H*W) -> (N*C, 1, H, W)."""
    return _checked(x, image_shape).reshape(-1, 1, *image_shape[1:])


def _checked(x: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    c, h, w = image_shape
    if x.dim() != 2 or x.shape[1] != c * h * w:
        raise ValueError(f"images of shape {tuple(image_shape)} are rows (N, {c * h * w}), got {tuple(x.shape)}")
    return x
