"""Semi-supervised variational autoencoders (Kingma et al. 2014; the survey's Section 3.5.1): M2, and M1+M2.

    M2     model:  y ~ Cat(pi),  z ~ N(0, I),  x | y, z ~ Bernoulli(f(y, z)) or N(f(y, z), s(y, z)^2)
           guide:  y | x ~ Cat(g(x)),  z | x, y ~ N(m(x, y), diag s(x, y)^2)
    M1+M2  model:  y, z as above,  z1 | y, z ~ N(f(y, z), s(y, z)^2),  x | z1 by a VAE's decoder
           guide:  z1 | x by its encoder, then M2's guide with z1 in the place of x

A label may be known or not, row by row: the labelled rows come first, and y holds their labels. Where it is not known
y is latent and marked for enumeration, so that objectives which sum out discrete sites run all classes side by side.
"""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ppl_models.nn import ACTIVATIONS, BernoulliVector, GaussianHead, LabelledMLP, check_options, mlp, output_start

__all__ = ["SemiSupervisedVAE", "StackedVAE"]


class SemiSupervisedVAE(nn.Module):
    """Kingma's M2 [kingma2014m2] as a Pyro model/guide pair.

    Sites: `y` () a class 0 ... C-1, `z` (Z,), `x` (D,); data plate `data` at dim -1. Where some rows of a batch are
    labelled and others not, `label` is one more: log 1 where y agrees with the label, log 0 elsewhere.

    Args:
        x_dim: D, values of one datum.
        z_dim: Z, dimensions of the style.
        n_classes: C; the prior of y is uniform.
        hidden: units of the hidden layers of both encoders; the decoder mirrors them.
        activation: "tanh", "relu", "softplus" (the paper's), "elu" or "gelu".
        dropout: share of the classifier's hidden units left out at each step of training [srivastava2014].
        likelihood: "bernoulli" for x in [0, 1], "gaussian" with mean and deviation from the decoder.
        mean: (D,) of the training data, whose logit (or value) starts the output bias.
        image_shape: (C, H, W) with C * H * W = D, for pictures.

    Raises:
        ValueError: a size below 1, fewer than two classes, an unknown activation or likelihood.
    """

    def __init__(
        self,
        x_dim: int,
        z_dim: int = 50,
        n_classes: int = 10,
        hidden: Sequence[int] = (500,),
        activation: str = "relu",
        dropout: float = 0.0,
        likelihood: str = "bernoulli",
        mean: Tensor | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        super().__init__()
        _check(x_dim, z_dim, n_classes, hidden, activation, dropout, likelihood)
        self.x_dim, self.z_dim, self.n_classes, self.likelihood = x_dim, z_dim, n_classes, likelihood
        self.image_shape = image_shape
        act = ACTIVATIONS[activation]
        self.classifier = mlp((x_dim, *hidden, n_classes), act, dropout=dropout)
        self.encoder = LabelledMLP(x_dim, n_classes, hidden, act)
        self.head = GaussianHead(hidden[-1], z_dim)
        self.decoder = LabelledMLP(z_dim, n_classes, tuple(reversed(hidden)), act)
        last = hidden[0]
        self.output: Any = GaussianHead(last, x_dim) if likelihood == "gaussian" else mlp((last, x_dim))
        if mean is not None:
            self._start_at(mean)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, y, z) of rows x (N, D), of which the first L have labels y (L,); L = 0 or None: no labels."""
        with pyro.plate("data", len(x), dim=-1):
            label, z = self.sample_causes(x, y)
            pyro.sample("x", self.p_x(label, z), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(y | x) q(z | x, y) of rows x (N, D); q(y | x) of a labelled row is a point mass at its label."""
        with pyro.plate("data", len(x), dim=-1):
            self.infer_causes(x, y)

    def sample_causes(self, like: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The model's sites y and z, inside its plate of N rows: `like` (N, ...) gives N, dtype and device."""
        n, labelled = len(like), 0 if y is None else len(y)
        prior: Any = dist.Categorical(logits=like.new_zeros(self.n_classes))
        if y is None or labelled < n:
            label = pyro.sample("y", prior, infer={"enumerate": "parallel"})
        else:
            label = pyro.sample("y", prior, obs=y)
        if y is not None and labelled > 0 and is_validation_enabled():
            _check_labels(y, n, self.n_classes)
        if y is not None and 0 < labelled < n:
            known = _padded(y, n)
            pyro.factor("label", torch.where((known >= 0) & (label != known), -torch.inf, 0.0).to(like))
        zero = like.new_zeros(())
        normal: Any = dist.Normal(zero, zero + 1).expand([self.z_dim])  # pyright: ignore
        return label, pyro.sample("z", normal.to_event(1))

    def infer_causes(self, x: Tensor, y: Tensor | None) -> None:
        """The guide's sites y, where it is latent, and z, inside its plate of rows x (..., N, D)."""
        n, labelled = x.shape[-2], 0 if y is None else len(y)
        if y is not None and labelled == n:
            label = y
        else:
            logits = self.classifier(x)
            if y is not None and labelled > 0:
                known = _padded(y, n).unsqueeze(-1)
                others = torch.arange(self.n_classes, device=x.device) != known
                logits = logits.masked_fill((known >= 0) & others, -torch.inf)
            label = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
        pyro.sample("z", self.q_z(x, label))

    def q_y(self, x: Tensor) -> dist.Categorical:
        """The guide's distribution of the class given x (..., D)."""
        return dist.Categorical(logits=self.classifier(x))

    def q_z(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """The guide's distribution of z given x (..., D) and classes y (...); their leading dims broadcast."""
        return dist.Normal(*self.head(self.encoder(x, y))).to_event(1)

    def p_x(self, y: Tensor, z: Tensor) -> dist.TorchDistribution:
        """The model's distribution of x given classes y (...) and z (..., Z)."""
        out = self.output(self.decoder(z, y))
        return BernoulliVector(out) if self.likelihood == "bernoulli" else dist.Normal(*out).to_event(1)

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """q(y | x): (N, D) -> probabilities (N, C)."""
        return self.classifier(x).softmax(-1)

    @torch.no_grad()
    def style(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The style's mean E_q[z | x, y]: (N, D) -> (N, Z); y by default the likeliest class."""
        return self.q_z(x, self.classifier(x).argmax(-1) if y is None else y).mean

    @torch.no_grad()
    def decode(self, y: Tensor, z: Tensor) -> Tensor:
        """The mean image E[x | y, z] of classes y (...) and z (..., Z): (..., D)."""
        return self.p_x(y, z).mean

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n draws of style, each in every class: (n, C, D); the caller's RNG is left as it was."""
        like = next(self.parameters())
        z = torch.randn(n, 1, self.z_dim, generator=torch.Generator().manual_seed(seed)).to(like)
        y = torch.arange(self.n_classes, device=like.device)
        return self.decode(y, z.expand(-1, self.n_classes, -1))

    @torch.no_grad()
    def _start_at(self, mean: Tensor) -> None:
        start = output_start(mean, self.x_dim, self.likelihood)
        if self.likelihood == "gaussian":
            self.output.linear.bias[: self.x_dim] = start
        else:
            self.output[0].bias.copy_(start)


class StackedVAE(nn.Module):
    """M1+M2 [kingma2014m2]: a trained VAE whose codes an M2 explains, as one Pyro model/guide pair.

    Sites: `y` (), `z` (Z,), `z1` (Z1,), `x` (D,); data plate `data` at dim -1. It is trained stacked, as in the paper:
    m1 first, on images alone; then m2, on codes drawn anew from q(z1 | x) at every visit, by
    `fit(SVI(stacked.m2, ...), Codes(stacked.m1, labelled, unlabelled), ...)`.

    Args:
        m1: a VAE: `q_z(x)`, `p_x(z)`, `z_dim`.
        m2: an M2 of the codes: likelihood "gaussian", x_dim the code's length.

    Raises:
        ValueError: an M2 of another length or likelihood.
    """

    def __init__(self, m1: Any, m2: SemiSupervisedVAE):
        super().__init__()
        if m2.x_dim != m1.z_dim or m2.likelihood != "gaussian":
            raise ValueError(
                f"m2 explains m1's codes, {m1.z_dim} real numbers a row, and it is made for x_dim={m2.x_dim}, "
                f"likelihood '{m2.likelihood}': SemiSupervisedVAE({m1.z_dim}, likelihood='gaussian')"
            )
        self.m1: Any = m1
        self.m2 = m2

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z1, y, z) of rows x (N, D), of which the first L have labels y (L,)."""
        with pyro.plate("data", len(x), dim=-1):
            label, z = self.m2.sample_causes(x, y)
            z1 = pyro.sample("z1", self.m2.p_x(label, z))
            pyro.sample("x", self.m1.p_x(z1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z1 | x) q(y | z1) q(z | z1, y) of rows x (N, D)."""
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", self.m1.q_z(x))
            self.m2.infer_causes(z1, y)

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """q(y | x) at the code's mean: (N, D) -> probabilities (N, C)."""
        return self.m2.classify(self.m1.q_z(x).mean)

    @torch.no_grad()
    def style(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The style's mean at the code's mean: (N, D) -> (N, Z); y by default the likeliest class."""
        return self.m2.style(self.m1.q_z(x).mean, y)

    @torch.no_grad()
    def decode(self, y: Tensor, z: Tensor) -> Tensor:
        """The mean image of the mean code of classes y (...) and z (..., Z): (..., D)."""
        return self.m1.p_x(self.m2.decode(y, z)).mean

    @torch.no_grad()
    def generate(self, n: int, seed: int = 0) -> Tensor:
        """Mean images of n draws of style, each in every class: (n, C, D)."""
        return self.m1.p_x(self.m2.generate(n, seed)).mean


def _padded(y: Tensor, n: int) -> Tensor:
    """Labels of the first rows, -1 for the others: (L,) -> (n,)."""
    return torch.cat([y, y.new_full((n - len(y),), -1)])


def _check_labels(y: Tensor, n: int, n_classes: int) -> None:
    if len(y) > n:
        raise ValueError(f"there are {len(y)} labels for {n} rows: y holds those of the first rows, at most all")
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        wrong = int(y[(y < 0) | (y >= n_classes)][0])
        raise ValueError(
            f"a label is a class 0 ... {n_classes - 1}, got {wrong}: give n_classes, or leave unlabelled rows "
            "out of y (they come after the labelled ones)"
        )


def _check(x_dim, z_dim, n_classes, hidden, activation, dropout, likelihood) -> None:  # noqa: ANN001
    example = "SemiSupervisedVAE(784, z_dim=50, hidden=(500,))"
    check_options({"x_dim": x_dim, "z_dim": z_dim}, hidden, activation, likelihood, example)
    if n_classes < 2:
        raise ValueError(f"there are at least 2 classes, got n_classes={n_classes}: one class alone is a VAE")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a share in [0, 1), got {dropout}: pass for example 0.5")
