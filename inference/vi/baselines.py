"""NVIL: the score function for discrete latents, its learning signal centred by what does not see the draw.

    d/dphi L = E_q[(l - C_psi(x) - c) d/dphi log q(h | x)],   l = log p(x, h) - log q(h | x)

Any c and C_psi(x) leave the mean as it is, since E_q[d/dphi log q] = 0, as long as neither depends on h: c is the mean
of the signal in *earlier* steps, C_psi a network of x alone. The other baselines of the toolkit come from more draws of
the same datum: `TraceELBO(num_particles=k)` and `IWAE(k)` (VIMCO) leave one out, `DisARM` draws antithetically.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import as_pair
from inference.types import Estimate
from inference.weights import Weights, weigh

__all__ = ["NVIL"]


class NVIL(nn.Module):
    """The evidence lower bound with NVIL's gradient [mnih2014nvil], in nats per datum.

    The guide's gradient is E_q[(l - C_psi(x) - c) / max(1, s) dlog q(h | x)/dphi], the model's the ordinary
    E_q[dlog p(x, h)/dtheta]. c and s are running mean and standard deviation of the signal; psi descends the signal's
    square. `SVI` trains and saves psi, c and s with the pair: give it the optimiser as a function.

    Dividing by max(1, s) changes the length of the guide's score gradient and not its direction: the mean is the exact
    gradient over max(1, s), s from earlier steps. Where the guide also has reparameterised sites, whose gradient is not
    divided, or where plain SGD must take exact steps, pass `normalise=False`.

    Args:
        baseline: C_psi, a network from the batch's first argument (N, ...) to (N,) or (N, 1).
        hidden: tanh units of the network that is made where none is given; 0: c alone.
        num_particles: K samples per datum, averaged.
        normalise: divide the signal by max(1, s).
        decay: of the running moments, each step.

    Raises:
        ShapeError: num_particles < 1, hidden < 0, a decay outside [0, 1).
        UnsupportedModelError (when called): no site needs the score function; an enumerated site; a baseline that does
            not give one value for each independent datum.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        baseline: nn.Module | None = None,
        hidden: int = 100,
        num_particles: int = 1,
        normalise: bool = True,
        decay: float = 0.8,
    ):
        super().__init__()
        if num_particles < 1 or hidden < 0 or not 0 <= decay < 1:
            raise ShapeError(
                f"NVIL needs num_particles >= 1, hidden >= 0 and 0 <= decay < 1, got {num_particles}, {hidden} and "
                f"{decay}: NVIL(hidden=100)"
            )
        self.baseline, self.hidden, self.num_particles = baseline, hidden, num_particles
        self.normalise, self.decay = normalise, decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self._ready = False

    def init(self, pair: Any, *batch: Any) -> None:
        """Make the default network, and start the moments from a draw that no gradient will use."""
        if self._ready:
            return
        with torch.random.fork_rng():
            # away from the caller's stream: the first step's own draws would follow from the forked one
            torch.manual_seed(int(torch.randint(2**62, ())))
            if self.baseline is None and self.hidden:
                self.baseline = _network(batch, self.hidden)
            with torch.no_grad():
                w = self._weigh(pair, batch)
                signal = w.log_w - self._predict(batch, w.log_w)
                self.to(signal.device)
                self.mean.copy_(signal.mean())
                self.variance.copy_(signal.var(correction=0))
        self._ready = True

    def forward(self, pair: Any, *batch: Any, beta: float = 1.0) -> Estimate:
        """Estimate on a batch; `beta` weighs L_reg. Moves the running moments unless `eval()` froze them."""
        self.init(pair, *batch)
        w = self._weigh(pair, batch)
        assert w.score is not None
        elbo = w.reg * beta + w.rec
        signal = elbo.detach() - self._predict(batch, elbo)
        centred = signal - self.mean
        scale = self.variance.sqrt().clamp(min=1.0) if self.normalise else 1.0
        # `elbo` itself carries -beta dlog q, whose mean is 0 and whose noise beside a divided signal is not small
        surrogate = elbo + w.score * (centred.detach() / scale + beta)
        loss = -surrogate.mean(0).sum() / w.rows
        if self.baseline is not None:
            loss = loss + 0.5 * (centred.square() / scale).mean(0).sum() / w.rows
        if self.training:
            self._observe(signal.detach())  # after use: c must not see this step's draws
        reg, rec = (part.detach().mean(0).sum() / w.rows for part in (w.reg, w.rec))
        return Estimate(loss, reg + rec, reg, rec)

    def _weigh(self, pair: Any, batch: tuple[Any, ...]) -> Weights:
        pair = as_pair(pair)
        if pair.structure(*batch).model_enum:
            raise UnsupportedModelError("NVIL cannot sum out an enumerated site: use TraceEnumELBO()")
        w = weigh(pair, batch, self.num_particles, enumerate_sites=False)
        if w.score is None:
            raise UnsupportedModelError(
                "NVIL is for guides with discrete sites, and every site here is reparameterised: use TraceELBO()"
            )
        return w

    def _predict(self, batch: tuple[Any, ...], like: Tensor) -> Tensor | float:  # like: (K, N) -> (N,)
        """C_psi(x), from the data alone."""
        if self.baseline is None:
            return 0.0
        x = batch[0]
        value = self.baseline(x if x.is_floating_point() else x.to(like.dtype))
        if value.numel() != like.shape[1]:
            raise UnsupportedModelError(
                f"the baseline gives shape {tuple(value.shape)} for {like.shape[1]} independent units of the data: "
                "return one value a row, or use NVIL(hidden=0) where latents are shared by all rows or rows are "
                "subsampled inside the model"
            )
        return value.reshape(-1)

    @torch.no_grad()
    def _observe(self, signal: Tensor) -> None:  # (K, N)
        mean = self.mean + (1 - self.decay) * (signal.mean() - self.mean)
        spread = (signal - self.mean).square().mean()
        variance = self.variance + (1 - self.decay) * (spread - self.variance)
        finite = mean.isfinite() & variance.isfinite()  # a step that SVI will refuse leaves no trace
        self.mean.copy_(torch.where(finite, mean, self.mean))
        self.variance.copy_(torch.where(finite, variance, self.variance))


def _network(batch: tuple[Any, ...], hidden: int) -> nn.Module:
    """One layer of tanh units on the first argument, flattened; it starts at C = 0."""
    x = batch[0] if batch else None
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise UnsupportedModelError(
            f"NVIL's network reads the batch's first argument, which is a {type(x).__name__}: "
            "pass a tensor (N, ...) first, or NVIL(hidden=0)"
        )
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    net = nn.Sequential(_Flat(), nn.Linear(math.prod(x.shape[1:]), hidden), nn.Tanh(), nn.Linear(hidden, 1))
    nn.init.zeros_(net[-1].weight)  # pyright: ignore[reportArgumentType]
    return net.to(x.device, dtype)


class _Flat(nn.Module):
    """A row of numbers for each datum, also where a datum is one number: (N, ...) -> (N, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)
