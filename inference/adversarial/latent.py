"""Walks and sums among latent codes: what lies between two samples, and what a direction means.

Codes drawn from N(0, I) in Z dimensions lie near a sphere of radius sqrt(Z), and a straight line between two of them
leaves it: half way its norm is less by a factor of sqrt(2), where the generator has hardly been trained. So
interpolation follows the great circle [white2016]. Sums are of means over a few exemplars each [radford2016], the
survey's Figure 9.
"""

import math

import torch
from torch import Tensor

from inference.adversarial.rows import check_rows
from inference.errors import ShapeError

__all__ = ["arithmetic", "interpolate"]


def interpolate(z0: Tensor, z1: Tensor, steps: int, spherical: bool = True) -> Tensor:
    """Codes from z0 (Z,) to z1 (Z,), both included: (steps, Z).

        spherical:  |z(t)| = (1 - t)|z0| + t|z1|,  its direction turning evenly on the great circle [white2016]
        else:       z(t) = (1 - t) z0 + t z1,      for noise that is uniform, or for codes of another kind

    Raises:
        ShapeError: codes of different shapes; fewer than two steps; on a sphere a code of 0, or two opposite ones,
            between which every great circle is as short.
    """
    if z0.ndim != 1 or z0.shape != z1.shape:
        raise ShapeError(f"interpolation needs two codes (Z,), got {tuple(z0.shape)} and {tuple(z1.shape)}")
    if steps < 2:
        raise ShapeError(f"an interpolation has at least 2 steps, its ends, got {steps}")
    t = torch.linspace(0.0, 1.0, steps, dtype=z0.dtype, device=z0.device).unsqueeze(1)
    if not spherical:
        path = torch.lerp(z0, z1, t)
    else:
        norm0, norm1 = z0.norm(), z1.norm()
        if not (norm0 > 0 and norm1 > 0):
            raise ShapeError("a code of 0 has no direction to turn from: pass spherical=False")
        u0, u1 = z0 / norm0, z1 / norm1
        angle = 2 * torch.atan2((u0 - u1).norm(), (u0 + u1).norm())  # exact near 0 too, where arccos is not
        if math.pi - float(angle) < 1e-4:
            raise ShapeError("between opposite codes every great circle is as short: pass spherical=False")
        # of nearly equal directions any weights that sum to 1 will do, and sin(t a) / sin(a) -> t
        a0, a1 = ((1 - t), t) if float(angle) < 1e-6 else ((s * angle).sin() / angle.sin() for s in (1 - t, t))
        path = torch.lerp(norm0, norm1, t) * (a0 * u0 + a1 * u1)
    path[0], path[-1] = z0, z1  # to the last digit
    return path


def arithmetic(plus: Tensor, minus: Tensor, to: Tensor, rescale: bool = False) -> Tensor:
    """mean(plus) - mean(minus) + mean(to), each over a few exemplars (n, Z): one code (Z,) [radford2016].

    "Man with glasses" - "man" + "woman": three exemplars each make the sum more stable than one does.

    Args:
        plus: codes of samples that show a property.
        minus: codes of samples that are alike but lack it.
        to: codes of samples that are to get it.
        rescale: stretch the sum to the norm sqrt(Z) that draws of N(0, I) have. With n exemplars each coordinate of the
            sum has variance 3 / n in place of 1: right for three, too small for more, where training hardly went.

    Raises:
        ShapeError: exemplars that are not rows of one length, or none.
        NonFiniteError: a code that is NaN or infinite.
    """
    check_rows({"plus": plus, "minus": minus, "to": to})
    z = plus.mean(0) - minus.mean(0) + to.mean(0)
    return z * (math.sqrt(len(z)) / z.norm()) if rescale else z
