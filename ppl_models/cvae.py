"""The conditional variational autoencoder: structured prediction of x from c (Sohn et al. 2015; the survey's 3.5.1).

    model:  z | c ~ N(m(c), diag s(c)^2),  x | z, c ~ Bernoulli(f(z, c)) or N(f(z, c), s^2)
    guide:  z | x, c ~ N(m(x, c), diag s(x, c)^2)

The prior of z is learned: z is what c leaves open about x. Nothing is said about c itself.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.nn import ACTIVATIONS, BernoulliVector, GaussianHead, check_options, mlp, output_start

__all__ = ["ConditionalVAE"]


class ConditionalVAE(nn.Module):
    """A conditional variational autoencoder [sohn2015] as a Pyro model/guide pair of the arguments (x, c).

    Its bound is one on log p(x | c). Sites: `z` (Z,), `x` (D,); data plate `data` at dim -1. To predict one half of an
    image given the other: `ConditionalVAE(392, 392)`, and `data.image_parts` to take images apart.

    Args:
        x_dim: D, values to predict.
        c_dim: C, values of the condition.
        z_dim: Z, latent dimensions.
        hidden: units of the hidden layers of guide and prior; the decoder mirrors them, its first layer sees z and c.
        activation: "tanh", "relu", "softplus", "elu" or "gelu".
        likelihood: "bernoulli" for x in [0, 1], "gaussian" with one learned deviation for each value of x.
        mean: (D,) of the training rows x, whose logit (or value) starts the output bias [burda2016].
        image_shape: (channels, H, W) of the whole image, x and c together, for pictures.

    Raises:
        ValueError: a size below 1, an unknown activation or likelihood, an image shape or a mean that does not fit.
    """

    def __init__(
        self,
        x_dim: int,
        c_dim: int,
        z_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        mean: Tensor | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        super().__init__()
        _check(x_dim, c_dim, z_dim, hidden, activation, likelihood, image_shape)
        self.x_dim, self.c_dim, self.z_dim, self.likelihood = x_dim, c_dim, z_dim, likelihood
        self.image_shape = image_shape
        act = ACTIVATIONS[activation]
        self.prior = mlp((c_dim, *hidden), act, end=True)
        self.prior_head = GaussianHead(hidden[-1], z_dim)
        self.encoder = mlp((x_dim + c_dim, *hidden), act, end=True)
        self.head = GaussianHead(hidden[-1], z_dim)
        # the first layer's product with [z, c] in two: that with c is taken once for all particles of z
        self.from_z, self.from_c = mlp((z_dim, hidden[-1])), mlp((c_dim, hidden[-1]))
        self.decoder = nn.Sequential(act(), *mlp((*reversed(hidden), x_dim), act))
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(x_dim))
        if mean is not None:
            with torch.no_grad():
                self.decoder[-1].bias.copy_(output_start(mean, x_dim, likelihood))  # pyright: ignore[reportCallIssue]

    def model(self, x: Tensor, c: Tensor) -> None:
        """p(x, z | c) of rows x (N, D) and c (N, C)."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.p_z(c))
            pyro.sample("x", self.p_x(z, c), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        """q(z | x, c) of rows x (N, D) and c (N, C)."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.q_z(x, c))

    def p_z(self, c: Tensor) -> dist.TorchDistribution:
        """The prior of z given c (..., C)."""
        return dist.Normal(*self.prior_head(self.prior(c))).to_event(1)

    def q_z(self, x: Tensor, c: Tensor) -> dist.TorchDistribution:
        """The guide's distribution of z given x (..., D) and c (..., C)."""
        return dist.Normal(*self.head(self.encoder(torch.cat([x, c], -1)))).to_event(1)

    def p_x(self, z: Tensor, c: Tensor) -> dist.TorchDistribution:
        """The model's distribution of x given z (..., Z) and c (..., C); leading dims broadcast."""
        out = self.decoder(self.from_z(z) + self.from_c(c))
        if self.likelihood == "bernoulli":
            return BernoulliVector(out)
        return dist.Normal(out, self.log_scale.exp()).to_event(1)

    @torch.no_grad()
    def encode(self, x: Tensor, c: Tensor) -> Tensor:
        """The code's mean in deviations of its prior, (E_q[z | x, c] - m(c)) / s(c): what x adds to c; (N, Z).

        A unit that only follows c is 0, so that the rule for active units [burda2016] holds as it stands.
        """
        prior = self.p_z(c)
        return (self.q_z(x, c).mean - prior.mean) / prior.stddev

    @torch.no_grad()
    def predict(self, c: Tensor, draws: int = 1, seed: int = 0) -> Tensor:
        """Mean images E[x | z, c] of draws z ~ p(z | c): (N, C) -> (draws, N, D), seeded apart."""
        prior = self.p_z(c)
        noise = torch.randn(draws, len(c), self.z_dim, generator=torch.Generator().manual_seed(seed))
        return self.p_x(prior.mean + prior.stddev * noise.to(c), c).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, c: Tensor) -> Tensor:
        """The mean image of the guide's mean: (N, D), (N, C) -> (N, D)."""
        return self.p_x(self.q_z(x, c).mean, c).mean


def _check(x_dim, c_dim, z_dim, hidden, activation, likelihood, image_shape) -> None:  # noqa: ANN001
    example = "ConditionalVAE(392, 392, z_dim=50, hidden=(200, 200))"
    check_options({"x_dim": x_dim, "c_dim": c_dim, "z_dim": z_dim}, hidden, activation, likelihood, example)
    if image_shape is not None and image_shape[0] * image_shape[1] * image_shape[2] != x_dim + c_dim:
        raise ValueError(f"image_shape {tuple(image_shape)} does not hold x_dim + c_dim = {x_dim + c_dim} values")
