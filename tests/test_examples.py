"""Every example runs, small, and stays short enough to read at a glance."""

import importlib.util
import inspect
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "epochs" in inspect.signature(module.main).parameters
    module.main(epochs=2)
    assert "nats" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= 40
    assert "argparse" not in path.read_text()
