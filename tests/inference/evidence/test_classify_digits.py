"""Ten sigmoid belief networks 8-24-64 on scikit-learn's digits, as the example trains them (Saul et al.: 4.6 %)."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "classify_digits.py"


@pytest.mark.slow
def test_errors_on_a_held_out_third():
    spec = importlib.util.spec_from_file_location("classify_digits", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main()["ten networks"] <= 0.046
