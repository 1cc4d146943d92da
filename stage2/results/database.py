"""Opening a results file in SQLite, and translating SQLite's errors.

SQLite runs in WAL mode: a killed sweep loses at most the group it was in, readers see whole groups,
and several sweeps may write one file. On a network file system it runs without a WAL
(`stage2.results.journal`).

Where no -wal file with content lies beside it, a file that is only read is opened as ``immutable``:
SQLite then writes nothing, neither to the file nor beside it, so read-only folders and full disks
are no obstacle. As it takes no locks, `Database.read` checks afterwards whether another process has
begun to write, and if so reads again; on a network file system, where a writer leaves no -wal file
to read beside, under a lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from featbank import errors
from featbank.file_kinds import mistaken
from featbank.filesystems import network_file_system
from featbank.regular import kind_of
from stage2.results import journal, schema
from stage2.results.rows import StoredRows
from stage2.results.schema import transaction

WAIT = 60.0
"""Seconds to wait for another process that writes."""

LONGEST = 1 << 28
"""Most bytes of a value that are read."""

ATTEMPTS = 20
"""Attempts to read a file that others write to meanwhile."""

_COPY = "Copy it again from where it came from"
_REMEDY = (
    f"{_COPY}, with its -wal file, or choose another name: the same sweep makes the same results."
)

_FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""Errors of reading a file; the second where a message of SQLite quotes damaged text."""

Result = TypeVar("Result")
State = tuple[int, ...]


class Database:
    """An open results file, for one thread at a time; others wait.

    Parameters
    ----------
    path
        The file; None for results in memory.
    create
        Open it for writing: create it where it is absent, migrate it where its schema is older.

    Attributes
    ----------
    connection
        SQLite's.

    Raises
    ------
    ConfigError
        For a file that is missing, damaged, not a results file, or of a newer schema.
    OutputBusy, OSError
        For one that cannot be written.
    """

    def __init__(self, path: Path | None, *, create: bool) -> None:
        self.path, self._create = path, create
        self._network: str | None = None
        self._shared = False  # whether others are known to write to it
        self._state: State | None = None
        self._failed = False
        self._lock = threading.RLock()
        if path is None:
            self.connection = sqlite3.connect(":memory:", check_same_thread=False)
            _configure(self.connection)
            schema.make(self.connection)
            return
        absent = not _exists(path, create)
        self._network = network_file_system(path)
        try:
            self._open(path)
        except BaseException as error:
            if create:
                clear(path)
            with contextlib.suppress(OSError):
                if create and absent and path.stat().st_size == 0:
                    path.unlink()  # nothing was stored, so leave nothing
            if isinstance(error, _FAILURES):
                raise refusal(path, error, writing=create) from None
            raise
        if create and self._network:
            warnings.warn(
                f"{path} is on a network file system ({self._network}), where SQLite is safe for "
                "one process at a time. Give each of several processes `--shard i/n` and a results "
                "file of its own, and join these with `featbank merge-results`."
            )

    def read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run a query on one snapshot of the file."""
        with self._lock:
            return self._read(query)

    def _read(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        for _ in range(ATTEMPTS):
            result, failure = self._attempt(query)
            if self.path is None or not self._is_written(self.path):
                break
            self.connection.close()
            self._shared = (self._state or ())[:1] == _state(self.path)[:1]  # it is the same file
            try:
                self._open(self.path)
            except _FAILURES as error:
                raise refusal(self.path, error) from None
        if failure:
            raise failure
        assert result is not None
        return result[0]

    def _attempt(
        self, query: Callable[[sqlite3.Connection], Result]
    ) -> tuple[tuple[Result] | None, Exception | None]:
        """Run a query once: its result in a tuple, or its error."""
        inside = self.connection.in_transaction
        snapshot = contextlib.nullcontext() if inside else transaction(self.connection, "DEFERRED")
        try:
            with snapshot:
                return (query(self.connection),), None
        except errors.FeatbankError as error:
            return None, error
        except _FAILURES as error:
            if "decode" in str(error) and self.connection.text_factory is str:
                self.connection.text_factory = _lenient  # so that the query names the damaged row
                return self._attempt(query)
            if self.path is None:
                return None, error
            return None, refusal(self.path, error, writing=self._create)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Store everything that is written inside, or nothing."""
        try:
            with self._lock, transaction(self.connection, "IMMEDIATE"):
                yield self.connection
        except sqlite3.DatabaseError as error:
            if self.path is None:
                raise
            self._failed = True
            raise refusal(self.path, error, writing=True) from None

    def close(self) -> None:
        """Close the file; where writing failed, remove SQLite's files beside it."""
        with self._lock:
            self.connection.close()
        if self._failed and self.path is not None:
            clear(self.path)

    def _is_written(self, path: Path) -> bool:
        """Whether an immutable file was written to since it was opened."""
        return self._state is not None and self._state != _state(path)

    def _open(self, path: Path) -> None:
        """Open the file; again where another process began to write to it meanwhile."""
        for attempt in range(ATTEMPTS):
            try:
                self._connect(path)
                return
            except (*_FAILURES, errors.FeatbankError):
                if attempt == ATTEMPTS - 1 or not self._is_written(path):
                    raise

    def _connect(self, path: Path) -> None:
        mode = "rwc" if self._create else "ro"
        self._state = None
        if self._network and not self._create and _wal_size(path):
            raise errors.ConfigError(
                f"{path} has its newest results in {_beside(path, '-wal').name}, which is not safe "
                f"to read on a network file system ({self._network}). Sweep into it again, which "
                "moves them, or copy both files to a local disk and read them there."
            )
        state = _state(path)
        if not self._create and _beside(path, "-journal").exists():
            mode = "rw"  # of a writer at work, or of a killed one, which SQLite must roll back
        elif not self._create and state[-1] == 0 and not (self._network and self._shared):
            mode, self._state = "ro&immutable=1", state
        connect = partial(self._connected, path, mode)
        if self._network and self._state is None:
            self.connection = journal.hold_index(connect, wait=WAIT)
        else:
            self.connection = connect()
        try:
            _check(self.connection, path, self._create)
            if self._network and self._create:
                journal.leave_wal(self.connection, _beside(path, "-shm"), wait=WAIT)
            elif self._create:
                journal.enter_wal(self.connection, wait=WAIT)
        except BaseException:
            self.connection.close()
            raise

    def _connected(self, path: Path, mode: str) -> sqlite3.Connection:
        # a URI, as SQLite takes some plain names for something other than a file
        uri = f"{Path(os.path.realpath(path)).as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=WAIT, check_same_thread=False)
        try:
            _configure(connection, query_only=not self._create)
            return connection
        except BaseException:
            connection.close()
            raise


def refusal(path: Path, error: Exception, *, writing: bool = False) -> Exception:
    """Our error for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return errors.OutputBusy(
            f"{path}: another process has kept it locked for {WAIT:.0f} seconds. Try again when it "
            "is done."
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return _unwritable(path, name, error) if writing else _unreadable(path, error)
    reason = errors.first_line(error) if str(error).isprintable() else "its texts are not UTF-8"
    if _is_ours(path):
        return errors.ConfigError(f"{path} is damaged ({reason}). {_REMEDY}")
    if message := mistaken(path, "results"):
        return errors.ConfigError(message)
    return errors.ConfigError(f"{path} is not a results file ({reason}). Choose another name.")


def _unwritable(path: Path, name: str, error: Exception) -> Exception:
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return OSError(
            f"{path} cannot be written: the file or its folder is read-only. Choose another name."
        )
    reason = "the disk is full" if name == "SQLITE_FULL" else error
    return OSError(
        f"{path} could not be written ({reason}). What was stored before is kept; make room and "
        "sweep again."
    )


def _unreadable(path: Path, error: Exception) -> Exception:
    if _wal_size(path):
        return errors.ConfigError(
            f"{path} has its newest results in {_beside(path, '-wal').name}, and the index that "
            "SQLite needs beside it cannot be written: the folder is read-only or its disk full. "
            "Copy both files to another folder and read them there."
        )
    return OSError(
        f"{path} could not be read ({error}). Copy it to another disk and read it there."
    )


def _exists(path: Path, create: bool) -> bool:
    """Whether there is a readable file at a path; False where it may be created."""
    try:
        path.stat()  # follows links
    except (FileNotFoundError, NotADirectoryError):
        if not create:
            raise errors.ConfigError(
                f"{path}: no such file. Make it with `featbank sweep`."
            ) from None
        if not path.parent.is_dir():
            raise errors.ConfigError(f"{path.parent} is not a folder. Create it first.") from None
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.ConfigError(
            f"{ascii(str(path))[1:-1]} cannot be opened ({reason}). Choose another name."
        ) from None
    if kind := kind_of(path):
        raise errors.ConfigError(f"{path} is {kind}, not a results file. Choose another name.")
    if not os.access(path, os.R_OK):
        raise errors.ConfigError(
            f"{path} cannot be opened (Permission denied). Ask its owner, or choose another name."
        )
    return True


def _configure(database: sqlite3.Connection, *, query_only: bool = False) -> None:
    """Refuse to run code that a file brings, and to read values of absurd size."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "foreign_keys = ON"):
        database.execute(f"PRAGMA {setting}")
    if query_only:
        database.execute("PRAGMA query_only = ON")


def _check(database: sqlite3.Connection, path: Path, create: bool) -> None:
    """Create the tables of a new file; migrate those of an old one that is written to."""
    if create and schema.is_empty(database):
        schema.make(database)
    elif schema.is_empty(database):
        raise errors.ConfigError(f"{path} is empty. Sweep into it, or choose another.")
    if lost := schema.lost_marks(database):
        marks = " and ".join(f"{name} {value}" for name, value in lost.items())
        raise errors.ConfigError(
            f"{path} has the tables of a results file, but not its {marks}, which a dump omits. "
            "Copy the file itself, or set both with PRAGMA."
        )
    if schema.application_of(database) != schema.APPLICATION:
        raise errors.ConfigError(f"{path} is a database of something else. Choose another name.")
    _check_schema(database, path)
    (state,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if state != "ok":  # a lost page or key would read as rows that never existed
        with contextlib.suppress(*_FAILURES):
            StoredRows(database, path).check()  # names the run, where a run is damaged
        raise sqlite3.DatabaseError(state.splitlines()[-1])
    if create:
        schema.migrate(database)
        _check_schema(database, path)  # another process may have migrated it further
    StoredRows(database, path).check_references()


def _check_schema(database: sqlite3.Connection, path: Path) -> None:
    version = schema.schema_of(database)
    if version > schema.SCHEMA:
        raise errors.ConfigError(
            f"{path} has results schema {version}, this version reads {schema.SCHEMA}. Update "
            "featbank."
        )
    if foreign := schema.foreign_to(database):
        raise errors.ConfigError(
            f"{path} has {foreign}: featbank did not make it so. {_COPY}, or choose another name."
        )


def clear(path: Path) -> None:
    """Remove the files that SQLite leaves beside a file on a full disk, unless they have content or
    are in use.

    SQLite needs the -shm file, which it could not create, to see that no other process has the file
    open. In exclusive mode it does without, and holds a lock with which no other can open it.
    """
    index = _beside(path, "-shm")
    if not index.exists():
        return
    uri = f"{Path(os.path.realpath(path)).as_uri()}?mode=rw"
    with (
        contextlib.suppress(sqlite3.Error, OSError),
        contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        ) as database,
    ):
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
        index.unlink()


def _state(path: Path) -> State:
    """Numbers that change when a file is written to, last the size of its -wal file."""
    try:
        status, journal = path.stat(), _beside(path, "-journal").exists()
        return status.st_ino, status.st_size, status.st_mtime_ns, journal, _wal_size(path)
    except FileNotFoundError:
        return (0,)


def _wal_size(path: Path) -> int:
    try:
        return _beside(path, "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _beside(path: Path, ending: str) -> Path:
    """A file of SQLite's beside the one that a path leads to."""
    return Path(f"{os.path.realpath(path)}{ending}")


def _lenient(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _is_ours(path: Path) -> bool:
    """Whether a file has the header of a results file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(72)
    return header[:6] == b"SQLite" and header[68:] == schema.APPLICATION.to_bytes(4, "big")
