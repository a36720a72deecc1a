"""What keeps a game of two players from running away, each an object that the game takes or leaves.

Label smoothing changes what the discriminator is told; feature matching gives the generator another aim; historical
averaging pulls both towards their own past (the survey's Section 4.3; [salimans2016]). Players that stop while they
are ahead are in `freezing.py`, batch norm by a fixed reference batch in `virtual.py`.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from inference.adversarial.losses import Targets
from inference.errors import RunError

__all__ = ["FeatureMatching", "HistoricalAveraging", "LabelSmoothing"]


@dataclass(frozen=True)
class LabelSmoothing:
    """Tell the discriminator `real` of real rows and `fake` of generated ones; one-sided by default.

    The best discriminator moves from p / (p + g) to (real p + fake g) / (p + g): at most 0.9, so that it is never
    sure. With fake > 0 it is drawn towards the generator's own mistakes where p is small: two-sided smoothing,
    LabelSmoothing(1 - eps, eps), is the survey's; one-sided is [salimans2016]'s advice.

    Raises:
        RunError: unless 0 <= fake < real <= 1.
    """

    real: float = 0.9
    fake: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.fake < self.real <= 1.0:
            raise RunError(
                f"smoothed labels are 0 <= fake < real <= 1, got real={self.real}, fake={self.fake}: "
                "LabelSmoothing(0.9) is one-sided, LabelSmoothing(0.9, 0.1) two-sided"
            )

    @property
    def targets(self) -> Targets:
        """The two labels."""
        return Targets(self.real, self.fake)


@dataclass(frozen=True)
class FeatureMatching:
    """The generator matches means of the discriminator's features, |E_p f(x) - E_g f(x)|^2 [salimans2016].

    It takes the place of the generator's own loss, of which a share `adversarial` may stay. f(x) is the
    discriminator's `features(x)`, (N, F); the discriminator learns as ever.

    Raises:
        RunError: weight is not above 0, adversarial is negative, or one of them is not finite.
    """

    weight: float = 1.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf and 0 <= self.adversarial < math.inf):
            raise RunError(
                f"feature matching has a weight above 0 and a share of the adversarial loss of at least 0, got "
                f"{self.weight} and {self.adversarial}: FeatureMatching() leaves the adversarial loss out"
            )

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """The distance () of features (N, F) of real and of generated rows."""
        return self.weight * (real.mean(0) - fake.mean(0)).square().sum()


@dataclass(frozen=True)
class HistoricalAveraging:
    """Add weight |theta - mean of theta over the steps so far|^2 to each player's loss [salimans2016].

    Raises:
        RunError: weight is not above 0 and finite.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise RunError(f"the weight of historical averaging is above 0, got {self.weight}: 1.0, or leave it out")
