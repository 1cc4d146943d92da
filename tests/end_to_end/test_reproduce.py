"""The papers' tables, from `scripts/reproduce`."""

from __future__ import annotations

import importlib
import json
import runpy
import shlex
import shutil
import sys
import time
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


@pytest.mark.parametrize("name", TABLES)
def test_what_is_missing_is_said(name: str) -> None:
    """A table without any figure of the paper has a note that they have to be filled in."""
    table = TABLES[name]
    assert any("paper" in row for row in table["rows"]) or "filled in" in table["note"]


@pytest.mark.parametrize(
    "name", [n if n == SHORTEST else pytest.param(n, marks=pytest.mark.long) for n in TABLES]
)
def test_a_table_is_filled(
    name: str, modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has a figure on every bank of its own, with a spread where anything is drawn and
    val's choice where anything trains; what is far from the paper has its sentence and every step
    its cost. Banks can be filled one by one and resumed, and their results are then enough."""

    table = TABLES[name]

    def run(*more: str) -> None:
        options = ["--scale", "small", "--seeds", "0,1", "--work", "w", "--page", "page.md"]
        if "stage1-seeds" in table:
            options += ["--stage1-seeds", "0,1"]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), name, *options, *more])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    monkeypatch.chdir(tmp_path)
    first, *_ = table["banks"]
    folder = tmp_path / "w" / "small" / name
    costs = folder / f"{first}.json"
    run("--bank", first, "--seeds", "0")
    stage1 = json.loads(costs.read_text())[f"stage 1, {first}-0"]
    run("--bank", first)
    done = costs.read_text()
    assert json.loads(done)[f"stage 1, {first}-0"] == stage1
    assert not (tmp_path / "page.md").exists()
    for seed in (0, 1):
        shutil.rmtree(folder / f"{first}-{seed}", ignore_errors=True)
        (folder / f"{first}-{seed}.h5").unlink(missing_ok=True)
    run()
    assert costs.read_text() == done
    page = (tmp_path / "page.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" |") for cell in line] for line in lines if len(line) == 7]
    expected = [
        (bank, row["name"], metric)
        for bank in table["banks"]
        for row in table["rows"]
        if bank in row.get("banks", table["banks"])
        for metric in ("top-1", "ECE")
    ]
    assert [tuple(row[:3]) for row in rows[2:]] == expected  # after the head and its rule
    recipes = {
        row["name"]: Recipe(_any(row["recipe"]), **row.get("set", {})) for row in table["rows"]
    }
    for bank, row, metric, paper, last, selected, gap in rows[2:]:
        trains = "epochs" in recipes[row].settings
        assert ("±" in last) == (trains or "stage1-seeds" in table)
        assert ("±" in selected) == trains
        ours = float(last.split("±")[0])
        assert metric == "ECE" or ours > 10
        if paper != "–":
            assert abs(ours - float(paper) - float(gap)) <= 0.1 + 1e-9
            assert (f"- {row} on {bank}: {metric} is" in page) == (abs(float(gap)) > 1)
    steps = [line for line in lines if len(line) == 3 and line[0].startswith(("| stage", "| extr"))]
    assert len(steps) == page.count("\nfeatbank ")
    assert all(line[1].isdigit() for line in steps)
    assert "Small scale" in page
    assert table.get("note", "") in page


def _any(recipe: str | dict[str, str]) -> str:
    """A recipe of a row; where there is one for each bank they train alike."""
    return recipe if isinstance(recipe, str) else next(iter(recipe.values()))


def test_a_large_difference_has_a_sentence(modules: None) -> None:
    """Reference: 45.1 − 40 and the deviation of 44.6 and 45.6, 0.707, by hand."""
    figures = importlib.import_module("figures")
    cells = {"reported": 40.0, "selected": (), "trained": True, "bare_stage1": False}
    cell = figures.Cell("if100", "cRT", "top-1", last=(44.6, 45.6), **cells)
    stage1 = figures.Cell(
        "if100", "stage 1", "top-1", 39.6, (37.5,), (), trained=False, bare_stage1=True
    )
    told = (
        "cRT on if100: top-1 is 5.1 points above the paper's 40, 7.2 times the deviation over seeds"
    )
    assert figures.sentence(cell, [cell]) == f"{told}."
    beside = f"{told}; stage 1 alone is -2.1 points from its figure."
    assert figures.sentence(cell, [stage1, cell]) == beside
    assert str(cell) == "| if100 | cRT | top-1 | 40 | 45.1 ± 0.7 | – | +5.1 |"


def test_a_step_counts_all_its_parts_once(modules: None, tmp_path: Path) -> None:
    """Stopped, resumed and repeated: the first two parts count, the repetition does not; another
    command of that name counts anew."""
    costs = importlib.import_module("costs")
    step = costs.Step("stage 1, if100-0", ["train"])

    def run(seconds: float, error: type[BaseException] | None = None) -> None:
        with costs.Costs(tmp_path / "if100.json").counting(step):
            time.sleep(seconds)
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        run(0.6, KeyboardInterrupt)
    assert not costs.Costs(tmp_path / "if100.json").has_done(step)
    run(0.6)
    assert costs.Costs(tmp_path / "if100.json").has_done(step)
    once = (tmp_path / "if100.json").read_text()
    assert json.loads(once)[step.name]["seconds"] >= 1.2
    run(0.1)
    assert (tmp_path / "if100.json").read_text() == once
    step = costs.Step(step.name, ["train", "--epochs", "2"])
    assert not costs.Costs(tmp_path / "if100.json").has_done(step)
    run(0)
    assert json.loads((tmp_path / "if100.json").read_text())[step.name]["seconds"] < 1.2


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules beside the script, as it imports them."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
