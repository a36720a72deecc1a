"""A small convolutional classifier of images, whose inner features judge what a generator draws.

    y | x ~ Categorical(softmax(W f(x) + b))

f is a network of three convolutions; it is trained by maximum likelihood, as a Pyro pair without latent variables: the
evidence lower bound is then log p(y | x) itself.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.nn import Linear

__all__ = ["ImageClassifier"]


class ImageClassifier(nn.Module):
    """Classes of flat images, as a Pyro pair: site `y`, data plate `data` at dim -1, a guide without sites.

    Each convolution of 3 x 3 is followed by a maximum over 2 x 2 pixels, in the manner of [lecun1998]; no part of it
    behaves otherwise in training, so that features are a function of the image alone.

    Args:
        image_shape: (C, H, W), C * H * W = D.
        n_classes: Y, classes.
        channels: of the first convolution; the others have twice as many.

    Raises:
        ValueError: a size below 1, fewer than two classes.
    """

    feature_dim = 128  # F

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int = 10, channels: int = 32):
        super().__init__()
        c, h, w = image_shape
        if min(c, h, w, channels) < 1 or n_classes < 2:
            raise ValueError(
                f"image_shape and channels are at least 1 and n_classes at least 2, got {tuple(image_shape)}, "
                f"{channels} and {n_classes}: ImageClassifier((1, 28, 28), n_classes=10, channels=32)"
            )
        self.image_shape, self.n_classes = (c, h, w), n_classes
        layers: list[nn.Module] = [nn.Unflatten(-1, self.image_shape)]
        for n_in, n_out in ((c, channels), (channels, 2 * channels), (2 * channels, 2 * channels)):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
        flat = 2 * channels * -(-h // 8) * -(-w // 8)
        self.body = nn.Sequential(*layers, nn.Flatten(), Linear(flat, self.feature_dim), nn.ReLU())
        self.head = Linear(self.feature_dim, n_classes)

    def model(self, x: Tensor, y: Tensor) -> None:
        """p(y | x) of rows x (N, D) and their classes y (N,)."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Categorical(logits=self.logits(x)), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        """Nothing: all is seen."""

    def features(self, x: Tensor) -> Tensor:  # x: (N, D)
        """The last hidden layer (N, F) of images in [0, 1]."""
        return self.body(x - 0.5)

    def logits(self, x: Tensor) -> Tensor:  # x: (N, D)
        """Log-odds (N, Y) of the classes, up to a constant of each row."""
        return self.head(self.features(x))

    @torch.no_grad()
    def predict(self, x: Tensor, batch_size: int = 1000) -> Tensor:  # x: (N, D)
        """The most probable class (N,) of each image."""
        return torch.cat([self.logits(part).argmax(-1) for part in x.split(batch_size)])
