"""A results file on a network file system: no WAL there, a warning, and nothing lost of one.

The table of mounts is a file of the test's, which calls the folder of the results a file system of
a network; SQLite works on the disk beneath.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from featbank import errors, filesystems
from stage2.results import database
from stage2.results.store import Store
from tests.conftest import Run
from tests.hostile.results import as_older, everything, runs
from tests.hostile.test_results_places import _another

WARNING = "is on a network file system (nfs4), where SQLite is safe for one process at a time"


def mounted(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a folder lie on a file system of some type."""
    table = folder.parent / "table"
    lines = ["1 1 0:1 / / rw - ext4 /dev/sda rw", f"2 1 0:2 / {folder} rw - {kind} server:/x rw"]
    table.write_text("\n".join(lines))
    monkeypatch.setattr(filesystems, "MOUNTS", table)


@pytest.fixture
def remote(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The copy, on a file system of a network from now on."""
    mounted(path.parent, "nfs4", monkeypatch)
    yield path
    assert not {"r.sqlite-wal", "r.sqlite-shm", "r.sqlite-journal"} & set(os.listdir(path.parent))


def _mode(path: Path) -> str:
    """The journal mode in the header of a file that nobody has open."""
    return {b"\1\1": "rollback", b"\2\2": "wal"}[path.read_bytes()[18:20]]


def _forked(work: Callable[[], None]) -> int:
    """Work in a fork of this process, which ends with it: its number."""
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def _ended(children: list[int]) -> None:
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


@pytest.mark.parametrize("prepare", [None, as_older, Path.unlink], ids=["wal", "older", "new"])
def test_nothing_is_written_in_wal_mode(remote: Path, prepare: Any) -> None:
    """Reference: the header of the file and the names beside it, before, while and after runs are
    written; the runs that were in it."""
    if prepare:
        prepare(remote)
    else:
        assert _mode(remote) == "wal"
    before = everything(remote) if remote.exists() else None
    with pytest.warns(UserWarning, match=re.escape(WARNING)) as caught:
        store = Store(remote, create=True)
    ours = [str(warning.message) for warning in caught if "nfs4" in str(warning.message)]
    assert len(ours) == 1
    assert "--shard i/n" in ours[0]
    assert "\n" not in ours[0]
    with store:
        if before:
            store.add_runs(next(iter(store.banks())), [_another(0)])
        names = set(os.listdir(remote.parent))
        assert not {"r.sqlite-wal", "r.sqlite-shm", "r.sqlite-journal"} & names
    assert _mode(remote) == "rollback"


def test_what_a_killed_sweep_left_in_a_wal_is_moved(path: Path, monkeypatch: Any) -> None:
    """Reference: a run that only the WAL has; reading leaves both files and says what to do."""
    left = _left_with(path, [_another(0)])
    mounted(path.parent, "fuse.sshfs", monkeypatch)
    names = sorted(os.listdir(path.parent))
    with pytest.raises(errors.ConfigError, match=r"newest results in r\.sqlite-wal.*fuse\.sshfs"):
        Store(path)
    assert sorted(os.listdir(path.parent)) == names
    with pytest.warns(UserWarning, match=r"fuse\.sshfs"):
        Store(path, create=True).close()
    assert sorted(os.listdir(path.parent)) == ["bank.h5", "r.sqlite"]
    assert _mode(path) == "rollback"
    with Store(path) as store:
        assert left <= store.finished(next(iter(store.banks())))


def _left_with(path: Path, stored: list[dict[str, Any]]) -> set[str]:
    """Leave the file as a sweep does that is killed after it has stored some runs."""

    def work() -> None:
        store = Store(path, create=True)
        store.add_runs(next(iter(store.banks())), stored)
        os._exit(0)

    _ended([_forked(work)])
    assert path.with_name(f"{path.name}-wal").stat().st_size
    return {run["recipe"].hash for run in stored}


def test_a_writer_that_is_killed_there(remote: Path) -> None:
    """Reference: the results before the transaction in which it was killed, by a reader, which
    rolls it back, and by the next writer."""
    before = everything(remote)

    def work() -> None:
        warnings.simplefilter("ignore")
        store = Store(remote, create=True)
        store.file.connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file
        store.file.connection.execute("PRAGMA cache_spill = 1")

        def killed() -> Iterator[dict[str, Any]]:
            yield from (_another(seed) for seed in range(5))
            os._exit(0)

        store.add_runs(next(iter(store.banks())), killed())

    _ended([_forked(work)])
    assert remote.with_name("r.sqlite-journal").stat().st_size
    assert everything(remote) == before
    with pytest.warns(UserWarning, match=re.escape(WARNING)):
        Store(remote, create=True).close()
    assert everything(remote) == before


def test_a_reader_beside_a_writer_there(remote: Path) -> None:
    """Reference: what is there, by a reader that was open before, while and after it was written;
    the reader never sees half a transaction, nor writes anything."""
    with Store(remote) as reader:
        (bank, *_) = reader.banks()
        whole = len(reader.runs(bank))
        with pytest.warns(UserWarning, match=re.escape(WARNING)):
            writer = Store(remote, create=True)
        with writer:
            for count in range(3):

                def seen(count: int = count) -> Iterator[dict[str, Any]]:
                    yield _another(count)
                    assert len(reader.runs(bank)) == whole + count

                writer.add_runs(bank, seen())
                assert len(reader.runs(bank)) == whole + count + 1


def test_a_reader_beside_one_who_writes_all_the_time(remote: Path) -> None:
    """Reference: two counts of one query are equal, although somebody writes between them; the
    second attempt has a lock, for which the writer waits."""
    threads: list[Thread] = []
    counts: list[tuple[int, int]] = []
    with pytest.warns(UserWarning, match=re.escape(WARNING)):
        writer = Store(remote, create=True)

    def count(connection: sqlite3.Connection) -> int:
        return connection.execute("SELECT count(*) FROM run").fetchone()[0]

    def query(connection: sqlite3.Connection) -> None:
        first = count(connection)
        run = _another(len(threads))
        threads.append(Thread(target=lambda: writer.add_runs(bank, [run])))
        threads[-1].start()
        threads[-1].join(0.5)
        counts.append((first, count(connection)))

    with writer, Store(remote) as reader:
        (bank, *_) = reader.banks()
        before = len(reader.runs(bank))
        reader.file.read(query)
        for thread in threads:
            thread.join()
        assert counts[-1] == (before + 1, before + 1)
        assert len(counts) == len(threads) == 2
        assert len(reader.runs(bank)) == before + 2


def test_a_file_that_is_replaced_while_it_is_read(remote: Path, results: Path) -> None:
    """Reference: the names beside it; the new file is in WAL mode, and has no index there."""
    with Store(remote) as reader:
        content = reader.banks()
        os.replace(shutil.copy(results, remote.with_name("new")), remote)
        assert _mode(remote) == "wal"
        names = set(os.listdir(remote.parent))
        assert reader.banks() == content
        assert set(os.listdir(remote.parent)) == names


def test_several_open_a_wal_at_the_same_moment(path: Path, monkeypatch: Any) -> None:
    """Reference: each of four writers opens it, as its lock lets them, one after the other."""
    _left_with(path, [_another(9)])
    mounted(path.parent, "nfs4", monkeypatch)
    reader, writer = os.pipe()
    children = []
    for seed in range(4):

        def work(seed: int = seed) -> None:
            os.close(writer)
            os.read(reader, 1)  # ends when all have been started
            warnings.simplefilter("ignore")
            with Store(path, create=True) as store:
                store.add_runs(next(iter(store.banks())), [_another(seed)])

        children.append(_forked(work))
    os.close(writer)
    _ended(children)
    os.close(reader)
    assert sorted(os.listdir(path.parent)) == ["bank.h5", "r.sqlite"]
    with Store(path) as store:
        assert len(store.runs(next(iter(store.banks())))) == len(list(runs())) + 5


def test_a_file_in_use_on_its_own_machine(path: Path, monkeypatch: Any) -> None:
    """Reference: one line after the wait, while another process has it open in WAL mode; that
    process, a local one of the server, can still write."""
    reader, writer = os.pipe()

    def work() -> None:
        with Store(path, create=True) as store:
            bank = next(iter(store.banks()))
            store.add_runs(bank, [_another(0)])
            os.write(writer, b".")
            while not path.with_name("done").exists():
                time.sleep(0.01)
            store.add_runs(bank, [_another(1)])

    child = _forked(work)
    os.read(reader, 1)
    monkeypatch.setattr(database, "WAIT", 0.3)
    mounted(path.parent, "nfs4", monkeypatch)
    with pytest.raises(errors.OutputBusy, match="another process has kept it locked"):
        Store(path, create=True)
    path.with_name("done").touch()
    _ended([child])
    with Store(path) as store:
        assert len(store.runs(next(iter(store.banks())))) == len(list(runs())) + 2


def test_a_sweep_there_and_back_on_a_disk(remote: Path, featbank: Run, monkeypatch: Any) -> None:
    """Reference: one line of warning by the command; on a disk the file is in WAL mode again."""
    bank = remote.with_name("bank.h5")
    with pytest.warns(UserWarning, match=re.escape(WARNING)) as caught:
        featbank("sweep", bank, "--recipe", "ncm", "-o", remote.with_name("new.sqlite"))
    assert [WARNING in str(warning.message) for warning in caught] == [True]
    assert _mode(remote.with_name("new.sqlite")) == "rollback"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        featbank("leaderboard", remote.with_name("new.sqlite"))
    mounted(remote.parent, "ext4", monkeypatch)
    Store(remote.with_name("new.sqlite"), create=True).close()
    assert _mode(remote.with_name("new.sqlite")) == "wal"
