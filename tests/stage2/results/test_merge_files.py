"""Results files joined into one: every row once, contradictions refused, folds beside all rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from featbank import errors
from stage2.methods.recipe import expand
from stage2.results.merge_files import merge_files
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.conftest import Run
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import problem
from tests.stage2.test_folds_parity import written

RECIPES = expand({"crt": {"lr": [0.05, 0.2], "epochs": [2]}, "ncm": {}}, seeds=(0, 1))


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of a file by table, without the times at which they were stored."""
    with closing(sqlite3.connect(path)) as database:
        found = {}
        for table in ("bank", "run", "evaluation", "probe"):
            cursor = database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4")
            found[table] = cursor.fetchall()
    return found


@pytest.fixture(scope="module")
def parts(several: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The runs of four banks dealt to three files, some to two of them."""
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{number}.sqlite" for number in range(3)]
    for number, path in enumerate(paths):
        with closing(sqlite3.connect(several)) as source, closing(sqlite3.connect(path)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA foreign_keys = ON")
            copy.execute("DELETE FROM run WHERE rowid % 3 <> ? AND rowid % 5 <> 0", (number,))
            copy.commit()
    return paths


def test_every_row_comes_once(several: Path, parts: Sequence[Path], tmp_path: Path) -> None:
    """Reference: the file that was cut into three, with overlaps, byte for byte in every column;
    merged at once and one after another."""
    merged = merge_files(parts, tmp_path / "all.sqlite")
    whole = rows(several)
    assert rows(tmp_path / "all.sqlite") == whole
    assert merged.runs - merged.repeated == len(whole["run"])
    assert merged.repeated > 0
    for part in reversed(parts):
        merge_files([part], tmp_path / "again.sqlite")
    assert rows(tmp_path / "again.sqlite") == whole


def test_inputs_are_left_alone(parts: Sequence[Path], tmp_path: Path) -> None:
    """Reference: their bytes before, in a folder without anything beside them afterwards."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    copies = [Path(shutil.copy(part, folder)) for part in parts]
    before = [path.read_bytes() for path in copies]
    merge_files(copies, tmp_path / "all.sqlite")
    assert [path.read_bytes() for path in copies] == before
    assert sorted(folder.iterdir()) == sorted(copies)


def test_a_merge_that_is_interrupted_changes_nothing(
    several: Path, parts: Sequence[Path], tmp_path: Path
) -> None:
    """Reference: the output before; one that was not there is not there."""
    kept = Path(shutil.copy(parts[0], tmp_path / "kept.sqlite"))
    before = rows(kept)

    def interrupt(done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    for output in (kept, tmp_path / "new.sqlite"):
        with pytest.raises(KeyboardInterrupt):
            merge_files(parts[1:], output, progress=interrupt)
    assert rows(kept) == before
    assert not list(tmp_path.glob("new.sqlite*"))
    merge_files(parts[1:], kept)
    assert rows(kept) == rows(several)


def test_folds_and_all_rows_of_a_recipe_stay_together(tmp_path: Path) -> None:
    """Reference: sweeps on 2 folds, on 3 folds and on all rows into one file; in any order."""
    bank = written(problem(val=0), tmp_path / "bank.h5")
    ways: dict[str, dict[str, int]] = {"2": {"folds": 2}, "3": {"folds": 3}, "all": {}}
    for name, how in ways.items():
        for path in (tmp_path / f"{name}.sqlite", tmp_path / "one.sqlite"):
            sweep(bank, RECIPES, results=path, **how)
    with Store(tmp_path / "one.sqlite") as store:
        fingerprint, about = store.one_bank()
        expected = {run.recipe: (run.status, run.metrics) for run in store.runs(fingerprint)}
    for order in (["2", "3", "all"], ["all", "3", "2"]):
        output = tmp_path / f"{'-'.join(order)}.sqlite"
        merge_files([tmp_path / f"{name}.sqlite" for name in order], output)
        with Store(output) as store:
            assert store.banks()[fingerprint] == about
            runs = {run.recipe: (run.status, run.metrics) for run in store.runs(fingerprint)}
            assert runs.keys() == expected.keys()
            for recipe, (status, metrics) in expected.items():
                assert (runs[recipe][0], runs[recipe][1].keys()) == (status, metrics.keys())
                for place, values in metrics.items():  # trained in other groups
                    assert values["nll"] == pytest.approx(runs[recipe][1][place]["nll"], rel=1e-4)
            assert store.labels(fingerprint, "3-fold") is not None


def test_a_contradiction_is_told(several: Path, tmp_path: Path, featbank: Run) -> None:
    """Reference: one evaluation whose NLL and rows were changed, its digests brought up to date:
    refused with run, files and figures and nothing written, or kept as preferred."""
    for name in ("a", "b"):
        shutil.copy(several, tmp_path / f"{name}.sqlite")
    with Store(several) as store:
        fingerprint, _ = store.one_bank("r32")
        run = next(run for run in store.runs(fingerprint) if run.name == "crt")
        correct = store.correct(fingerprint, run.recipe, "test", "last")
    metrics = {**run.metrics["test", "last"], "nll": 1.5}
    change(
        tmp_path / "b.sqlite",
        "UPDATE evaluation SET metrics = ?, correct = ? WHERE bank = ? AND recipe = ? "
        "AND split = 'test' AND epoch = 'last'",
        (json.dumps(metrics), np.packbits(~correct).tobytes(), fingerprint, run.recipe),
    )
    files = ("a.sqlite", "b.sqlite", "-o", "all.sqlite")
    refused = featbank("merge-results", *files, code=2).stderr
    assert len(refused.splitlines()) == 1
    for word in (run.id, f"seed {run.seed}", "r32", "a.sqlite", "b.sqlite", "60 of 60 rows", "1.5"):
        assert word in refused, word
    assert not (tmp_path / "all.sqlite").exists()
    for prefer, kept in (("first", run.metrics["test", "last"]), ("last", metrics)):
        told = featbank("merge-results", *files[:3], f"{prefer}.sqlite", "--prefer", prefer).stdout
        assert f"Kept those of the {prefer}" in told
        with Store(tmp_path / f"{prefer}.sqlite") as store:
            (found,) = [r for r in store.runs(fingerprint) if r.recipe == run.recipe]
            assert found.metrics["test", "last"] == kept


def test_rounding_is_no_contradiction(several: Path, tmp_path: Path) -> None:
    """Reference: an NLL that differs by less than 0.001: the first file's stays."""
    shutil.copy(several, tmp_path / "b.sqlite")
    with Store(several) as store:
        fingerprint, _ = store.one_bank("r32")
        run = store.runs(fingerprint)[0]
    place = run.metrics["test", "last"]
    assert place["nll"]
    metrics = json.dumps({**place, "nll": place["nll"] + 5e-4})
    change(
        tmp_path / "b.sqlite",
        "UPDATE evaluation SET metrics = ? WHERE recipe = ? AND bank = ? AND split = 'test' "
        "AND epoch = 'last'",
        (metrics, run.recipe, fingerprint),
    )
    assert not merge_files([several, tmp_path / "b.sqlite"], tmp_path / "all.sqlite").contradictions
    assert rows(tmp_path / "all.sqlite") == rows(several)


def test_a_run_that_halving_stopped_gives_way(several: Path, tmp_path: Path) -> None:
    """Reference: the run that was trained to its end, whichever file comes first."""
    shutil.copy(several, tmp_path / "b.sqlite")
    change(tmp_path / "b.sqlite", "UPDATE run SET status = 'stopped' WHERE name = 'crt'")
    for order in ([several, tmp_path / "b.sqlite"], [tmp_path / "b.sqlite", several]):
        output = tmp_path / f"{order[0].stem}-first.sqlite"
        merge_files(order, output)
        assert rows(output)["run"] == rows(several)["run"]


@pytest.mark.parametrize(
    ("column", "table"), [("correct", "evaluation"), ("metrics", "evaluation"), ("curves", "run")]
)
def test_a_damaged_row_is_refused(several: Path, tmp_path: Path, column: str, table: str) -> None:
    """Reference: one byte of a column changed: named in one line, and nothing is written."""
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as copy, copy:
        with closing(sqlite3.connect(several)) as source:
            source.backup(copy)
        number, value = copy.execute(f"SELECT rowid, {column} FROM {table} LIMIT 1").fetchone()
        changed = bytes([value[0] ^ 1]) + value[1:] if column == "correct" else value + " "
        copy.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, number))
    with pytest.raises(errors.ConfigError, match=r"b\.sqlite: run .* is damaged: column|its row"):
        merge_files([several, tmp_path / "b.sqlite"], tmp_path / "all.sqlite")
    assert not (tmp_path / "all.sqlite").exists()


def test_an_output_that_is_an_input_is_refused(
    several: Path, tmp_path: Path, featbank: Run
) -> None:
    """Reference: one line and exit code 2, by another name of the file as well."""
    shutil.copy(several, tmp_path / "all.sqlite")
    (tmp_path / "link.sqlite").symlink_to("all.sqlite")
    for name in ("all.sqlite", "link.sqlite"):
        told = featbank("merge-results", several, name, "-o", "all.sqlite", code=2).stderr
        assert "is an input and the output" in told
    assert len(rows(tmp_path / "all.sqlite")["run"]) == len(rows(several)["run"])


def test_files_that_are_something_else(several: Path, featbank: Run, tmp_path: Path) -> None:
    """Reference: one line each that names the file; no output."""
    (tmp_path / "text.sqlite").write_text("no database")
    for name in ("absent.sqlite", "text.sqlite"):
        told = featbank("merge-results", several, name, "-o", "all.sqlite", code=2).stderr
        assert name in told
        assert len(told.splitlines()) == 1
    assert not (tmp_path / "all.sqlite").exists()
