"""Which site of a guide is wrong: importance weights site by site.

    log w_s = sum over terms of log p(x, z) that z_s enters  -  log q(z_s | ...),     z ~ q

With all other sites held at their draws, w_s is p(z_s | z_-s, x) / q(z_s | ...) but for a factor that z_s does not
enter: the correction that site s alone would need. A heavy tail here (k-hat, `khats`) names the site; a heavy tail of
the whole weight with none here says that what is wrong is how the sites depend on one another.
"""

from typing import Any

import pyro
import torch
from torch import Tensor

from inference.errors import UnsupportedModelError
from inference.mcmc.joint import read
from inference.pair import as_pair
from inference.weights import check_k, layout_of, log_prob, per_unit, run_both, stochastic_sites

__all__ = ["site_log_weights"]


def site_log_weights(pair: Any, *batch: Any, k: int = 1000, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-weights of K draws of a guide, whole and of each latent site, in nats.

    Args:
        pair: a model and its guide.
        batch: the arguments of both.
        k: K.
        seed: of the draws; the caller's RNG is left as it was.

    Returns:
        (K, N), and site -> (K, N); N = 1 where a latent is outside the data plate.

    Raises:
        ShapeError: k < 1.
        UnsupportedModelError: an enumerated site; a guide that draws several sites as one; a model whose terms cannot
            be traced to the latents that they are computed from.
    """
    check_k(k)
    pair = as_pair(pair)
    structure = pair.structure(*batch)
    if structure.model_enum or structure.guide_enum:
        names = ", ".join(sorted(structure.model_enum | structure.guide_enum))
        raise UnsupportedModelError(f"'{names}' is summed out and has no weights of its own: ask for khat(log_w) alone")
    with torch.random.fork_rng(), torch.no_grad(), pair.scope(), pair.evaluating(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        model, guide = stochastic_sites(*run_both(pair, batch, k, structure))
        layout, _ = layout_of(model.values(), k, structure)
        log_p = {name: per_unit(log_prob(site, layout), layout) for name, site in model.items()}
        log_q = {name: per_unit(log_prob(site, layout), layout) for name, site in guide.items()}
    enters = _parents(pair, batch)
    whole: Any = sum(log_p.values()) - sum(log_q.values())
    sites = {}
    for name in (name for name in guide if name in model):
        own = [aux for aux in guide if aux not in model and aux == f"{name}_unconstrained"]  # as Pyro's autoguides do
        terms: Any = sum(term for site, term in log_p.items() if name in enters.get(site, ()) or site == name)
        sites[name] = (terms - sum(log_q[each] for each in [name, *own])).expand(whole.shape)
    joint = [name for name in guide if name not in model and name.removesuffix("_unconstrained") not in model]
    if joint:
        raise UnsupportedModelError(
            f"the guide draws its sites as one, '{joint[0]}', so none has weights of its own: ask for khat(log_w) alone"
        )
    return whole, sites


def _parents(pair: Any, batch: tuple[Any, ...]) -> dict[str, frozenset[str]]:
    """The latents that each of the model's terms is computed from."""
    joint = read(pair, batch)
    with torch.random.fork_rng(), joint.running():
        values = joint.draw()
        found = joint.traced(values)
    if not found:
        raise UnsupportedModelError(
            "an operation of the model hides which latents its terms are computed from, so no site has weights of its "
            "own: ask for khat(log_w) alone"
        )
    return found
