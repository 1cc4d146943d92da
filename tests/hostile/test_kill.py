"""A writer killed at any moment: the target is the old bank or the new one, both whole."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from featbank import BankWriter, errors
from tests.hostile.banks import everything
from tests.hostile.children import killed_at

ROWS, DIM, BLOCK = 6000, 64, 100


def write(path: Path, seed: int, rows: int = ROWS) -> None:
    """Write a bank of two views, 3 MB in 120 blocks."""
    rng = np.random.default_rng(seed)
    with BankWriter(path, ["a", "b", "c"], dim=DIM, overwrite=True) as writer:
        writer.split("train", rng.integers(0, 3, rows))
        for view in ("instance", "balanced"):
            features = writer.features("train", view)
            for start in range(0, rows, BLOCK):
                block = rng.normal(size=(min(BLOCK, rows - start), DIM))
                features.append(block.astype(np.float32))


def contents(path: Path) -> tuple[list[dict], int]:
    """All that two writers write, and how many functions one calls."""
    contents, calls = [], 0
    for seed in (0, 1):
        calls, _ = killed_at(None, lambda seed=seed: write(path, seed))
        contents.append(everything(path))
    return contents, calls


def kill_many(folder: Path, kills: int, *, old: bool) -> None:
    """Kill writers at random moments; the target is absent or `old`, or else complete."""
    path, draw = folder / "b.h5", random.Random(0)
    (before, after), calls = contents(path)
    for _ in range(kills):
        path.unlink(missing_ok=True)
        if old:
            write(path, 0)
        moment = draw.randint(1, calls)
        _, code = killed_at(moment, lambda: write(path, 1))
        assert code == -signal.SIGKILL or moment > 0.9 * calls, (moment, calls)
        assert path.exists() or not old
        if path.exists():
            assert everything(path) in ((before, after) if old else (after,))
    write(path, 1)  # over what the last one left
    assert everything(path) == after
    assert os.listdir(folder) == ["b.h5"]


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
def test_killed_at_any_moment(tmp_path: Path, old: bool) -> None:
    """Six kills of a writer whose target is not there, six of one that replaces it."""
    kill_many(tmp_path, 6, old=old)


@pytest.mark.long
@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
def test_killed_at_a_hundred_moments(tmp_path: Path, old: bool) -> None:
    """A hundred kills of each."""
    kill_many(tmp_path, 100, old=old)


def test_what_a_killed_writer_leaves_is_no_bank(tmp_path: Path) -> None:
    """Its part file is refused, and the next writer writes over it."""
    path = tmp_path / "b.h5"
    child = os.fork()
    if not child:
        writer = BankWriter(path, ["a", "b"], dim=2)
        writer.split("train", np.array([0, 1]))
        writer._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert sorted(os.listdir(tmp_path)) == [".b.h5.lock", ".b.h5.part"]
    with pytest.raises(errors.Incomplete, match=r"\.b\.h5\.part .*Run that command again"):
        everything(tmp_path / ".b.h5.part")
    write(path, 0, rows=10)
    assert os.listdir(tmp_path) == ["b.h5"]


def test_on_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a power cut: content is synced, then the name changes, then the folder is synced."""
    path, events = tmp_path / "b.h5", []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append(f"{Path(source).name} becomes {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    write(path, 0, rows=10)
    assert events == ["sync .b.h5.part", ".b.h5.part becomes b.h5", f"sync {tmp_path.name}"]
