"""A disk that fills up in the middle of a sweep: one line, whole groups, and a restart that ends
with the table of a sweep that had room.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from featbank.cli import main
from stage2.results.results import Results
from stage2.results.store import Store
from tests.conftest import Run
from tests.hostile import test_results_places
from tests.hostile.test_disk_full import FEATBANK, limited
from tests.hostile.test_results_network import mounted
from tests.stage2.synthetic import problem

RUNS = 24
SWEEP = ["sweep", "bank.h5", "--recipe", "lws", "--set", "epochs=2", "--device", "cpu"]
SWEEP += ["--seeds", ",".join(map(str, range(RUNS)))]
"""A group for each seed; its results take 470 kB."""

disk = test_results_places.disk


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank, and the results of a sweep that had room."""
    folder = tmp_path_factory.mktemp("room")
    problem(val=40, test=60).bank(folder / "bank.h5").close()
    with contextlib.chdir(folder):
        done = CliRunner().invoke(main, [*SWEEP, "-o", "whole.sqlite"])
    assert done.exit_code == 0, done.output
    return folder


def _table(path: Path) -> tuple[Any, dict[str, Any]]:
    """The leaderboard of a file, and the metrics of its runs by recipe."""
    with Store(path) as store:
        runs = store.runs(next(iter(store.banks())))
        return Results(store).board.rows, {run.recipe: run.metrics for run in runs}


def _is_told_and_kept(stderr: str, path: Path, room: Path) -> None:
    """One line says what is wrong, and a part of the groups is there, as if nothing had been."""
    assert stderr.count("featbank:") == stderr.count("\n") == 1, stderr
    assert f"{path.name} could not be written" in stderr
    assert "What was stored before is kept; make room and sweep again." in stderr
    _, kept = _table(path)
    _, whole = _table(room / "whole.sqlite")
    assert 0 < len(kept) < RUNS
    assert kept.items() <= whole.items()


@pytest.mark.parametrize("size", [150_000, pytest.param(400_000, marks=pytest.mark.long)])
def test_files_that_may_not_grow(
    room: Path, size: int, featbank: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the sweep that had room, run by run and as a table."""
    path = room / f"{size}.sqlite"
    command = [FEATBANK, *SWEEP, "-o", path.name]
    done = limited(command, room, size)
    assert done.returncode == 1, done
    _is_told_and_kept(done.stderr, path, room)
    monkeypatch.chdir(room)
    featbank(*command[1:])
    assert _table(path) == _table(room / "whole.sqlite")


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_a_disk_without_room(
    room: Path,
    disk: Path,
    tmp_path: Path,
    kind: str,
    featbank: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reference: as above; with a WAL, and with the journal of a network file system."""
    filler, path = disk / "filler", disk / "r.sqlite"
    filler.write_bytes(bytes((1 << 20) - 300_000))
    mounted(disk, kind, monkeypatch)
    monkeypatch.chdir(room)
    done = featbank(*SWEEP, "-o", path, code=1)
    copy = tmp_path / "copy"  # as where a WAL is left, its index needs room
    shutil.copytree(disk, copy, ignore=lambda *_: ["filler"])
    _is_told_and_kept(done.stderr, copy / "r.sqlite", room)
    test_results_places._mount("-o", "remount,size=8m", str(disk))
    assert len(_table(path)[1]) == len(_table(copy / "r.sqlite")[1])
    featbank(*SWEEP, "-o", path)
    assert _table(path) == _table(room / "whole.sqlite")
