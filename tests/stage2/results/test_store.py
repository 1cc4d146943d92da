"""``results.sqlite``: round trip, resume, and files that are something else."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, errors
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.results.store import SCHEMA, Store
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, run

RECIPES = [Recipe("crt", epochs=2, seed=seed) for seed in (0, 1)] + [Recipe("ncm")]


def stored(outcome: Any) -> dict[str, Any]:
    """An outcome as the store takes it."""
    values = {name: value for name, value in vars(outcome).items() if name != "parameters"}
    return {**values, "device": "cpu", "versions": {"featbank": "0"}}


def test_round_trip(small: Problem, bank: Bank, tmp_path: Path) -> None:
    """Reference: what was put in; the file is opened again in between."""
    outcomes = run(RECIPES, small)
    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, map(stored, outcomes.values()))
    with Store(tmp_path / "results.sqlite") as store:
        runs = {(r.id, r.seed): r for r in store.runs(bank.fingerprint)}
        about = store.banks()[bank.fingerprint]
        assert store.finished(bank.fingerprint) == {r.hash for r in RECIPES}
        assert store.finished("another bank") == set()
        for recipe, outcome in outcomes.items():
            got = runs[recipe.id, recipe.seed]
            assert (got.name, got.status) == (recipe.name, "done")
            assert got.parameters == recipe.parameters, f"got {got.parameters}"
            assert set(got.metrics) == set(outcome.evaluations)
            for (split, epoch), evaluation in outcome.evaluations.items():
                assert got.metrics[split, epoch] == evaluation.metrics
                correct = store.correct(bank.fingerprint, recipe.hash, split, epoch)
                assert np.array_equal(correct, evaluation.correct), f"{recipe} {split} {epoch}"
    assert about["train_counts"] == small.counts.tolist()
    assert about["rows"] == {"train": 150, "val": 42, "test": 60}


def test_the_file_is_plain_sqlite_with_json(bank: Bank, tmp_path: Path) -> None:
    """Reference: Python's sqlite3 and json; per-class accuracy is float64, in percent."""
    path = tmp_path / "results.sqlite"
    (outcome,) = sweep(bank, [Recipe("crt", epochs=2)], results=path).outcomes
    with sqlite3.connect(path) as db:
        (curves, versions, parameters) = db.execute(
            "SELECT curves, versions, parameters FROM run"
        ).fetchone()
        rows = db.execute("SELECT split, epoch, metrics, per_class FROM evaluation").fetchall()
        journal = db.execute("PRAGMA journal_mode").fetchone()[0]
    assert journal == "wal", f"got {journal}"
    assert len(json.loads(curves)["loss"]) == 2
    assert json.loads(parameters)["lr"] == 0.2
    assert "torch" in json.loads(versions)
    assert len(rows) == 4
    for split, epoch, metrics, per_class in rows:
        evaluation = outcome.evaluations[split, epoch]
        assert_close(np.frombuffer(per_class, "<f8"), evaluation.per_class, 0.0, "per class")
        assert set(json.loads(metrics)) == set(METRICS)


def test_a_run_that_fails_halfway_stores_nothing(
    small: Problem, bank: Bank, tmp_path: Path
) -> None:
    """Reference: all or none of a group."""
    outcomes = [stored(o) for o in run(RECIPES, small).values()]
    outcomes[-1]["versions"] = object()  # not JSON
    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        with pytest.raises(TypeError):
            store.add_runs(bank.fingerprint, outcomes)
        assert store.finished(bank.fingerprint) == set()


def test_a_run_again_replaces_the_old_one(small: Problem, bank: Bank, tmp_path: Path) -> None:
    """Reference: one row per (bank, recipe), the last one's metrics."""
    (outcome,) = run([Recipe("crt", epochs=2)], small).values()
    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, [stored(outcome)])
        worse = Evaluation({name: 0.0 for name in METRICS}, np.zeros(6), np.zeros(60, dtype=bool))
        changed = {**stored(outcome), "evaluations": {("test", "last"): worse}}
        store.add_runs(bank.fingerprint, [changed])
        (got,) = store.runs(bank.fingerprint)
        assert set(got.metrics) == {("test", "last")}, f"got {set(got.metrics)}"
        assert got.metrics["test", "last"]["top1"] == 0.0


def _text(path: Path) -> None:
    path.write_text("recipe,top1\ncrt,45\n" * 50)


def _other_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE holidays (day TEXT)")


def _newer(path: Path) -> None:
    Store(path, create=True).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_text, "is not a results file"),
        (_other_database, "is a database of something else"),
        (_newer, f"schema {SCHEMA + 1}, this version reads {SCHEMA}"),
        (_folder, "is not a results file"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_other_files_are_refused_and_left_alone(
    make: Any, message: str, create: bool, tmp_path: Path
) -> None:
    """Reference: one ConfigError with path and remedy; the file keeps its bytes."""
    path = tmp_path / "results.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(errors.ConfigError, match=message) as caught:
        Store(path, create=create)
    assert str(path) in str(caught.value), f"got {caught.value}"
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """Reference: a reader makes no file; a writer makes no folder."""
    with pytest.raises(errors.ConfigError, match="no such file"):
        Store(tmp_path / "none.sqlite")
    with pytest.raises(errors.ConfigError, match="is not a folder"):
        Store(tmp_path / "none" / "results.sqlite", create=True)
    assert not list(tmp_path.iterdir())
