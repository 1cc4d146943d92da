"""A wheel has every package of the checkout."""

from __future__ import annotations

import tomllib

from tests.conftest import ROOT


def test_every_package_is_listed() -> None:
    """Reference: the folders with an ``__init__.py``."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in ("featbank", "stage1", "stage2")
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert sorted(known) == sorted(found)
