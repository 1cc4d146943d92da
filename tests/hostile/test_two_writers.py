"""Two processes and one bank: writers exclude each other, readers see one bank or the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, BankWriter, errors
from tests.hostile.banks import ROWS, everything, write_full

DONE, BUSY, EXISTS, FAILED = range(4)


def write_new(path: Path, seed: int) -> None:
    """Write a bank where none is."""
    with BankWriter(path, ["a", "b"], dim=2) as writer:
        writer.split("train", np.array([0, 1]))
        writer.features("train", "instance").append(np.full((2, 2), seed, np.float32))


def write_over(path: Path, seed: int) -> None:
    """Write a bank over another, of another size."""
    write_full(path, seed=seed, rows=ROWS * (1 + 9 * seed))


def start(write: Callable[[Path, int], None], path: Path, seed: int, at: float) -> int:
    """Write in a child process from the moment `at`; its number."""
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        while time.monotonic() < at:
            pass
        write(path, seed)
        code = DONE
    except errors.OutputBusy:
        code = BUSY
    except errors.OutputExists:
        code = EXISTS
    finally:
        os._exit(code)


def race(write: Callable[[Path, int], None], path: Path) -> list[int]:
    """Outcomes of two writers that start at the same moment."""
    at = time.monotonic() + 0.05
    children = [start(write, path, seed, at) for seed in (0, 1)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def many_races(folder: Path, rounds: int) -> None:
    """Whoever got the place wrote all of a bank; who did not said why; nothing is left over."""
    path, contents = folder / "b.h5", []
    for seed in (0, 1):
        write_over(path, seed)
        contents.append(everything(path))
    for _ in range(rounds):
        ends = race(write_over, path)
        assert set(ends) <= {DONE, BUSY}
        assert DONE in ends
        assert everything(path) in [c for c, end in zip(contents, ends, strict=True) if end == DONE]
        assert os.listdir(folder) == ["b.h5"]
        path.unlink()
        ends = race(write_new, path)
        assert ends.count(DONE) == 1
        assert set(ends) - {DONE} <= {BUSY, EXISTS}
        with Bank(path) as bank:
            assert (bank.load("train")[0] == ends.index(DONE)).all()
        assert os.listdir(folder) == ["b.h5"]


def test_the_second_is_refused_while_the_first_works(tmp_path: Path) -> None:
    """At once, before it writes anything; the first finishes."""
    path = tmp_path / "b.h5"
    with BankWriter(path, ["a", "b"], dim=2) as first:
        first.split("train", np.array([0, 1]))
        part = (tmp_path / ".b.h5.part").stat()
        for overwrite in (False, True):
            with pytest.raises(errors.OutputBusy, match=r"Another run is writing .*b\.h5"):
                BankWriter(path, ["c", "d"], dim=3, overwrite=overwrite)
        assert (tmp_path / ".b.h5.part").stat().st_ino == part.st_ino
        first.features("train", "instance").append(np.zeros((2, 2), np.float32))
    assert everything(path)["class_names"] == ["a", "b"]
    assert os.listdir(tmp_path) == ["b.h5"]


def test_a_finished_writer_leaves_the_next_ones_part_alone(tmp_path: Path) -> None:
    """Discarding what is published already, or closing it again, does not touch another's work."""
    path = tmp_path / "b.h5"
    with BankWriter(path, ["a", "b"], dim=2) as first:
        first.split("train", np.array([0, 1]))
        first.features("train", "instance").append(np.zeros((2, 2), np.float32))
        first.close()
        second = BankWriter(path, ["c", "d"], dim=2, overwrite=True)
    first.discard()
    second.split("train", np.array([0, 1]))
    second.features("train", "instance").append(np.ones((2, 2), np.float32))
    second.close()
    assert everything(path)["class_names"] == ["c", "d"]


def test_a_target_that_appears_is_not_written_over(tmp_path: Path) -> None:
    """A target that appears while it is written, by other means, is kept."""
    path = tmp_path / "b.h5"
    writer = BankWriter(path, ["a", "b"], dim=2)
    writer.split("train", np.array([0, 1]))
    writer.features("train", "instance").append(np.zeros((2, 2), np.float32))
    path.write_text("mine")
    with pytest.raises(errors.OutputExists, match=r"b\.h5 exists"), writer:
        pass
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["b.h5"]


def test_both_at_the_same_moment(tmp_path: Path) -> None:
    """Five times over a bank, five times where none is."""
    many_races(tmp_path, 5)


@pytest.mark.long
def test_both_at_the_same_moment_two_hundred_times(tmp_path: Path) -> None:
    """The same, long enough for rare orders of events."""
    many_races(tmp_path, 200)


def test_a_reader_keeps_the_bank_it_opened(tmp_path: Path) -> None:
    """A writer replaces the file; an open one stays what it was."""
    path = write_full(tmp_path / "b.h5", seed=0)
    before = everything(path)
    with Bank(path) as bank:
        write_over(path, 1)
        for view in bank.views:
            content = bank.read("train", view, 0, ROWS, copy=1).tobytes()
            assert content == before[f"train/{view}/1"]
        assert bank.labels("train").tolist() == before["train/label"]
    after = everything(path)
    assert after["fingerprint"] != before["fingerprint"]


def test_readers_while_a_bank_is_replaced_again_and_again(tmp_path: Path) -> None:
    """Whenever it is opened, it is the one or the other."""
    path, contents = tmp_path / "b.h5", []
    for seed in (0, 1):
        write_over(path, seed)
        contents.append(everything(path))
    child = os.fork()
    if not child:
        for i in range(1_000_000):
            write_over(path, i % 2)
    try:
        seen = [contents.index(everything(path)) for _ in range(40)]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert set(seen) == {0, 1}
