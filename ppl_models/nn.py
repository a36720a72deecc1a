"""Network pieces that the models share: no Pyro programs, no losses."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS", "BernoulliVector", "GaussianHead", "LabelledMLP", "Linear", "check_options", "conv_decoder",
    "conv_encoder", "fold", "mlp", "output_start",
]  # fmt: skip

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "elu": nn.ELU, "gelu": nn.GELU,
}  # fmt: skip


class _OneDNN(torch.autograd.Function):
    """a @ b.T + bias by oneDNN in float32; its two derivatives are products of the same form."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:  # a: (N, I), b: (O, I) -> (N, O)
        if 0 in b.stride():  # an expanded gradient, in second derivatives: oneDNN would take its plain loop
            b = b.contiguous()
        ctx.save_for_backward(a, b)
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        need_a, need_b, need_bias = ctx.needs_input_grad
        return (
            _OneDNN.apply(grad, b.t(), None) if need_a else None,
            _OneDNN.apply(grad.t(), a.t(), None) if need_b else None,
            grad.sum(0) if need_bias else None,
        )


# MKL, torch's own choice for float32 on the CPU, keeps to AVX2 on AMD's processors: half of what they can do
_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
_WORTH_IT = 3 * 2**20  # multiplications: below, the call costs more than it saves


class Linear(nn.Linear):
    """`torch.nn.Linear`, its large float32 products on an AVX-512 CPU by oneDNN: on AMD twice as fast as torch's own.

    Same parameters, same values to rounding, derivatives of any order. Everything else (float64, CUDA, autocast, small
    products) is torch's own path. Shapes: (..., I) -> (..., O).
    """

    def forward(self, input: Tensor) -> Tensor:
        """The product x W^T + b."""
        x, w = input, self.weight
        if (
            not _ONEDNN
            or x.dtype != torch.float32 or w.dtype != torch.float32
            or x.device.type != "cpu"
            or x.numel() * self.out_features < _WORTH_IT
            or torch.is_autocast_enabled("cpu")
        ):  # fmt: skip
            return nn.functional.linear(x, w, self.bias)  # w read once: a parametrised weight is computed at each read
        out = _OneDNN.apply(x.reshape(-1, self.in_features), w, self.bias)
        return out.reshape(*x.shape[:-1], self.out_features)


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = nn.Tanh,
    *,
    end: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers of the given sizes, Glorot-initialised, an activation between them (after the last if `end`).

    With `dropout` each activation is followed by it.
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        linear = Linear(n_in, n_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if end or i < len(sizes) - 2:
            layers += [activation(), nn.Dropout(dropout)] if dropout else [activation()]
    return nn.Sequential(*layers)


class LabelledMLP(nn.Module):
    """Layers of a value and a class: their first is W_v v + W_y one-hot(y) + b, so W_v v is computed once for all y."""

    def __init__(self, n_in: int, n_classes: int, hidden: Sequence[int], activation: Callable[[], nn.Module]):
        super().__init__()
        both: Any = mlp((n_in + n_classes, hidden[0]))[0]  # Glorot's bound for the two together
        self.value, self.label = Linear(n_in, hidden[0]), nn.Linear(n_classes, hidden[0], bias=False)
        with torch.no_grad():
            self.value.weight.copy_(both.weight[:, :n_in])
            self.label.weight.copy_(both.weight[:, n_in:])
            self.value.bias.zero_()
        self.rest = nn.Sequential(activation(), mlp(hidden, activation, end=True))

    def forward(self, value: Tensor, y: Tensor) -> Tensor:
        """(..., n_in) and classes (...) -> (..., hidden[-1])."""
        classes = torch.arange(self.label.in_features, device=y.device)
        return self.rest(self.value(value) + self.label((y.unsqueeze(-1) == classes).to(value)))


class GaussianHead(nn.Module):
    """A linear map to the mean and the standard deviation of a diagonal Gaussian: (..., H) -> two of (..., Z)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.linear = Linear(n_in, 2 * n_out)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation; the deviation is exp(s/2), s the log variance of [kingma2014vae]."""
        mean, log_variance = self.linear(h).chunk(2, -1)
        return mean, (0.5 * log_variance).exp()


def fold(net: Callable[[Tensor], Tensor], x: Tensor, event_ndim: int) -> Tensor:
    """Apply a network that takes one batch dim to (..., *event): every leading dim is folded into one and back.

    Convolutions refuse the particle dim that Pyro's plates put before the batch.
    """
    lead = x.shape[: x.dim() - event_ndim]
    out = net(x.reshape(-1, *x.shape[x.dim() - event_ndim :]))
    return out.reshape(*lead, *out.shape[1:])


def conv_encoder(
    shape: tuple[int, int, int], channels: int, n_out: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    """Two strided convolutions and a linear layer: flat images (N, C*H*W) -> (N, n_out)."""
    c, h, w = shape
    flat = 2 * channels * -(-h // 4) * -(-w // 4)
    return nn.Sequential(
        nn.Unflatten(-1, shape),
        nn.Conv2d(c, channels, 3, 2, 1), activation(),
        nn.Conv2d(channels, 2 * channels, 3, 2, 1), activation(),
        nn.Flatten(), Linear(flat, n_out), activation(),
    )  # fmt: skip


def conv_decoder(
    shape: tuple[int, int, int], channels: int, n_in: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    """The encoder's mirror: (N, n_in) -> (N, C*H*W), for any height and width."""
    c, h, w = shape
    h2, w2 = -(-h // 2), -(-w // 2)
    h4, w4 = -(-h // 4), -(-w // 4)
    return nn.Sequential(
        Linear(n_in, 2 * channels * h4 * w4), activation(),
        nn.Unflatten(-1, (2 * channels, h4, w4)),
        nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1), activation(),
        _Crop(h2, w2),
        nn.ConvTranspose2d(channels, c, 4, 2, 1),
        _Crop(h, w), nn.Flatten(),
    )  # fmt: skip


class _Crop(nn.Module):
    """Cut an image to a size: strides of two round odd sizes up."""

    def __init__(self, h: int, w: int):
        super().__init__()
        self.h, self.w = h, w

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.h, : self.w]


class _LogProbBernoulli(torch.autograd.Function):
    """sum_d x_d l_d - softplus(l_d) in three passes over memory forward and three back; both of one shape and dtype."""

    @staticmethod
    def forward(ctx, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        return torch.nn.functional.softplus(logits).neg_().addcmul_(logits, x).sum(-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        logits, x = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        # not in place on the sigmoid, which a second derivative reads
        return (x - torch.sigmoid(logits)).mul_(grad), logits * grad if ctx.needs_input_grad[1] else None


class BernoulliVector(dist.Independent):
    """Independent pixels: log p(x) = sum_d x_d l_d - log(1 + exp(l_d)), with l the logits.

    The same distribution as Bernoulli(logits=l).to_event(1), in half the passes over memory.
    Shapes: logits (..., D); event (D,).
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        super().__init__(dist.Bernoulli(logits=logits, validate_args=False), 1, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """Log-odds of ones (..., D)."""
        return self.base_dist.logits

    def expand(self, batch_shape, _instance=None) -> "BernoulliVector":  # noqa: ANN001
        """The same pixels over a larger batch."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        return BernoulliVector(self.logits.expand(batch_shape + self.event_shape), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape=torch.Size()) -> Tensor:  # noqa: ANN001, B008
        """Draw pixels of 0 and 1; torch.bernoulli takes eight times as long on the CPU."""
        p = torch.sigmoid(self.logits).expand(self._extended_shape(sample_shape))
        return (torch.rand(p.shape, dtype=p.dtype, device=p.device) < p).to(p)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each image, nats."""
        if self._validate_args:
            self._validate_sample(value)
        # half precision logits are summed in the data's precision, as autocast does for torch's own Bernoulli
        dtype = torch.promote_types(self.logits.dtype, value.dtype)
        logits, value = self.logits.to(dtype), value.to(dtype)
        shape = torch.broadcast_shapes(logits.shape, value.shape)
        if shape != logits.shape:  # one set of logits for many values: its normaliser is computed once
            logits = logits.expand(*logits.shape[:-1], shape[-1])
            return (value * logits).sum(-1) - torch.nn.functional.softplus(logits).sum(-1)
        return _LogProbBernoulli.apply(logits, value.expand(shape))


def output_start(mean: Tensor, x_dim: int, likelihood: str = "bernoulli") -> Tensor:
    """Where an output's bias starts, from the mean (D,) of the training data: its logit, or the mean itself."""
    if mean.numel() != x_dim:
        raise ValueError(
            f"mean holds {mean.numel()} values, not x_dim={x_dim}: pass the mean of the training rows, x.mean(0)"
        )
    mean = mean.detach().clone().reshape(x_dim)
    # pixels that are always 0 would start at minus infinity
    return torch.logit(mean.clamp(0.001, 0.999)) if likelihood == "bernoulli" else mean


def check_options(sizes: dict[str, int], hidden: Sequence[int], activation: str, likelihood: str, example: str) -> None:
    """Raise ValueError unless sizes and hidden layers are at least 1 and the two words are known."""
    for name, value in (*sizes.items(), *(("hidden", h) for h in hidden)):
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}: {example}")
    if not hidden:
        raise ValueError(f"hidden needs at least one layer, got (): {example}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation '{activation}': choose one of {', '.join(ACTIVATIONS)}")
    if likelihood not in ("bernoulli", "gaussian"):
        raise ValueError(f"unknown likelihood '{likelihood}': choose bernoulli or gaussian")
