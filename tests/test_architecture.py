"""The arrows of the design: who may import whom."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def uses(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imports(path))


def test_inference_meets_the_models_only_in_the_command_line():
    for path in files("inference"):
        if "cli" not in path.parts:
            assert not uses(path, "ppl_models"), path


def test_models_never_import_inference_nor_one_another():
    shared = {
        "attention", "data", "gaussian", "glimpse", "handover", "lstm", "nn", "players", "pyramid", "rank_one",
        "__init__",
    }  # fmt: skip
    models = {p.stem for p in (ROOT / "ppl_models").glob("*.py")} - shared
    for path in files("ppl_models"):
        assert not uses(path, "inference"), path
        if path.stem in models and path.parent.name == "ppl_models":
            assert not any(uses(path, f"ppl_models.{other}") for other in models - {path.stem}), path


def test_engines_never_import_one_another():
    engines = ("vi", "mcmc", "adversarial")
    for engine in engines:
        for path in files(f"inference/{engine}"):
            for other in set(engines) - {engine}:
                assert not uses(path, f"inference.{other}"), path


def test_the_training_loop_does_not_know_what_it_steps():
    for path in files("inference/training"):
        for other in ("vi", "mcmc", "adversarial", "evidence", "comparison", "weights"):
            assert not uses(path, f"inference.{other}"), path


def test_optional_and_heavy_packages_have_one_door():
    doors = {
        "arviz": {"inference/comparison/diagnostics.py"},
        "arviz_stats": {"inference/comparison/diagnostics.py"},
        "jax": {
            "inference/capture/to_jax.py",
            "inference/capture/jax_ops.py",
            "inference/capture/jax_matrices.py",
            "inference/mcmc/hmc_numpyro.py",
            "inference/mcmc/hmc_warmup.py",
        },
        "numpyro": {"inference/mcmc/hmc_numpyro.py", "inference/mcmc/hmc_warmup.py"},
    }
    for package, allowed in doors.items():
        for path in [*files("inference"), *files("ppl_models")]:
            if str(path.relative_to(ROOT)) not in allowed:
                assert not uses(path, package), f"{path} imports {package}"


def test_files_stay_small():
    for path in [*files("inference"), *files("ppl_models")]:
        assert len(path.read_text().splitlines()) <= 270, f"{path}: split it"


def test_nothing_is_pickled():
    for path in [*files("inference"), *files("ppl_models")]:
        text = path.read_text()
        assert not uses(path, "pickle") and "torch.save(" not in text and "torch.load(" not in text, path
