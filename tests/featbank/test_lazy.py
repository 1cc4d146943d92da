"""Public names that load on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import stage2

FRESH = """
import featbank, stage1, stage2
featbank.errors.ConfigError, featbank.Bank, featbank.settings.Setting
assert {*stage2.__all__} <= {*dir(stage2)}
stage2.search.Halving, stage1.data, stage1.train
import stage2.sweep
assert stage2.sweep.__name__ == "sweep" and callable(stage2.sweep)
"""


def test_names_and_modules_are_found_where_nothing_is_loaded() -> None:
    """As where everything is imported at once; in a process of its own."""
    subprocess.run([sys.executable, "-c", FRESH], check=True)


def test_the_function_of_a_sweep_can_be_patched() -> None:
    """Reference: any other name of a package."""
    original = stage2.sweep
    with patch("stage2.sweep", lambda: 1):
        assert stage2.sweep() == 1
    assert stage2.sweep is original
    assert not hasattr(stage2, "nothing")


def test_completion_offers_what_is_exported() -> None:
    """Reference: ``__all__`` and the modules in the folder; no import of the package's own."""
    offered = {name for name in dir(stage2) if not name.startswith("_")}
    folder = Path(stage2.__file__).parent
    modules = {path.stem for path in folder.iterdir() if (path / "__init__.py").is_file()}
    modules |= {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert offered == {*stage2.__all__, *modules}
