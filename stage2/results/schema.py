"""The tables of a results file: made, brought up from older schemas, refused with a remedy.

SQLite in WAL mode: a killed sweep loses at most the group it was in, readers see whole groups, and
several sweeps may write one file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from featbank import errors

SCHEMA = 4

_MIGRATIONS = (
    "ALTER TABLE evaluation ADD COLUMN details BLOB",
    "ALTER TABLE run ADD COLUMN traces BLOB",
    "ALTER TABLE bank ADD COLUMN labels BLOB",
)
"""What makes schema 2 of 1, 3 of 2, and 4 of 3."""

APPLICATION = 0x66656174  # "feat", in the file's header

WAIT = 60.0
"""Seconds to wait for another process that writes."""

_TABLES = (
    """CREATE TABLE bank (
    fingerprint TEXT PRIMARY KEY,
    about TEXT NOT NULL,           -- JSON: path, classes, training counts, rows of each split
    labels BLOB                    -- of val and test, arrays, safetensors; NULL before schema 4
)
""",
    """CREATE TABLE run (
    bank TEXT NOT NULL REFERENCES bank,
    recipe TEXT NOT NULL,          -- hash of the settings and the seed
    id TEXT NOT NULL,              -- the configuration, whatever its seed
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parameters TEXT NOT NULL,      -- JSON: every setting but the seed
    status TEXT NOT NULL,          -- done, diverged, stopped
    selected_epoch INTEGER,
    curves TEXT NOT NULL,          -- JSON: one number per epoch
    seconds REAL NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    finished REAL NOT NULL,        -- Unix time
    traces BLOB,                   -- arrays over the epochs, safetensors; NULL where there are none
    PRIMARY KEY (bank, recipe)
)
""",
    """CREATE TABLE evaluation (
    bank TEXT NOT NULL,
    recipe TEXT NOT NULL,
    split TEXT NOT NULL,
    epoch TEXT NOT NULL,           -- last, selected
    metrics TEXT NOT NULL,         -- JSON
    per_class BLOB NOT NULL,       -- float64 [K], percent, NaN where a class has no row
    correct BLOB NOT NULL,         -- bits [N], numpy.packbits
    details BLOB,                  -- arrays, safetensors; NULL where written under schema 1
    PRIMARY KEY (bank, recipe, split, epoch),
    FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE
)
""",
)


def open_database(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to a results file; parameters and errors as of `stage2.results.store.Store`."""
    try:
        database = sqlite3.connect(path, timeout=WAIT)
        try:
            _check(database, path, create)
        except BaseException:
            database.close()
            raise
    except sqlite3.DatabaseError as error:
        raise refusal(path, error) from None
    return database


def schema_of(database: sqlite3.Connection) -> int:
    """The schema of a results file, 1 to `SCHEMA`."""
    return database.execute("PRAGMA user_version").fetchone()[0]


def refusal(path: Path, error: sqlite3.DatabaseError) -> errors.FeatbankError:
    """What to tell where SQLite cannot use a file."""
    if "locked" in str(error):
        return errors.OutputBusy(
            f"{path}: another process has kept it locked for {WAIT:.0f} seconds. Try again when it "
            "is done."
        )
    if "full" in str(error):
        return errors.NoSpace(
            f"{path}: the disk is full. What was stored before is kept; make room and sweep again."
        )
    if "readonly" in str(error):
        return errors.OutputError(f"{path} may not be written to. Choose another name.")
    if _is_ours(path):
        return errors.ConfigError(
            f"{path} is torn ({error}). Copy it again from where it came from, with its -wal file, "
            "or choose another name: the same sweep makes the same results."
        )
    return errors.ConfigError(f"{path} is not a results file ({error}). Choose another name.")


def _check(database: sqlite3.Connection, path: Path, create: bool) -> None:
    """Make the tables of a new file, bring those of an old one up where it is written to."""
    database.execute("PRAGMA foreign_keys = ON")
    if create and _state(database) == (0, 0):
        _make(database)
    kind, _ = _state(database)
    if kind != APPLICATION:
        raise errors.ConfigError(f"{path} is a database of something else. Choose another name.")
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":  # a page that is lost would read as rows that never were
        raise sqlite3.DatabaseError(state.splitlines()[-1])
    if create:
        _use_wal(database)
        _migrate(database)
    if (schema := schema_of(database)) > SCHEMA:
        raise errors.ConfigError(
            f"{path} has results schema {schema}, this version reads {SCHEMA}. Update featbank."
        )


def _state(database: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is and how many tables and indices it has, of one moment."""
    with _transaction(database, "DEFERRED"):
        kind = database.execute("PRAGMA application_id").fetchone()[0]
        return kind, database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _make(database: sqlite3.Connection) -> None:
    """Make the tables, unless another process has just done so."""
    with _transaction(database, "IMMEDIATE"):
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return
        for table in _TABLES:
            database.execute(table)
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def _use_wal(database: sqlite3.Connection) -> None:
    """Switch to WAL mode, for which SQLite does not wait by itself."""
    end = time.monotonic() + WAIT
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _migrate(database: sqlite3.Connection) -> None:
    """Bring an older file to this schema, all steps or none."""
    if schema_of(database) >= SCHEMA:
        return
    with _transaction(database, "IMMEDIATE"):
        now = schema_of(database)  # another process may have taken steps meanwhile
        for schema, step in enumerate(_MIGRATIONS[now - 1 :], now + 1):
            database.execute(step)
            database.execute(f"PRAGMA user_version = {schema}")


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection, kind: str) -> Iterator[None]:
    """All of what is done inside, or none."""
    with database:
        database.execute(f"BEGIN {kind}")
        yield


def _is_ours(path: Path) -> bool:
    """Whether a file begins as a results file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(72)
    return header[:6] == b"SQLite" and header[68:] == APPLICATION.to_bytes(4, "big")
