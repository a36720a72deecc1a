"""DRAW, the deep recurrent attention writer (Gregor et al. 2015; the survey's Section 3.5.4).

    model:  z_t ~ N(0, I),  h_t = LSTM(h_{t-1}, z_t),  c_t = c_{t-1} + write(h_t),  t = 1 ... T
            x ~ Bernoulli(sigmoid(c_T)) or N(c_T, s^2)
    guide:  e_t = LSTM'(e_{t-1}, [read(x, x - sigmoid(c_{t-1})), h_{t-1}]),  z_t ~ N(m(e_t), diag s(e_t)^2)

The guide draws too: it sees what the canvas c still lacks. So the canvas of the guide is the model's, and the model
takes it over instead of drawing it again (`Handover`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.attention import Window
from ppl_models.glimpse import WholeReader, WholeWriter, WindowReader, WindowWriter
from ppl_models.handover import Handover
from ppl_models.lstm import LSTM, State
from ppl_models.nn import BernoulliVector, GaussianHead, check_options, output_start

__all__ = ["DRAW", "Frames"]


class Frames(NamedTuple):
    """How n images are drawn, step by step; windows are None without attention."""

    images: Tensor  # (T, n, D) the mean image after each step
    write: Window | None  # each value (T, n)
    read: Window | None  # of given images only; each value (T, n)


class Canvas(NamedTuple):
    """Where the decoder stands after a step."""

    state: State  # (..., H) each
    c: Tensor  # (..., D)


class DRAW(nn.Module):
    """A recurrent autoencoder that draws an image in T steps [gregor2015], as a Pyro model/guide pair.

    Sites: `z1` ... `zT` (Z,), `x` (D,); data plate `data` at dim -1. The paper's MNIST model with attention is
    `DRAW(784, (1, 28, 28), glimpses=64, z_dim=100, units=256, read=2, write=5)`.

    Args:
        x_dim: D, values of one datum.
        image_shape: (C, H, W) with C * H * W = D; attention needs it.
        glimpses: T, steps.
        z_dim: Z, latent dimensions of a step.
        units: H, of the encoder's and the decoder's LSTM.
        read: lines of the encoder's attention grid each way; None shows it the whole image at every step.
        write: lines of the decoder's grid; None lets it write on the whole canvas.
        likelihood: "bernoulli" for x in [0, 1], "gaussian" with one learned deviation for each value of x.
        mean: (D,) of the training data, whose logit (or value) starts the canvas.

    Raises:
        ValueError: a size below 1, an unknown likelihood, a grid larger than the image, attention without an image
            shape, an image shape or a mean that is not D.
    """

    def __init__(
        self,
        x_dim: int,
        image_shape: tuple[int, int, int] | None = None,
        glimpses: int = 10,
        z_dim: int = 100,
        units: int = 256,
        read: int | None = None,
        write: int | None = None,
        likelihood: str = "bernoulli",
        mean: Tensor | None = None,
    ):
        super().__init__()
        _check(x_dim, image_shape, glimpses, z_dim, units, read, write, likelihood)
        self.x_dim, self.glimpses, self.z_dim, self.likelihood = x_dim, glimpses, z_dim, likelihood
        self.image_shape, self.read, self.write = image_shape, read, write
        shape = image_shape or (1, 1, x_dim)
        self.reader = WholeReader(x_dim, units) if read is None else WindowReader(shape, units, read)
        self.encoder, self.head = LSTM(self.reader.n_out + units, units), GaussianHead(units, z_dim)
        self.decoder = LSTM(z_dim, units)
        self.writer = WholeWriter(x_dim, units) if write is None else WindowWriter(shape, units, write)
        self.blank = nn.Parameter(torch.zeros(x_dim) if mean is None else output_start(mean, x_dim, likelihood))
        if likelihood == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(x_dim))
        self._handover = Handover()

    def model(self, x: Tensor) -> None:
        """p(x, z1 ... zT) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            zero = x.new_zeros(())
            prior: dist.TorchDistribution = dist.Normal(zero, zero + 1).expand([self.z_dim]).to_event(1)  # pyright: ignore
            z: list[Any] = [pyro.sample(f"z{t}", prior) for t in range(1, self.glimpses + 1)]
            c = self._handover.take(self, z)
            if c is None:
                c = _last(self._draw(z)).c
            pyro.sample("x", self.p_x(c), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z1 ... zT | x) of rows x (N, D), each step given those before."""
        z: list[Any] = []

        def sample(q: dist.TorchDistribution) -> Tensor:
            z.append(pyro.sample(f"z{len(z) + 1}", q))
            return z[-1]

        with pyro.plate("data", len(x), dim=-1):
            c = _last(self._look_and_draw(x, sample)).c
        self._handover.leave(self, z, c)

    def p_x(self, c: Tensor) -> dist.TorchDistribution:
        """The model's distribution of x given the last canvas (..., D)."""
        if self.likelihood == "bernoulli":
            return BernoulliVector(c)
        return dist.Normal(c, self.log_scale.exp()).to_event(1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes of rows x, each step's the guide's mean given those before: (N, D) -> (N, T Z), step by step."""
        return self._read_means(x)[0]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image E[x | z]: (..., T Z) -> (..., D)."""
        return self._mean(_last(self._draw(z.split(self.z_dim, -1))).c)

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n draws of z1 ... zT from N(0, I): (n, D); the caller's RNG is left as it was."""
        return self.decode(self._prior(n, seed))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the guide's means: (N, D) -> (N, D)."""
        return self._mean(self._read_means(x)[1][-1].c)

    @torch.no_grad()
    def frames(self, n: int, seed: int = 0) -> Frames:
        """The images of `generate(n, seed)` as they are drawn, with the windows they are drawn through."""
        steps = list(self._draw(self._prior(n, seed).split(self.z_dim, -1)))
        return self._frames(steps[1:], None)

    @torch.no_grad()
    def frames_of(self, x: Tensor) -> Frames:
        """Rows x as the guide reads and the model redraws them, at the guide's means: (N, D)."""
        steps = self._read_means(x)[1]
        return self._frames(steps[1:], steps[:-1])

    # ---- the two loops

    def _draw(self, z: Sequence[Tensor]) -> Iterator[Canvas]:  # T of (..., Z)
        """The blank canvas, and the canvas after each step."""
        at = self._first(z[0].shape[:-1])
        yield at
        for one in z:
            at = self._step(at, one)
            yield at

    def _look_and_draw(self, x: Tensor, choose: Callable[[dist.TorchDistribution], Tensor]) -> Iterator[Canvas]:
        """The same with codes of x (N, D): `choose` takes each step's q to its z."""
        known = self.reader.known(x)
        e, at = self.encoder.start(x.shape[:-1]), self._first(x.shape[:-1])
        yield at
        for _ in range(self.glimpses):
            h = at.state[0]
            e = self.encoder(e, self.reader(x, x - self._mean(at.c), h), h, known=known)
            at = self._step(at, choose(dist.Normal(*self.head(e[0])).to_event(1)))
            yield at

    def _first(self, lead: Sequence[int]) -> Canvas:
        return Canvas(self.decoder.start(lead), self.blank.expand(*lead, -1))

    def _step(self, at: Canvas, z: Tensor) -> Canvas:
        state = self.decoder(at.state, z)
        return Canvas(state, at.c + self.writer(state[0]))

    # ---- the rest

    def _mean(self, c: Tensor) -> Tensor:
        return c.sigmoid() if self.likelihood == "bernoulli" else c

    def _prior(self, n: int, seed: int) -> Tensor:
        z = torch.randn(n, self.glimpses * self.z_dim, generator=torch.Generator().manual_seed(seed))
        return z.to(self.blank)

    def _read_means(self, x: Tensor) -> tuple[Tensor, list[Canvas]]:
        z: list[Tensor] = []

        def choose(q: Any) -> Tensor:
            z.append(q.mean)
            return z[-1]

        steps = list(self._look_and_draw(x, choose))
        return torch.cat(z, -1), steps

    def _frames(self, drawn: list[Canvas], seen: list[Canvas] | None) -> Frames:
        def states(steps: list[Canvas]) -> Tensor:
            return torch.stack([at.state[0] for at in steps])  # (T, n, H)

        images = torch.stack([self._mean(at.c) for at in drawn])
        return Frames(images, self.writer.window(states(drawn)), self.reader.window(states(seen)) if seen else None)


def _last(steps: Iterator[Canvas]) -> Canvas:
    """The last step's; those before are let go as it gets there."""
    return deque(steps, maxlen=1).pop()


def _check(x_dim, image_shape, glimpses, z_dim, units, read, write, likelihood) -> None:  # noqa: ANN001
    example = "DRAW(784, (1, 28, 28), glimpses=10, read=2, write=5)"
    sizes = {"x_dim": x_dim, "glimpses": glimpses, "z_dim": z_dim, "units": units}
    grids = {name: grid for name, grid in (("read", read), ("write", write)) if grid is not None}
    check_options(sizes | grids, (1,), "tanh", likelihood, example)
    if image_shape is not None and (min(image_shape) < 1 or torch.Size(image_shape).numel() != x_dim):
        raise ValueError(f"image_shape {tuple(image_shape)} does not hold x_dim={x_dim} values")
    for name, grid in grids.items():
        if image_shape is None:
            raise ValueError(f"{name}={grid} is attention, which needs image_shape=(C, H, W): {example}")
        if grid > min(image_shape[1:]):
            h, w = image_shape[1:]
            raise ValueError(f"{name}={grid} is larger than the image of {h} x {w}: at most {min(h, w)}, or None")
