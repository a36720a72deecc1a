"""HMC and NUTS by Pyro's kernels on a potential of torch: one chain after the other, nothing compiled.

Slow, and for that it asks nothing of the model: what cannot be recorded runs here too.
"""

import time
from typing import Any

import torch
from pyro.infer.mcmc import HMC, NUTS
from torch import Tensor
from tqdm import tqdm

from inference.capture.potential import Potential
from inference.mcmc.trajectory import Settings, Trajectory

__all__ = ["sample"]


def sample(potential: Potential, starts: Tensor, settings: Settings, seed: int) -> Trajectory:
    """C chains from `starts` (C, D), one after the other."""
    parts: list[dict[str, Tensor]] = []
    seconds = warmup = 0.0
    evaluations = 0
    total = len(starts) * (settings.warmup_steps + settings.num_samples)
    with (
        torch.random.fork_rng(), potential.running(),
        tqdm(total=total, desc="draws", delay=2.0, disable=None if settings.progress else True, leave=False) as bar,
    ):  # fmt: skip
        for chain, start in enumerate(starts):
            torch.manual_seed(seed + 1_000_003 * chain)
            began = time.perf_counter()
            run = _Chain(potential, start, settings)
            for _ in range(settings.warmup_steps):
                run.step()
                bar.update()
            middle = time.perf_counter()
            shown = []
            for _ in range(settings.num_samples):
                shown.append(run.step())
                bar.update()
            seconds, warmup = seconds + time.perf_counter() - middle, warmup + middle - began
            evaluations += run.evaluations
            parts.append({name: torch.stack([torch.as_tensor(show[name]) for show in shown]) for name in shown[0]})
    stats = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    return Trajectory(stats.pop("u"), stats.pop("u_energy"), stats, seconds, warmup, 0.0, evaluations)


class _Chain:
    """A kernel of Pyro's, and what its private counters show of each step."""

    def __init__(self, potential: Potential, start: Tensor, settings: Settings):
        self.evaluations = 0
        self.kinetic: Any = 0.0
        self.settings = settings
        self.potential = potential
        self.kernel: Any = _KERNELS[settings.algorithm](
            potential_fn=self._energy, target_accept_prob=settings.target_accept, full_mass=settings.dense_mass,
            **settings.shape,
        )  # fmt: skip
        self.kernel.initial_params = {"u": start}
        self.kernel.setup(settings.warmup_steps)
        draw = self.kernel._sample_r

        def remembered(name: str) -> Any:
            drawn = draw(name)
            self.kinetic = self.kernel._kinetic_energy(drawn[1])
            return drawn

        self.kernel._sample_r = remembered

    def _energy(self, named: dict[str, Tensor]) -> Tensor:
        self.evaluations += 1
        return self.potential(named["u"])

    def step(self) -> dict[str, Any]:
        """One transition and its statistics."""
        kernel = self.kernel
        t = kernel._t
        if t == self.settings.warmup_steps:
            kernel._mean_accept_prob = 0.0
        n = t - self.settings.warmup_steps if t >= self.settings.warmup_steps else t
        before, divergences = kernel._mean_accept_prob, len(kernel._divergences)
        evaluations, energy = self.evaluations, kernel._potential_energy_last
        kernel.sample(kernel._z_last)
        return {
            "u": kernel._z_last["u"].detach(),
            "u_energy": kernel._potential_energy_last.detach(),
            "energy": (energy + self.kinetic).detach(),  # at the start of the trajectory, along which it is conserved
            "steps": self.evaluations - evaluations,
            "acceptance": before + (kernel._mean_accept_prob - before) * (n + 1),  # of the running mean
            "diverging": len(kernel._divergences) > divergences,
            "step_size": float(kernel.step_size),
        }


_KERNELS: dict[str, Any] = {"HMC": HMC, "NUTS": NUTS}
