"""Which compiler for the fast Gibbs path: numba, torch.compile or JAX's jit? The same sweep in each.

N = 100 rows, H = 20, V = 64, weights N(0, 1), `--chains` chains side by side; the array programs in float32 keep
e = exp(logits) of every pixel and multiply it at each visit of a unit, flip or not. Per sweep and chain, in turn:

    gibbs_backends.torch_over_numba    gibbs_backends.jax_over_numba
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from common import in_turn, machine, parser, report
from gibbs import network, simulate

from inference.mcmc import layered

SWEEPS = 30


def by_numba(net, x, chains: int) -> Callable[[], object]:  # noqa: ANN001
    tables = layered.tables(net)
    data, h = layered.binary(tables, x), layered.prior(tables, chains * len(x), 0)
    return lambda: layered.sweep(tables, data, h, seed=0, burn=SWEEPS)


def by_torch(net, x, chains: int) -> Callable[[], object]:  # noqa: ANN001
    (weight, bias), top = ((a.detach().float() for a in part) for part in (net.layers()[0], (net.top_bias,)))
    top = next(top)
    heard = (x.float() @ weight.t() + top).repeat(chains, 1)  # what a unit hears from its prior and from the data
    factor = weight.exp()
    h = torch.zeros(len(heard), len(top))
    e = bias.exp().expand(len(h), -1).clone()

    def sweep(h, e, noise):  # noqa: ANN001, ANN202
        columns = []
        for i in range(len(top)):
            off = torch.where(h[:, i, None] > 0, e / factor[i], e)
            on = off * factor[i]
            odds = heard[:, i] - ((1 + on) / (1 + off)).log().sum(1)
            new = noise[:, i] < odds
            e = torch.where(new[:, None], on, off)
            columns.append(new)
        return torch.stack(columns, 1).float(), e

    compiled = torch.compile(sweep, dynamic=False)

    @torch.no_grad()
    def run() -> None:
        nonlocal h, e
        for _ in range(SWEEPS):
            h, e = compiled(h, e, torch.logit(torch.rand_like(h), eps=1e-7))

    return run


def by_jax(net, x, chains: int) -> Callable[[], object]:  # noqa: ANN001
    weight, bias, top, data = (
        jnp.asarray(a.detach().numpy(), dtype="float32") for a in (*net.layers()[0], net.top_bias, x)
    )
    heard = jnp.tile(data @ weight.T + top, (chains, 1))
    factor = jnp.exp(weight)

    @jax.jit
    def sweep(state):  # noqa: ANN001, ANN202
        h, e, key = state
        key, now = jax.random.split(key)
        noise = jax.random.logistic(now, h.shape)

        def visit(i, state):  # noqa: ANN001, ANN202
            h, e = state
            off = jnp.where(h[:, i, None] > 0, e / factor[i], e)
            on = off * factor[i]
            new = noise[:, i] < heard[:, i] - jnp.log((1 + on) / (1 + off)).sum(1)
            return h.at[:, i].set(new), jnp.where(new[:, None], on, off)

        return *jax.lax.fori_loop(0, h.shape[1], visit, (h, e)), key

    state = (jnp.zeros_like(heard), jnp.tile(jnp.exp(bias), (len(heard), 1)), jax.random.PRNGKey(0))

    def run() -> None:
        nonlocal state
        for _ in range(SWEEPS):
            state = sweep(state)
        jax.block_until_ready(state)

    return run


def main() -> None:
    p = parser(__doc__, rounds=10)
    p.add_argument("--chains", type=int, default=16, help="chains side by side (default 16)")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    net = network(64, 20)
    x = simulate(net, 100)
    makers = {"numba": by_numba, "torch": by_torch, "jax": by_jax}
    times = in_turn({name: make(net, x, args.chains) for name, make in makers.items()}, args.rounds, 2)
    for name, t in times.items():
        print(f"  {name:<6} {1e3 * t.ms / (SWEEPS * args.chains):9.1f} us per sweep and chain")
    report(
        {f"gibbs_backends.{name}_over_numba": times[name].ms / times["numba"].ms for name in ("torch", "jax")},
        args.json,
    )


if __name__ == "__main__":
    main()
