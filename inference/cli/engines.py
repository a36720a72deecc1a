"""The words of `--methods` for models with continuous latents: each an engine, and the reference that judges them.

    advi       a normal for each latent, the others' covariances left out     fullrank   one normal with all of them
    iwae       advi's guide by the importance-weighted bound, draws resampled by weight    guide   the model's own
    nuts       NUTS on NumPyro, nuts-pyro on Pyro       hmc-gibbs   HMC and Gibbs in turn, discrete latents drawn
    gibbs      discrete latents alone                   exact       by enumeration, discrete latents alone

Engines are imported when they are asked for, so that a package that is missing is missed there alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.errors import RunError

__all__ = ["METHODS", "SECONDS", "Kind", "defaults", "engines", "kind_of", "reference_of", "settled"]

METHODS = ("guide", "advi", "fullrank", "iwae", "nuts", "nuts-pyro", "hmc-gibbs", "gibbs", "exact")
GUIDE_STEPS, GUIDE_LR, PARTICLES = 2000, 5e-2, 10
DRAWS = 4000
SECONDS = 60.0  # of a guide's training at most: on a quiet machine its steps take some ten
ACCEPT = 0.9  # shorter steps than NUTS's own 0.8: a comparison that warns of one divergence in 4,000 warns too often
LONG_ACCEPT = 0.95  # of the reference
VISITS = 4000  # of discrete sites by each chain of hmc-gibbs: with many, each step takes longer, so there are fewer
LEAST_STEPS = 500
MOST_STATES = 2**14  # of all discrete latents of a datum together: enumeration takes a second


@dataclass(frozen=True)
class Kind:
    """What the latents of a model are."""

    continuous: bool
    discrete: int  # sites that are, marked to be summed out or not
    countable: bool  # each discrete one has finitely many values
    binary: bool  # every latent is a Bernoulli
    guide: bool  # it has a guide of its own
    blocks: tuple[tuple[str, ...], ...] = ()  # discrete sites that Gibbs draws jointly


def kind_of(model: Any, data: tuple[Any, ...]) -> Kind:
    """Read a model's latents from one run."""
    import torch
    from pyro import poutine

    from inference.comparison.compare import model_of
    from inference.pair import is_latent
    from inference.vi.disarm import is_binary

    with torch.random.fork_rng(), torch.no_grad():
        trace: Any = poutine.trace(model_of(model)).get_trace(*data)
    latent = [site["fn"] for site in trace.nodes.values() if is_latent(site)]
    discrete = [fn for fn in latent if fn.support.is_discrete]
    countable = all(fn.has_enumerate_support for fn in discrete)
    guided = model_of(model) is not model
    return Kind(len(discrete) < len(latent), len(discrete), countable, all(map(is_binary, latent)), guided)


def defaults(kind: Kind, small: bool) -> list[str]:
    """The methods for a kind of model; `small`: one whose gradient Pyro computes in a few milliseconds."""
    own = ["guide"] if kind.guide else []
    if not kind.continuous:
        return [*own, *(["advi"] if kind.binary else []), "gibbs"]
    names = own + (["advi", "fullrank", "iwae", "nuts"] if kind.countable else [])
    if kind.discrete:
        return [*names, "hmc-gibbs"]
    return [*names, "nuts-pyro"] if small else names


def settled(words: str | None, kind: Kind, small: bool = False) -> list[str]:
    """The methods asked for, or the defaults; refuses what is unknown or cannot be."""
    if words is None:
        return defaults(kind, small)
    names = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise RunError(f"unknown method '{(unknown or [words])[0]}': choose some of {','.join(METHODS)}")
    if "guide" in names and not kind.guide:
        raise RunError("the model has no guide of its own: leave guide out of --methods, or name one by --guide")
    latents = " and ".join(w for w, there in (("continuous", kind.continuous), ("discrete", kind.discrete)) if there)
    for name in names:
        if not _takes(name, kind):
            fitting = ",".join(name for name in METHODS if _takes(name, kind))
            raise RunError(f"'{name}' does not take a model of {latents} latents: choose some of {fitting}")
    return names


def _takes(method: str, kind: Kind) -> bool:
    """Whether a method is for such a model."""
    if method == "guide":
        return kind.guide
    if method in ("gibbs", "exact"):
        return not kind.continuous
    if method == "hmc-gibbs":
        return kind.continuous and kind.discrete > 0
    return kind.countable and (kind.continuous or (method in ("advi", "iwae") and kind.binary))


def engines(names: Sequence[str], kind: Kind, seconds: float = SECONDS) -> dict[str, Any]:
    """Method -> engine; `seconds` bounds the training of each guide."""
    from inference.comparison.guided import Guided, automatic, full_rank
    from inference.vi.objectives import IWAE, TraceELBO

    def guided(objective: Any, guide: Any, **settings: Any) -> Any:
        return Guided(
            objective, GUIDE_STEPS, seconds, GUIDE_LR, num_samples=DRAWS, guide=guide, **settings
        )  # fmt: skip

    made: Mapping[str, Callable[[], Any]] = {
        "guide": lambda: guided(TraceELBO(PARTICLES), None),
        "advi": lambda: guided(TraceELBO(PARTICLES), automatic),
        "fullrank": lambda: guided(TraceELBO(PARTICLES), full_rank),
        "iwae": lambda: guided(IWAE(PARTICLES), automatic, resample=PARTICLES),
        "nuts": _nuts,
        "nuts-pyro": lambda: _nuts(backend="pyro", chains=2, warmup_steps=300, num_samples=500),
        "hmc-gibbs": lambda: _hmc_gibbs(kind),
        "gibbs": lambda: _gibbs(kind),
        "exact": _exact,
    }
    return {name: made[name]() for name in names}


def reference_of(names: Sequence[str], model: Any, data: tuple[Any, ...], kind: Kind) -> tuple[str, Any]:
    """The reference's name and the engine: exact where that can be, else a long run."""
    from inference.comparison.compare import model_of
    from ppl_models import classic

    if model_of(model) in (classic.eight_schools, classic.eight_schools_centred):
        from inference.cli.schools import Quadrature

        return "quadrature", Quadrature()
    if not kind.continuous:
        if "exact" in names or _few_states(model, data):
            return "exact", _exact()
        return "long", _gibbs(kind, 2000, 4000, 10)
    if not kind.countable or ("nuts" not in names and "hmc-gibbs" in names):
        return "long", _hmc_gibbs(kind, 2)
    return "long", _nuts(LONG_ACCEPT, warmup_steps=2000, num_samples=5000)


def _few_states(model: Any, data: tuple[Any, ...]) -> bool:
    from inference.errors import UnsupportedModelError
    from inference.evidence.states import States

    try:
        return States(model, data).total <= MOST_STATES
    except UnsupportedModelError:
        return False


def _nuts(target_accept: float = ACCEPT, **settings: Any) -> Any:
    from inference.mcmc.hmc import NUTS

    return NUTS(target_accept=target_accept, **settings)


def _hmc_gibbs(kind: Kind, times: int = 1) -> Any:
    from inference.mcmc.hmc_within_gibbs import HMCWithinGibbs

    draws = max(LEAST_STEPS, VISITS // max(1, kind.discrete))
    return HMCWithinGibbs(chains=4, warmup_steps=times * min(500, draws // 2), num_samples=times * draws)


def _gibbs(kind: Kind, warmup_steps: int = 100, num_samples: int = 1000, thin: int = 1) -> Any:
    from inference.mcmc.gibbs import Gibbs

    return Gibbs(4, warmup_steps, num_samples, thin, blocks=kind.blocks)


def _exact() -> Any:
    from inference.evidence.exact import Exact

    return Exact(DRAWS)
