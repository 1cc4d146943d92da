"""Results files with damage or junk anywhere: read as they were written, or refused in one line.

A row that is no longer what was written is an error that names its run. Junk that its digest agrees
with, or that an older file has no digest for, is never a traceback.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from featbank import errors
from stage2.results.schema import HEAVY, LIGHT, schema_of, tables_of
from stage2.results.store import Store
from tests.hostile.children import in_children
from tests.hostile.results import as_older, everything, runs, write_results
from tests.stage2.results.tampering import renew

COLUMNS = [
    (table, name)
    for table in LIGHT
    if table != "shard"  # of merges alone: tests/stage2/results/test_merge_files.py
    for name in (*LIGHT[table], *HEAVY[table])
]

JUNK: list[Any] = [
    None,
    "",
    "junk",
    "a\x00b",
    "\x1b[2Jgone",
    "é" * 9,
    -1,
    2**63 - 1,
    -0.5,
    1e308,
    b"",
    b"\xff\xfe\x00",
    bytes(200),
    "{}",
    "[]",
    "null",
    "NaN",
    '{"top1": NaN}',
    '{"loss": [1e999]}',
    '{"lr": 1e400, "head": [1]}',
    "[" * 100_000,
    '{"a": ' * 5_000 + "1" + "}" * 5_000,
    "1" * 5_000,
    '{"path": "b.h5", "num_classes": 3}',
    json.dumps({"loss": "falling", "val_macro": {"1": 2}}),
    json.dumps({"torch": 2, "optuna": None}),
    struct.pack("<Q", 1 << 62) + b"{}",
    struct.pack("<Q", 70) + b'{"beta":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}',
    save({"beta": np.zeros((2, 2), np.float32), "test": np.zeros(3, np.int64)}),
    save({"reliability": np.full((3, 15), np.inf, np.float64), "weight_norm": np.zeros((), "f4")}),
    save({"val": np.full(21, 7, np.int32), "test": np.full(30, -1, np.int32)}),
    save({"confusions": np.full((4, 3), 99, np.int32)}),
]
"""What a column of a results file may hold that no results file has."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with everything it can have."""
    return write_results(tmp_path_factory.mktemp("sound") / "results.sqlite")


@pytest.fixture(scope="module")
def older(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as schema 4 kept it."""
    return as_older(Path(shutil.copy(sound, tmp_path_factory.mktemp("older"))))


def put(path: Path, table: str, column: str, value: Any, row: int, *, agreeing: bool) -> None:
    """Set a column of one row, past every constraint; its digest is made to agree or left."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
        database.execute(
            f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = "
            f"(SELECT rowid FROM {table} LIMIT 1 OFFSET ?)",
            (value, row % max(count, 1)),
        )
        if agreeing:
            renew(database)


def mutated(value: Any, draw: random.Random) -> Any:
    """A value of a column with one thing changed: within its JSON or arrays, or in its bytes."""
    if isinstance(value, bytes) and len(value) > 8 and draw.random() < 0.6:
        data = bytearray(value)
        data[draw.randrange(min(len(data), 400))] ^= 1 << draw.randrange(8)
        return bytes(data[: draw.choice([None, len(data) // 2, -1])])
    if isinstance(value, bytes):
        return _other_arrays(value, draw)
    if isinstance(value, str) and value.startswith("{") and draw.random() < 0.8:
        content = json.loads(value)
        _change_within(content, draw)
        return json.dumps(content)
    if isinstance(value, str) and value:
        place = draw.randrange(len(value))
        return value[:place] + draw.choice('\x00\n9}-"é\u202e') + value[place + 1 :]
    return draw.choice(JUNK)


def _change_within(content: Any, draw: random.Random) -> None:
    """Replace, remove or rename one member of a JSON value, however deep."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not keys:
        return
    key = draw.choice(keys)
    if isinstance(content[key], dict | list) and content[key] and draw.random() < 0.7:
        _change_within(content[key], draw)
        return
    value = content.pop(key)
    how = draw.randrange(4)
    if how == 0 and isinstance(content, dict):
        content[f"{key}x"] = value
    elif how and isinstance(content, dict):
        content[key] = draw.choice(MEMBERS)
    elif how:
        content.insert(key, draw.choice(MEMBERS))


def _other_arrays(value: bytes, draw: random.Random) -> bytes:
    """Arrays of the same names with another type, shape or content; bytes of another length."""
    try:
        arrays = load(value)
    except SafetensorError:
        return value + bytes(draw.choice([1, 8]))
    name = draw.choice(list(arrays))
    array = arrays.pop(name)
    other = draw.choice(
        [
            lambda: {f"{name}_": array},
            lambda: {name: array.astype(draw.choice([np.int64, np.float16, np.uint8]))},
            lambda: {name: array[..., :-1].copy()},
            lambda: {name: array.reshape(-1, 1).copy()},
            lambda: {name: np.full_like(array, -1)},
            lambda: {name: np.full_like(array, 1 << 30)},
            dict,
        ]
    )()
    return save({**arrays, **other})


MEMBERS: list[Any] = [
    *(None, True, "junk", "\x1b[0m", -1, 10**30, 1e300, float("nan"), float("-inf"), [], {}),
    *([["x"]], {"x": {"y": 1}}, [1, "2", None], "9" * 400, "\ud800", 2**63),
]
"""What a member of a column's JSON may become."""

Case = tuple[str, int]
"""How a file is damaged, and the seed of the draws."""


def damage(path: Path, case: Case) -> None:
    """Change one thing in a results file."""
    how, seed = case
    draw = random.Random(f"{how} {seed}")
    if how == "bit":
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        return
    with closing(sqlite3.connect(path)) as database:
        tables = tables_of(schema_of(database))
    table, column = draw.choice([place for place in COLUMNS if place[0] in tables])
    row = draw.randrange(40)
    value: Any = draw.choice(JUNK)
    if how.startswith("mutated"):
        with closing(sqlite3.connect(path)) as database:
            values = database.execute(f"SELECT {column} FROM {table}").fetchall()
        value = mutated(values[row % len(values)][0], draw) if values else value
    put(path, table, column, value, row, agreeing=how.endswith("agreeing"))


def outcomes(source: Path, folder: Path, cases: Sequence[Case]) -> Counter[str]:
    """How often reading all of a damaged copy ended in which way; never in a traceback."""
    path = folder / source.name
    shutil.copy(source, path)
    content = everything(path)

    def attempt(case: Case) -> str:
        shutil.copy(source, path)
        damage(path, case)
        return "equal" if everything(path) == content else "different"

    ends = in_children(attempt, cases, per_child=100)
    for case, outcome in zip(cases, ends, strict=True):
        if outcome.kind != "returned":
            assert "FeatbankError" in outcome.bases, (case, outcome)
            assert outcome.text.isprintable(), (case, outcome)
            assert str(path) in outcome.text, (case, outcome)
    return Counter(o.text if o.kind == "returned" else "refused" for o in ends)


def cases(kinds: Iterable[str], count: int) -> list[Case]:
    """`count` cases of each kind."""
    return [(how, seed) for how in kinds for seed in range(count)]


SHORT, LONG = 20, 500
WRITTEN = ("bit", "junk", "mutated")
"""Damage that a digest shows."""
FORGED = ("junk, agreeing", "mutated, agreeing")
"""Content that its digest agrees with."""


def test_damage_is_reported_or_harmless(sound: Path, tmp_path: Path) -> None:
    """Reference: what an intact copy holds; a changed file says the same or nothing."""
    counts = outcomes(sound, tmp_path, cases(WRITTEN, SHORT))
    assert not counts["different"], counts
    assert counts["refused"] > counts["equal"], counts  # a bit may lie where nothing is


def test_forged_content_never_crashes(sound: Path, tmp_path: Path) -> None:
    """Reference: one line of a FeatbankError, or a table of what is there."""
    counts = outcomes(sound, tmp_path, cases(FORGED, SHORT))
    assert counts["refused"] > SHORT, counts


def test_older_files_never_crash(older: Path, tmp_path: Path) -> None:
    """Reference: as forged content: their rows have no digest."""
    counts = outcomes(older, tmp_path, cases(WRITTEN, SHORT))
    assert counts["refused"] > SHORT, counts


@pytest.mark.long
def test_damage_anywhere(sound: Path, older: Path, tmp_path: Path) -> None:
    """The three above, in the long form."""
    assert not outcomes(sound, tmp_path, cases(WRITTEN, LONG))["different"]
    outcomes(sound, tmp_path, cases(FORGED, LONG))
    outcomes(older, tmp_path, cases(WRITTEN, LONG))


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_changed_column_names_its_run(
    sound: Path, tmp_path: Path, table: str, column: str
) -> None:
    """Reference: the id and seed of the row's run, or the bank's fingerprint, read before."""
    path = Path(shutil.copy(sound, tmp_path))
    with closing(sqlite3.connect(path)) as database, database:
        if table == "bank":
            (first,) = database.execute("SELECT fingerprint FROM bank ORDER BY rowid").fetchone()
            name = f"bank {first[:12]}"
        elif table == "probe":
            name = "probe {:.12}".format(*database.execute("SELECT probe FROM probe").fetchone())
        else:
            name = "run {}, seed {}".format(
                *database.execute(
                    "SELECT id, seed FROM run JOIN evaluation USING (bank, recipe) "
                    "ORDER BY evaluation.rowid"
                ).fetchone()
            )
        where = f"rowid = (SELECT min(rowid) FROM {table})"
        (value,) = database.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (_near(value),))
    with pytest.raises(errors.ConfigError) as caught:
        everything(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    if column not in (
        "bank",
        "recipe",
        "id",
        "seed",
        "fingerprint",
        "probe",
    ):  # what the name is made of
        assert name in message, message
    assert "opy the file again from where it came from" in message, message


def _near(value: Any) -> Any:
    """Another value that the column might have."""
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(value, str):
        return re.sub(r"\w(?=\W*$)", lambda last: "2" if last[0] == "1" else "1", value)
    return value + 1


def _deleted(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM evaluation WHERE rowid = (SELECT max(rowid) FROM evaluation)")


def _swapped(database: sqlite3.Connection) -> None:
    """Two evaluations of one run have changed places, each with its digest."""
    first, second = (
        database.execute(f"SELECT rowid FROM evaluation WHERE epoch = '{epoch}'").fetchone()[0]
        for epoch in ("last", "selected")
    )
    for number, epoch in ((first, "x"), (second, "last"), (first, "selected")):
        database.execute("UPDATE evaluation SET epoch = ? WHERE rowid = ?", (epoch, number))


def _of_another_bank(database: sqlite3.Connection) -> None:
    """A run is under the other bank, with its evaluations."""
    database.execute("PRAGMA foreign_keys = OFF")
    (recipe,) = database.execute("SELECT recipe FROM run").fetchone()
    (other,) = database.execute("SELECT fingerprint FROM bank ORDER BY rowid DESC").fetchone()
    for table in ("run", "evaluation"):
        database.execute(f"UPDATE {table} SET bank = ? WHERE recipe = ?", (other, recipe))


def _replaced(database: sqlite3.Connection) -> None:
    """An evaluation is one of another run, with that one's digest."""
    columns = "metrics, per_class, correct, details, digest"
    database.execute(
        f"UPDATE evaluation SET ({columns}) = (SELECT {columns} FROM evaluation "
        "ORDER BY rowid LIMIT 1) WHERE rowid = (SELECT max(rowid) FROM evaluation)"
    )


def _without_bank(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM bank")


def _without_digest(database: sqlite3.Connection) -> None:
    """A digest of another type; a NULL the table does not allow."""
    database.execute("UPDATE run SET digest = '' WHERE seed = 1")


@pytest.mark.parametrize(
    "change",
    [_deleted, _swapped, _of_another_bank, _replaced, _without_bank, _without_digest],
    ids=lambda change: change.__name__[1:],
)
def test_rows_that_moved_or_are_gone(
    sound: Path, tmp_path: Path, change: Callable[[sqlite3.Connection], None]
) -> None:
    """Reference: one error; a run's digest is of its evaluations, and every row's of its key."""
    path = Path(shutil.copy(sound, tmp_path))
    with closing(sqlite3.connect(path)) as database, database:
        change(database)
    with pytest.raises(errors.ConfigError, match="is damaged: .*opy the file again"):
        everything(path)


STRUCTURES = {
    "a trigger": "CREATE TRIGGER spy AFTER INSERT ON run BEGIN DELETE FROM bank; END",
    "a view": "DROP TABLE evaluation; CREATE VIEW evaluation AS SELECT * FROM run",
    "a view beside": "CREATE VIEW other AS SELECT randomblob(1000000000)",
    "an index": "CREATE INDEX spy ON run (abs(seed))",
    "a virtual table": "CREATE VIRTUAL TABLE spy USING fts5(text)",
    "a part of an index": "CREATE INDEX spy ON run (seed) WHERE seed > 1",
    "an index that forbids rows": "CREATE UNIQUE INDEX spy ON bank (about)",
    "a check": "CREATE TABLE spy (a INT, CHECK (length(zeroblob(a)) > 0))",
    "a check in capitals": 'CREATE TABLE "a -- b" (a INT cHeCk(a > 0))',
    "a computed column beside": "CREATE TABLE spy (a INT, b AS (abs(a)))",
    "a key of ours": "CREATE TABLE spy (b TEXT REFERENCES bank ON DELETE RESTRICT)",
    "a trigger of another table": "CREATE TABLE spy (a INT); "
    "CREATE TRIGGER t AFTER DELETE ON spy BEGIN DELETE FROM run; END",
    "a table that another schema has": "PRAGMA user_version = 5; DROP TABLE probe; "
    "CREATE TABLE probe (a INT, CHECK (a > 0))",
    "a missing table": "PRAGMA foreign_keys = OFF; DROP TABLE bank",
    "a renamed table": "ALTER TABLE run RENAME TO runs",
    "a renamed column": "ALTER TABLE run RENAME COLUMN seed TO seeds",
    "a missing column": "ALTER TABLE run DROP COLUMN traces",
    "a computed column": "ALTER TABLE run DROP COLUMN traces; "
    "ALTER TABLE run ADD COLUMN traces BLOB AS (zeroblob(9)) VIRTUAL",
    "a default": "ALTER TABLE run ADD COLUMN note TEXT DEFAULT 'x'",
    "an older schema": "PRAGMA user_version = 4",
    "no schema": "PRAGMA user_version = 0",
    "a negative schema": "PRAGMA user_version = -5",
}
"""What a results file does not have, and how it comes about."""


@pytest.mark.parametrize("script", STRUCTURES.values(), ids=STRUCTURES.keys())
@pytest.mark.parametrize("create", [False, True])
def test_tables_are_those_of_featbank(
    sound: Path, tmp_path: Path, script: str, create: bool
) -> None:
    """Reference: one line that names what is not featbank's, and nothing of it is run."""
    path = Path(shutil.copy(sound, tmp_path))
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    before = path.read_bytes()
    with pytest.raises(errors.ConfigError, match="featbank did not make it so") as caught:
        Store(path, create=create)
    assert str(caught.value).isprintable()
    assert path.read_bytes() == before


PLAIN = {
    "statistics": "ANALYZE",
    "an index": "CREATE INDEX by_name ON run (name COLLATE NOCASE, seed DESC)",
    "notes": "CREATE TABLE \"my 'check' AS\" (id INTEGER PRIMARY KEY AUTOINCREMENT, day TEXT "
    "DEFAULT 'as is', u UNIQUE) /* CHECK */; INSERT INTO \"my 'check' AS\" (day) VALUES ('x')",
    "an index of another table": "CREATE TABLE t (a INT) STRICT; CREATE UNIQUE INDEX i ON t (a)",
    "all of that": "CREATE TABLE t (a) ; CREATE INDEX i ON evaluation (split); ANALYZE",
}
"""What others may keep in a results file, as it runs nothing."""


@pytest.mark.parametrize("script", PLAIN.values(), ids=PLAIN.keys())
def test_plain_tables_and_indexes_of_others_are_let_be(
    sound: Path, tmp_path: Path, script: str
) -> None:
    """Reference: what the file shows without them; it can be written, and they stay."""
    expected = everything(Path(shutil.copy(sound, tmp_path / "r.sqlite")))
    path = Path(shutil.copy(sound, tmp_path / "r.sqlite"))
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
        listed = database.execute("SELECT name, sql FROM sqlite_master").fetchall()
    assert everything(path) == expected
    with Store(path, create=True) as store:
        (bank, *_) = store.banks()
        store.add_runs(bank, list(runs()))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name, sql FROM sqlite_master").fetchall() == listed


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    """A sweep may write into it, a reader has nothing to read."""
    path = tmp_path / "r.sqlite"
    path.touch()
    with pytest.raises(errors.ConfigError, match="is empty. Sweep into it, or choose another."):
        Store(path)
    assert path.stat().st_size == 0
    Store(path, create=True).close()
    Store(path).close()


@pytest.mark.parametrize("create", [False, True])
def test_a_dump_that_was_read_back(sound: Path, tmp_path: Path, create: bool) -> None:
    """Reference: what the message says to set makes the same file of it."""
    expected = everything(Path(shutil.copy(sound, tmp_path / "r.sqlite")))
    path = tmp_path / "r.sqlite"
    path.unlink()
    with closing(sqlite3.connect(sound)) as old, closing(sqlite3.connect(path)) as new:
        new.executescript("\n".join(old.iterdump()))
    with pytest.raises(errors.ConfigError, match="has the tables of a results file") as caught:
        Store(path, create=create)
    marks = re.findall(r"(application_id|user_version) (\d+)", str(caught.value))
    with closing(sqlite3.connect(path)) as database:
        for name, value in marks:
            database.execute(f"PRAGMA {name} = {value}")
    assert everything(path) == expected


def test_a_value_of_absurd_size(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: a limit made small; the value is not read."""
    path = Path(shutil.copy(sound, tmp_path))
    put(path, "run", "curves", "x" * 300_000, 0, agreeing=True)
    monkeypatch.setattr("stage2.results.database.LONGEST", 200_000)
    with pytest.raises(errors.ConfigError, match="too big"):
        everything(path)


def test_a_damaged_run_is_healed_by_sweeping_it_again(sound: Path, tmp_path: Path) -> None:
    """Reference: the content before; what --force does is to store the run once more."""
    path = Path(shutil.copy(sound, tmp_path))
    whole = list(runs())
    put(path, "run", "versions", "junk", 2, agreeing=False)
    with Store(path, create=True) as store:
        (bank, *_) = store.banks()
        with pytest.raises(errors.ConfigError, match="Sweep it again with --force"):
            store.statuses(bank)
        store.add_runs(bank, whole)
        assert len(store.runs(bank)) == len(whole)
