"""Leaderboards: means over seeds, ranking under the stated protocol, every format."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, errors
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe, expand
from stage2.results import filters
from stage2.results.figures import over_seeds
from stage2.results.leaderboard import Leaderboard
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.tables import metric_columns, render, table_of
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import Problem

KEYS = {"recipe", "name", "parameters", "seeds", "split", "epoch"}
"""Keys every JSON row has, DESIGN, with the metrics."""


def made_up(macro: dict[tuple[str, str], float], **other: float | None) -> dict[Any, Evaluation]:
    """Evaluations with a macro accuracy of choice; all other metrics 1."""
    return {
        key: Evaluation(
            {**{name: 1.0 for name in METRICS}, "macro": value, "top1": value, **other},
            np.full(6, value),
            np.zeros({"val": 42, "test": 60}[key[0]], dtype=bool),
        )
        for key, value in macro.items()
    }


def stored(recipe: Recipe, evaluations: Any, status: str = "done") -> dict[str, Any]:
    """A run as the store takes it."""
    plain = {"selected_epoch": None, "curves": {}, "seconds": 1.0, "device": "cpu", "versions": {}}
    return {"recipe": recipe, "status": status, "evaluations": evaluations, **plain}


def board_of(bank: Bank, runs: Sequence[dict[str, Any]], **options: Any) -> Leaderboard:
    """The leaderboard of made-up runs."""
    with Store(None) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs)
        return Results(store, **options).board


def test_more_columns(bank: Bank) -> None:
    """Reference: the metric of each row, to the decimals of its column; the usual columns stay."""
    swept = sweep(bank, [Recipe("crt", epochs=2), Recipe("ncm")])
    usual = table_of(swept.board)
    table = table_of(swept.board.showing(["logit_magnitude", "logit_deviation"]))
    assert table.header == [*usual.header[:-1], "magnitude", "deviation", "id"]
    for line, rows in zip(table.lines, swept.board.configurations(), strict=True):
        row = swept.board.ranked(rows)
        expected = [f"{row[name]:.3f}" for name in ("logit_magnitude", "logit_deviation")]
        assert list(line[-3:]) == [*expected, row["id"].split("-")[-1]]
    ordered = filters.sort(swept.board, "logit_deviation")
    assert table_of(ordered).header[-2] == "deviation", "the column that orders is shown"
    values = [float(line[-2]) for line in table_of(ordered).lines]
    assert values == sorted(values)
    assert table_of(filters.sort(swept.board, "ece")).header == usual.header
    with pytest.raises(errors.ConfigError, match="No metric is called 'logit_deviatio'"):
        swept.board.showing(["logit_deviatio"])


def test_the_first_keep_the_columns_of_all(bank: Bank) -> None:
    """Reference: the table of all: ncm, which has no selected epoch, keeps the column of it."""
    board = sweep(bank, [Recipe("crt", epochs=2), Recipe("ncm")]).board
    whole = table_of(board)
    assert "top-1 selected" in whole.header
    for place, rows in enumerate(board.configurations()):
        alone = replace(board, rows=[*rows, *(r for r in board.rows if r not in rows)]).first(1)
        table = table_of(alone)
        assert table.header == whole.header
        assert table.lines == [whole.lines[place]]


def test_means_and_deviationsover_seeds(bank: Bank) -> None:
    """Reference: NumPy over the seeds' own outcomes, std with n − 1."""
    recipes = expand({"crt": {"lr": [0.05, 0.5], "epochs": [3]}, "ncm": {}}, seeds=(0, 1, 2))
    swept = sweep(bank, recipes)
    for row in swept.board.rows:
        seeds = [o for o in swept.outcomes if o.recipe.id == row["recipe"]]
        assert row["seeds"] == ([0, 1, 2] if row["name"] == "crt" else [0]), f"got {row['seeds']}"
        for metric in METRICS:
            values = [o.evaluations["test", row["epoch"]].metrics[metric] for o in seeds]
            if None in values:
                assert metric != "top1"
                assert row[metric] is None
                assert row[f"{metric}_std"] is None
                continue
            numbers = np.array(values, np.float64)
            assert_close(row[metric], numbers.mean(), 1e-9, f"{metric} of {row['recipe']}")
            if len(numbers) > 1:
                assert_close(row[f"{metric}_std"], numbers.std(ddof=1), 1e-9, f"std of {metric}")
            else:
                assert row[f"{metric}_std"] is None, "one value has no deviation"
        assert row["many"] is None, "no class has more than 100 rows"
        epoch = "selected" if row["name"] == "crt" else row["epoch"]
        ranked = [o.evaluations["val", epoch].metrics["macro"] for o in seeds]
        assert_close(row["selection"], np.mean(np.array(ranked, float)), 1e-9, "selection")
    assert {(r["name"], r["epoch"]) for r in swept.board.rows} >= {
        ("crt", "last"),
        ("crt", "selected"),
    }


def test_val_ranks_where_there_is_val_and_test_never_picks_an_epoch(bank: Bank) -> None:
    """Reference: by hand. What is best on test must not be first when val ranks."""
    places = [("val", "last"), ("val", "selected"), ("test", "last"), ("test", "selected")]
    runs = [
        stored(Recipe(name), made_up(dict(zip(places, values, strict=True))))
        for name, values in {
            "crt": (50.0, 70.0, 40.0, 41.0),  # best on val
            "lws": (60.0, 60.0, 30.0, 99.0),  # best on test if an epoch were picked on it
            "ce": (55.0, 55.0, 80.0, 10.0),  # best on test at its last epoch
        }.items()
    ]
    for options, order, line in (
        ({}, ["crt", "lws", "ce"], "selected on val"),
        ({"select_on": "val"}, ["crt", "lws", "ce"], "selected on val"),
        ({"select_on": "test"}, ["ce", "crt", "lws"], "selected on test"),
        ({"split": "val"}, ["crt", "lws", "ce"], "selected on val"),
    ):
        board = board_of(bank, runs, **options)
        got = list(dict.fromkeys(row["name"] for row in board.rows))
        assert got == order, f"{options}: got {got}, expected {order}"
        assert line in board.protocol, f"{options}: got {board.protocol}"
        assert all(row["split"] == options.get("split", "test") for row in board.rows)
    for part in ("3 configurations", "n > 100", "20 ≤ n ≤ 100", "n < 20", bank.fingerprint[:12]):
        assert part in board.protocol, f"got {board.protocol}, expected {part}"


ON_TEST = ({"select_on": "test"}, "selected on test (macro accuracy)")


def test_without_val_nothing_is_selected(without_val: Problem, tmp_path: Path) -> None:
    """Test selects only where it is asked for; the line always says which."""
    recipes = [Recipe("crt", epochs=1), Recipe("crt"), Recipe("ce", epochs=1)]
    with without_val.bank(tmp_path / "bank.h5") as bank:
        for options, line in (({}, "not selected: there is no val"), ON_TEST):
            board = sweep(bank, recipes, **options).board
            assert line in board.protocol, f"got {board.protocol}"
            for form in ("md", "latex"):
                assert line in render(board, form)
            assert ("selection" in [c.key for c in metric_columns(board, "report")]) == bool(
                options
            )
            assert [row["selection"] is None for row in board.rows] == [not options] * 3
        with pytest.raises(errors.ConfigError, match="val"):
            sweep(bank, [Recipe("crt", epochs=1)], select_on="val")


def test_diverged_configurations_are_marked_and_last(bank: Bank, tmp_path: Path) -> None:
    """Reference: the sweep without them; in every format, and after a resume."""
    good = [Recipe("crt", epochs=3, batch_size=16), Recipe("lws", epochs=3, batch_size=16)]
    wild = [
        Recipe(name, epochs=3, batch_size=16, lr=1e6, weight_decay=1.0) for name in ("crt", "lws")
    ]
    alone = sweep(bank, good).board.rows
    path = tmp_path / "results.sqlite"
    board = sweep(bank, [wild[0], *good, wild[1]], results=path).board
    assert [r["status"] for r in board.rows] == ["done"] * 4 + ["diverged"] * 2
    for got, expected in zip(board.rows[:4], alone, strict=True):
        assert (got["recipe"], got["epoch"]) == (expected["recipe"], expected["epoch"])
        for metric in METRICS:
            if expected[metric] is not None:
                assert_close(got[metric], expected[metric], 1e-2, f"{metric} beside diverged")
    for row in board.rows[4:]:
        assert all(row[metric] is None for metric in METRICS), f"got {row}"
    text = render(board, "json")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert not sweep(bank, [*good, *wild], results=path).outcomes, "it was trained again"


def test_a_sweep_in_which_all_diverge_has_a_table_that_says_so(bank: Bank) -> None:
    """Reference: METHODS, no silent loss: the run was made, its rows are marked."""
    recipe = Recipe("crt", epochs=3, batch_size=16, lr=1e6, weight_decay=1.0)
    board = sweep(bank, [recipe]).board
    assert [row["status"] for row in board.rows] == ["diverged"], f"got {board.rows}"


def test_a_seed_that_diverged_is_not_passed_over_in_silence(bank: Bank) -> None:
    """Reference: by hand. The mean of two seeds is not a result of three."""
    fine = made_up({("val", "last"): 90.0, ("test", "last"): 90.0})
    runs = [
        stored(Recipe("crt", seed=0), fine),
        stored(Recipe("crt", seed=1), {}, "diverged"),
        stored(Recipe("lws", seed=0), made_up({("val", "last"): 50.0, ("test", "last"): 50.0})),
    ]
    board = board_of(bank, runs)
    by_name = {row["name"]: row for row in board.rows}
    assert by_name["crt"]["status"] == "diverged", f"got {by_name['crt']['status']}"
    assert by_name["lws"]["status"] == "done"
    lines = table_of(board).lines
    (line,) = [line for line in lines if line[1] == "crt"]
    assert any("diverged" in cell for cell in line), f"got {line}: the table hides the divergence"


def test_runs_of_one_table_need_not_all_have_a_selected_epoch(bank: Bank) -> None:
    """Reference: by hand. The last epoch of a run without a selected one counts as that."""
    both = {("val", "last"): 10.0, ("val", "selected"): 50.0}
    both |= {("test", "last"): 20.0, ("test", "selected"): 60.0}
    last = {("val", "last"): 70.0, ("test", "last"): 80.0}
    runs = [
        stored(Recipe("crt", seed=0), made_up(both)),
        stored(Recipe("crt", seed=1), made_up(last)),
        stored(Recipe("lws"), made_up(last)),
        stored(Recipe("ce"), made_up(both)),
    ]
    board = board_of(bank, runs)
    got = {(row["name"], row["epoch"]): row for row in board.rows}
    expected = {
        ("crt", "last"): (50.0, 60.0),  # (20 + 80)/2, ranked by (50 + 70)/2
        ("crt", "selected"): (70.0, 60.0),
        ("lws", "last"): (80.0, 70.0),
        ("ce", "last"): (20.0, 50.0),
        ("ce", "selected"): (60.0, 50.0),
    }
    assert {k: (row["top1"], row["selection"]) for k, row in got.items()} == expected
    assert list(dict.fromkeys(row["name"] for row in board.rows)) == ["lws", "crt", "ce"]
    _, header, lines, *_ = table_of(board)
    cells = {line[1]: dict(zip(header, line, strict=True)) for line in lines}
    assert cells["lws"]["top-1 selected"] == "80.0"
    assert cells["crt"]["top-1 selected"] == "70.0 ± 14.1"


def test_json_rows_are_those_of_the_design(bank: Bank) -> None:
    """Reference: DESIGN's keys; null where there is nothing to average; json without NaN."""
    board = sweep(bank, [Recipe("crt", epochs=2), Recipe("tau_norm"), Recipe("ncm")]).board
    rows = json.loads(render(board, "json"), parse_constant=pytest.fail)
    for row in rows:
        assert KEYS | set(METRICS) <= set(row), f"missing {(KEYS | set(METRICS)) - set(row)}"
        assert isinstance(row["parameters"], dict)
        assert row["epoch"] in ("last", "selected")
        assert row["many"] is None, f"got {row['many']}, expected null"
        assert 0 <= row["top1"] <= 100
    assert {row["name"] for row in rows} == {"crt", "tau_norm", "ncm"}


def test_what_ties_with_the_best_is_marked(bank: Bank) -> None:
    """Two configurations that are right on the same half of val tie, one that is never right does
    not; vector scaling is not compared, nor a configuration that diverged with a seed."""
    half = np.arange(42) % 2 == 0
    settings = {
        "crt": (70.0, half, "done"),
        "lws": (70.0, half, "done"),
        "ncm": (10.0, ~half & False, "done"),
        "mislas": (75.0, ~half, "diverged"),
    }
    runs = []
    for name, (macro, correct, status) in settings.items():
        evaluations = made_up({("val", "last"): macro, ("test", "last"): macro})
        evaluations["val", "last"] = replace(evaluations["val", "last"], correct=correct)
        runs.append(stored(Recipe(name), evaluations, status))
    vector = made_up({("val", "last"): 90.0, ("test", "last"): 60.0}, macro_uncalibrated=60.0)
    runs.append(stored(Recipe("tau_norm", calibration="vector"), vector))
    board = board_of(bank, runs)
    tied = {row["name"]: row["tied"] for row in board.rows}
    assert tied == {"crt": True, "lws": True, "ncm": False, "mislas": None, "tau_norm": None}
    table = table_of(board)
    place = table.header.index("val macro")
    stars = {line[1]: line[place] for line in table.lines}
    assert stars == {
        "crt": "70.0*",
        "lws": "70.0*",
        "ncm": "10.0",
        "tau_norm": "60.0",
        "mislas": "–",
    }
    assert "1 of 2 others ties with it" in table.title
    assert table.title.endswith("*: ties with the best")
    alone = board_of(bank, [runs[0], runs[2]])
    assert "corrected for choosing · mean" in alone.protocol
    assert "*" not in table_of(alone).title
    assert "corrected" not in board_of(bank, runs[:1]).protocol


def test_csv_md_and_latex_parse(bank: Bank) -> None:
    """Reference: Python's csv; the number of cells in every line."""
    board = sweep(bank, expand({"balanced_softmax": {"epochs": [2], "lr": [0.1, 0.2]}})).board
    rows = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    assert len(rows) == len(board.rows)
    for got, expected in zip(rows, board.rows, strict=True):
        assert float(got["top1"]) == expected["top1"]
        assert json.loads(got["parameters"]) == expected["parameters"]
        assert got["many"] == ""
    _, header, lines, *_ = table_of(board)
    table = [line for line in render(board, "md").splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(lines)
    assert {line.count("|") for line in table} == {len(header) + 1}
    assert board.protocol in render(board, "md")
    latex = render(board, "latex")
    body = [line for line in latex.splitlines() if " & " in line]
    assert {line.count("&") for line in body} == {len(header) - 1}
    assert all(line.rstrip().endswith(r"\\") for line in body)
    assert r"balanced\_softmax" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


def test_the_human_table_tells_last_beside_selected_and_a_dash_for_nothing(bank: Bank) -> None:
    """Reference: METHODS §8 and DESIGN: an empty group prints "–", never 0 or NaN."""
    board = sweep(bank, expand({"crt": {"lr": [0.3], "epochs": [2]}}, seeds=(0, 1))).board
    _, header, (line,), *_ = table_of(board)
    cells = dict(zip(header, line, strict=True))
    assert cells["many"] == "–", f"got {cells['many']}"
    rows = {row["epoch"]: row for row in board.rows}
    for epoch, title in (("last", "top-1 last"), ("selected", "top-1 selected")):
        row = rows[epoch]
        expected = f"{row['top1']:.1f} ± {row['top1_std']:.1f}"
        assert cells[title] == expected, f"{title}: got {cells[title]}, expected {expected}"
    assert "lr=0.3" in cells["settings"]
    assert "weight_decay" not in cells["settings"]


def test_one_bank_is_chosen_by_its_fingerprint(
    small: Problem, without_val: Problem, tmp_path: Path
) -> None:
    """Reference: the fingerprints; a file with two banks asks which."""
    path = tmp_path / "results.sqlite"
    with small.bank(tmp_path / "a.h5") as first, without_val.bank(tmp_path / "b.h5") as second:
        sweep(first, [Recipe("ncm")], results=path)
        board = sweep(second, [Recipe("ncm"), Recipe("tau_norm")], results=path).board
        assert len({row["recipe"] for row in board.rows}) == 2
        with Store(path) as store:
            with pytest.raises(errors.ConfigError, match="holds results of 2 banks"):
                Results(store)
            only = Results(store, bank=first.fingerprint[:10]).board
            assert {row["name"] for row in only.rows} == {"ncm"}
            with pytest.raises(errors.ConfigError, match="matches 0 banks"):
                Results(store, bank="nothing")
            with pytest.raises(errors.ConfigError, match="no results on 'train'"):
                Results(store, bank=first.fingerprint, split="train")


def test_results_of_a_recipe_this_version_does_not_know(bank: Bank, tmp_path: Path) -> None:
    """Reference: a file of another version is still a table, as `_differences` intends."""
    known = stored(Recipe("crt"), made_up({("test", "last"): 40.0}))
    path = tmp_path / "results.sqlite"
    with Store(path, create=True) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, [known])
    change(path, "UPDATE run SET name = 'crt-of-the-future'")
    with Store(path) as store:
        board = Results(store).board
    assert [row["name"] for row in board.rows] == ["crt-of-the-future"]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_spreadover_seeds(count: int) -> None:
    """Reference: statistics.stdev in exact fractions; equal values spread by exactly nothing."""
    rng = np.random.default_rng(count)
    for scale in (1e-6, 1.0, 40.0):
        values = (43.7 + scale * rng.standard_normal(count)).tolist()
        mean, std = over_seeds([None, *values])
        assert mean == statistics.fmean(values)
        assert std == pytest.approx(statistics.stdev(values), rel=1e-9)
    assert over_seeds([43.7] * count)[1] == 0.0
    assert over_seeds([43.7]) == (43.7, None)
    assert over_seeds([None]) == (None, None)
