"""The tables of a results file: created, migrated from older schemas, and checked to be just these.

A file may come from anyone, so our tables must be those that some version of featbank created, to
the letter, and nothing beside them may compute on reading or writing, as a view, a trigger, a
generated column or a virtual table would. Other plain tables and indexes are allowed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

SCHEMA = 7

APPLICATION = 0x66656174  # "feat", in the file's header

TABLES = ("bank", "run", "evaluation", "probe", "worker", "task", "shard")

LIGHT = {
    "bank": ("fingerprint", "about"),
    "run": (
        *("bank", "recipe", "id", "name", "seed", "parameters", "status", "selected_epoch"),
        *("seconds", "device", "versions", "finished"),
    ),
    "evaluation": ("bank", "recipe", "split", "epoch", "metrics"),
    "probe": ("bank", "probe", "settings", "fit", "device", "versions", "finished"),
    "shard": ("bank", "plan", "number", "count", "done"),
}
"""Columns under the first half of a row's digest, in order; see `stage2.results.digests`."""

KEYS = {"bank": 1, "run": 2, "evaluation": 4, "probe": 2, "shard": 3}
"""The number of columns of `LIGHT` that are a table's key."""

HEAVY = {
    "bank": ("labels",),
    "run": ("curves", "traces"),
    "evaluation": ("per_class", "correct", "details"),
    "probe": ("classifier",),
    "shard": (),
}
"""Columns under the second half, which leaderboards do not need; `stage2.results.rows` decodes
them."""

_ADDED = {("evaluation", "details"): 2, ("run", "traces"): 3, ("bank", "labels"): 4}
"""Columns that later schemas added, each BLOB; schema 5 added ``digest`` to every table."""

_DIGESTS = 5
"""The schema that added digests."""

_SINCE = {"bank": 1, "run": 1, "evaluation": 1, "probe": 6, "worker": 7, "task": 7, "shard": 7}
"""The schema that added each table."""

_PROBE = """CREATE TABLE probe (
    bank TEXT NOT NULL REFERENCES bank,
    probe TEXT NOT NULL,           -- hash of the settings
    settings TEXT NOT NULL,        -- JSON: view, kind, scale, fold, aim
    fit TEXT NOT NULL,             -- JSON: passes, seconds, gradient, excess
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    finished REAL NOT NULL,        -- Unix time
    digest BLOB NOT NULL,          -- of this row
    classifier BLOB NOT NULL,      -- weight [K, D] and bias [K] float32, safetensors
    PRIMARY KEY (bank, probe)
)
"""

_WORKER = """CREATE TABLE worker (
    worker TEXT PRIMARY KEY,       -- random
    process TEXT NOT NULL,         -- JSON: host, pid, and what tells it from others of this number
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    beats INTEGER NOT NULL         -- seconds since it began, written while it lives; -1 at its end
)
"""

_TASK = """CREATE TABLE task (
    bank TEXT NOT NULL REFERENCES bank,
    key TEXT NOT NULL,             -- digest of kind and recipes
    kind TEXT NOT NULL,            -- all rows, n-fold, halving, probe
    recipes TEXT NOT NULL,         -- JSON: hashes of the recipes of a group
    cost REAL NOT NULL,            -- floating-point operations, roughly
    state TEXT NOT NULL,           -- waiting, running, done, failed
    worker TEXT REFERENCES worker, -- whose it is; NULL while it waits
    place TEXT,                    -- where it was trained
    seconds REAL,                  -- how long
    error TEXT,                    -- why it failed
    PRIMARY KEY (bank, key)
)
"""

_SHARD = """CREATE TABLE shard (
    bank TEXT NOT NULL REFERENCES bank,
    plan TEXT NOT NULL,            -- digest of the sweep and its partition
    number INTEGER NOT NULL,       -- from 1
    count INTEGER NOT NULL,        -- of all shards
    done INTEGER NOT NULL,         -- 1 where it was swept to its end
    digest BLOB NOT NULL,          -- of this row
    PRIMARY KEY (bank, plan, number)
)
"""

_MIGRATIONS = (
    ("ALTER TABLE evaluation ADD COLUMN details BLOB",),
    ("ALTER TABLE run ADD COLUMN traces BLOB",),
    ("ALTER TABLE bank ADD COLUMN labels BLOB",),
    tuple(f"ALTER TABLE {table} ADD COLUMN digest BLOB" for table in ("bank", "run", "evaluation")),
    (_PROBE,),
    (_WORKER, _TASK, _SHARD),
)
"""The steps from schema 1 to 2, 2 to 3, 3 to 4, 4 to 5, 5 to 6, and 6 to 7."""

_MADE = {
    "bank": """CREATE TABLE bank (
    fingerprint TEXT PRIMARY KEY,
    about TEXT NOT NULL,           -- JSON: path, classes, training counts, rows of each split
    digest BLOB NOT NULL,          -- of this row: stage2/results/digests.py
    labels BLOB                    -- of val and test, arrays, safetensors; NULL before schema 4
)
""",
    "run": """CREATE TABLE run (
    bank TEXT NOT NULL REFERENCES bank,
    recipe TEXT NOT NULL,          -- hash of the settings and the seed
    id TEXT NOT NULL,              -- the configuration, whatever its seed
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parameters TEXT NOT NULL,      -- JSON: every setting but the seed
    status TEXT NOT NULL,          -- done, diverged, stopped
    selected_epoch INTEGER,
    seconds REAL NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    finished REAL NOT NULL,        -- Unix time
    digest BLOB NOT NULL,          -- of this row and those of its evaluations
    curves TEXT NOT NULL,          -- JSON: one number per epoch
    traces BLOB,                   -- arrays over the epochs, safetensors; NULL where there are none
    PRIMARY KEY (bank, recipe)
)
""",
    "evaluation": """CREATE TABLE evaluation (
    bank TEXT NOT NULL,
    recipe TEXT NOT NULL,
    split TEXT NOT NULL,
    epoch TEXT NOT NULL,           -- last, selected
    metrics TEXT NOT NULL,         -- JSON
    digest BLOB NOT NULL,          -- of this row
    per_class BLOB NOT NULL,       -- float64 [K], percent, NaN where a class has no row
    correct BLOB NOT NULL,         -- bits [N], numpy.packbits, or int32 [M] of parts
    details BLOB,                  -- arrays, safetensors; NULL where written under schema 1
    PRIMARY KEY (bank, recipe, split, epoch),
    FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE
)
""",
    "probe": _PROBE,
    "worker": _WORKER,
    "task": _TASK,
    "shard": _SHARD,
}
"""Digests stand before the arrays: columns behind a long value are slow to reach."""

_FIRST = {
    "bank": ("fingerprint TEXT PRIMARY KEY, about TEXT NOT NULL", ""),
    "run": (
        "bank TEXT NOT NULL REFERENCES bank, recipe TEXT NOT NULL, id TEXT NOT NULL, "
        "name TEXT NOT NULL, seed INTEGER NOT NULL, parameters TEXT NOT NULL, "
        "status TEXT NOT NULL, selected_epoch INTEGER, curves TEXT NOT NULL, "
        "seconds REAL NOT NULL, device TEXT NOT NULL, versions TEXT NOT NULL, "
        "finished REAL NOT NULL",
        ", PRIMARY KEY (bank, recipe)",
    ),
    "evaluation": (
        "bank TEXT NOT NULL, recipe TEXT NOT NULL, split TEXT NOT NULL, epoch TEXT NOT NULL, "
        "metrics TEXT NOT NULL, per_class BLOB NOT NULL, correct BLOB NOT NULL",
        ", PRIMARY KEY (bank, recipe, split, epoch), "
        "FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE",
    ),
}
"""Columns and constraints of schema 1."""

_NAMED = re.compile(r"--[^\n]*|/\*.*?\*/|'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]", re.DOTALL)
"""Comments, texts and quoted names in a declaration."""

_COMPUTES = re.compile(r"\b(VIRTUAL|AS|CHECK|REFERENCES)\b", re.IGNORECASE)
"""Words that let a table do more than hold rows."""

_EXPRESSION = -2
"""SQLite's number for a computed column of an index."""


def schema_of(database: sqlite3.Connection) -> int:
    """The schema that a results file claims."""
    return database.execute("PRAGMA user_version").fetchone()[0]


def application_of(database: sqlite3.Connection) -> int:
    """The application that a file claims; `APPLICATION` for results files."""
    return database.execute("PRAGMA application_id").fetchone()[0]


def has(schema: int, table: str, column: str) -> bool:
    """Whether tables of a schema have a column of `LIGHT`, `HEAVY`, or ``digest``."""
    added = _DIGESTS if column == "digest" else _ADDED.get((table, column), 1)
    return schema >= max(_SINCE[table], added)


def tables_of(schema: int) -> list[str]:
    """The tables of a schema."""
    return [table for table in TABLES if schema >= _SINCE[table]]


def is_empty(database: sqlite3.Connection) -> bool:
    """Whether a file has neither an application nor a table, as a new one."""
    with transaction(database, "DEFERRED"):
        (count,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return count == 0 and application_of(database) == 0


def make(database: sqlite3.Connection) -> None:
    """Create the tables, unless another process has just done so."""
    with transaction(database, "IMMEDIATE"):
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return
        for table in TABLES:
            database.execute(_MADE[table])
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def migrate(database: sqlite3.Connection) -> None:
    """Migrate an older file to this schema, all steps or none.

    Its rows get no digest: it could not show whether they are still as written.
    """
    if schema_of(database) >= SCHEMA:
        return
    with transaction(database, "IMMEDIATE"):
        now = schema_of(database)  # another process may have taken steps meanwhile
        for schema, step in enumerate(_MIGRATIONS[now - 1 :], now + 1):
            for statement in step:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {schema}")


def foreign_to(database: sqlite3.Connection) -> str | None:
    """Describe something that no results file of this schema has; None where all is fine."""
    schema = schema_of(database)
    ours, tables = tables_of(schema), {}
    everything = "SELECT type, name, tbl_name, sql FROM sqlite_master"
    for kind, name, table, sql in database.execute(everything).fetchall():
        if kind == "table" and name in ours:
            tables[name] = sql
        elif kind == "table":
            if word := _COMPUTES.search(_NAMED.sub(" ", sql or "AS")):
                return f"a table {name!a} with {word[0].upper()}"
        elif kind != "index":
            return f"a {kind} {name!a}"
        elif sql is not None and not _is_plain_index(database, name, table):
            return f"an index {name!a} of more than columns"
    for table in ours:
        if table not in tables:
            return f"no table '{table}'"
        if _plain(tables[table]) not in _forms(table, schema):
            return f"a table '{table}' that is not one of results schema {schema}"
    return None


def lost_marks(database: sqlite3.Connection) -> dict[str, int]:
    """Marks of a results file's header that a dump, read back, has lost."""
    declared = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    if application_of(database) != 0:
        return {}
    for schema in range(SCHEMA, 0, -1):
        if all(
            table in declared and _plain(declared[table]) in _forms(table, schema)
            for table in tables_of(schema)
        ):
            return {"application_id": APPLICATION, "user_version": schema}
    return {}


def _is_plain_index(database: sqlite3.Connection, name: str, table: str) -> bool:
    """Whether an index is of columns alone and of all rows, and forbids none of our rows."""
    of_columns = all(
        column != _EXPRESSION
        for (column,) in database.execute("SELECT cid FROM pragma_index_xinfo(?)", (name,))
    )
    listed = 'SELECT partial, "unique" FROM pragma_index_list(?) WHERE name = ?'
    partial, unique = database.execute(listed, (table, name)).fetchone() or (True, True)
    return of_columns and not partial and not (unique and table in TABLES)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commit everything done inside, or nothing."""
    with database:
        database.execute(f"BEGIN {kind}")
        yield


def _forms(table: str, schema: int) -> set[str]:
    """Declarations of a table in a schema; in the current one, as created and as migrated."""
    created = [_MADE[table]] if schema >= max(_DIGESTS, _SINCE[table]) else []
    if table not in _FIRST:
        return {_plain(sql) for sql in created}
    columns, constraints = _FIRST[table]
    added = [column for (owner, column) in _ADDED if owner == table]
    later = [f", {name} BLOB" for name in (*added, "digest") if has(schema, table, name)]
    brought_up = f"CREATE TABLE {table} ({columns}{''.join(later)}{constraints})"
    return {_plain(sql) for sql in (brought_up, *created)}


def _plain(sql: str) -> str:
    """A declaration without comments, and with single spaces."""
    words = re.sub(r"\s+", " ", re.sub(r"--[^\n]*", " ", sql))
    return re.sub(r" ?([(),]) ?", r"\1", words).strip()
