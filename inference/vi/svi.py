"""Stochastic variational inference: one step is a bound, its gradient, and an ordinary torch.optim update.

The bound and its gradient come from the Pyro program or, in a run that is long enough, from compiled code that was
recorded of it (`inference.capture`).

Nothing of Pyro's global parameter store is touched: a pair's parameters are its modules' and those of its own store.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inference.capture.compiled import CompiledSteps
from inference.diagnose import nonfinite_site
from inference.errors import CheckpointError, NonFiniteError, RunError
from inference.pair import as_pair
from inference.training.checkpoint import flatten_optimizer, restore, unflatten_optimizer
from inference.types import Objective

__all__ = ["SVI", "SVIInfo"]

Optimizer = torch.optim.Optimizer


class SVIInfo(NamedTuple):
    """What one step saw, nats per datum: loss = -bound, and its two parts where the objective has them."""

    loss: Tensor
    reg: Tensor | None
    rec: Tensor | None


class SVI:
    """Train a model/guide pair on a bound.

    Args:
        pair: an object with `.model` and `.guide`, or (model, guide), as a Pyro user writes them.
        objective: the bound: `TraceELBO()`, `TraceEnumELBO()`, `IWAE(k)`. One that is an nn.Module (`NVIL()`) is learnt
            and saved with the pair, its names prefixed "objective."; its method `init(pair, *batch)` is called once.
        optimizer: a torch optimiser, or a function from parameters to one (`lambda p: Adam(p, 1e-3)`) for pairs whose
            parameters appear only when they run: autoguides, `pyro.param`.
        clip_norm: the gradient's largest norm, if any.
        kl_weight: the weight of L_reg in the loss, 1 for the bound itself: below 1 codes tell more of x, above 1 less
            [higgins2017].
        kl_warmup_steps: steps over which that weight rises from 0 [sonderby2016].
        compile: "auto" compiles the step once a run is long enough to pay for it, some 3000 steps; True at the first
            step; False never. Random numbers stay those of the program, results agree to rounding; what cannot be
            compiled runs as it is, with one warning that says why (`docs/capture.md`).
        before: other objectives in front of it, each for its number of steps: `[(TraceELBO(), 5000)]`, the ELBO,
            cheaper by a factor near k, in front of IWAE(k). One that is an nn.Module is saved as "before0.", ...

    Raises:
        RunError (at the first step): the pair has no parameter, or the optimiser misses one that appeared in a run or
            belongs to the objective.
    """

    def __init__(
        self,
        pair: Any,
        objective: Objective,
        optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer],
        *,
        clip_norm: float | None = None,
        kl_weight: float = 1.0,
        kl_warmup_steps: int = 0,
        before: Sequence[tuple[Objective, int]] = (),
        compile: bool | str = "auto",
    ):
        if compile not in ("auto", True, False):
            raise RunError(f"compile is 'auto', True or False, got {compile!r}: leave it out")
        self.pair = as_pair(pair)
        self.objective = objective
        if not 0 <= kl_weight < math.inf:
            raise RunError(f"kl_weight is at least 0 and finite, got {kl_weight}: 1 is the bound itself")
        self.clip_norm, self.kl_weight, self.kl_warmup_steps = clip_norm, kl_weight, kl_warmup_steps
        self.before = tuple(before)
        self.steps = 0
        self.optimizers: Sequence[Optimizer] = [optimizer] if isinstance(optimizer, Optimizer) else []
        self._make_optimizer = None if isinstance(optimizer, Optimizer) else optimizer
        self._bound = _Bound(self)
        self._run: Callable[..., Any] = self._bound.forward
        self._autocast: Callable[[], Any] = nullcontext
        self._fabric: Any = None
        self._ready = False
        self._compile = compile
        self._compiled: CompiledSteps | None = None

    def setup(self, fabric: Any) -> None:
        """Take the device, precision and processes of a Lightning Fabric."""
        self._fabric = fabric
        for module in [*self.pair.modules(), *self._learners().values()]:
            fabric.to_device(module)
        self._autocast = fabric.autocast

    def init(self, *batch: Any) -> None:
        """Run the pair once, so that lazy parameters exist, and give them to the optimiser."""
        if self._ready:
            return
        known = {id(p) for p in self.pair.named_parameters().values()}
        self.pair.structure(*batch)
        parameters = {name: p for name, p in self.pair.named_parameters().items() if p.requires_grad}
        if not parameters:
            raise RunError("the pair has no parameter to learn: give it an nn.Module, pyro.param or an autoguide")
        for prefix, part in self._learners().items():
            if hasattr(part, "init"):
                part.init(self.pair, *batch)  # pyright: ignore[reportCallIssue]
            parameters |= {prefix + name: p for name, p in part.named_parameters() if p.requires_grad}
        if self._make_optimizer is not None:
            self.optimizers = [self._make_optimizer(list(parameters.values()))]
        held = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        missed = [name for name, p in parameters.items() if id(p) not in known and id(p) not in held]
        if missed:
            raise RunError(
                f"the optimiser does not hold '{missed[0].removeprefix('store.')}', which "
                f"{'the objective learns' if _is_of_objective(missed[0]) else 'appeared when the pair ran'}: "
                "pass a function, optimizer=lambda parameters: Adam(parameters, 1e-3)"
            )
        if self._fabric is not None and self._fabric.world_size > 1:
            buffers = {p + n: b for p, part in self._learners().items() for n, b in part.named_buffers()}
            self._run = self._fabric.setup_module(self._bound.adopt(parameters, buffers))
        elif self._compile is not False:
            modules = [*self.pair.modules(), *self._learners().values()]
            self._compiled = CompiledSteps(self._value, list(parameters.values()), modules, self._compile is True)
        self._ready = True

    def step(self, *batch: Any) -> SVIInfo:
        """One update; raises NonFiniteError, the parameters untouched, where the bound is NaN or infinite."""
        if not self._ready:
            self.init(*batch)
        fast = None if self._compiled is None else self._compiled(batch, self.beta, self._phase)
        if fast is None:
            with self._autocast():
                loss, bound, reg, rec = self._run(*batch)
        else:
            loss, bound, reg, rec = fast.estimate
        if bound.device.type == "cpu" and not math.isfinite(loss.item()):
            where = nonfinite_site(self.pair, batch)
            raise NonFiniteError(f"the loss is {float(loss.detach())} at step {self.steps + 1}{where}")
        if fast is None:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
        else:
            fast.give_gradients()
        for optimizer in self.optimizers:
            if self.clip_norm is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            optimizer.step()
        self.steps += 1
        return SVIInfo(-bound, reg, rec)

    @property
    def beta(self) -> float:
        """The weight of L_reg at the coming step."""
        risen = 1.0 if self.kl_warmup_steps == 0 else min(1.0, (self.steps + 1) / self.kl_warmup_steps)
        return self.kl_weight * risen

    @property
    def current(self) -> Objective:
        """The objective of the coming step."""
        return [*(objective for objective, _ in self.before), self.objective][self._phase]

    @property
    def _phase(self) -> int:
        """Which objective's turn it is: those in front are counted from 0."""
        ends = accumulate(steps for _, steps in self.before)
        return sum(self.steps >= end for end in ends)

    def _value(self, *batch: Any, beta: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        with self._autocast():
            estimate = self.current(self.pair, *batch, beta=beta)
        return estimate.loss, estimate.bound, estimate.reg, estimate.rec

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, buffers and optimiser, named; the objective's too, where it has any."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.pair.named_parameters().items()}
        tensors |= {f"buffer.{name}": b for name, b in self.pair.named_buffers().items()}
        for prefix, part in self._learners().items():
            tensors |= {prefix + name: value for name, value in part.state_dict().items()}
        packed, groups = flatten_optimizer(self.optimizers)
        seen = {} if self._compiled is None else self._compiled.seen
        return tensors | packed, {"steps": self.steps, "optimizers": groups, "kinds": dict(seen)}

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take up a state in place; `init` must have run where parameters are lazy."""
        for prefix, part in self._learners().items():
            own = part.state_dict()
            there = {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
            if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in there.items()}:
                raise CheckpointError(
                    f"the checkpoint is of a run with another objective: it holds {sorted(there) or 'none'} where "
                    f"{type(part).__name__} has {sorted(own)}: take the run's own objective"
                )
            part.load_state_dict(there)
        restore(self.pair, tensors)
        if "optimizers" not in meta or len(meta["optimizers"]) != len(self.optimizers):
            raise CheckpointError("the checkpoint holds no optimiser of this kind: train anew, or load only the model")
        unflatten_optimizer(self.optimizers, tensors, meta["optimizers"])
        self.steps = meta["steps"]
        if self._compiled is not None:
            self._compiled.seen = dict(meta.get("kinds", {}))

    def _learners(self) -> dict[str, nn.Module]:
        """Objectives that have parameters or running means of their own, by the prefix of their names."""
        parts: dict[str, Any] = {"objective.": self.objective}
        parts |= {f"before{i}.": objective for i, (objective, _) in enumerate(self.before)}
        return {prefix: part for prefix, part in parts.items() if isinstance(part, nn.Module)}


def _is_of_objective(name: str) -> bool:
    return name.startswith(("objective.", "before"))


class _Bound(nn.Module):
    """The objective as a module, so that a strategy of several processes can wrap it."""

    def __init__(self, svi: SVI):
        super().__init__()
        self.__dict__["svi"] = svi

    def adopt(self, parameters: dict[str, nn.Parameter], buffers: dict[str, Tensor]) -> "_Bound":
        for name, parameter in parameters.items():
            self.register_parameter(name.replace(".", "/"), parameter)
        for name, buffer in buffers.items():  # so that all processes go by the first one's running means
            self.register_buffer(name.replace(".", "/"), buffer)
        return self

    def forward(self, *batch: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        svi = self.__dict__["svi"]
        estimate = svi.current(svi.pair, *batch, beta=svi.beta)
        return estimate.loss, estimate.bound, estimate.reg, estimate.rec
