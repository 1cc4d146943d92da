"""Where a results file lies, and what it is called: read wherever it can be, and else said why.

Read-only folders and full disks are small file systems mounted for a test; where that is not
allowed, it is skipped.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from featbank import errors
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.conftest import ROOT, Run
from tests.hostile.children import in_children
from tests.hostile.results import as_older, everything, runs
from tests.hostile.test_disk_full import FEATBANK, limited

SWEEP = ["sweep", "bank.h5", "--recipe", "ncm", "-o", "r.sqlite"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1m", "none", str(place))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("file systems may not be mounted here")


def _read_only(folder: Path) -> None:
    _mount("-o", "remount,ro", str(folder))


def _left_with_wal(path: Path) -> None:
    """The file as a sweep leaves it that is killed after it has stored a run."""
    child = os.fork()
    if not child:
        store = Store(path, create=True)
        store.add_runs(next(iter(store.banks())), list(runs())[:1])
        os._exit(0)
    os.waitpid(child, 0)
    assert path.with_name(f"{path.name}-wal").stat().st_size


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


NAMES = [":memory:", "file:memory", "file:r.sqlite?mode=memory", "r?mode=ro#1.sqlite", "50%.sqlite"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_a_file(
    path: Path, name: str, featbank: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the folder afterwards; what SQLite would make of the name does not matter."""
    monkeypatch.chdir(path.parent)
    path.unlink()
    featbank("sweep", "bank.h5", "--recipe", "ncm", "-o", name)
    assert sorted(os.listdir()) == sorted([name, "bank.h5"])
    assert '"name": "ncm"' in featbank("leaderboard", name, "--format", "json").stdout
    assert sorted(os.listdir()) == sorted([name, "bank.h5"])


def test_results_in_memory_are_asked_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: a sweep without a file, and a store of None: no file, the same table."""
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    board = sweep(path.with_name("bank.h5"), [Recipe("ncm")]).board
    assert [row["name"] for row in board.rows] == ["ncm"]
    with (
        Store(None) as store,
        pytest.raises(errors.ConfigError, match="results in memory: x matches 0 banks"),
    ):
        store.one_bank("x")
    assert sorted(os.listdir()) == before


def test_reading_leaves_the_folder_as_it_is(path: Path, featbank: Run) -> None:
    """Reference: names and bytes, of a file that was closed, of one with a WAL, of an older one."""
    for prepare in (lambda path: None, _left_with_wal, as_older):
        prepare(path)
        before = _content(path.parent)
        everything(path)
        featbank("leaderboard", path)
        assert {**_content(path.parent), "r.sqlite-shm": b""} == {**before, "r.sqlite-shm": b""}
        if prepare is _left_with_wal:
            Store(path, create=True).close()
            assert sorted(_content(path.parent)) == ["bank.h5", "r.sqlite"]


@pytest.mark.parametrize("prepare", [None, as_older], ids=["newest", "older"])
def test_a_read_only_folder_is_read(disk: Path, path: Path, prepare: Any, featbank: Run) -> None:
    """Reference: the same file elsewhere; writing is refused in one line, as what it is."""
    if prepare:
        prepare(path)
    content = everything(path).replace(str(path), "")
    inside = Path(shutil.copy(path, disk))
    _read_only(disk)
    assert everything(inside).replace(str(inside), "") == content
    done = featbank("sweep", path.with_name("bank.h5"), "--recipe", "ncm", "-o", inside, code=1)
    assert f"{inside} cannot be written: the file or its folder is read-only" in done.stderr
    done = featbank(
        "sweep", path.with_name("bank.h5"), "--recipe", "ncm", "-o", disk / "new.sqlite", code=1
    )
    assert "new.sqlite cannot be written: the file or its folder is read-only" in done.stderr


def test_a_wal_in_a_read_only_folder(disk: Path, path: Path) -> None:
    """Reference: one line that names the WAL and the way out; the way out."""
    _left_with_wal(path)
    for name in ("r.sqlite", "r.sqlite-wal"):
        shutil.copy(path.with_name(name), disk)
    _read_only(disk)
    with pytest.raises(errors.ConfigError, match="newest results in r.sqlite-wal.*Copy both"):
        everything(disk / "r.sqlite")
    elsewhere = Path(shutil.copytree(disk, path.parent / "copy")) / "r.sqlite"
    with Store(elsewhere) as store:
        assert len(store.runs(next(iter(store.banks())))) == len(list(runs()))


def test_a_full_disk_is_read(disk: Path, path: Path, featbank: Run) -> None:
    """Reference: the same file elsewhere; nothing can be written beside it."""
    content = everything(path).replace(str(path), "")
    inside = Path(shutil.copy(path, disk))
    _fill(disk)
    assert everything(inside).replace(str(inside), "") == content
    featbank("leaderboard", inside)


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_sweep_on_a_full_disk(disk: Path, path: Path, there: bool, featbank: Run) -> None:
    """Reference: one line with the path, exit 1; results from before are whole, a file that could
    not be made is not there."""
    target = disk / "r.sqlite"
    if there:
        shutil.copy(path, target)
        content = everything(target)
    _fill(disk)
    bank = path.with_name("bank.h5")
    done = featbank("sweep", bank, "--recipe", "lws", "-o", target, code=1)
    assert done.stderr.count("\n") == 1, done
    assert f"{target} could not be written" in done.stderr, done
    assert "make room" in done.stderr, done
    if there:
        assert everything(target) == content
    else:
        assert not target.exists()


@pytest.mark.parametrize(
    "size", [30_000, *(pytest.param(n, marks=pytest.mark.long) for n in (0, 100, 5_000))]
)
def test_a_sweep_that_may_write_little(path: Path, size: int) -> None:
    """Reference: as on a full disk, at any byte; the same command then makes the file."""
    path.unlink()
    command = [FEATBANK, *SWEEP]
    done = limited(command, path.parent, size)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done
    assert "r.sqlite could not be written" in done.stderr, done
    assert limited(command, path.parent, resource.RLIM_INFINITY).returncode == 0
    with Store(path) as store:
        assert [run.name for run in store.runs(next(iter(store.banks())))] == ["ncm", "zero_shot"]


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_reader_sees_what_is_written_meanwhile(path: Path) -> None:
    """Reference: what is there, by a reader that was open before, while and after it was written.

    A reader takes no lock on a file without a WAL, and looks whether somebody has begun to write.
    """
    with Store(path) as reader:
        (bank, *_) = reader.banks()
        whole = len(reader.runs(bank))
        with Store(path, create=True) as writer:
            writer.add_runs(bank, [_another(0)])
            assert len(reader.runs(bank)) == whole + 1
            writer.add_runs(bank, [_another(1)])
            assert len(reader.runs(bank)) == whole + 2
        assert len(reader.runs(bank)) == whole + 2
        with Store(path, create=True) as writer:
            writer.add_runs(bank, [_another(2)])
        assert len(reader.runs(bank)) == whole + 3


def _another(seed: int) -> dict[str, Any]:
    return {**next(iter(runs())), "recipe": Recipe("lws", seed=seed)}


@pytest.mark.parametrize("create", [False, True])
def test_what_is_not_a_plain_file(tmp_path: Path, create: bool) -> None:
    """Reference: one line at once; a pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for place, kind in (("pipe", "a named pipe"), ("folder", "a folder")):
        with pytest.raises(errors.ConfigError, match=f"{place} is {kind}, not a results file"):
            Store(tmp_path / place, create=create)
    with pytest.raises(errors.ConfigError, match="/dev/null is a device"):
        Store("/dev/null", create=create)
    for name in ("n" * 300, "a\0b"):
        with pytest.raises(errors.ConfigError, match="cannot be opened"):
            Store(tmp_path / name, create=create)


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    """Reference: the file it leads to, also where that has a WAL."""
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    _left_with_wal(path)
    with Store(path) as store, Store(link) as linked:
        assert linked.banks() == store.banks()
    with closing(sqlite3.connect(path)) as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    assert mode == "wal"


def test_a_writer_that_begins_while_a_reader_opens(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the rows of before or after; a file that changed under the reader's checks is
    opened again, never called damaged."""
    from stage2.results import database

    check, left = database._check, [1, 1, 1]

    def interrupted(*arguments: Any, **options: Any) -> None:
        if left and not arguments[2]:
            left.pop()
            with Store(path, create=True) as writer:
                writer.add_runs(next(iter(writer.banks())), [_another(len(left))])
            raise sqlite3.DatabaseError("pages of two moments")
        check(*arguments, **options)

    monkeypatch.setattr(database, "_check", interrupted)
    with Store(path) as reader:
        (bank,) = reader.banks()
        assert sum(run.name == "lws" for run in reader.runs(bank)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_permissions_of_another_user(results: Path) -> None:
    """Reference: a folder of somebody else's is read; a file of theirs that is not to be read, or
    not to be written, is said to be that. Nothing is left in the folder."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(shutil.copy(results, folder))
        content = everything(path)

        def attempt(case: str) -> str:
            os.setuid(65534)
            if case == "write":
                Store(path, create=True)
            return "same" if everything(path) == content else "different"

        for case, mode, text in (
            ("read", 0o644, "same"),
            ("read", 0o600, f"{path} cannot be opened (Permission denied)"),
            ("write", 0o644, f"{path} cannot be written: the file or its folder is read-only"),
        ):
            path.chmod(mode)
            (outcome,) = in_children(attempt, [case])
            assert outcome.text.startswith(text), outcome
        assert os.listdir(folder) == ["r.sqlite"]


@pytest.mark.parametrize("size", [2_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_nothing_is_left_beside_results_that_were_there(path: Path, size: int) -> None:
    """Reference: the folder and the results before a sweep that could not write."""
    before = everything(path)
    done = limited([FEATBANK, *SWEEP, "--force"], path.parent, size)
    assert done.returncode == 1, done
    assert sorted(_content(path.parent)) == ["bank.h5", "r.sqlite"]
    assert everything(path) == before


def test_what_another_process_uses_stays(path: Path) -> None:
    """Reference: the files beside one that is open elsewhere, which then can still be written."""
    with Store(path, create=True) as store:
        store.add_runs(next(iter(store.banks())), list(runs())[:1])
        beside = sorted(os.listdir(path.parent))  # reading the file would drop its locks
        assert "r.sqlite-shm" in beside
        clearing = "import sys, pathlib; from stage2.results.database import clear; "
        clearing += "clear(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", clearing, path]  # not forked: locks are of a process
        assert limited(command, ROOT, resource.RLIM_INFINITY).returncode == 0
        assert sorted(os.listdir(path.parent)) == beside
        store.add_runs(next(iter(store.banks())), list(runs())[:1])
    assert sorted(_content(path.parent)) == ["bank.h5", "r.sqlite"]
