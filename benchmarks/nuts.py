"""What a draw of NUTS costs: Pyro, a hand-written NumPyro twin, ours, in effective draws a second.

Eight posteriors of posteriordb (PPL_DATA, or downloaded), 4 chains x (1000 warm-up + 1000 draws), NUTS with each host's
defaults. The figure is min-ESS: the bulk effective sample size of the worst quantity, pooled over seeds, divided by the
seconds of warm-up and draws, without compilation and with it. Twins in NumPyro are written by hand for eight schools
and arK; Pyro runs eight schools, one chain of (1000 + 1000), for its chains come one after the other.

    nuts.ours_over_pyro, nuts.ours_over_numpyro                               eight schools, compile time left out
    nuts.ours_over_pyro_with_compile, nuts.ours_over_numpyro_with_compile     from the call to the draws
    nuts.ours_over_numpyro_ark, nuts.ours_over_numpyro_ark_with_compile
"""

import statistics
import time
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as np_dist
import pyro
import torch
from common import machine, parser, report
from numpyro.infer.hmc import hmc
from numpyro.infer.util import initialize_model

from inference import NUTS
from inference.comparison.diagnostics import ess
from ppl_models.posteriordb import NAMES, Posterior, load

CHAINS, STEPS = 4, 1000


class Run(NamedTuple):
    """One run of a contestant."""

    ess: float  # of the worst quantity
    seconds: float  # warm-up and draws
    compiling: float
    leapfrogs: float  # a draw


def eight_schools(y: jax.Array, sigma: jax.Array) -> None:
    mu = numpyro.sample("mu", np_dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", np_dist.HalfCauchy(5.0))
    with numpyro.plate("data", len(y)):
        e = numpyro.sample("e", np_dist.Normal(0.0, 1.0))
        numpyro.sample("y", np_dist.Normal(mu + tau * e, sigma), obs=y)


def ark(y: jax.Array, past: jax.Array) -> None:
    alpha = numpyro.sample("alpha", np_dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", np_dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", np_dist.HalfCauchy(2.5))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", np_dist.Normal(alpha + past @ beta, sigma), obs=y)


TWINS = {"eight_schools_noncentered": eight_schools, "arK": ark}


def worst(posterior: Posterior, values: dict[str, torch.Tensor]) -> float:
    """min-ESS of draws (C, S, *site shape)."""
    table = torch.stack([value.double() for value in posterior.quantities(values).values()], -1)
    return float(ess(table.numpy()).min())


def ours(posterior: Posterior, seed: int) -> Run:
    began = time.perf_counter()
    draws = NUTS(progress=False)(posterior.model, *posterior.data, seed=seed)
    total, seconds = time.perf_counter() - began, draws.seconds + draws.warmup_seconds
    leapfrogs = float(draws.stats["steps"].double().mean())
    return Run(worst(posterior, draws.values), seconds, total - seconds, leapfrogs)


def native(posterior: Posterior, seed: int) -> Run:
    """NumPyro's own potential and kernel, chains vectorised as its MCMC does it, in its own float32."""
    began = time.perf_counter()
    data = tuple(jnp.asarray(value.numpy()) for value in posterior.data)
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    model = initialize_model(keys, TWINS[posterior.name], model_args=data)
    init, kernel = hmc(model.potential_fn, algo="NUTS")
    state = jax.vmap(lambda z, key: init(z, STEPS, rng_key=key))(model.param_info, keys)

    def advance(state):  # noqa: ANN001, ANN202
        def one(state, _):  # noqa: ANN001, ANN202
            state = jax.vmap(kernel)(state)
            return state, (jax.vmap(model.postprocess_fn)(state.z), state.num_steps)

        return jax.lax.scan(one, state, length=STEPS)

    program = jax.jit(advance).lower(state).compile()
    compiled = time.perf_counter()
    state, _ = jax.block_until_ready(program(state))
    _, (values, steps) = jax.block_until_ready(program(state))
    seconds = time.perf_counter() - compiled
    drawn = {name: torch.from_numpy(np.asarray(value).swapaxes(0, 1).copy()) for name, value in values.items()}
    return Run(worst(posterior, drawn), seconds, compiled - began, float(steps.mean()))


def pyros(posterior: Posterior, seed: int, steps: int) -> Run:
    """One chain of Pyro's NUTS on the Pyro model, as it comes."""
    pyro.set_rng_seed(seed)
    mcmc = pyro.infer.MCMC(pyro.infer.NUTS(posterior.model), steps, steps, disable_progbar=True)
    began = time.perf_counter()
    mcmc.run(*posterior.data)
    seconds = time.perf_counter() - began
    return Run(worst(posterior, mcmc.get_samples(group_by_chain=True)), seconds, 0.0, float("nan"))


def pooled(runs: list[Run]) -> Run:
    """Mean ESS, median times."""
    times = (statistics.median(run.seconds for run in runs), statistics.median(run.compiling for run in runs))
    return Run(statistics.fmean(run.ess for run in runs), *times, statistics.fmean(run.leapfrogs for run in runs))


def main() -> None:
    p = parser(__doc__, rounds=3)
    p.add_argument(
        "--pyro-steps", type=int, default=1000, help="warm-up steps and draws of Pyro's chain (default 1000)"
    )
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    print(machine())
    print("posterior                  contestant  min-ESS    s    compile s   leapfrogs   min-ESS/s   with compile")
    found: dict[tuple[str, str], Run] = {}
    for name in NAMES:
        posterior = load(name)
        contestants = {"ours": ours, "numpyro": native} if name in TWINS else {"ours": ours}
        runs: dict[str, list[Run]] = {label: [] for label in contestants}
        for seed in range(args.rounds if name in TWINS else 1):
            for label, contestant in contestants.items():
                runs[label].append(contestant(posterior, seed))
        if name == "eight_schools_noncentered":
            runs["pyro"] = [pyros(posterior, 0, args.pyro_steps)]
        for label, several in runs.items():
            found[name, label] = show(name, label, pooled(several))

    ratios = {}
    for name, tail in (("eight_schools_noncentered", ""), ("arK", "_ark")):
        for label in ("pyro", "numpyro"):
            if (name, label) in found:
                a, b = found[name, "ours"], found[name, label]
                with_compile = rate(a, True) / rate(b, True)
                ratios[f"nuts.ours_over_{label}{tail}"] = rate(a, False) / rate(b, False)
                ratios[f"nuts.ours_over_{label}{tail}_with_compile"] = with_compile
    report(ratios, args.json)


def rate(run: Run, compiling: bool) -> float:
    return run.ess / (run.seconds + compiling * run.compiling)


def show(name: str, label: str, run: Run) -> Run:
    print(
        f"{name:<27}{label:<11}{run.ess:8.0f}{run.seconds:8.3f}{run.compiling:9.2f}{run.leapfrogs:11.1f}"
        f"{rate(run, False):14.0f}{rate(run, True):13.1f}",
        flush=True,
    )
    return run


if __name__ == "__main__":
    main()
