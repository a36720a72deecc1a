"""What each latent site of a deep model is good for, in evaluation.json and in words: active units, and its KL."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from inference.evidence.active import active_units_by_site
from inference.evidence.site_kl import kl_by_site

__all__ = ["site_lines", "sites_in_use"]


def sites_in_use(pair: Any, data: tuple[Tensor, ...], seed: int) -> dict[str, dict[str, Any]]:
    """Active units, all units and the KL (nats) of z1, z2, ... in that order, whichever the guide draws first."""
    active, kl = active_units_by_site(pair, data, seed=seed), kl_by_site(pair, data, seed=seed)
    return {
        name: {"active": active[name].active, "units": active[name].units, "kl": kl[name].mean}
        for name in sorted(active, key=_number)
    }


def site_lines(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`active units: 25 of 150; 21 of 100 in z1, 4 of 50 in z2`, and the KL likewise."""
    active, units = (sum(site[key] for site in sites.values()) for key in ("active", "units"))
    total = f"KL: {sum(site['kl'] for site in sites.values()):.2f} nats"
    if len(sites) == 1:
        return [f"active units: {active} of {units}", total]
    if len(sites) > 3:
        span = f"from {min(sites, key=_number)} to {max(sites, key=_number)}"
        counts = ", ".join(str(site["active"]) for site in sites.values())
        costs = ", ".join(f"{site['kl']:.2f}" for site in sites.values())
        return [f"active units: {active} of {units}; {span}: {counts}", f"{total}; {span}: {costs}"]
    counts = ", ".join(f"{site['active']} of {site['units']} in {name}" for name, site in sites.items())
    costs = ", ".join(f"{site['kl']:.2f} in {name}" for name, site in sites.items())
    return [f"active units: {active} of {units}; {counts}", f"{total}; {costs}"]


def _number(name: str) -> int:
    return int(name[1:])
