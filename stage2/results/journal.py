"""The journal that SQLite keeps of a results file: a WAL, but not on a network file system.

A WAL has an index in memory that all processes with the file open share, so they must be on one
machine. Where other machines may have the file open, SQLite writes a rollback journal instead, and
a file in WAL mode leaves that mode. In exclusive mode SQLite holds the index in its own memory, and
a lock with which no other process can open the file.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

_STEP = 0.05
"""Seconds between two attempts at a lock that SQLite does not wait for by itself."""

_DRAW = random.SystemRandom()


def hold_index(connect: Callable[[], sqlite3.Connection], *, wait: float) -> sqlite3.Connection:
    """A connection to a file on a network file system, which has no index beside it.

    Where the file is in WAL mode, no other process has access to it until `leave_wal`.

    Raises
    ------
    sqlite3.OperationalError
        Where others have kept it locked for `wait` seconds.
    """
    end = time.monotonic() + wait
    while True:
        database = connect()
        try:
            database.execute("PRAGMA busy_timeout = 0")
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
            database.execute(f"PRAGMA busy_timeout = {round(1000 * wait)}")
            if mode != "wal":
                _release(database)
            return database
        except BaseException as error:
            # Nobody gets the whole lock while others keep the shared ones with which they began.
            database.close()
            if not _is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(_DRAW.uniform(0, 2 * _STEP))


def leave_wal(database: sqlite3.Connection, index: Path, *, wait: float) -> None:
    """After `hold_index`: switch to rollback journals a file that is in WAL mode.

    The content of its WAL moves into the file. `index` is where a killed process may have left one.
    """
    if _patiently(database, "PRAGMA journal_mode", wait) == "wal":
        _patiently(database, "PRAGMA journal_mode = DELETE", wait)
        index.unlink(missing_ok=True)
        _release(database)


def enter_wal(database: sqlite3.Connection, *, wait: float) -> None:
    """Switch to WAL mode."""
    _patiently(database, "PRAGMA journal_mode = WAL", wait)


def _release(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode = NORMAL")
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()  # then the lock is released


def _patiently(database: sqlite3.Connection, statement: str, wait: float) -> object:
    """Run a statement for whose locks SQLite does not wait: the first value it returns."""
    end = time.monotonic() + wait
    while True:
        try:
            (value,) = database.execute(statement).fetchone()
            return value
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > end:
                raise
            time.sleep(_STEP)


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
