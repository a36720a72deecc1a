"""Sphinx configuration: MyST pages, furo, the bibliography, the API from docstrings, doctests."""

import re
import sys
import tomllib
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# autodoc imports the packages, and ArviZ 0.2x announces its own 1.0 at import.
warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)

project = "ppl-models"
author = "the ppl-models authors"
copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]

default_role = "code"  # docstrings write `name` as Markdown does
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False

doctest_global_setup = """
import warnings
warnings.filterwarnings("ignore", category=FutureWarning, message=r"\\s*ArviZ is undergoing a major refactor")
"""

html_theme = "furo"
html_title = f"ppl-models {release}"
html_show_copyright = False


KEYS = "|".join(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "refs.bib").read_text(), re.MULTILINE))


def read_as_written(app, what, name, obj, options, lines):
    """Let docstrings stay plain text: `[key]` cites, an indented block keeps its lines, `*` is itself."""
    if lines and lines[0].startswith("Alias for field number"):  # NamedTuple's own, which says nothing
        lines.clear()
    text = []
    block = None  # the indentation of the line before a literal block
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line and indent <= block:
            block = None
        if block is None and indent >= 4 and i > 1 and not lines[i - 1] and lines[i - 2][:1].strip():
            if not line.lstrip().startswith(">>>"):
                text += ["::", ""]
                block = 0
        text.append(line if block is not None or line.lstrip().startswith((">>>", "...")) else plain(line))
        if line.endswith("::"):
            block = indent
    lines[:] = text


def plain(line):
    """Escape what reST would read as markup outside backticks, then turn keys into citations."""
    parts = re.split(r"(`+[^`]*`+_{0,2})", line)
    parts[::2] = [re.sub(r"([*|]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return re.sub(rf"\[({KEYS})\]", r":cite:p:`\1`", "".join(parts))


def setup(app):
    """Connect the reader of docstrings before napoleon, which is at 500."""
    app.connect("autodoc-process-docstring", read_as_written, priority=400)
