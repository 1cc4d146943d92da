"""Results in a Python session: as text, as HTML of a notebook, and as data frames."""

from __future__ import annotations

import csv
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import stage2
from featbank import Bank, errors
from stage2.methods.recipe import Recipe, expand
from stage2.results.notebook import html
from stage2.results.results import Results
from stage2.results.tables import Table, render, table_of
from stage2.sweep import SweepResults, sweep
from tests.stage2.synthetic import Problem


@pytest.fixture(scope="module")
def swept(small: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResults]:
    """A results file of a small sweep, and what the sweep returned."""
    folder = tmp_path_factory.mktemp("notebook")
    grid = {"tau_norm": {"tau": [0.0, 0.5, 1.0, 2.0, 3.0]}, "ncm": {}, "crt": {"epochs": [1]}}
    with small.bank(folder / "bank.h5") as bank:
        return folder / "r.sqlite", sweep(bank, expand(grid), results=folder / "r.sqlite")


class _Cells(HTMLParser):
    """Texts of the cells of a table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_few_lines_of_text(swept: tuple[Path, SweepResults]) -> None:
    """Reference: the table that the command prints: its header, and its first five lines."""
    path, made = swept
    results = Results(path)
    table = table_of(results.board)
    title, header, *lines = repr(results.board).splitlines()
    assert title == "7 configurations on test, best on val first"
    assert header.split() == " ".join(table.header).split()
    assert [line.split() for line in lines[:5]] == [
        " ".join(line).split() for line in table.lines[:5]
    ]
    assert lines[5:] == ["… and 2 more"]
    assert repr(results) == f"{path}, bank {results.name}: {results.board!r}"
    assert repr(made) == f"runs: 7 trained\n{results.board!r}"


def test_a_table_of_a_notebook(swept: tuple[Path, SweepResults]) -> None:
    """Reference: the cells of the printed table, read by Python's parser of HTML."""
    path, made = swept
    board = Results(path).board
    table = table_of(board)
    text = board._repr_html_()
    assert _Cells(text).rows == [list(table.header), *map(list, table.lines)] or (
        _Cells(text).rows[:-1] == [list(table.header), *map(list, table.lines[:-1])]
    )
    assert board.terms.thresholds.replace("<", "&lt;").replace(">", "&gt;") in text
    assert made._repr_html_() == Results(path)._repr_html_() == text


def test_names_cannot_bring_tags() -> None:
    """Names of recipes, classes and banks come from files."""
    text = html(Table("<b>", ["a"], [["<script>\x1b"]]), "<i>")
    assert "<b>" not in text
    assert "<script" not in text
    assert "<i>" not in text
    assert "\x1b" not in text


def test_data_frames(swept: tuple[Path, SweepResults]) -> None:
    """Reference: the rows that the command writes as CSV."""
    board = Results(swept[0]).board
    frame = board.to_pandas()
    expected = list(csv.DictReader(render(board, "csv").splitlines()))
    assert list(frame.columns) == list(expected[0])
    assert frame["recipe"].tolist() == [row["recipe"] for row in expected]
    assert frame["macro"].tolist() == [float(row["macro"]) for row in expected]


def test_pandas_is_imported_only_when_it_is_needed(
    swept: tuple[Path, SweepResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else works without it, and its absence is told in a line."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    board = Results(swept[0]).board
    assert board._repr_html_()
    with pytest.raises(errors.ConfigError, match=r"pip install 'featbank\[pandas\]'"):
        board.to_pandas()
    monkeypatch.undo()
    assert isinstance(board.to_pandas(), pd.DataFrame)


def test_results_of_a_path_outlive_their_first_view(swept: tuple[Path, SweepResults]) -> None:
    """Another split of results that were opened by their path."""
    val = Results(swept[0]).on("val")
    curves = val.store.curves(val.fingerprint, val.find("crt").runs[0].recipe)
    assert len(curves["loss"]) == 1


def test_a_bank_in_three_lines(small: Problem, tmp_path: Path) -> None:
    """Reference: the problem that it is of; of a closed bank the path alone."""
    bank = small.bank(tmp_path / "bank.h5")
    first, rows, views = repr(bank).splitlines()
    assert first == (f"Bank {bank.path} ({bank.fingerprint[:12]}): 6 classes, 8 features, float32")
    assert rows.startswith(f"rows: train {len(small.y['train'])}, val ")
    assert rows.endswith("; 4 to 70 of a class in train")
    assert views == "views: instance, balanced"
    bank.close()
    assert repr(bank).endswith("), closed")


def test_names_are_swept_as_on_the_command_line(small: Problem, tmp_path: Path) -> None:
    """Reference: the specification that a command reads; recipes stay as they are made."""
    with small.bank(tmp_path / "bank.h5") as bank:
        made = Recipe("crt", epochs=1, seed=7)
        done = sweep(bank, ["ncm", "tau_norm", made])
        expected = stage2.read_specification(only=["ncm", "tau_norm"]).on(bank)
        assert {each.recipe for each in done.outcomes} == {*expected, made}
        done = sweep(bank, [made, Recipe("ncm")], seeds=(1, 2))
        seeded = {Recipe("crt", epochs=1, seed=seed) for seed in (1, 2)}
        assert {each.recipe for each in done.outcomes} == {*seeded, Recipe("ncm")}
        one = {each.recipe for each in sweep(bank, "ncm").outcomes}
        assert one == {*stage2.read_specification(only=["ncm"]).on(bank)}
        assert sweep(bank, [Recipe("ncm")]).skipped == []
        with pytest.raises(errors.ConfigError, match="Did you mean 'crt'"):
            sweep(bank, ["ctr"])


def test_without_recipes_all_that_the_bank_allows(
    small: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the specification that a command without arguments reads."""
    asked: list[Recipe] = []

    def noted(bank: Bank, recipes: list[Recipe]) -> list[Recipe]:
        asked.extend(recipes)
        return [Recipe("ncm")]

    with small.bank(tmp_path / "bank.h5") as bank:
        expected = stage2.read_specification(seeds=(3,)).on(bank)
        monkeypatch.setattr(sys.modules["stage2.sweep"], "resolved", noted)
        sweep(bank, seeds=(3,))
    assert asked == expected
    assert {recipe.seed for recipe in asked if recipe.stepped} == {3}
