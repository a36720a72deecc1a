"""A comparison on disk: rows.json for programs, comparison.nc for ArviZ, report.html for people."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from inference.comparison.diagnostics import save_netcdf
from inference.comparison.learning import behind
from inference.comparison.page import page
from inference.errors import RunError
from inference.types import Draws

__all__ = ["check_free", "save"]


def check_free(out: Path) -> None:
    """Refuse a folder that holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty: choose another folder for the comparison")


def save(result: Any, out: Path) -> Path:
    """Write the three files beside the folder, then rename: all of them or nothing; the page's path."""
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        (temporary / "rows.json").write_text(rows_json(result))
        save_netcdf(temporary / "comparison.nc", groups(result))
        (temporary / "report.html").write_text(page(result), encoding="utf-8")
        os.replace(temporary, out)  # an empty folder may be replaced, one with files may not
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out / "report.html"


def rows_json(result: Any) -> str:
    """Rows, verdicts, answer and learning curves as JSON text."""
    words = result.verdicts
    content = {
        "title": result.title,
        "answer": result.answer,
        "data": result.num_data,
        "coordinates": {"compared": len(result.coordinates), "of": result.total_coordinates},
        "error_asked": result.error,
        "rows": [
            {**row._asdict(), "verdict": words[row.engine].word, "why": words[row.engine].why} for row in result.rows
        ],
        "learning": [
            {
                "method": curve.method,
                "estimate": curve.estimate,
                "behind": dict(zip(("nats", "se"), behind(result.learning)[curve.method], strict=True)),
                "points": [p._asdict() for p in curve.points],
            }
            for curve in result.learning
        ],
        "notes": result.notes,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def groups(result: Any) -> dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """An ArviZ group for each engine: its sites, log_p, log_q and statistics of the sampler."""
    found = {}
    for row in result.rows:
        draws: Draws = result.draws[row.engine]
        variables = {site: _narrow(values.numpy()) for site, values in draws.values.items()}
        extra = {"log_p": draws.log_p, "log_q": draws.log_q, **draws.stats}
        variables |= {
            name if name not in variables else f"{name}_": value.detach().cpu().numpy()
            for name, value in extra.items()
            if value is not None
        }
        cost = {"seconds": draws.seconds, "warmup_seconds": draws.warmup_seconds}
        found[row.engine] = (
            variables,
            {**cost, "compile_seconds": draws.compile_seconds, "evaluations": draws.evaluations},
        )
    return found


def _narrow(values: np.ndarray) -> np.ndarray:
    """Small whole numbers in a byte each: draws of binary units are four times smaller."""
    small = values.size > 0 and float(np.abs(values).max()) <= 127 and np.array_equal(values, np.round(values))
    return values.astype(np.int8) if small else values
