"""What the two players of a game minimise, as functions of the discriminator's logits a(x).

    V(D, G) = E_p[log D(x)] + E_g[log(1 - D(x))],    D(x) = sigmoid(a(x))       (the survey's Equation 15)

The discriminator minimises -V in the first two, in nats; the generator climbs down V (`Minimax`), or up log D
(`NonSaturating`). The others replace the logarithm. At the best discriminator V = -log 4 + 2 JSD(p, g), so that a
discriminator's loss of log 4 = 1.386 and D = 1/2 everywhere are the equilibrium [goodfellow2014].
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["Equilibrium", "Hinge", "LeastSquares", "Loss", "Minimax", "NonSaturating", "Targets", "Wasserstein"]


class Targets(NamedTuple):
    """What the discriminator is told of real and of generated rows: 1 and 0, or smoothed."""

    real: float = 1.0
    fake: float = 0.0


class Equilibrium(NamedTuple):
    """Where the game stands when g = p; None where the loss does not say."""

    d_loss: float | None
    g_loss: float | None
    score: float | None  # of `Loss.score`, on real and on generated rows alike


class Loss(Protocol):
    """The losses of both players; `has_targets` says whether the discriminator's has labels that can be smoothed."""

    has_targets: bool

    def discriminator(self, real: Tensor, fake: Tensor, targets: Targets = Targets()) -> Tensor:  # noqa: B008
        """The discriminator's loss () of logits (N,) on real and on generated rows."""
        ...

    def generator(self, fake: Tensor) -> Tensor:
        """The generator's loss () of logits (N,) on generated rows."""
        ...

    def score(self, logits: Tensor) -> Tensor:
        """What the discriminator says of rows (N,): D(x) in [0, 1] where it has one, else its logits."""
        ...

    def undecided(self, real: Tensor, fake: Tensor) -> Tensor | float:
        """The logit at which a row is taken for neither: above it the discriminator says real."""
        ...

    def equilibrium(self, targets: Targets = Targets()) -> Equilibrium:  # noqa: B008
        """The losses and the score at g = p."""
        ...


def _cross_entropy(real: Tensor, fake: Tensor, targets: Targets) -> Tensor:
    """-E[t log D + (1 - t) log(1 - D)] with t = targets.real on real rows, targets.fake on generated ones."""
    # -t log sigmoid(a) - (1 - t) log sigmoid(-a) = softplus(a) - t a
    loss_real = softplus(-real) if targets.real == 1.0 else softplus(real) - targets.real * real
    loss_fake = softplus(fake) if targets.fake == 0.0 else softplus(fake) - targets.fake * fake
    return loss_real.mean() + loss_fake.mean()


@dataclass(frozen=True)
class Minimax:
    """The zero-sum game: G minimises E[log(1 - D(G(z)))], the survey's Equation 12 [goodfellow2014].

    Its gradient at the best D is that of 2 JSD(p, g). It vanishes where D rejects what G makes.
    """

    has_targets = True

    def discriminator(self, real: Tensor, fake: Tensor, targets: Targets = Targets()) -> Tensor:  # noqa: B008
        """-E[log D(x)] - E[log(1 - D(G(z)))], the survey's Equation 14, nats."""
        return _cross_entropy(real, fake, targets)

    def generator(self, fake: Tensor) -> Tensor:
        """E[log(1 - D(G(z)))], nats: log(1/2) at equilibrium."""
        return -softplus(fake).mean()

    def score(self, logits: Tensor) -> Tensor:
        """D(x) = sigmoid(a(x))."""
        return torch.sigmoid(logits)

    def undecided(self, real: Tensor, fake: Tensor) -> float:
        """0: D = 1/2."""
        return 0.0

    def equilibrium(self, targets: Targets = Targets()) -> Equilibrium:  # noqa: B008
        """D = 1/2 and a discriminator's loss of log 4, without smoothing."""
        level = (targets.real + targets.fake) / 2  # midway between what it is told
        even = torch.tensor([math.log(level / (1 - level))], dtype=torch.float64)
        return Equilibrium(float(_cross_entropy(even, even, targets)), float(self.generator(even)), level)


@dataclass(frozen=True)
class NonSaturating(Minimax):
    """G maximises E[log D(G(z))] instead, the survey's Equation 13: strong gradients where D rejects [goodfellow2014].

    Its gradient at the best D is that of KL(g, p) - 2 JSD(p, g) [arjovsky2017principled].
    """

    def generator(self, fake: Tensor) -> Tensor:
        """-E[log D(G(z))], nats: log 2 at equilibrium."""
        return softplus(-fake).mean()


@dataclass(frozen=True)
class LeastSquares:
    """Squared distance of a(x) to its target, 1 for real and 0 for generated rows [mao2017].

    The best discriminator is a(x) = p / (p + g) itself, no logit.
    """

    has_targets = True

    def discriminator(self, real: Tensor, fake: Tensor, targets: Targets = Targets()) -> Tensor:  # noqa: B008
        """E[(a(x) - 1)^2] / 2 + E[a(G(z))^2] / 2: 1/4 at equilibrium."""
        return 0.5 * ((real - targets.real).square().mean() + (fake - targets.fake).square().mean())

    def generator(self, fake: Tensor) -> Tensor:
        """E[(a(G(z)) - 1)^2] / 2: 1/8 at equilibrium."""
        return 0.5 * (fake - 1.0).square().mean()

    def score(self, logits: Tensor) -> Tensor:
        """a(x) itself, near [0, 1]."""
        return logits

    def undecided(self, real: Tensor, fake: Tensor) -> float:
        """1/2, between the two targets."""
        return 0.5

    def equilibrium(self, targets: Targets = Targets()) -> Equilibrium:  # noqa: B008
        """1/4, 1/8 and 1/2, without smoothing."""
        level = (targets.real + targets.fake) / 2
        return Equilibrium((targets.real - targets.fake) ** 2 / 4, (level - 1) ** 2 / 2, level)


@dataclass(frozen=True)
class Wasserstein:
    """The critic's difference of means, an estimate of the Wasserstein-1 distance [arjovsky2017].

    It needs a critic of bounded slope: penalties=(GradientPenalty(),), and several of its steps to one of G's
    (d_steps=5) [gulrajani2017].
    """

    has_targets = False

    def discriminator(self, real: Tensor, fake: Tensor, targets: Targets = Targets()) -> Tensor:  # noqa: B008
        """E[a(G(z))] - E[a(x)]."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """-E[a(G(z))]."""
        return -fake.mean()

    def score(self, logits: Tensor) -> Tensor:
        """a(x), which has no scale of its own."""
        return logits

    def undecided(self, real: Tensor, fake: Tensor) -> Tensor:
        """Between the two means: a critic is free to add a constant."""
        return 0.5 * (real.mean() + fake.mean())

    def equilibrium(self, targets: Targets = Targets()) -> Equilibrium:  # noqa: B008
        """A distance of 0."""
        return Equilibrium(0.0, None, None)


@dataclass(frozen=True)
class Hinge:
    """The critic's hinge: rows beyond the margin teach it nothing more [miyato2018]."""

    has_targets = False

    def discriminator(self, real: Tensor, fake: Tensor, targets: Targets = Targets()) -> Tensor:  # noqa: B008
        """E[max(0, 1 - a(x))] + E[max(0, 1 + a(G(z)))]."""
        return (1.0 - real).relu().mean() + (1.0 + fake).relu().mean()

    def generator(self, fake: Tensor) -> Tensor:
        """-E[a(G(z))]."""
        return -fake.mean()

    def score(self, logits: Tensor) -> Tensor:
        """a(x), which has no scale of its own."""
        return logits

    def undecided(self, real: Tensor, fake: Tensor) -> float:
        """0, between the margins."""
        return 0.0

    def equilibrium(self, targets: Targets = Targets()) -> Equilibrium:  # noqa: B008
        """A loss of 2."""
        return Equilibrium(2.0, None, None)
