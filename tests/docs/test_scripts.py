"""The scripts beside the product import what the product still has."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured: the module is loaded without being run as a script."""
    monkeypatch.syspath_prepend(path.parent)
    assert runpy.run_path(str(path), run_name=path.stem)
