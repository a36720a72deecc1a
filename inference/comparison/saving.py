"""A comparison on disk: rows.json for programs, comparison.nc for ArviZ, report.html for people."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from inference.comparison.diagnostics import Groups, groups, save_netcdf
from inference.comparison.gaps import content as gaps_content
from inference.comparison.learning import behind
from inference.comparison.page import page
from inference.errors import RunError
from inference.types import Draws

__all__ = ["check_free", "save"]


def check_free(out: Path, then: str = "choose another folder for the comparison") -> None:
    """Refuse a folder that holds anything, and say what to do then."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty: {then}")


def save(result: Any, out: Path) -> Path:
    """Write the three files beside the folder, then rename: all of them or nothing; the page's path."""
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        (temporary / "rows.json").write_text(rows_json(result))
        save_netcdf(temporary / "comparison.nc", engines(result))
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
        "gaps": gaps_content(result.gaps),
        "notes": result.notes,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def engines(result: Any) -> dict[str, tuple[Groups, dict[str, Any]]]:
    """ArviZ's groups of each engine's draws, and what they cost as attributes."""
    found = {}
    for row in result.rows:
        draws: Draws = result.draws[row.engine]
        cost = {"seconds": draws.seconds, "warmup_seconds": draws.warmup_seconds}
        cost |= {"compile_seconds": draws.compile_seconds, "evaluations": draws.evaluations}
        found[row.engine] = (groups(draws, draws.log_likelihood), cost)
    return found
