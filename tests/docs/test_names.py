"""Names of the code that docstrings and pages mention."""

from __future__ import annotations

import pkgutil
import re

from tests.conftest import ROOT

FOLDERS = ("docs", "featbank", "scripts", "stage1", "stage2")
NAME = re.compile(r"`((?:featbank|stage1|stage2)(?:\.\w+)+)`")


def test_every_name_is_there() -> None:
    """A module, or something in it, wherever it was moved to."""
    missing = {}
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.*"):
            if file.suffix in (".py", ".md"):
                for name in NAME.findall(file.read_text(encoding="utf-8")):
                    try:
                        pkgutil.resolve_name(name)
                    except (ImportError, AttributeError):
                        missing[name] = file
    assert not missing
