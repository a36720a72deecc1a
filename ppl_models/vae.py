"""The variational autoencoder (Kingma & Welling 2014; the survey's Section 3).

    model:  z ~ N(0, I),  x | z ~ Bernoulli(f(z)) or N(f(z), s^2)
    guide:  z | x ~ N(m(x), diag s(x)^2)

f, m and s are networks: the decoder p(x | z) and the encoder q(z | x).
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.nn import (
    ACTIVATIONS,
    BernoulliVector,
    GaussianHead,
    check_options,
    conv_decoder,
    conv_encoder,
    fold,
    mlp,
    output_start,
)

__all__ = ["VAE"]


class VAE(nn.Module):
    """A variational autoencoder [kingma2014vae] as a Pyro model/guide pair.

    Sites: `z` (Z,), `x` (D,); data plate `data` at dim -1. The survey's experiment is
    `VAE(784, z_dim=50, hidden=(500, 500), activation="relu")`; Burda's one-layer network [burda2016] is
    `VAE(784, z_dim=50, hidden=(200, 200), activation="tanh")`, the default.

    Args:
        x_dim: D, values of one datum.
        z_dim: Z, latent dimensions.
        hidden: units of the encoder's hidden layers; the decoder mirrors them. For `conv=True` the first is the number
            of channels and the last the units of the linear layer.
        activation: "tanh", "relu", "softplus", "elu" or "gelu".
        likelihood: "bernoulli" for x in [0, 1], "gaussian" with one learned deviation for each value of x.
        mean: (D,) of the training data, whose logit (or value) starts the output bias [burda2016].
        image_shape: (C, H, W) with C * H * W = D, for `conv=True` and for pictures.
        conv: convolutional networks in place of fully connected ones.
        input_dropout: share of pixels hidden from the encoder while it trains. Each mask gives a bound of its own, so
            the mean is one too; it keeps q(z | x) from memorising a fixed training set.

    Raises:
        ValueError: a size below 1, an unknown activation or likelihood, an image shape or a mean that is not D.
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        mean: Tensor | None = None,
        image_shape: tuple[int, int, int] | None = None,
        conv: bool = False,
        input_dropout: float = 0.0,
    ):
        super().__init__()
        _check(x_dim, z_dim, hidden, activation, likelihood, image_shape, conv, input_dropout)
        self.x_dim, self.z_dim, self.likelihood = x_dim, z_dim, likelihood
        self.image_shape, self.conv = image_shape, conv
        self.mask = nn.Dropout(input_dropout)
        act = ACTIVATIONS[activation]
        if conv:
            assert image_shape is not None
            channels, units = hidden[0], hidden[-1]
            self.encoder: nn.Module = conv_encoder(image_shape, channels, units, act)
            self.decoder: nn.Module = nn.Sequential(
                mlp((z_dim, units), act, end=True), conv_decoder(image_shape, channels, units, act)
            )
            self.head = GaussianHead(units, z_dim)
        else:
            self.encoder = mlp((x_dim, *hidden), act, end=True)
            self.decoder = mlp((z_dim, *reversed(hidden), x_dim), act)
            self.head = GaussianHead(hidden[-1], z_dim)
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(x_dim))
        if mean is not None:
            self._start_at(mean)

    def model(self, x: Tensor) -> None:
        """p(x, z) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            zero = x.new_zeros(())
            prior: dist.TorchDistribution = dist.Normal(zero, zero + 1).expand([self.z_dim])  # pyright: ignore
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q_z(x))

    def q_z(self, x: Tensor) -> dist.TorchDistribution:
        """The guide's distribution of z given x (..., D)."""
        seen = self.mask(x) if self.mask.p > 0 else x
        return dist.Normal(*self.head(fold(self.encoder, seen, 1) if self.conv else self.encoder(seen))).to_event(1)

    def p_x(self, z: Tensor) -> dist.TorchDistribution:
        """The model's distribution of x given z (..., Z)."""
        out = fold(self.decoder, z, 1) if self.conv else self.decoder(z)
        if self.likelihood == "bernoulli":
            return BernoulliVector(out)
        return dist.Normal(out, self.log_scale.exp()).to_event(1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The code's mean E_q[z | x]: (N, D) -> (N, Z)."""
        return self.q_z(x).mean

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image E[x | z]: (..., Z) -> (..., D)."""
        p = self.p_x(z)
        return p.mean

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n draws z ~ N(0, I): (n, D); the caller's RNG is left as it was."""
        like = next(self.parameters())
        z = torch.randn(n, self.z_dim, generator=torch.Generator().manual_seed(seed))
        return self.decode(z.to(like))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the guide's mean: (N, D) -> (N, D)."""
        return self.decode(self.q_z(x).mean)

    @torch.no_grad()
    def _start_at(self, mean: Tensor) -> None:
        start = output_start(mean, self.x_dim, self.likelihood)
        last = [m for m in self.decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)][-1]
        assert last.bias is not None
        if last.bias.shape != start.shape:  # a convolution has one bias a channel
            start = output_start(mean.reshape(len(last.bias), -1).mean(1), len(last.bias), self.likelihood)
        last.bias.copy_(start)


def _check(x_dim, z_dim, hidden, activation, likelihood, image_shape, conv, input_dropout) -> None:  # noqa: ANN001
    example = "VAE(784, z_dim=50, hidden=(200, 200))"
    check_options({"x_dim": x_dim, "z_dim": z_dim}, hidden, activation, likelihood, example)
    if not 0 <= input_dropout < 1:
        raise ValueError(f"input_dropout is a share in [0, 1), got {input_dropout}: pass for example 0.1")
    if conv and image_shape is None:
        raise ValueError("conv=True needs image_shape=(C, H, W)")
    if image_shape is not None and image_shape[0] * image_shape[1] * image_shape[2] != x_dim:
        raise ValueError(f"image_shape {tuple(image_shape)} does not hold x_dim={x_dim} values")
