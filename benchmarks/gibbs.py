"""What a Gibbs sweep costs: JAGS, NumPyro's DiscreteGibbs, our general path on the Pyro model, our fast path.

One sigmoid belief network with weights N(0, 1): N = 100 rows, H = 20 hidden units, V = 64 pixels; every contestant
draws each hidden unit of each row once a sweep, all others given. In turn; ratios of medians, per sweep and chain:

    gibbs.jags_over_ours       JAGS / our fast path, many chains side by side on all threads
    gibbs.numpyro_over_ours    NumPyro / the same
    gibbs.jags_over_ours_single_chain, gibbs.numpyro_over_ours_single_chain    the same with one chain
    gibbs.general_over_fast    our two paths

The table has effective draws of log p(x, h) a second beside it. A second table: how the fast path's cost grows. JAGS is
Debian's package `jags`; where it is missing, its row is.
"""

import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numba
import numpy as np
import numpyro
import numpyro.distributions as numpyro_dist
import torch
from common import in_turn, machine, parser, report
from numpyro.infer import DiscreteGibbs
from torch import Tensor

from inference.comparison.diagnostics import ess
from inference.mcmc import gibbs, layered
from inference.mcmc.learning import log_joint
from ppl_models import SigmoidBeliefNetwork

THIN = 10  # sweeps for each draw that our fast path keeps; JAGS and NumPyro keep none while they are timed
JAGS_MODEL = """model {
  for (n in 1:N) {
    for (i in 1:H) { h[n,i] ~ dbern(p[i]) }
    for (d in 1:V) {
      logit(q[n,d]) <- b[d] + inprod(h[n,], W[,d])
      x[n,d] ~ dbern(q[n,d])
    }
  }
}
"""


def network(v: int, h: int) -> SigmoidBeliefNetwork:
    torch.manual_seed(0)
    net = SigmoidBeliefNetwork((v, h)).double()
    with torch.no_grad():
        for p in (*net.down.parameters(), net.top_bias):
            p.copy_(torch.randn(p.shape))
    return net


def simulate(net: SigmoidBeliefNetwork, n: int) -> Tensor:
    return torch.bernoulli(net.generate(n, seed=1), generator=torch.Generator().manual_seed(1))


class Jags:
    """JAGS as a program: what its sweeps cost is the difference of two runs that differ in their length alone."""

    short, long = 20, 220

    def __init__(self, net: SigmoidBeliefNetwork, x: Tensor, folder: Path):
        self.net, self.x, self.folder = net, x, folder
        (weight, bias), n = net.layers()[0], len(x)
        data = {"N": n, "H": weight.shape[0], "V": weight.shape[1], "x": x, "W": weight, "b": bias}
        data["p"] = torch.sigmoid(net.top_bias)
        (folder / "model.txt").write_text(JAGS_MODEL)
        (folder / "data.txt").write_text("".join(f'"{name}" <- {dump(value)}\n' for name, value in data.items()))

    def run(self, sweeps: int, monitor: bool = False) -> None:
        watch = f"monitor h\nupdate {sweeps}\ncoda *, stem({self.folder}/out)" if monitor else f"update {sweeps}"
        script = (
            f"model in {self.folder}/model.txt\ndata in {self.folder}/data.txt\ncompile, nchains(1)\n"
            f"parameters in {self.folder}/init.txt\ninitialize\n{watch}\nexit\n"
        )
        (self.folder / "init.txt").write_text('".RNG.name" <- "base::Mersenne-Twister"\n".RNG.seed" <- 1\n')
        (self.folder / "script.txt").write_text(script)
        done = subprocess.run(["jags", str(self.folder / "script.txt")], capture_output=True, text=True)
        if done.returncode != 0 or "rror" in done.stdout + done.stderr:
            raise RuntimeError(f"jags failed: {done.stdout}{done.stderr}")

    def log_p(self, sweeps: int) -> np.ndarray:
        """Log p(x, h) of `sweeps` draws after as many that are thrown away: (1, S)."""
        self.run(2 * sweeps, monitor=True)
        values = np.loadtxt(self.folder / "outchain1.txt", usecols=1)
        h = torch.from_numpy(values.reshape(-1, 2 * sweeps)[:, sweeps:].T.copy())  # coda: h[1,1], h[2,1], ...
        h = h.view(sweeps, -1, len(self.x)).transpose(1, 2)
        return log_joint(self.net, [h], self.x).sum(-1).detach().numpy()[None]


def dump(value: Tensor | int) -> str:
    """A number or array in R's notation, columns first."""
    if isinstance(value, int):
        return str(value)
    numbers = ",".join(f"{number:.10g}" for number in value.t().reshape(-1).tolist())
    if value.dim() == 1:
        return f"c({numbers})"
    return f"structure(c({numbers}), .Dim = c({value.shape[0]}L, {value.shape[1]}L))"


class NumPyro:
    def __init__(self, net: SigmoidBeliefNetwork, x: Tensor):
        self.net, self.x = net, x
        weight, bias, top, data = (
            jax.numpy.asarray(a.detach().numpy(), dtype="float32") for a in (*net.layers()[0], net.top_bias, x)
        )

        def model() -> None:
            with numpyro.plate("data", len(data), dim=-2):
                with numpyro.plate("units", len(top), dim=-1):
                    h = numpyro.sample("h", numpyro_dist.Bernoulli(logits=top))
                with numpyro.plate("pixels", len(bias), dim=-1):
                    numpyro.sample("x", numpyro_dist.Bernoulli(logits=h @ weight + bias), obs=data)

        kernel = DiscreteGibbs(model)
        self.state = kernel.init(jax.random.PRNGKey(0), 0, None, (), {})
        self.step = jax.jit(lambda state: kernel.sample(state, (), {}))

    def run(self, sweeps: int) -> list[np.ndarray]:
        drawn = []
        for _ in range(sweeps):
            self.state = self.step(self.state)
            drawn.append(np.asarray(self.state.z["h"]))
        return drawn

    def log_p(self, sweeps: int) -> np.ndarray:
        self.run(sweeps // 2)
        h = torch.from_numpy(np.stack(self.run(sweeps))).double()
        return log_joint(self.net, [h], self.x).sum(-1).detach().numpy()[None]


def general(net: SigmoidBeliefNetwork, x: Tensor, chains: int, sweeps: int) -> Callable[[], None]:
    state = gibbs.init(net, x, chains=chains)

    def run() -> None:
        nonlocal state
        for _ in range(sweeps):
            state, _ = gibbs.step(state)

    return run


@numba.njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def inner_loop(p, q, f, repeats):  # noqa: ANN001, ANN201
    total = 0.0
    for _ in range(repeats):
        product = 1.0
        for j in range(len(p)):
            product *= q[j] + p[j] * f[j]
        total += product
        q[0] += 1e-9
    return total


def inner_speed() -> float:
    """Weights a nanosecond of the innermost loop alone, on one core, from the first-level cache."""
    p, q, f = np.full(1024, 0.5), np.full(1024, 0.5), np.full(1024, 1.0)
    inner_loop(p, q, f, 1)
    best = math.inf
    for _ in range(200):
        start = time.perf_counter()
        inner_loop(p, q, f, 100)
        best = min(best, time.perf_counter() - start)
    return 100 * 1024 / (1e9 * best)


def growth(rounds: int) -> None:
    """How the fast path grows: one of N, H, V, chains at a time; one in ten draws kept."""
    base = {"N": 100, "H": 20, "V": 64, "chains": 16}
    print("fast path, us per sweep and chain, and ns per visit of a unit (of one row):")
    for name, values in {
        "chains": (1, 4, 16, 64), "N": (10, 1000, 10_000), "H": (5, 80, 320), "V": (16, 256, 784, 3136)
    }.items():  # fmt: skip
        for value in values:
            size = base | {name: value}
            net = network(size["V"], size["H"])
            x, c = simulate(net, size["N"]), size["chains"]
            sweeps = THIN * max(1, int(3e5 / (size["N"] * size["H"] * c)))
            run = partial(layered.sample, net, x, chains=c, warmup_steps=0, num_samples=sweeps // THIN, thin=THIN)
            per = 1e3 * in_turn({"": run}, rounds, 1)[""].ms / (sweeps * c)
            visits = size["N"] * size["H"]
            print(f"  {name:>6} = {value:<6} {per:10.1f} us {1e3 * per / visits:8.1f} ns")


def main() -> None:
    p = parser(__doc__, rounds=5)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    n, h, v, many = 100, 20, 64, 64
    net = network(v, h)
    x = simulate(net, n)
    sweeps = {"ours": 200, "ours, 1 chain": 10_000, "general": 2, "general, 1 chain": 20, "numpyro": 10}
    chains = {"ours": many, "general": 16}
    fast = partial(layered.sample, net, x, warmup_steps=0, thin=THIN)
    numpyro_chain = NumPyro(net, x)
    contestants: dict[str, Callable[[], object]] = {
        "ours": partial(fast, chains=many, num_samples=sweeps["ours"] // THIN),
        "ours, 1 chain": partial(fast, chains=1, num_samples=sweeps["ours, 1 chain"] // THIN),
        "general": general(net, x, chains["general"], sweeps["general"]),
        "general, 1 chain": general(net, x, 1, sweeps["general, 1 chain"]),
        "numpyro": lambda: numpyro_chain.run(sweeps["numpyro"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        jags = Jags(net, x, Path(folder)) if shutil.which("jags") else None
        if jags is None:
            print("JAGS is not installed (Debian: apt install jags): its row is left out")
        else:
            contestants |= {"jags, short": lambda: jags.run(Jags.short), "jags, long": lambda: jags.run(Jags.long)}
        times = in_turn(contestants, args.rounds, 1)
        ms = {name: t.ms / (sweeps[name] * chains.get(name, 1)) for name, t in times.items() if name in sweeps}
        draws = layered.sample(net, x, chains=4, num_samples=2000)
        log_p = {"ours": draws.log_p.sum(-1).numpy(), "numpyro": numpyro_chain.log_p(60)}
        if jags is not None:
            ms["jags"] = (times["jags, long"].ms - times["jags, short"].ms) / (Jags.long - Jags.short)
            log_p["jags"] = jags.log_p(200)
    table(ms, log_p)
    floor(ms, n * h * v, args.threads)
    growth(args.rounds)
    ratios = {"gibbs.general_over_fast": ms["general"] / ms["ours"]}
    for name in ("jags", "numpyro"):
        if name in ms:
            ratios[f"gibbs.{name}_over_ours_single_chain"] = ms[name] / ms["ours, 1 chain"]
            ratios[f"gibbs.{name}_over_ours"] = ms[name] / ms["ours"]
    report(ratios, args.json)


def table(ms: dict[str, float], log_p: dict[str, np.ndarray]) -> None:
    """A row for each contestant; its effective draws by its own sampler's series, ours for both of our paths."""
    print("contestant          ms per sweep and chain   log p: mean    ESS a draw    ESS a second")
    for name, value in sorted(ms.items(), key=lambda item: -item[1]):
        series = log_p.get(name.split(",")[0], log_p["ours"])
        share = float(ess(series[..., None])[0]) / series.size
        print(f"  {name:<20} {value:16.4f} {series.mean():16.1f} {share:13.3f} {1e3 * share / value:15.0f}")


def floor(ms: dict[str, float], weights: int, threads: int) -> None:
    """How far the fast path is from its innermost loop running alone."""
    speed = inner_speed()
    least = 1e-6 * weights / (speed * threads)
    print(f"a sweep visits {weights} weights: a multiply-add, a product and 24 bytes each, {24e-6 * weights:.1f} MB")
    print(f"the inner loop alone does {speed:.1f} a ns on one core, so {least:.4f} ms a sweep on {threads};", end=" ")
    print(f"we take {ms['ours'] / least:.1f} times that")


if __name__ == "__main__":
    main()
