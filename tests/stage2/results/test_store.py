"""``results.sqlite``: round trip, resume, and files that are something else."""

from __future__ import annotations

import json
import sqlite3
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from featbank import Bank, errors
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.results.merge_files import merge_files
from stage2.results.results import Results
from stage2.results.schema import APPLICATION, SCHEMA, TABLES
from stage2.results.store import Store
from stage2.results.tables import render
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, problem, run

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
                details = store.details(bank.fingerprint, recipe.hash, split, epoch)
                assert set(details) == set(evaluation.details)
                for name, values in evaluation.details.items():
                    assert details[name].dtype == values.dtype, name
                    assert np.array_equal(details[name], values, equal_nan=True), name
    assert about["train_counts"] == small.counts.tolist()
    assert about["rows"] == {"train": 150, "val": 42, "test": 60}


def test_traces_round_trip(small: Problem, bank: Bank, tmp_path: Path) -> None:
    """Reference: what was put in, a view into a larger array included; runs without traces have
    none, and a NULL in the file."""
    beta = np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 6, 2)
    beta[:, 0] = np.nan
    traces = {"beta": beta[:, :, 1]}
    runs = [stored(outcome) for outcome in run(RECIPES, small).values()]
    runs[0]["traces"], runs[1]["traces"] = traces, {}
    runs[2].pop("traces", None)
    with Store(tmp_path / "results.sqlite", create=True) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs)
    with Store(tmp_path / "results.sqlite") as store:
        listed = {(r.id, r.seed): r.recipe for r in store.runs(bank.fingerprint)}
        for row, expected in zip(runs, (traces, {}, {}), strict=True):
            recipe: Recipe = row["recipe"]
            assert listed[recipe.id, recipe.seed] == recipe.hash
            got = store.traces(bank.fingerprint, recipe.hash)
            assert set(got) == set(expected), f"got {set(got)}"
            for name, values in expected.items():
                assert got[name].dtype == values.dtype, f"{name}: {got[name].dtype}"
                assert np.array_equal(got[name], values, equal_nan=True), f"{name}: {got[name]}"
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        empty = db.execute("SELECT count(*) FROM run WHERE traces IS NULL").fetchone()[0]
    db.close()
    assert empty == 2, f"got {empty}"


def test_one_bank(bank: Bank, tmp_path: Path) -> None:
    """Reference: the banks whose fingerprint begins so, counted; any other number than one is an
    error that names them."""
    other = problem(seed=1).bank(tmp_path / "other.h5")
    with other, Store(tmp_path / "results.sqlite", create=True) as store:
        with pytest.raises(errors.ConfigError, match="the file holds results of 0 banks. .* none."):
            store.one_bank()
        store.add_bank(bank)
        assert store.one_bank() == (bank.fingerprint, store.banks()[bank.fingerprint])
        store.add_bank(other)
        assert store.one_bank(other.fingerprint[:6])[0] == other.fingerprint
        with pytest.raises(errors.ConfigError, match="2 banks. Choose one with --bank") as caught:
            store.one_bank()
        assert f"{other.fingerprint[:12]} ({other.path})" in str(caught.value)
        with pytest.raises(errors.ConfigError, match="xyz matches 0 banks"):
            store.one_bank("xyz")


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


FIRST_SCHEMA = f"""
CREATE TABLE bank (fingerprint TEXT PRIMARY KEY, about TEXT NOT NULL);
CREATE TABLE run (
    bank TEXT NOT NULL REFERENCES bank, recipe TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,
    seed INTEGER NOT NULL, parameters TEXT NOT NULL, status TEXT NOT NULL, selected_epoch INTEGER,
    curves TEXT NOT NULL, seconds REAL NOT NULL, device TEXT NOT NULL, versions TEXT NOT NULL,
    finished REAL NOT NULL, PRIMARY KEY (bank, recipe)
);
CREATE TABLE evaluation (
    bank TEXT NOT NULL, recipe TEXT NOT NULL, split TEXT NOT NULL, epoch TEXT NOT NULL,
    metrics TEXT NOT NULL, per_class BLOB NOT NULL, correct BLOB NOT NULL,
    PRIMARY KEY (bank, recipe, split, epoch),
    FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = 1;
"""
"""What a file of schema 1 was made with."""

SECOND_STEP = "ALTER TABLE evaluation ADD COLUMN details BLOB; PRAGMA user_version = 2;"
"""What made schema 2 of it."""

THIRD_STEP = "ALTER TABLE run ADD COLUMN traces BLOB; PRAGMA user_version = 3;"
"""What made schema 3 of that."""

FOURTH_STEP = "ALTER TABLE bank ADD COLUMN labels BLOB; PRAGMA user_version = 4;"
"""What made schema 4 of that."""

RECIPE = Recipe("ncm")
PLACE = (RECIPE.hash, "test", "last")


@pytest.fixture
def first(bank: Bank, tmp_path: Path) -> Path:
    """A results file of schema 1 with one run, measured before the ECE of groups."""
    path = tmp_path / "first.sqlite"
    about = {
        "path": "bank.h5",
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "class_names": bank.class_names,
        "views": list(bank.views),
        "train_counts": bank.train_counts.tolist(),
        "rows": {split: bank.rows(split) for split in bank.splits},
    }
    metrics = {name: 40.0 for name in METRICS if not name.startswith("ece_")}
    correct = np.packbits(np.arange(60) % 3 == 0).tobytes()
    with sqlite3.connect(path) as db:
        db.executescript(FIRST_SCHEMA)
        db.execute("INSERT INTO bank VALUES (?, ?)", (bank.fingerprint, json.dumps(about)))
        db.execute(
            f"INSERT INTO run VALUES ({', '.join('?' * 13)})",
            (
                *(
                    bank.fingerprint,
                    RECIPE.hash,
                    RECIPE.id,
                    "ncm",
                    0,
                    json.dumps(RECIPE.parameters),
                ),
                *("done", None, "{}", 1.0, "cpu", "{}", 0.0),
            ),
        )
        db.execute(
            "INSERT INTO evaluation VALUES (?, ?, ?, ?, ?, ?, ?)",
            (bank.fingerprint, *PLACE, json.dumps(metrics), np.zeros(6).tobytes(), correct),
        )
    db.close()
    return path


@pytest.fixture(params=[1, 2, 3, 4])
def older(request: pytest.FixtureRequest, first: Path) -> Path:
    """The results file, of schema 1 to 4."""
    for step in (SECOND_STEP, THIRD_STEP, FOURTH_STEP)[: request.param - 1]:
        _sql(first, step)
    return first


def _sql(path: Path, script: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(script)
    db.close()


def schema_of(path: Path) -> tuple[int, set[str]]:
    """``user_version`` and the columns of all tables."""
    with sqlite3.connect(path) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        columns = {
            f"{table}.{row[1]}"
            for table in TABLES
            for row in db.execute(f"PRAGMA table_info({table})")
        }
    db.close()
    return version, columns


def test_an_older_file_is_read_as_it_is(older: Path, bank: Bank) -> None:
    """Reference: the bytes before; what it lacks is null or empty; a warning says that nothing of
    it can be checked against a digest."""
    before = older.read_bytes()
    with pytest.warns(
        UserWarning, match="written before results had digests are read unchecked; it has 1"
    ):
        store = Store(older)
    with store:
        (row,) = json.loads(render(Results(store).board, "json"))
        correct = store.correct(bank.fingerprint, *PLACE)
        assert store.details(bank.fingerprint, *PLACE) == {}
        assert store.traces(bank.fingerprint, RECIPE.hash) == {}
        assert store.labels(bank.fingerprint, "test") is None
    assert row["ece"] == 40.0
    assert [row[f"ece_{group}"] for group in ("many", "medium", "few")] == [None] * 3
    assert np.array_equal(correct, np.arange(60) % 3 == 0)
    assert older.read_bytes() == before


def test_an_older_file_is_merged(older: Path, bank: Bank, tmp_path: Path) -> None:
    """Reference: its figures; the copy has digests, and the labels of another file of the bank."""
    before = older.read_bytes()
    output = tmp_path / "all.sqlite"
    with pytest.warns(UserWarning, match="read unchecked; it has 1"):
        merge_files([older], output)
    assert older.read_bytes() == before
    sweep(bank, [Recipe("tau_norm")], results=tmp_path / "new.sqlite")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_files([tmp_path / "new.sqlite"], output)
        with Store(output) as store:
            kept = {run.name: run for run in store.runs(bank.fingerprint)}
            assert set(kept) == {"ncm", "tau_norm"}
            assert kept["ncm"].metrics["test", "last"]["top1"] == 40.0
            assert store.details(bank.fingerprint, *PLACE) == {}
            assert np.array_equal(store.correct(bank.fingerprint, *PLACE), np.arange(60) % 3 == 0)
            assert store.labels(bank.fingerprint, "test") is not None
    sweep(bank, [RECIPE], results=tmp_path / "again.sqlite")
    with pytest.raises(errors.ConfigError, match=r"ncm-.* has other figures in .*all\.sqlite"):
        merge_files([tmp_path / "again.sqlite"], output)


def test_an_older_file_that_is_written_to_becomes_schema_7(
    older: Path, bank: Bank, small: Problem, tmp_path: Path
) -> None:
    """Reference: a new file's columns; the old run is still there, a new one has its arrays."""
    Store(tmp_path / "new.sqlite", create=True).close()
    (outcome,) = run([Recipe("crt", epochs=2)], small).values()
    beta = np.full((2, 6), 0.5, np.float32)
    for _ in range(2):  # the second opening has nothing to do
        with pytest.warns(UserWarning, match="written before .* it has 1"):
            store = Store(older, create=True)
        with store:
            store.add_runs(bank.fingerprint, [{**stored(outcome), "traces": {"beta": beta}}])
            kept = {r.name: r for r in store.runs(bank.fingerprint)}
            assert kept["ncm"].metrics["test", "last"]["top1"] == 40.0
            assert store.details(bank.fingerprint, *PLACE) == {}
            assert store.traces(bank.fingerprint, RECIPE.hash) == {}
            assert np.array_equal(store.correct(bank.fingerprint, *PLACE), np.arange(60) % 3 == 0)
            added = store.details(bank.fingerprint, outcome.recipe.hash, "test", "last")
            assert "reliability" in added, f"got {set(added)}"
            assert store.labels(bank.fingerprint, "test") is None
            traces = store.traces(bank.fingerprint, outcome.recipe.hash)
            assert np.array_equal(traces["beta"], beta), f"got {traces}"
    assert schema_of(older) == schema_of(tmp_path / "new.sqlite")
    assert schema_of(older)[0] == SCHEMA == 7
    with pytest.warns(UserWarning, match="written before"):
        store = Store(older, create=True)
    with store:
        store.add_bank(bank)
        assert np.array_equal(store.labels(bank.fingerprint, "test"), bank.labels("test"))


@pytest.mark.parametrize(
    ("older", "schema"),
    [(1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 5), (4, 5), (1, 6), (4, 7)],
    indirect=["older"],
    ids=lambda schema: schema,
)
def test_a_migration_that_is_interrupted_leaves_the_schema_before(
    older: Path, schema: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the schema before; the columns and the version come in one transaction, also where
    it ends between two steps."""
    before = schema_of(older)

    def interrupt(sql: str) -> None:
        if sql == f"PRAGMA user_version = {schema}":
            raise KeyboardInterrupt

    _before_each_statement(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        Store(older, create=True)
    monkeypatch.undo()
    assert schema_of(older) == before
    assert "bank.digest" not in before[1]


def test_a_migration_by_another_process_is_left_alone(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the schema that another process makes between the look at the version and the
    lock; the steps it left are taken, a newer schema is refused."""
    newer = f"{THIRD_STEP} {FOURTH_STEP} PRAGMA user_version = {SCHEMA + 1};"
    others = [SECOND_STEP, newer]

    def migrate(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            _sql(first, others.pop(0))

    _before_each_statement(monkeypatch, migrate)
    old = first.read_bytes()
    with pytest.warns(UserWarning, match="written before"):
        Store(first, create=True).close()
    assert schema_of(first)[0] == SCHEMA
    first.write_bytes(old)
    _sql(first, SECOND_STEP)
    with pytest.raises(errors.ConfigError, match=f"schema {SCHEMA + 1}, this version reads"):
        Store(first, create=True)
    assert schema_of(first)[0] == SCHEMA + 1


def _before_each_statement(monkeypatch: pytest.MonkeyPatch, action: Callable[[str], None]) -> None:
    """Call `action` with every statement before a store runs it."""

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            action(sql)
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **options: connect(*a, **options, factory=Watched)
    )


def _bank(number: int, path: str = "bank.h5") -> Bank:
    """What results keep of a bank, without one."""
    bank = SimpleNamespace(
        fingerprint=f"{number:064d}",
        path=path,
        num_classes=2,
        dim=3,
        class_names=None,
        train_counts=np.array([5, 4]),
        full_counts=np.array([5, 4]),
        outside_counts=None,
        background=None,
        class_fact=lambda name: None,
        splits=("train",),
        evaluated=(),
        cells=lambda split: None,
        source_groups=lambda split: None,
        seen=lambda split: np.zeros(9, bool),
        views=("instance",),
        rows=lambda split: 9,
        classifier=lambda view: None,
        norm=lambda view: None,
        default_scale=lambda view: None,
        provenance={},
    )
    return cast(Bank, bank)


def _text(path: Path) -> None:
    path.write_text("recipe,top1\ncrt,45\n" * 50)


def _other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE holidays (day TEXT)")


def _newer(path: Path) -> None:
    Store(path, create=True).close()
    with closing(sqlite3.connect(path)) as db:  # closed, or what it wrote goes to the file later
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")


def _folder(path: Path) -> None:
    path.mkdir()


def _full(path: Path) -> None:
    """A results file of some 60 pages, all of them in the file itself."""
    with Store(path, create=True) as store:
        for number in range(100):
            store.add_bank(_bank(number, path="x" * 2000))


def _torn(path: Path) -> None:
    _full(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _holed(path: Path) -> None:
    """Pages in the middle are empty, as after a power cut."""
    _full(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:20_480] + bytes(8_192) + whole[28_672:])


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("tear", [_torn, _holed])
def test_a_torn_file_is_refused_with_a_remedy(tear: Any, create: bool, tmp_path: Path) -> None:
    """Reference: one ConfigError that says what to do; the bytes stay."""
    path = tmp_path / "results.sqlite"
    tear(path)
    before = path.read_bytes()
    with pytest.raises(errors.ConfigError, match=r"is damaged \(.*with its -wal file") as caught:
        Store(path, create=create)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_that_another_process_keeps_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: OutputBusy after the wait, nothing else."""
    path = tmp_path / "results.sqlite"
    _full(path)
    monkeypatch.setattr("stage2.results.database.WAIT", 0.05)
    with closing(sqlite3.connect(path)) as other, Store(path, create=True) as waiting:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.OutputBusy, match="locked for"):
            waiting.add_runs("none", [stored(_ncm())])


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path) -> None:
    """Reference: OSError, and the rows from before; SQLite's own limit of pages plays the disk."""
    path = tmp_path / "results.sqlite"
    _full(path)
    with Store(path, create=True) as store:
        connection = store.file.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="could not be written .the disk is full"):
            store.add_bank(_bank(100, path="x" * 50_000))
    with Store(path) as store:
        assert len(store.banks()) == 100


def _ncm() -> Any:
    from stage2.engine.outcome import Outcome

    return Outcome(RECIPE, "diverged", {}, None, {}, {})


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Reference: one set of tables, no error; each of 6 connections begins where no file is."""
    begin = threading.Barrier(6)

    def use(number: int) -> None:
        for name in range(25):
            begin.wait()
            with Store(tmp_path / f"{name}.sqlite", create=True) as store:
                store.add_bank(_bank(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    for path in tmp_path.glob("*.sqlite"):
        with Store(path) as store:
            assert len(store.banks()) == 6, path


def _sweep_into(path: Path, place: Path, seeds: Sequence[int], start: Any) -> None:
    """What a process of the next test does."""
    torch.set_num_threads(1)
    start.wait()
    sweep(place, [Recipe("crt", epochs=2, seed=s) for s in seeds], results=path, device="cpu")


def test_two_sweeps_write_one_file(small: Problem, tmp_path: Path) -> None:
    """Reference: each sweep by itself; the processes begin at once, on a file that is not there,
    and share some recipes."""
    small.bank(tmp_path / "bank.h5").close()
    ranges = [range(5), range(3, 8)]
    processes = get_context("fork")
    start = processes.Barrier(2)
    path = tmp_path / "results.sqlite"
    both = [
        processes.Process(target=_sweep_into, args=(path, tmp_path / "bank.h5", seeds, start))
        for seeds in ranges
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    recipes = [Recipe("crt", epochs=2, seed=seed) for seed in range(8)]
    alone = sweep(tmp_path / "bank.h5", recipes, device="cpu").board.rows
    with Store(path) as store:
        assert Results(store).board.rows == alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_text, "is not a results file"),
        (_other_database, "is a database of something else"),
        (_newer, f"schema {SCHEMA + 1}, this version reads {SCHEMA}"),
        (_folder, "is a folder, not a results file"),
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
