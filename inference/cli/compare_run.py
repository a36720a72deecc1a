"""`ppl compare DIR`: engines on a trained run's model and its test images, and where its bound loses."""

from functools import partial
from pathlib import Path
from typing import Any

from inference.cli.bars import Bars
from inference.errors import RunError

__all__ = ["trained"]

STEPS, CHAINS = 200, 8  # of the annealing that stands for log p(x)


def trained(run_dir: Path, images: int, seed: int) -> Any:
    """Compare engines on a run's model and its test images."""
    from inference.cli.runs import load_model, open_run, test_rows
    from inference.comparison.compare import compare
    from inference.comparison.gaps import split
    from inference.evidence.ais import AIS

    run = open_run(run_dir)
    pair, _ = load_model(run_dir, run)
    if run.model not in _ENGINES:
        raise RunError(f"{run_dir} holds a run of '{run.model}', which has no engines here: name a run of vae or sbn")
    made, reference, roles, name = _ENGINES[run.model](pair.owner)
    x = test_rows(run, images, seed).x
    with Bars() as bars:
        told = bars.counter("engines", made)
        result = compare(pair.owner, x, made, reference=reference, seed=seed, on_engine=told)
        draw = {site: values[0, -1] for site, values in result.draws[reference].values.items()}
        heard = partial(bars.at, "annealing", total=len(x))
        forward, reverse = AIS(STEPS, CHAINS).both(pair, x, draw=draw, seed=seed, on_rows=heard)
    words = f"log p(x) by {CHAINS} chains of {STEPS} annealed steps, from the guide and back from draws of {reference}."
    notes = {"model": f"{name}, trained by {run.bound}", "pixels": run.pixels, "run": str(run_dir)}
    return result._replace(
        title=f"{name[0].upper()}{name[1:]} on {run.data}: which engine to trust",
        notes=notes,
        gaps=split(result.draws, roles, forward, reverse, words),
    )


def _vae(vae: Any) -> tuple[dict[str, Any], str, dict[str, str], str]:
    """Engines, the reference's name, the roles of bounds, and the model in words."""
    from inference.comparison.guided import Guided
    from inference.comparison.local import LocalGaussian
    from inference.evidence.ais_draws import AnnealedHMC

    made = {
        "guide": Guided(None),
        "resampled": Guided(None, resample=20),
        "mean field": LocalGaussian(),
        "full rank": LocalGaussian(full=True),
        "HMC": AnnealedHMC(),
    }
    roles = {"guide": "guide", "mean field": "family", "full rank": "wider"}
    return made, "HMC", roles, f"variational autoencoder of {vae.z_dim} latents"


def _sbn(sbn: Any) -> tuple[dict[str, Any], str, dict[str, str], str]:
    """The same for a sigmoid belief network."""
    from inference.cli import methods as known
    from inference.comparison.guided import Guided
    from inference.comparison.local_units import from_guide
    from inference.vi.objectives import TraceELBO

    made, reference = known.reference_engines(sum(sbn.sizes[1:]))
    local = Guided(TraceELBO(num_particles=10), steps=1000, lr=0.2, guide=from_guide(sbn))
    made = {"guide": made.pop("guide"), "resampled": made.pop("resampled"), "mean field": local, **made}
    roles = {"guide": "guide", "mean field": "family"}
    return made, reference, roles, f"sigmoid belief network {'-'.join(map(str, sbn.sizes))}"


_ENGINES = {"vae": _vae, "sbn": _sbn}
