"""A metric and an array are one row each: all that stores and shows them follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from featbank import Bank, errors
from featbank.cli import main
from stage2.engine.details import DETAILS, Detail, total
from stage2.engine.metrics import METRICS, Metric
from stage2.loggers import Record
from stage2.methods.recipe import Recipe, expand
from stage2.plots import plot
from stage2.report.gathering import gather
from stage2.results import filters
from stage2.results.measured import measured
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.tables import render, table_of
from stage2.sweep import sweep

GAP = Metric(
    "gap",
    "difference between the best and the worst class",
    lambda totals: np.ptp(totals.per_class, axis=1),
    lower_is_better=True,
    columns=("leaderboard", "report"),
)


def test_one_row_adds_a_metric_everywhere(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the classes' accuracies, NumPy. Runs stored before have no value of it."""
    path, before = tmp_path / "r.sqlite", Recipe("ncm")
    sweep(bank, [before], results=path)
    monkeypatch.setitem(METRICS, "gap", GAP)
    records: list[Record] = []
    logger = type("Kept", (), {"log": lambda _, new: records.extend(new), "end": lambda *_: None})()
    grid = expand({"tau_norm": {"tau": [0.0, 1.0, 2.0]}})
    sweep(bank, grid, results=path, loggers=[logger])

    with Store(path) as store:
        results = Results(store)
        expected = {
            recipe.id: np.ptp(store.per_class(results.fingerprint, recipe.hash, "test", "last"))
            for recipe in grid
        }
        assert {r.group: r.metrics["test/last/gap"] for r in records} == expected
        by_gap = filters.sort(results.board, "gap")
        assert [row["gap"] for row in by_gap.rows] == [*sorted(expected.values()), None]
        stored = {row["recipe"]: row["gap"] for row in json.loads(render(by_gap, "json"))}
        assert stored == {**expected, before.id: None}
        _, header, lines, *_ = table_of(by_gap)
        place = header.index("gap")
        assert [line[place] for line in lines] == [
            *(f"{value:.1f}" for value in sorted(expected.values())),
            "–",
        ]
        kept = filters.where(results.board, f"gap<{min(expected.values()) + 1e-6}")
        assert min(expected, key=expected.__getitem__) in {row["recipe"] for row in kept.rows}
        page = gather(results)
        (column,) = [each for each in page["columns"] if each["key"] == "gap"]
        assert column == {
            "key": "gap",
            "label": "gap",
            "tooltip": "difference between the best and the worst class, %",
            "less": True,
            "decimals": 1,
        }
        drawn = tmp_path / "gap.svg"
        plot("setting", store, drawn, metric="gap")
        assert "gap on test" in drawn.read_text()
    table = CliRunner().invoke(main, ["leaderboard", str(path), "--sort", "gap", "--top", "1"])
    assert f"{min(expected.values()):.1f}" in table.output


def test_one_row_adds_an_array(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the rows that each seed has right; another shape is refused on reading."""
    hits = Detail("hits", "right rows", lambda t: t.per_class * t.rows / 100, over_seeds=total)
    monkeypatch.setitem(DETAILS, "hits", hits)
    path = tmp_path / "r.sqlite"
    sweep(bank, expand({"crt": {"epochs": [1]}}, seeds=(0, 1)), results=path)
    with Store(path) as store:
        results = Results(store)
        crt = results.find("crt")
        right = [
            store.correct(results.fingerprint, run.recipe, "test", "selected").sum()
            for run in crt.runs
        ]
        got = measured(results, crt).details["hits"]
        assert (got.shape, got.sum()) == ((bank.num_classes,), pytest.approx(sum(right)))
        monkeypatch.setitem(DETAILS, "hits", replace(hits, shape=((7,),)))
        with pytest.raises(
            errors.ConfigError, match=r"has hits of the shape \(6,\) instead of \(7,"
        ):
            measured(results, crt)
