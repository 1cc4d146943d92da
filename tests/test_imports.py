"""The import rule: stage1 → featbank ← stage2, and only the command line knows all three."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from tests.conftest import ROOT

_PLACE = importlib.util.spec_from_file_location("draw_rooms", ROOT / "scripts" / "draw_rooms.py")
assert _PLACE
assert _PLACE.loader
draw_rooms = importlib.util.module_from_spec(_PLACE)
_PLACE.loader.exec_module(draw_rooms)

STAGE2_ORDER = (
    "methods",
    "engine",
    "features",
    "results",
    "search",
    "specification",
    "executors",
    "loggers",
    "rounds",
    "sweep",
)
"""From the ground up: a room imports only those before it. Above are the rooms that nobody imports
but the command line and each other."""


def imports_of(file: Path) -> set[str]:
    """Full names of the modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files(package: str) -> list[Path]:
    """Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("stage1", ("stage2", "featbank.cli")),
        ("stage2", ("stage1", "featbank.cli")),
        ("featbank/bank", ("stage1", "stage2", "featbank.cli", "featbank.exchange", "torch")),
    ],
)
def test_the_stages_meet_in_the_bank(package: str, forbidden: tuple[str, ...]) -> None:
    """No file imports from the other stage, nor from the command line."""
    for file in files(package):
        for module in imports_of(file):
            for above in forbidden:
                assert not (module + ".").startswith(above + "."), f"{file} imports {module}"


@pytest.mark.parametrize("package", draw_rooms.PACKAGES)
def test_no_arrow_runs_in_a_circle(package: str) -> None:
    """The rooms of a package have levels: each imports only rooms below it."""
    arrows = draw_rooms.arrows_of(package)
    level = draw_rooms.floors(arrows)
    for room, targets in arrows.items():
        assert all(level[to] < level[room] for to in targets), room


def test_stage_2_keeps_its_order() -> None:
    """The law above, room by room."""
    arrows = draw_rooms.arrows_of("stage2")
    for place, room in enumerate(STAGE2_ORDER):
        looked_up = arrows[room] - set(STAGE2_ORDER[:place])
        assert not looked_up, f"{room} imports {', '.join(sorted(looked_up))}"


def test_the_picture_is_that_of_the_code() -> None:
    """docs/rooms.svg; `python scripts/draw_rooms.py` draws it again."""
    assert draw_rooms.PICTURE.read_text(encoding="utf-8") == draw_rooms.picture()


LIGHT = (
    "stage1.data.catalogue",
    "stage1.data.settings",
    "stage1.extraction.settings",
    "stage1.inference.normalisation",
    "stage1.inference.options",
    "stage1.training.presets",
    "stage1.training.settings",
    "stage2.executors",
    "stage2.methods.precisions",
    "stage2.search",
)
"""Modules of rows, which load nothing heavy: `tests/featbank/test_cli.py` measures it."""


def test_commands_import_heavy_things_late() -> None:
    """At the top of the command line stand click, featbank, rows and the standard library."""
    for file in files("featbank/cli"):
        for node in ast.parse(file.read_text()).body:
            module = getattr(node, "module", None) or ""
            heavy = module.split(".")[0] in ("stage1", "stage2", "torch", "rich")
            assert not heavy or module in LIGHT, f"{file}: {module}"
