"""Deep latent Gaussian models (Rezende et al. 2014; the survey's Section 3.5.2), and three guides for them.

    model:     z_L ~ N(0, I),  z_l | z_{l+1} ~ N(m(z_{l+1}), diag s^2),  x | z_1 ~ Bernoulli(f(z_1)) or N(f(z_1), s^2)
    chain:     q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})
    parallel:  q(z_1 | x) q(z_2 | x) ... q(z_L | x), their means and deviations from one upward pass
    ladder:    q(z_L | x) ... q(z_1 | z_2, x), each what the upward pass says times the model's own p(z_l | z_{l+1})

The chain is that of Burda et al. (2016), the parallel guide Rezende's, the ladder Sonderby's (2016). The last two draw
from the top down, as the model does, so that `TraceELBO` takes the KL of each layer in closed form.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.gaussian import FixedNoise, collapse_linear, product
from ppl_models.nn import ACTIVATIONS, BernoulliVector, GaussianHead, mlp, output_start
from ppl_models.rank_one import RankOneHead, RankOneNormal

__all__ = ["DLGM"]

Pick = Callable[[str, Any], Any]  # what becomes of a site: drawn, or its mean


class DLGM(nn.Module):
    """A deep latent Gaussian model [rezende2014] as a Pyro model/guide pair.

    Sites: `z1` (Z1,), next to the data, ..., `zL` (ZL,), `x` (D,); data plate `data` at dim -1. The default is Burda's
    two-layer network 784-200-200-100-100-100-50 [burda2016].

    Args:
        x_dim: D, values of one datum.
        z_dims: Z1, ..., ZL: latent dimensions of each layer, from the data up.
        hidden: for each layer the units of the deterministic layers below it, upwards: those of `hidden[0]` lie between
            x and z1; () is a linear map. Model and guide mirror each other.
        activation: "tanh", "relu", "softplus", "elu" or "gelu".
        likelihood: "bernoulli" for x in [0, 1], "gaussian" with one learned deviation for each value of x.
        guide: "chain", "parallel" or "ladder", as above.
        posterior: covariance of each q: "diagonal", or "rank_one", whose precision is diag(d) + u u^T; the ladder's
            layers are products of diagonal Gaussians.
        noise: the model's deviations s_l: "network", of z_{l+1}, or "learned", one vector a layer.
        mean: (D,) of the training data, whose logit (or value) starts the output bias.
        image_shape: (C, H, W) with C * H * W = D, for pictures.

    Raises:
        ValueError: no layer, more or fewer `hidden` than layers, a size below 1, an unknown word, a ladder of rank one,
            an image shape or a mean that is not D.
    """

    def __init__(
        self,
        x_dim: int,
        z_dims: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        guide: str = "chain",
        posterior: str = "diagonal",
        noise: str = "network",
        mean: Tensor | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        super().__init__()
        _check(x_dim, z_dims, hidden, activation, likelihood, guide, posterior, noise, image_shape)
        self.x_dim, self.z_dims = x_dim, tuple(z_dims)
        self.likelihood, self.inference, self.posterior, self.image_shape = likelihood, guide, posterior, image_shape
        act = ACTIVATIONS[activation]
        ups, heads, downs, priors = [], [], [], []
        below = seen = x_dim  # what the model's layer makes, and what the guide's layer reads
        for level, (z_dim, units) in enumerate(zip(z_dims, hidden, strict=True)):
            ups.append(mlp((seen, *units), act, end=True))
            top = units[-1] if units else seen
            heads.append(GaussianHead(top, z_dim) if posterior == "diagonal" else RankOneHead(top, z_dim))
            if not units:
                _start_constant(heads[-1], z_dim)
            seen = z_dim if guide == "chain" else top
            if level == 0:
                self.decoder = mlp((z_dim, *reversed(units), x_dim), act)
            else:
                downs.append(mlp((z_dim, *reversed(units)), act, end=True))
                above = units[0] if units else z_dim
                priors.append(GaussianHead(above, below) if noise == "network" else FixedNoise(above, below))
                if not units and noise == "network":
                    _start_constant(priors[-1], below)
            below = z_dim
        self.up, self.head = nn.ModuleList(ups), nn.ModuleList(heads)
        self.down, self.prior = nn.ModuleList(downs), nn.ModuleList(priors)
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(x_dim))
        if mean is not None:
            with torch.no_grad():
                self.decoder[-1].bias.copy_(output_start(mean, x_dim, likelihood))  # pyright: ignore

    def model(self, x: Tensor) -> None:
        """p(x, z1, ..., zL) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            z1 = self._descend(pyro.sample, x)
            pyro.sample("x", self.p_x(z1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z1, ..., zL | x) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            self._infer(pyro.sample, x)

    def p_z(self, level: int, above: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of z_level given the layer above it, level from 1: (..., Z') -> two of (..., Z)."""
        return self.prior[level - 1](self.down[level - 1](above))

    def p_x(self, z1: Tensor) -> dist.TorchDistribution:
        """The model's distribution of x given z1 (..., Z1)."""
        out = self.decoder(z1)
        if self.likelihood == "bernoulli":
            return BernoulliVector(out)
        return dist.Normal(out, self.log_scale.exp()).to_event(1)

    def marginal(self) -> dist.MultivariateNormal:
        """p(x) of a linear Gaussian model in closed form, event (D,); with one layer that is factor analysis.

        Raises:
            ValueError: the model is not linear, or not Gaussian.
        """
        maps = [*self.decoder, *(part for down in self.down for part in down)]  # pyright: ignore
        if self.likelihood != "gaussian" or len(maps) > 1 or not all(isinstance(p, FixedNoise) for p in self.prior):
            raise ValueError(
                "only a linear Gaussian model has its p(x) in closed form: "
                "DLGM(D, z_dims=(Z,), hidden=((),), likelihood='gaussian', noise='learned')"
            )
        above: Any = [(prior.linear, prior.log_scale) for prior in self.prior]
        return collapse_linear([(maps[0], self.log_scale), *above])

    @torch.no_grad()
    def encode_layers(self, x: Tensor) -> list[Tensor]:
        """The guide's means of z1, ..., zL, each layer given the means of those it reads: (N, D) -> L of (N, Z)."""
        return self._infer(_mean, x)

    def encode(self, x: Tensor) -> Tensor:
        """The means of all layers side by side: (N, D) -> (N, Z1 + ... + ZL)."""
        return torch.cat(self.encode_layers(x), -1)

    @torch.no_grad()
    def decode(self, z1: Tensor) -> Tensor:
        """The mean image E[x | z1]: (..., Z1) -> (..., D)."""
        return self.p_x(z1).mean

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n draws from the prior: (n, D); the caller's RNG is left as it was."""
        like = next(self.parameters())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.decode(self._descend(_draw, like.new_zeros(n, 1)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the guide's mean of z1: (N, D) -> (N, D)."""
        return self.decode(self.encode_layers(x)[0])

    def _descend(self, pick: Pick, x: Tensor) -> Tensor:
        """Z_L, ..., z_1 of the model for as many rows as x has; returns z_1."""
        zero = x.new_zeros(len(x), self.z_dims[-1])
        prior: Any = dist.Normal(zero, zero + 1)
        z = pick(f"z{len(self.z_dims)}", prior.to_event(1))
        for level in range(len(self.z_dims) - 1, 0, -1):
            z = pick(f"z{level}", dist.Normal(*self.p_z(level, z)).to_event(1))
        return z

    def _infer(self, pick: Pick, x: Tensor) -> list[Tensor]:
        """The guide's z_1, ..., z_L."""
        layers = list(zip(self.up, self.head, strict=True))
        found, seen = [], x
        if self.inference == "chain":
            for level, (up, head) in enumerate(layers, start=1):
                found.append(pick(f"z{level}", self._q(head(up(seen)))))
                seen = found[-1]
            return found
        upward = []
        for up, head in layers:
            seen = up(seen)
            upward.append(head(seen))
        for level in range(len(layers), 0, -1):
            q = upward[level - 1]
            if found and self.inference == "ladder":
                q = product(q, self.p_z(level, found[0]))
            found.insert(0, pick(f"z{level}", self._q(q)))
        return found

    def _q(self, parameters: Any) -> dist.TorchDistribution:
        if self.posterior == "rank_one":
            return RankOneNormal(*parameters)
        return dist.Normal(*parameters).to_event(1)


@torch.no_grad()
def _start_constant(head: Any, n_out: int) -> None:
    """Let deviations start at 1: nothing bounds what a linear layer reads, and exp of it would explode."""
    head.linear.weight[n_out : 2 * n_out] = 0


def _mean(name: str, q: Any) -> Tensor:
    return q.mean


def _draw(name: str, p: Any) -> Tensor:
    return p.sample()


def _check(x_dim, z_dims, hidden, activation, likelihood, guide, posterior, noise, image_shape) -> None:  # noqa: ANN001
    example = "DLGM(784, z_dims=(100, 50), hidden=((200, 200), (100, 100)))"
    if not z_dims:
        raise ValueError(f"a deep latent Gaussian model has at least one layer, got z_dims=(): {example}")
    if len(hidden) != len(z_dims) or any(isinstance(units, int) for units in hidden):
        raise ValueError(
            f"hidden names the units below each layer, {len(z_dims)} tuples for z_dims={tuple(z_dims)}, "
            f"got {tuple(hidden)}: {example}"
        )
    sizes = [("x_dim", x_dim), *(("z_dims", z) for z in z_dims), *(("hidden", h) for units in hidden for h in units)]
    for name, value in sizes:
        if value < 1:
            raise ValueError(f"{name} holds sizes of at least 1, got {value}: {example}")
    words = {
        "activation": (activation, tuple(ACTIVATIONS)), "likelihood": (likelihood, ("bernoulli", "gaussian")),
        "guide": (guide, ("chain", "parallel", "ladder")), "posterior": (posterior, ("diagonal", "rank_one")),
        "noise": (noise, ("network", "learned")),
    }  # fmt: skip
    for name, (word, known) in words.items():
        if word not in known:
            raise ValueError(f"unknown {name} '{word}': choose one of {', '.join(known)}")
    if posterior == "rank_one" and guide == "ladder":
        raise ValueError(
            "a ladder's layers are products of diagonal Gaussians: posterior='rank_one' goes with guide='chain' or "
            "'parallel'"
        )
    if image_shape is not None and image_shape[0] * image_shape[1] * image_shape[2] != x_dim:
        raise ValueError(f"image_shape {tuple(image_shape)} does not hold x_dim={x_dim} values")
