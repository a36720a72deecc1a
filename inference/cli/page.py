"""The report page of a run: pictures from its model, curves from its metrics, the table of its evaluation."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.cli.annealed import words
from inference.cli.completions import completions, reconstructed
from inference.cli.deep_pictures import DEEP, code_pictures, deep_facts, deep_pictures
from inference.cli.label_pictures import label_pictures
from inference.cli.labelled import label_lines
from inference.cli.runs import Run, load_model, open_run, read_metrics, test_rows
from inference.comparison.figures import image_grid, png_bytes
from inference.comparison.report import write_run
from inference.errors import CheckpointError
from inference.pair import Pair

__all__ = ["grid", "write_page"]


def grid(x: Tensor, run: Run, columns: int, gap: int = 3) -> Any:
    """Rows (n, D) as one picture of n images."""
    return image_grid(x.detach().cpu().reshape(-1, *run.options["image_shape"]), columns, gap=gap)


def write_page(out: Path, device: str) -> Path:
    """Write DIR/report.html from what lies in DIR."""
    run = open_run(out)
    pair, notes = load_model(out, run)
    evaluation = out / "evaluation.json"
    try:
        result = json.loads(evaluation.read_text()) if evaluation.is_file() else None
    except ValueError as error:
        raise CheckpointError(f"{evaluation} is damaged ({error}): delete it and run `ppl evaluate {out}`") from None
    rows = None
    if result is not None:
        rows = [dict(row) for row in result["rows"]]
        rows[-1] |= {"active_units": result["active_units"], "units": result["units"], "data": result["data"]}
        rows[-1]["sites"] = result.get("sites")
        rows[-1]["ais"] = None if result.get("ais") is None else words(result["ais"], run.evidence)
    history = read_metrics(out)
    last = history[-1] if history else {}
    config = {name: value for name, value in run.__dict__.items()}
    write_run(
        out / "report.html",
        title=f"{run.title} on {run.data}",
        summary={
            "data": run.data,
            "pixels": run.pixels,
            **({"predicted": run.parts.words} if run.parts else {}),
            **deep_facts(run),
            **({"labels": run.label_words} if run.labels is not None else {}),
            "objective": run.bound,
            "parameters": sum(p.numel() for p in pair.named_parameters().values()),
            "epochs": len(history),
            "steps": last.get("step", 0),
            "CPU-seconds": round(notes["cpu_seconds"], 1),
            "seconds": round(notes["seconds"], 1),
            "device": device,
        },
        config=config,
        history=history,
        evaluation=rows,
        images=_pictures(pair, run),
        codes=code_pictures(pair.owner, run),
        evidence=run.evidence,
        classes=_classes(result),
    )
    return out / "report.html"


def _classes(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Sentences and confusion matrix of an evaluated model of labels."""
    if result is None or "labels" not in result:
        return None
    found = result["labels"]
    headline = f"Test error {100 * found['error']:.2f} %."
    lines = [line.replace("+-", "±").replace(" -", " \N{MINUS SIGN}") for line in label_lines(found)]
    return {"headline": headline, "lines": lines, "others": found["baselines"], "confusion": found["confusion"]}


def _pictures(pair: Pair, run: Run) -> list[tuple[str, str, bytes]]:
    model: Any = pair.owner.cpu()
    if run.options["image_shape"][1] < 2:
        return []  # rows that are no images
    if run.labels is not None:
        return label_pictures(model, run)
    x = test_rows(run, None, run.seed).x
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(run.seed))[:32]]
    if run.parts is not None:
        whole = completions(model, run, x[:12])
        caption = "Test images: what is given, the mean completion, eight of single draws z ~ p(z | c), the truth."
        pairs = [row for block in x.split(16) for row in (block, reconstructed(model, run, block))]
        beside = "Test images, and below each the same with what is predicted as the mean image of its code."
        return [
            ("Completions", caption, png_bytes(grid(whole, run, len(whole) // len(x[:12])))),
            ("Reconstructions", beside, png_bytes(grid(torch.cat(pairs), run, 16))),
        ]
    pictures = []
    if run.model == "vae" and run.options["z_dim"] == 2:
        side = 20
        axis = torch.linspace(-3, 3, side)
        # the first latent runs to the right, the second up, as on paper
        z = torch.stack(torch.meshgrid(axis.flip(0), axis, indexing="ij"), -1).flip(-1).reshape(-1, 2)
        caption = "Decoded means over z in [-3, 3] x [-3, 3]: the survey's Figure 6a."
        pictures.append(("Latent manifold", caption, png_bytes(grid(model.decode(z), run, side, gap=0))))
    caption = "Mean images of 64 draws from the prior."
    if run.model == "vae":
        caption = f"{caption[:-1]}, z of {run.options['z_dim']} dimensions: the survey's Figure 6b."
    pictures.append(("Random samples", caption, png_bytes(grid(model.generate(64, run.seed), run, 16))))
    pairs = [row for block in x.split(16) for row in (block, model.reconstruct(block))]
    caption = "Test images, and below each the mean image of its code."
    pictures.append(("Reconstructions", caption, png_bytes(grid(torch.cat(pairs), run, 16))))
    return pictures + (deep_pictures(pair, run, x) if run.model in DEEP else [])
