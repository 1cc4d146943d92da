"""Sphinx configuration of the site that scripts/docs builds; it can be read offline."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from registries import expand  # noqa: E402 (in this folder)

from featbank import __version__  # noqa: E402

project = "featbank"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"featbank {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = html_show_sphinx = html_copy_source = False
myst_heading_anchors = 3
default_role = "code"  # docstrings write names as `name`
add_module_names = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {"PathLike": "PathLike"}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _page(app: Sphinx, name: str, source: list[str]) -> None:
    """Insert generated parts, unlink files outside the site, keep ``1.0 ± 0.1`` on one line."""
    text = expand(source[0]).replace("../README.md", "overview.md")
    text = re.sub(r"(?<=\d) ± (?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", text)
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./(?!\w+\.md)[^)]+|LICENSE)\)", r"\1", text)


def _attributes(*arguments: Any) -> None:
    """Split attributes that share a description, ``num_classes, dim``, into an entry each."""
    lines: list[str] = arguments[-1]
    if "Attributes" not in lines:
        return
    first = lines.index("Attributes") + 2
    entries: list[list[str]] = []
    for line in lines[first:]:
        if line and not line[0].isspace():
            entries.append([line])
        elif entries:
            entries[-1].append(line)
    lines[first:] = [
        line
        for names, *description in entries
        for attribute in names.split(", ")
        for line in (attribute, *description)
    ]


def setup(app: Sphinx) -> None:
    """Connect the two functions above; Sphinx calls this."""
    app.connect("source-read", _page)
    app.connect("autodoc-process-docstring", _attributes, priority=100)  # before napoleon
