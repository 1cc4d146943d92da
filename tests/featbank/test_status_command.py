"""``featbank status`` and ``featbank watch``: what a person sees of sweeps that run."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2 import Recipe, sweep
from stage2.engine.outcome import Outcome
from stage2.engine.plan import Shape, plan
from stage2.executors import origin
from stage2.results.claims import Claims
from stage2.results.store import Store
from tests.conftest import ROOT, Run

STORED = [Recipe("crt", lr=lr, epochs=1) for lr in (0.1, 0.2)]
WAITING = [Recipe("crt", lr=lr, epochs=1, seed=s) for s in (1, 2) for lr in (0.1, 0.2, 0.3)]


@pytest.fixture
def running(toy_bank: Path, tmp_path: Path) -> Iterator[Path]:
    """A results file with two runs, into which this process trains six more in two groups, of which
    one is done."""
    path = tmp_path / "results.sqlite"
    sweep(toy_bank, STORED, results=path)
    groups = plan(WAITING, Shape(1000, 8, 5), memory=1 << 30)
    with (
        Store(path, create=True) as store,
        Claims(store, store.one_bank()[0], origin("cpu")) as claims,
    ):
        mine = claims.shared(groups, "all rows", [1e9, 1e9], lambda runs: None)
        done = [Outcome(recipe, "done", {}, None, {}, {}) for recipe in next(mine).recipes]
        claims.done(done, "gpu7: cuda:0")
        next(mine)
        yield path


def test_a_sweep_that_runs_is_told_in_numbers(featbank: Run, running: Path) -> None:
    """Reference: two runs stored, three in the group that is trained; three were not stored by this
    test and so are in neither."""
    lines = featbank("status", running).stdout.splitlines()
    assert re.fullmatch(
        r".*: 2 of 5 runs · 1 of 2 groups done, 1 running · 3 runs/s · 1 s left", lines[0]
    ), lines
    assert re.fullmatch(
        r"  \S+:\d+ · gpu7: cuda:0 · 1 group, 3 runs · 1 running · 3 runs/s", lines[1]
    )
    assert lines[2].startswith("  best so far: crt")
    found = json.loads(featbank("status", running, "--format", "json").stdout)
    assert (found["runs"], found["left"], found["total"], found["lives"]) == (2, 3, 5, True)
    assert found["groups"] == {"waiting": 0, "running": 1, "done": 1, "failed": 0}


def test_a_sweep_that_ended_early_says_how_to_go_on(featbank: Run, running: Path) -> None:
    """Reference: its claim, given up; why another one failed."""
    with Store(running, create=True) as store:
        for error in (None, "the disk is full"):
            with store.file.write() as database:
                database.execute("UPDATE worker SET beats = -1")
                database.execute(
                    "UPDATE task SET error = ?, state = 'failed' WHERE ? <> ''", (error, error)
                )
            lines = featbank("status", running).stdout.splitlines()
            if error is None:
                assert "1 of 2 groups done, 1 waiting · no sweep is running" in lines[0]
                assert lines[-1] == "  The same featbank sweep continues it."
            else:
                assert "0 of 2 groups done, 2 failed" in lines[0]
                assert "  failed: the disk is full" in lines
            assert featbank("watch", running).stdout.count("\n") == 1, "it ends at once"


def test_a_file_without_a_sweep_is_complete(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """Also one of an older schema, which has no such tables; one that is none is refused."""
    path = tmp_path / "results.sqlite"
    sweep(toy_bank, STORED, results=path)
    with Store(path, create=True) as store, store.file.write() as database:
        assert "2 of 2 runs · 1 of 1 group done · complete" in featbank("status", path).stdout
        for table in ("shard", "task", "worker"):
            database.execute(f"DROP TABLE {table}")
        database.execute("PRAGMA user_version = 6")
    assert featbank("status", path).stdout.splitlines()[0].endswith(": 2 of 2 runs · complete")
    assert "HDF5 file, not a results file" in featbank("watch", toy_bank, code=2).stderr


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_on_a_terminal_fits(running: Path, width: int) -> None:
    """Reference: lines of a pseudo-terminal of this width, on which nothing of a worker folds."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "featbank", "watch", str(running), "--every", "0.2"]
    process = subprocess.Popen(command, stdout=child, stderr=child, env=environment)
    os.close(child)
    seen = b""
    while seen.count(b"best so far") < 2:
        seen += os.read(parent, 1 << 16)
    process.kill()
    process.wait()
    os.close(parent)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r", "\n")
    lines = [line.rstrip() for line in shown.split("\n") if line.strip()]
    assert max(map(len, lines)) <= width
    assert any(
        re.fullmatch(r"\S+:\d+ +gpu7: cuda:0 +1 group, 3 runs +1 running.*", each) for each in lines
    )


def test_the_table_of_a_sweep_says_how_far_it_is(featbank: Run, running: Path) -> None:
    """Reference: the numbers of `status`; nothing once no run is left."""
    for form in ("table", "md", "latex"):
        assert "2 of 5 runs so far" in featbank("leaderboard", running, "--format", form).stdout
    with Store(running, create=True) as store, store.file.write() as database:
        database.execute("UPDATE task SET state = 'done'")
    assert "so far" not in featbank("leaderboard", running).stdout
