"""Sigmoid belief networks (Neal 1992): layers of binary units, each layer the logistic regression of the one above.

    p(h_L) = prod_i sigmoid(b_i),   p(h_l = 1 | h_{l+1}) = sigmoid(h_{l+1} W_l + b_l),   x = h_0

The guide runs upwards, one network a layer: q(h_1 | x) q(h_2 | h_1) ... Each factor is a product over units, or, with
`autoregressive=True`, lets a unit see those before it in its own layer.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_models.nn import BernoulliVector, Linear, mlp, output_start

__all__ = ["SigmoidBeliefNetwork"]


class SigmoidBeliefNetwork(nn.Module):
    """A layered sigmoid belief network [neal1992] as a Pyro model/guide pair.

    Sites: `h1` (H1,) next to the data, `h2`, ..., `x` (D,), all of 0 and 1; data plate `data` at dim -1.

    Args:
        sizes: (D, H1, H2, ...), from the data up.
        guide_hidden: units of the one hidden layer of each of the guide's networks; None: they are linear.
        autoregressive: units of a layer of the guide see those before them; drawing takes a loop over units.
        mean: (D,) of the training data: centres the guide's input and starts the bias of x.
        image_shape: (C, H, W) with C * H * W = D, for pictures.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an image shape or a mean that is not D.
    """

    centre: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        guide_hidden: int | None = None,
        autoregressive: bool = False,
        mean: Tensor | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        super().__init__()
        _check(sizes, guide_hidden, mean, image_shape)
        self.sizes, self.x_dim, self.image_shape = tuple(sizes), sizes[0], image_shape
        self.top_bias = nn.Parameter(torch.zeros(sizes[-1]))
        between = list(zip(sizes[:-1], sizes[1:], strict=True))  # (below, above), bottom first
        self.down = nn.ModuleList(mlp((above, below))[0] for below, above in between)
        inner = () if guide_hidden is None else (guide_hidden,)
        self.up = nn.ModuleList(mlp((below, *inner, above)) for below, above in between)
        self.within = nn.ModuleList(_Earlier(above) for _, above in between) if autoregressive else None
        self.register_buffer("centre", torch.full((sizes[0],), 0.5))
        if mean is not None:
            self._start_at(mean)

    def model(self, x: Tensor) -> None:
        """p(x, h) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            logits = self.top_bias
            for level in range(len(self.down), 0, -1):
                h = pyro.sample(f"h{level}", BernoulliVector(logits))
                logits = self.down[level - 1](h)
            pyro.sample("x", BernoulliVector(logits), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(h | x) of rows x (N, D), upwards."""
        with pyro.plate("data", len(x), dim=-1):
            below = x - self.centre
            for level, net in enumerate(self.up, 1):
                logits = net(below)
                q = BernoulliVector(logits) if self.within is None else _Chained(logits, self.within[level - 1].weight)  # pyright: ignore
                below = pyro.sample(f"h{level}", q) - 0.5

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (H above, H below) and bias (H below) of each layer, from the data up: logits = h W + b."""
        return [(net.weight.t(), net.bias) for net in self.down]  # pyright: ignore

    def log_joint(self, h: Sequence[Tensor], x: Tensor) -> Tensor:
        """Log p(x, h) in nats: h a sequence (h1, h2, ...) of (..., H_l), x (..., D) -> (...)."""
        if len(h) != len(self.down):
            raise ValueError(f"the network has {len(self.down)} hidden layers, got {len(h)}: pass (h1, h2, ...)")
        total = BernoulliVector(self.top_bias).log_prob(h[-1])
        for net, above, below in zip(self.down, h, (x, *h[:-1]), strict=True):
            total = total + BernoulliVector(net(above)).log_prob(below)
        return total

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The guide's probabilities of the lowest hidden layer, before any unit sees another: (N, D) -> (N, H1)."""
        return torch.sigmoid(self.up[0](x - self.centre))

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n ancestral draws of h: (n, D); the caller's RNG is left as it was."""
        generator = torch.Generator(self.top_bias.device).manual_seed(seed)
        p = torch.sigmoid(self.top_bias).expand(n, -1)
        for net in reversed(self.down):
            p = torch.sigmoid(net(torch.bernoulli(p, generator=generator)))
        return p

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the guide's most probable h1, unit by unit: (N, D) -> (N, D)."""
        return torch.sigmoid(self.down[0](self.encode(x).round()))

    @torch.no_grad()
    def _start_at(self, mean: Tensor) -> None:
        self.centre.copy_(mean)
        self.down[0].bias.copy_(output_start(mean, len(mean)))  # pyright: ignore


class _Earlier(Linear):
    """Weights from units to later units of the same layer: strictly lower triangular, zero at the start."""

    def __init__(self, n: int):
        super().__init__(n, n, bias=False)
        nn.init.zeros_(self.weight)


class _Chained(dist.TorchDistribution):
    """Binary units in order: logit of unit i = l_i + sum_{j<i} A_ij h_j; event (H,)."""

    arg_constraints = {"logits": constraints.real_vector}  # pyright: ignore[reportAssignmentType]
    support = constraints.independent(constraints.boolean, 1)  # pyright: ignore[reportAssignmentType]

    def __init__(self, logits: Tensor, weight: Tensor):  # (..., H), (H, H)
        self.logits, self.weight = logits, weight.tril(-1)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "_Chained":  # noqa: ANN001
        return _Chained(self.logits.expand(torch.Size(batch_shape) + self.event_shape), self.weight)

    @torch.no_grad()
    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: ANN001, B008
        logits = self.logits.expand(self._extended_shape(sample_shape)).clone()
        h = torch.empty_like(logits)
        for i in range(h.shape[-1]):
            h[..., i] = torch.bernoulli(torch.sigmoid(logits[..., i]))
            logits += h[..., i, None] * self.weight[:, i]
        return h

    def log_prob(self, value: Tensor) -> Tensor:
        return BernoulliVector(self.logits + value @ self.weight.t()).log_prob(value)


def _check(
    sizes: Sequence[int], guide_hidden: int | None, mean: Tensor | None, image_shape: tuple[int, int, int] | None
) -> None:
    if len(sizes) < 2 or min(sizes) < 1 or (guide_hidden is not None and guide_hidden < 1):
        raise ValueError(
            f"sizes are (D, H1, ...), each at least 1, got {tuple(sizes)} with guide_hidden={guide_hidden}: "
            "SigmoidBeliefNetwork((784, 200))"
        )
    if image_shape is not None and image_shape[0] * image_shape[1] * image_shape[2] != sizes[0]:
        raise ValueError(f"image_shape {tuple(image_shape)} does not hold D={sizes[0]} values")
    if mean is not None and mean.shape != (sizes[0],):
        raise ValueError(f"mean has shape {tuple(mean.shape)}, not ({sizes[0]},): pass x.mean(0) of the training rows")
