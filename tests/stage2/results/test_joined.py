"""Leaderboards of several banks in one table, and recipes by bank."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from featbank import errors
from stage2.results import filters
from stage2.results.banks import banks_of
from stage2.results.joined import (
    Joined,
    by_bank,
    by_bank_table,
    joined_table,
    render_by_bank,
    render_joined,
)
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.tables import render, table_of


@pytest.fixture
def banks(several: Path) -> Iterator[list[Results]]:
    """Three of the four banks: ``r32``, ``ResNet-50`` with the same rows, and ``steep``."""
    with Store(several) as store:
        yield banks_of(store, "r32,ResNet-50,steep")


def test_each_bank_as_if_alone(banks: list[Results]) -> None:
    """Reference: the leaderboards of single banks: the same rows in the same order, one bank after
    the other, under its name."""
    joined = Joined.of(banks)
    expected = [{"bank": bank.name, **row} for bank in banks for row in bank.board.rows]
    assert joined.rows == expected == json.loads(render_joined(joined, "json"))
    table = joined_table(joined)
    singles = [table_of(bank.board) for bank in banks]
    assert [list(line) for line in table.lines] == [
        [bank.name, *line] for bank, single in zip(banks, singles, strict=True)
        for line in single.lines
    ]  # fmt: skip
    assert table.header == ["bank", *singles[0].header]
    rows = list(csv.reader(io.StringIO(render_joined(joined, "csv"))))
    first = list(csv.reader(io.StringIO(render(banks[0].board, "csv"))))
    assert [row[1:] for row in rows[: len(first)]] == first
    assert rows[1][0] == "r32"
    markdown = render_joined(joined, "md", top=1)
    assert [line.split(" | ")[0] for line in markdown.splitlines()[2:5]] == [
        "| r32", "| ResNet-50", "| steep",
    ]  # fmt: skip


def test_columns_of_other_selections(banks: list[Results], several: Path) -> None:
    """Reference: by hand: one bank selects on val, another on test as if it had no val; each has a
    column for the figure that ranks it, empty for the other."""
    with Store(several) as store:
        on_test = Results(store, bank="ResNet-50", select_on="test", select_by="macro")
    table = joined_table(Joined.of([banks[0], on_test]))
    val, test = (table.header.index(f"{split} macro") for split in ("val", "test"))
    for line in table.lines:
        assert (line[val] == "–") == (line[0] == "ResNet-50")
        assert (line[test] == "–") == (line[0] == "r32")
    assert "[ResNet-50] bank" in table.title
    assert "selected on test (macro accuracy)" in table.title.split("[ResNet-50]")[1]


def test_the_grid(banks: list[Results]) -> None:
    """Reference: each bank's own best of each recipe, its figures looked up on its own board."""
    grid = by_bank(Joined.of(banks), "few")
    best = {
        bank.name: {
            rows[0]["name"]: bank.board.ranked(rows) for rows in bank.board.best().configurations()
        }
        for bank in banks
    }
    assert [*grid.cells] == [*best["r32"]], "lines are in the order of the first bank"
    for line, cells in grid.cells.items():
        for name, rows in best.items():
            assert cells.get(name) == rows.get(line)
    assert "steep" not in grid.cells["ncm"]
    table = by_bank_table(grid)
    assert table.header == ["recipe", "r32", "ResNet-50", "Δ", "×", "steep", "Δ", "×"]
    crt = next(line for line in table.lines if line[0] == "crt")
    row = best["steep"]["crt"]
    star = r"\*?"
    assert re.fullmatch(f"{row['few']:.1f} ± {row['few_std']:.1f}{star}", crt[5]), crt
    assert next(line for line in table.lines if line[0] == "ncm")[5] == "–"
    data = json.loads(render_by_bank(grid, "json"))
    assert data[0]["recipe"] == next(iter(grid.cells))
    by_name = {each["recipe"]: each["banks"] for each in data}
    assert by_name["ncm"]["steep"] is None
    assert by_name["crt"]["steep"]["recipe"] == row["recipe"]
    assert by_name["crt"]["steep"]["value"] == row["few"]
    rows = list(csv.DictReader(io.StringIO(render_by_bank(grid, "csv"))))
    written = next(each for each in rows if each["recipe"] == "crt")
    assert float(written["steep"]) == row["few"]
    assert float(written["steep std"]) == row["few_std"]
    assert written["steep recipe"] == row["recipe"]
    assert len(by_bank_table(grid.first(1)).lines) == 1
    assert render_by_bank(grid, "latex").count(r"\\") == 1 + len(grid.cells)


def test_against_the_first_bank(banks: list[Results]) -> None:
    """Reference: the cells subtracted and divided; nothing for the first bank and a missing cell,
    no ratio to 0."""
    grid = by_bank(Joined.of(banks), "ece")
    data = {each["recipe"]: each["banks"] for each in json.loads(render_by_bank(grid, "json"))}
    written = {
        each["recipe"]: each for each in csv.DictReader(render_by_bank(grid, "csv").split("\n"))
    }
    lines = {line[0]: line for line in by_bank_table(grid).lines}
    for recipe, cells in data.items():
        first, other = cells["r32"], cells["ResNet-50"]
        assert (first["difference"], first["ratio"]) == (None, None)
        difference, ratio = other["value"] - first["value"], other["value"] / first["value"]
        assert (other["difference"], other["ratio"]) == pytest.approx((difference, ratio))
        assert float(written[recipe]["ResNet-50 difference"]) == pytest.approx(difference)
        assert float(written[recipe]["ResNet-50 ratio"]) == pytest.approx(ratio)
        shown = f"{difference:+.1f}".replace("-", "−"), f"×{ratio:.2f}"
        assert (*lines[recipe][3:5],) == shown
    assert lines["ncm"][5:] == ["–", "–", "–"]
    assert by_bank_table(grid).spare == ("Δ", "×", "±", "steep", "ResNet-50")
    title = by_bank_table(grid).title
    assert title.startswith("ECE on test · Δ: minus r32 · ×: divided by r32 · ")
    grid.cells["crt"]["r32"] = {**grid.cells["crt"]["r32"], "ece": 0.0}
    assert grid.ratio("crt", "ResNet-50") is None
    assert grid.difference("crt", "ResNet-50") == data["crt"]["ResNet-50"]["value"]


def test_the_grid_of_a_setting(banks: list[Results]) -> None:
    """Reference: `filters.best_per` on each board alone."""
    grid = by_bank(Joined.of(banks), per="lr")
    for bank in banks:
        board = filters.best_per(bank.board, "lr")
        ids = {cells[bank.name]["recipe"] for cells in grid.cells.values() if bank.name in cells}
        assert ids == {row["recipe"] for row in board.rows}
    assert by_bank_table(grid).header[0] == "lr"
    assert {*grid.cells} == {"0.05", "0.2", "–"}


def test_conditions(banks: list[Results]) -> None:
    """Reference: the condition on each board alone; a bank where nothing meets it is left out."""
    joined = Joined.of(banks)
    kept = joined.where("lr>0.1")
    assert kept.rows == [
        {"bank": bank.name, **row}
        for bank in banks
        for row in filters.where(bank.board, "lr>0.1").rows
    ]
    with pytest.warns(UserWarning, match="steep is left out: None of 3 configurations meets"):
        kept = joined.where("name=ncm")
    assert [*kept.boards] == ["r32", "ResNet-50"]
    assert kept.protocol.endswith("[between the banks] the same test rows" + kept._stars)
    assert joined.protocol.count("not the same test rows") == 1
    with pytest.raises(errors.ConfigError, match="None of 4 configurations meets 'lr>9'"):
        joined.where("lr>9")
    with pytest.raises(errors.ConfigError, match="The condition 'lr.9' ends where"):
        joined.where("lr?9")


def test_wrong_grids(banks: list[Results]) -> None:
    """Reference: the messages."""
    with pytest.raises(
        errors.ConfigError, match="--by bank puts banks side by side, got r32 alone"
    ):
        by_bank(Joined.of(banks[:1]))
    with pytest.raises(errors.ConfigError, match="No metric is called 'fev'. Did you mean 'few'"):
        by_bank(Joined.of(banks), "fev")


def test_a_recipe_without_a_choice(several: Path, banks: list[Results]) -> None:
    """Reference: by hand: where nothing selects, neither of two configurations of cRT that are not
    as published stands for it, and ncm, the only one, does."""
    with Store(several) as store:
        undecided = Results(store, bank="ResNet-50")
    undecided.select_on = None
    undecided.ranking = undecided._ranking(None)
    undecided._rank("test")
    grid = by_bank(Joined.of([banks[0], undecided]))
    assert "ResNet-50" not in grid.cells["crt"]
    assert "ResNet-50" in grid.cells["ncm"]


def test_names_of_banks_are_no_formulas(banks: list[Results]) -> None:
    """Reference: `in_csv`, `in_markdown`, in the heads of columns as in cells."""
    banks[0].name, banks[1].name = "=1+1", "a|b"
    grid = by_bank(Joined.of(banks[:2]))
    assert render_by_bank(grid, "csv").splitlines()[0].startswith("recipe,'=1+1,'=1+1 std,")
    assert "| a\\|b |" in render_by_bank(grid, "md").splitlines()[0]
