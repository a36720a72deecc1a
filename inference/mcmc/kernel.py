"""Gibbs sampling as a kernel of Pyro's own MCMC: pyro.infer.MCMC(GibbsKernel(model), num_samples=1000).run(x)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from inference.mcmc.gibbs import GibbsState, init, refuse_continuous, step
from inference.mcmc.stuck import check_moves

__all__ = ["GibbsKernel"]


class GibbsKernel(MCMCKernel):
    """A sweep over every discrete latent of a Pyro model, for pyro.infer.MCMC [bingham2019pyro].

    Pyro runs its chains one after the other or in processes; `Gibbs` runs them side by side. Its random numbers start
    from Pyro's: pyro.set_rng_seed fixes a run.

    Args:
        model: a Pyro program.
        blocks: names of sites that are drawn jointly.

    Raises (at the run):
        UnsupportedModelError: as `init` and `step`; a continuous latent; sites that single updates cannot move.
    """

    transforms: dict[str, Any] = {}  # none: values stay in their support

    def __init__(self, model: Callable[..., Any], blocks: Sequence[Sequence[str]] = ()):
        self.model, self.blocks = model, blocks
        self._state: GibbsState | None = None
        self._first: dict[str, Tensor] | None = None
        self._ever: dict[str, Tensor] = {}
        self._sweeps = 0

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Find a first state given the data."""
        program = partial(self.model, **kwargs) if kwargs else self.model
        seed = int(torch.randint(2**31, ()))
        first = None if self._first is None else {name: value.unsqueeze(0) for name, value in self._first.items()}
        self._state = init(program, *args, seed=seed, blocks=self.blocks, values=first)
        refuse_continuous(self._state.target.joint)
        self._ever, self._sweeps = {}, 0

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """The first state: site -> its value."""
        assert self._state is not None, "setup comes first"
        return {name: value[0] for name, value in self._state.values.items()}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._first = params

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One sweep from `params`."""
        assert self._state is not None, "setup comes first"
        values = {name: value.unsqueeze(0) for name, value in params.items()}
        self._state, info = step(self._state._replace(values=values))
        self._ever = {name: free | self._ever.get(name, free) for name, free in info.free.items()}
        self._sweeps += 1
        return {name: value[0] for name, value in self._state.values.items()}

    def diagnostics(self) -> dict[str, Any]:
        """Nothing to show; refuses the draws of a chain that could not move."""
        if self._state is not None and self._sweeps:
            check_moves(*self._state.target, self._state.values, self._ever, self._sweeps)
        return {}
