"""Sphinx settings: `make docs` builds this folder with every warning an error."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from clbinn import __version__

project = "clbinn"
author = "The clbinn authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "schema", "methods/measured"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

html_theme = "furo"
html_title = "clbinn"
html_static_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # docstrings write `name` for code, as Markdown does


def _as_rst(_app: Any, what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: bars are bars, asterisks are asterisks, and an indented equation keeps its lines."""
    plain: list[str] = []
    for line in lines:
        equation = what == "module" and line.startswith("    ") and line.strip()
        if equation and not (plain and plain[-1].startswith("    ")):
            plain += ["::", ""]
        plain.append(line if equation else _escaped(line))
    lines[:] = plain


def _escaped(line: str) -> str:
    pieces = re.split(r"(`[^`]*`)", line)
    text = "".join(piece if piece.startswith("`") else piece.replace("|", r"\|") for piece in pieces)
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", text)


def setup(app: Any) -> None:
    """Register the hook."""
    app.connect("autodoc-process-docstring", _as_rst)
