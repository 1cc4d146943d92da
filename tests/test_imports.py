"""The import rule: stage1 → featbank ← stage2, and only the command line knows all three."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

STAGE2_ORDER = ("methods", "engine", "results")
STAGE2_ROAD = ("stage2.sweep", "stage2.requirements", "stage2.views", "stage2.probe")


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
        *(
            (
                f"stage2/{floor}",
                (*STAGE2_ROAD, *(f"stage2.{above}" for above in STAGE2_ORDER[i + 1 :])),
            )
            for i, floor in enumerate(STAGE2_ORDER)
        ),
    ],
)
def test_floors_do_not_look_up(package: str, forbidden: tuple[str, ...]) -> None:
    """No file imports from a floor above it or from the other stage."""
    for file in files(package):
        for module in imports_of(file):
            for above in forbidden:
                assert not (module + ".").startswith(above + "."), f"{file} imports {module}"


def test_commands_import_heavy_things_late() -> None:
    """At the top of the command line stand only click, featbank and the standard library."""
    for file in files("featbank/cli"):
        for node in ast.parse(file.read_text()).body:
            module = getattr(node, "module", None) or ""
            assert module.split(".")[0] not in ("stage1", "stage2", "torch", "rich"), (
                f"{file}: {module}"
            )
