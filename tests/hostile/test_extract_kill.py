"""Extraction killed at any moment, or out of room: what is finished stays, and the bank is right.

The short form kills forks of this process, which have torch loaded already; the long form kills the
installed command, from its start on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank.cli import main
from stage1.training.settings import default_settings
from stage1.training.train import train
from tests.hostile.children import limit_file_size

COPIES = 10

Start = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: one epoch on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(default_settings("digits-lt", epochs=1, device="cpu"), folder)
    return folder


def fork(arguments: list[str], *, output: Path | None = None, file_size: int | None = None) -> int:
    """Run the command line in a fork: its process number."""
    if child := os.fork():
        return child
    try:
        descriptor = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        if file_size:
            limit_file_size(file_size)
        main(arguments)
    except SystemExit as exit:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(exit.code or 0))
    finally:
        os._exit(99)


def install(arguments: list[str]) -> int:
    """Run the installed command: its process number."""
    command = Path(sys.executable).with_name("featbank")
    return subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL).pid


def code_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def extraction(run: Path, bank: Path) -> list[str]:
    options = f"--augmentations {COPIES} --balanced-batches 8 --device cpu"
    return ["extract", f"{run}", "-o", f"{bank}", *options.split()]


def content(path: Path) -> dict[str, object]:
    """Every dataset, provenance too, and the fingerprint."""
    content: dict[str, object] = {}
    with h5py.File(path) as file:
        content["fingerprint"] = file.attrs["fingerprint"]
        file.visititems(
            lambda name, item: content.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return content


def finished(bank: Path) -> dict[str, tuple[int, int]]:
    """File number and time of every shard: another number, and it was made again."""
    shards = bank.with_name(f".{bank.name}.shards").glob("*.shard")
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in shards}


def kill_and_resume(run: Path, folder: Path, start: Start, kills: int) -> None:
    """Kill extractions at random moments; run the last to its end; compare all that were finished.

    A moment is drawn between 0 and the time an uninterrupted run takes, so some finish; they go on
    until one was killed that had finished a shard.
    """
    whole, bank = folder / "whole.h5", folder / "bank.h5"
    begun = time.perf_counter()
    assert code_of(start(extraction(run, whole))) == 0
    longest = time.perf_counter() - begun
    expected = content(whole)
    rng = np.random.default_rng(0)
    most = killed = 0
    while killed < kills or not bank.exists() or not most:
        before = finished(bank)
        most = max(most, len(before))
        process = start(extraction(run, bank))
        if killed < kills:
            time.sleep(rng.uniform(0, longest))
            os.kill(process, signal.SIGKILL)
        killed += (code := code_of(process)) == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
        if not bank.exists():
            assert before.items() <= finished(bank).items()
        else:
            np.testing.assert_equal(content(bank), expected)
            if killed < kills or code:  # killed after publishing, before tidying up
                bank.unlink()
    left = {file.name for file in folder.iterdir()}
    assert left == {"whole.h5", "bank.h5"}


def test_killed_and_resumed_it_gives_the_bank_of_an_uninterrupted_run(
    run: Path, tmp_path: Path
) -> None:
    """Five times; no finished shard is made again, and nothing is left beside the bank."""
    kill_and_resume(run, tmp_path, fork, 5)


@pytest.mark.long
def test_killed_fifty_times(run: Path, tmp_path: Path) -> None:
    """The installed command, importing torch included."""
    kill_and_resume(run, tmp_path, install, 50)


def test_a_disk_that_takes_no_more_is_told_and_finished_shards_stay(
    run: Path, tmp_path: Path
) -> None:
    """Files may grow to 1.72 MB, the bank needs 2: exit 1, no traceback, then on from there."""
    whole, bank, output = tmp_path / "whole.h5", tmp_path / "bank.h5", tmp_path / "output.txt"
    assert code_of(fork(extraction(run, whole))) == 0
    assert code_of(fork(extraction(run, bank), output=output, file_size=1_720_000)) == 1
    *_, kept, error = output.read_text().splitlines()
    shards = finished(bank)
    assert len(shards) > 3
    assert f" {len(shards)} finished shards stay in {tmp_path}/.bank.h5.shards" in kept
    assert error.startswith(f"featbank: the work failed: {bank} could not be written")
    assert code_of(fork(extraction(run, bank), output=output)) == 0
    assert "Resuming: 4 of 5 shards are there" in output.read_text()
    np.testing.assert_equal(content(bank), content(whole))
