"""The README's Python sample runs as printed, and prints what it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_sample(capsys):
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (output,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_readme_links_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / target).exists(), target
