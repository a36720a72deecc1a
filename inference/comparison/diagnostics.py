"""ArviZ in one place: diagnostics of plain arrays, and netCDF, in ArviZ 0.2x and 1.x."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ess", "khat", "r_hat", "save_netcdf"]

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


def _psis(rows: np.ndarray) -> np.ndarray:
    """The shape of the Pareto distribution fitted to each row's largest weights, (N, K) -> (N,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.2x announces its own 1.0 at import
        try:
            from arviz import psislw
        except ImportError:  # ArviZ 1.x: a package of its own, which takes log-likelihoods: the weights' negative
            from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

            return np.asarray(array_stats.psislw(-rows)[1])
        return np.asarray(psislw(rows)[1])


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


def save_netcdf(path: Path, groups: Mapping[str, tuple[dict[str, np.ndarray], dict[str, Any]]]) -> None:
    """Write arrays as ArviZ groups of one netCDF file, to be read by `arviz.from_netcdf`.

    groups: name -> (variables, attributes); a variable is (C, S, ...). Dimensions after chain and draw are named as
    ArviZ names them, `h1_dim_0`, `h1_dim_1`.
    """
    import xarray

    for i, (group, (variables, attributes)) in enumerate(groups.items()):
        data = {
            name: (("chain", "draw", *(f"{name}_dim_{d}" for d in range(values.ndim - 2))), values)
            for name, values in variables.items()
        }
        chains, draws = next(iter(variables.values())).shape[:2]
        coordinates = {"chain": np.arange(chains), "draw": np.arange(draws)}
        dataset = xarray.Dataset(data, coords=coordinates, attrs=attributes)
        packed = {name: {"zlib": True, "complevel": 1} for name in data}
        dataset.to_netcdf(path, mode="a" if i else "w", group=group, engine="h5netcdf", encoding=packed)


def _over_coordinates(name: str, values: np.ndarray, **settings: Any) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ 0.2x announces its own 1.0; constants divide by zero
        import arviz
        import xarray

        data = xarray.Dataset({"x": (("chain", "draw", "coordinate"), values)})
        return np.asarray(getattr(arviz, name)(data, **settings)["x"].values, dtype=np.float64)
