"""What the chains learn in their warm-up, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference.mcmc.hmc_warmup import _average, _rescale, _see, begin


@pytest.mark.parametrize("dense", [True, False])
def test_a_window_gives_its_scale_and_the_gradient_follows(dense):
    """The gradient in w is L^T dU/du: dU/du is the same under the old scale and the new one."""
    noise = np.random.default_rng(0).normal(size=(200, 3, 2))
    lower = np.array([[2.0, 0.0], [1.5, 0.5]])
    slope = np.array([[1.0, -2.0], [0.3, 0.7], [-1.0, 4.0]])  # dU/du of C chains
    with jax.enable_x64(True):
        tuning = begin(3, 2, dense)
        tuning = tuning._replace(scale=jnp.array([[3.0, 0.0], [-1.0, 0.2]] if dense else [3.0, 0.2]))
        old = np.asarray(tuning.scale if dense else jnp.diag(tuning.scale))
        draws = noise @ lower.T + np.array([[5.0], [0.0], [-5.0]])  # chains apart: only what is within them counts
        for u in draws:
            tuning = _see(jnp.asarray(u), tuning)
        gradient, tuning = _rescale(jnp.asarray(slope @ old), tuning)
    scale = np.asarray(tuning.scale) if dense else np.diag(tuning.scale)
    within = draws - draws.mean(0)
    found = np.einsum("sci,scj->ij", within, within) / (3 * 199)
    wanted = found if dense else np.diag(found.diagonal())
    assert np.allclose(scale @ scale.T, wanted, rtol=0.02)
    assert np.allclose(gradient, slope @ scale, rtol=1e-10)
    assert float(tuning.seen) == 0


def test_steps_shrink_while_too_little_is_accepted():
    tuning = begin(1, 1, True)
    assert float(_average(tuning, jnp.asarray(0.8)).step_size) < float(_average(tuning, jnp.asarray(-0.2)).step_size)
    assert float(_average(tuning, jnp.asarray(-0.2)).step_size) > 1
