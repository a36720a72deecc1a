"""ArviZ in one place, 0.2x and 1.x: diagnostics of plain arrays, and draws as ArviZ knows them, in memory and on disk.

    r_hat(values), ess(values), khat(log_w), khats(log_w, sites)
    tree = to_arviz(groups(draws, log_likelihood));   arviz.summary(tree), arviz.plot_trace(tree), arviz.loo(tree)
    tree = read_netcdf("runs/x/comparison.nc", "nuts")

ArviZ 0.2x knows a tree of groups as InferenceData, 1.x as xarray's DataTree; the groups and the files are the same.
Nothing here needs torch.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inference.errors import RunError

__all__ = ["Groups", "Khats", "ess", "groups", "khat", "khats", "r_hat", "read_netcdf", "save_netcdf", "to_arviz"]

Groups = dict[str, dict[str, np.ndarray]]  # group -> variable -> (C, S, ...), or the data as they are in observed_data

LARGEST_R_HAT = 100.0  # of chains that stand still in different places: ArviZ divides by (almost) zero


def khat(log_w: np.ndarray) -> np.ndarray:
    """Pareto k-hat of importance weights: the tail index of each datum's weights [vehtari2024psis].

    Below 0.5 the weights have a finite variance; above 0.7 neither their mean nor its error can be trusted.

    Args:
        log_w: (K, N) log-weights of K draws for each of N data.

    Returns:
        (N,); NaN where K < 25 is too few for a tail. Where ties leave no tail to fit, as draws of few states do: the
        logarithm of its largest weight over its least, by that of its size; 0 where all are equal.
    """
    k = log_w.shape[0]
    if k < 25:
        return np.full(log_w.shape[1], math.nan)
    rows = np.ascontiguousarray(log_w.T, dtype=np.float64)
    tail = math.ceil(min(k / 5, 3 * math.sqrt(k)))  # the draws that PSIS fits [vehtari2024psis]
    ordered = np.sort(rows, 1)
    rise = ordered[:, -1] - ordered[:, -tail]
    found = rise / math.log(tail)  # of a Pareto tail with index k, the largest of M draws is about M^k times the least
    steep = rise > 1e-6 * np.maximum(1.0, np.abs(ordered[:, -1]))
    if steep.any():
        fitted = _psis(rows[steep])
        found[steep] = np.where(np.isfinite(fitted), fitted, found[steep])
    return found


class Khats(NamedTuple):
    """Where the weights of a guide's draws can be trusted: below 0.7 [yao2018]."""

    joint: float  # of all data together, whose log-weights are sums over the data
    datum: np.ndarray  # (N,)
    sites: dict[str, np.ndarray]  # site -> (N,) of what the weights say of that site


def khats(log_w: np.ndarray, sites: Mapping[str, np.ndarray] | None = None) -> Khats:
    """k-hat joint, of each datum and of each site.

    Args:
        log_w: (K, N) log-weights.
        sites: site -> (K, N) log-weights of that site, as `site_log_weights` has them.
    """
    each = {site: khat(weights) for site, weights in (sites or {}).items()}
    return Khats(float(khat(log_w.sum(1, keepdims=True))[0]), khat(log_w), each)


def _psis(rows: np.ndarray) -> np.ndarray:
    """The shape of the Pareto distribution fitted to each row's largest weights, (N, K) -> (N,)."""
    arviz = _arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _is_old(arviz):
            return np.asarray(arviz.psislw(rows)[1])
        # ArviZ 1.x: a package of its own, which takes log-likelihoods: the weights' negative
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

        return np.asarray(array_stats.psislw(-rows)[1])


def r_hat(values: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat of each coordinate [vehtari2021rhat].

    Args:
        values: (C, S, F); one chain is cut in two.

    Returns:
        (F,), at most 100; NaN where a coordinate is one number throughout, or S < 8.
    """
    chains, draws, _ = values.shape
    if draws < 8:
        return np.full(values.shape[2], math.nan)
    if chains == 1:
        half = draws // 2
        values = np.concatenate([values[:, :half], values[:, half : 2 * half]])
    found = _over_coordinates("rhat", values)
    moves, differs = values.std(1).any(0), values.std((0, 1)) > 0
    # ArviZ folds values around their median, and 0 and 1 around 0.5 are then one number: the unfolded part alone
    half = np.isnan(found) & moves
    if half.any():
        found[half] = _over_coordinates("rhat", values[..., half], method="z_scale")
    found[~moves & differs] = LARGEST_R_HAT  # every chain stands still, and not in one place
    return np.minimum(found, LARGEST_R_HAT)


def ess(values: np.ndarray, method: str = "bulk") -> np.ndarray:
    """Effective sample size of each coordinate: how many independent draws say as much [vehtari2021rhat].

    Args:
        values: (C, S, F).
        method: "bulk", "tail", or "mean" for the error of the plain mean.

    Returns:
        (F,); C * S where a coordinate is one number throughout; NaN where S < 4.
    """
    if values.shape[1] < 4:
        return np.full(values.shape[2], math.nan)
    return _over_coordinates("ess", values, method=method)


def groups(
    draws: Any, log_likelihood: Mapping[str, Any] | None = None, observed: Mapping[str, Any] | None = None
) -> Groups:
    """What ArviZ calls posterior, sample_stats, log_likelihood and observed_data, of an engine's draws.

    `lp` is log p(x, h) of a draw; `log_p` its parts and `log_q` the guide's, by datum.

    Args:
        draws: a `Draws`: values, log_p, log_q, stats; a guide's as well as a chain's.
        log_likelihood: site -> (C, S, N) log p(x_n | h), which `arviz.loo` needs; `log_likelihood` computes it.
        observed: site -> its data.
    """
    log_p = np.asarray(draws.log_p)
    stats = {"lp": log_p.sum(-1), "log_p": log_p}
    if draws.log_q is not None:
        stats["log_q"] = np.asarray(draws.log_q)
    stats |= {_STATS.get(name, name): np.asarray(value) for name, value in draws.stats.items()}
    if "diverging" in stats:
        stats["diverging"] = stats["diverging"].astype(bool)  # by which ArviZ marks draws
    found = {"posterior": {site: _narrow(np.asarray(values)) for site, values in draws.values.items()}}
    found["sample_stats"] = stats
    for name, given in (("log_likelihood", log_likelihood), ("observed_data", observed)):
        if given:
            found[name] = {site: np.asarray(value) for site, value in given.items()}
    return found


def to_arviz(groups: Groups, attributes: Mapping[str, Any] | None = None) -> Any:
    """Groups as ArviZ's own: InferenceData in 0.2x, a DataTree in 1.x."""
    import xarray

    datasets = {name: _dataset(name, variables, attributes) for name, variables in groups.items()}
    arviz = _arviz()
    return arviz.InferenceData(**datasets) if _is_old(arviz) else xarray.DataTree.from_dict(datasets)


def save_netcdf(path: Path, engines: Mapping[str, tuple[Groups, dict[str, Any]]]) -> None:
    """Write the groups of several engines, and attributes of each, into one netCDF file: /nuts/posterior, ...

    `read_netcdf` reads one of them back; so does `arviz.InferenceData.from_netcdf(path, base_group="nuts")` of ArviZ
    0.2x, or `arviz.from_netcdf(path)["nuts"]` of 1.x.
    """
    mode = "w"
    for engine, (found, attributes) in engines.items():
        for name, variables in found.items():
            dataset = _dataset(name, variables, attributes)
            packed = {variable: {"zlib": True, "complevel": 1} for variable in dataset if dataset[variable].ndim}
            where = f"{_folder(engine)}/{name}"
            dataset.to_netcdf(path, mode=mode, group=where, engine="h5netcdf", encoding=packed)
            mode = "a"


def read_netcdf(path: str | Path, engine: str) -> Any:
    """One engine's groups of a saved file, as `to_arviz` gives them.

    Raises:
        RunError: no such file, or no such engine in it.
    """
    import h5py

    if not Path(path).is_file():
        raise RunError(f"there is no file {path}: give the comparison.nc that `compare(...).save(folder)` wrote")
    with h5py.File(path) as file:
        names = list(file)
    if _folder(engine) not in names:
        raise RunError(f"{path} has no draws of '{engine}': it has those of {', '.join(names)}")
    arviz = _arviz()
    if _is_old(arviz):
        return arviz.InferenceData.from_netcdf(str(path), base_group=_folder(engine))
    return arviz.from_netcdf(str(path))[_folder(engine)]


# ArviZ's own names of a sampler's statistics, by which its plots find them
_STATS = {"acceptance": "acceptance_rate", "steps": "n_steps"}


def _dataset(group: str, variables: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None) -> Any:
    """The dimensions after chain and draw are named as ArviZ names them, `h1_dim_0`, `h1_dim_1`."""
    import xarray

    first = [] if group == "observed_data" else ["chain", "draw"]
    data = {
        name: ((*first, *(f"{name}_dim_{d}" for d in range(values.ndim - len(first)))), values)
        for name, values in variables.items()
    }
    shape = next(iter(variables.values())).shape
    coordinates = {dim: np.arange(size) for dim, size in zip(first, shape, strict=False)}
    return xarray.Dataset(data, coords=coordinates, attrs=dict(attributes or {}))


def _folder(engine: str) -> str:
    return engine.replace("/", "_")


def _narrow(values: np.ndarray) -> np.ndarray:
    """Small whole numbers in a byte each: draws of binary units are four times smaller."""
    small = values.size > 0 and float(np.abs(values).max()) <= 127 and np.array_equal(values, np.round(values))
    return values.astype(np.int8) if small else values


def _arviz() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.2x announces its own 1.0 at import
        import arviz

        return arviz


def _is_old(arviz: Any) -> bool:
    return arviz.__version__.startswith("0.")


def _over_coordinates(name: str, values: np.ndarray, **settings: Any) -> np.ndarray:
    import xarray

    arviz = _arviz()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # constants divide by zero
        data = xarray.Dataset({"x": (("chain", "draw", "coordinate"), values)})
        return np.asarray(getattr(arviz, name)(data, **settings)["x"].values, dtype=np.float64)
