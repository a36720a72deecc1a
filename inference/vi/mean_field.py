"""Mean field for binary latents: one probability for each unit of each datum, and Saul and Jaakkola's own bound.

`MeanField` is the guide: q(h | x) a product over units, its logits free parameters and no network's output, trained by
any objective on the data that it was made for. `mean_field_bound` needs neither sampling nor enumeration. In

    log p(x) >= sum_i [mu_i <z_i> - <log(1 + exp z_i)>] + entropy,    z_i = sum_j J_ij s_j + b_i

the second mean has no closed form under a product of Bernoullis, but a bound of it has, for each xi in [0, 1]:

    <log(1 + e^z)> <= xi <z> + log <e^{-xi z} + e^{(1 - xi) z}>,  <e^{tz}> = e^{tb} prod_j (1 - mu_j + mu_j e^{t J_j})
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from inference.errors import ShapeError, UnsupportedModelError
from inference.pair import as_pair, is_latent
from inference.vi.disarm import is_binary

__all__ = ["MeanField", "MeanFieldBound", "mean_field_bound"]


class MeanField(nn.Module):
    """A model with a factorised guide that is not amortised [saul1996], as a pair: one logit per row and unit.

    The guide is q(h | x) = prod_i Bernoulli(h_i; sigmoid(logits_i)) over all Bernoulli sites of the model, in the
    model's own plates. Its logits belong to rows, so every step takes the same rows in the same order, all of them:
    `svi.step(x)`, or `Batches(x, len(x), shuffle=False)`.

    Args:
        model: a Pyro model of `data`, or an object that has one as `.model`; a module's parameters are learnt too.
        data: the model's arguments.

    Raises:
        UnsupportedModelError: the model has no latent site, one that is not Bernoulli, or a subsampled plate.
        ShapeError (when called): other data than those it was made for.
    """

    def __init__(self, model: Any, *data: Any):
        super().__init__()
        program = getattr(model, "model", model)
        owner = getattr(program, "__self__", program)
        self.network = owner if isinstance(owner, nn.Module) else None  # its parameters are the pair's
        self.__dict__["program"], self.__dict__["data"] = program, data
        with torch.random.fork_rng(), torch.no_grad(), as_pair(self).scope():
            trace: Any = poutine.trace(program).get_trace(*data)
        latents = {name: site for name, site in trace.nodes.items() if is_latent(site)}
        if not latents:
            raise UnsupportedModelError("the model has no latent site, so there is nothing to infer: mark data by obs=")
        self.logits = nn.ParameterDict()
        self.sites: dict[str, _Site] = {}
        for name, site in latents.items():
            self.sites[name] = _read(name, site)
            log_p = site["fn"].log_prob(site["value"])  # for its dtype and device: a value may be of integers
            self.logits[_key(name)] = nn.Parameter(log_p.new_zeros(site["value"].shape))

    def model(self, *data: Any) -> None:
        """The model itself."""
        self._check(data)
        self.__dict__["program"](*data)

    def guide(self, *data: Any) -> None:
        """q(h): a Bernoulli for each row and unit."""
        self._check(data)
        frames = {frame.name: frame for site in self.sites.values() for frame in site.frames}
        plates = {name: pyro.plate(name, frame.size, dim=frame.dim) for name, frame in frames.items()}
        for name, site in self.sites.items():
            with ExitStack() as inside:
                for frame in site.frames:
                    inside.enter_context(plates[frame.name])
                pyro.sample(name, dist.Bernoulli(logits=self.logits[_key(name)]).to_event(site.event_dim))

    def _check(self, data: tuple[Any, ...]) -> None:
        """Other rows would be given these rows' logits."""
        known = self.__dict__["data"]
        same = len(data) == len(known) and all(
            a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b.to(a.device)))
            or (not isinstance(a, Tensor) and type(a) is type(b) and a == b)
            for a, b in zip(data, known, strict=True)
        )  # fmt: skip
        if not same:
            raise ShapeError(
                "MeanField has a logit for each row that it was made for, and got other rows or another order: "
                "pass the same data whole, Batches(x, len(x), shuffle=False), or make MeanField(model, *data) anew"
            )


class MeanFieldBound(NamedTuple):
    """Saul and Jaakkola's bound and where it is highest; ... are the batch dims of weights and x together."""

    bound: Tensor  # (...)  nats, at most log p(x)
    mu: tuple[Tensor, ...]  # (..., H_l) each, q(h_l = 1), from the data up
    xi: tuple[Tensor, ...]  # (..., H_l) each, of x and of every layer but the top


def mean_field_bound(
    layers: Sequence[tuple[Tensor, Tensor]], top_bias: Tensor, x: Tensor, steps: int = 300
) -> MeanFieldBound:
    """Saul and Jaakkola's lower bound on log p(x) of a layered sigmoid belief network, in closed form [saul1996].

    The bound above for the logits of a layer, h W + b, maximised over mu and xi by gradient ascent in float64; it holds
    at every mu and xi, converged or not. Networks and data batch: any leading dims that broadcast.

    Args:
        layers: weight (..., H_above, H_below) and bias (..., H_below) of each layer, from the data up.
        top_bias: (..., H_L) logits of the top layer.
        x: (..., D) of 0 and 1.
        steps: of Adam.

    Returns:
        The bound (...) in nats, with mu and xi.
    """
    weights = [w.detach().double() for w, _ in layers]
    biases = [b.detach().double() for _, b in layers]
    top, x = top_bias.detach().double(), x.detach().double()
    lead = torch.broadcast_shapes(top.shape[:-1], x.shape[:-1], *(w.shape[:-2] for w in weights))
    free = [x.new_zeros(*lead, w.shape[-2]) for w in weights] + [x.new_zeros(*lead, w.shape[-1]) for w in weights]
    free = [logit.requires_grad_() for logit in free]
    optimizer = torch.optim.Adam(free, _RATE)

    def bound() -> tuple[Tensor, list[Tensor], list[Tensor]]:
        means = [torch.sigmoid(logit) for logit in free]
        mu, xi = means[: len(weights)], means[len(weights) :]
        total = (mu[-1] * top - softplus(top)).sum(-1)
        for w, b, below, above, t in zip(weights, biases, [x, *mu[:-1]], mu, xi, strict=True):
            z = (above.unsqueeze(-2) @ w).squeeze(-2) + b
            upper = t * z + torch.logaddexp(_log_mean_exp(-t, w, b, above), _log_mean_exp(1 - t, w, b, above))
            total = total + (below * z - upper).sum(-1)
        for m, logit in zip(mu, free, strict=False):
            total = total + (softplus(logit) - m * logit).sum(-1)  # entropy of a Bernoulli
        return total, mu, xi

    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad()
            (-bound()[0].sum()).backward()
            optimizer.step()
    with torch.no_grad():
        total, mu, xi = bound()
    return MeanFieldBound(total, tuple(mu), tuple(xi))


_RATE = 0.2  # of the ascent, falling to 0


def _log_mean_exp(t: Tensor, w: Tensor, b: Tensor, mu: Tensor) -> Tensor:
    """Log <exp(t z)> for z = s w + b, s a product of Bernoullis: (..., H_below)."""
    return t * b + torch.log1p(mu.unsqueeze(-1) * torch.expm1(t.unsqueeze(-2) * w)).sum(-2)


class _Site(NamedTuple):
    frames: tuple[Any, ...]  # of its plates
    event_dim: int


def _read(name: str, site: dict[str, Any]) -> _Site:
    if not is_binary(site["fn"]):
        raise UnsupportedModelError(
            f"MeanField is for Bernoulli sites, and '{name}' has values in {site['fn'].support}: "
            "write a guide of your own, or use one of pyro.infer.autoguide"
        )
    frames = tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized)
    odd = [frame.name for frame in frames if frame.full_size not in (None, frame.size)]
    if odd:
        raise UnsupportedModelError(
            f"plate '{odd[0]}' is subsampled, and MeanField has a logit for each row: use all of the plate"
        )
    return _Site(frames, site["fn"].event_dim)


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict's names have no dots
