"""The papers' tables, from `scripts/reproduce`."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from featbank.cli import main
from stage2.methods.recipe import Recipe

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "reproducing" / "reproduce.py"
TABLES: dict[str, Any] = tomllib.loads((SCRIPT.parent / "tables.toml").read_text())
SHORTEST = "disalign-5"


@pytest.mark.parametrize("name", TABLES)
def test_tables_name_what_exists(name: str) -> None:
    """Banks have options that `featbank train` reads; rows have recipes, and figures of banks."""
    table = TABLES[name]
    for bank in table["banks"].values():
        assert bank.keys() == {"full", "small"}
        for options in (bank["full"], f"--dataset digits-lt {bank['small']}"):
            main.commands["train"].make_context("train", [*shlex.split(options), "-o", "run"])
    for row in table["rows"]:
        recipes = row["recipe"]
        if not isinstance(recipes, dict):
            recipes = dict.fromkeys(row.get("banks", table["banks"]), recipes)
        assert [*recipes] == [*row.get("banks", table["banks"])]
        for recipe in recipes.values():
            Recipe(recipe, **row.get("set", {}))
        assert {*row.get("banks", ()), *row.get("paper", {})} <= table["banks"].keys()
    page = (ROOT / "docs" / "reproduction" / "index.md").read_text()
    assert f"`{name}`" in page


@pytest.mark.parametrize(
    "name", [n if n == SHORTEST else pytest.param(n, marks=pytest.mark.long) for n in TABLES]
)
def test_a_table_is_filled(name: str, tmp_path: Path) -> None:
    """Every row has a figure on every bank of its own; a second run trains nothing."""

    def run() -> str:
        options = ["--scale", "small", "--seeds", "0", "--work", "w", "--page", "page.md"]
        command = [sys.executable, str(SCRIPT), name, *options]
        done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "page.md").read_text()

    page = run()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if " | top-1 | " in line]
    table = TABLES[name]
    expected = [
        (bank, row["name"])
        for bank in table["banks"]
        for row in table["rows"]
        if bank in row.get("banks", table["banks"])
    ]
    assert [(bank.strip(), row.strip()) for bank, row, *_ in rows] == expected
    assert all(float(last.split("±")[0]) > 10 for *_, last, _, _ in rows)
    assert "Small scale" in page
    assert run() == page
