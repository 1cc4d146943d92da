"""A disk that fills up while a bank is written: one line, exit code 1, target unchanged.

The limit on file sizes (RLIMIT_FSIZE) fails a write just as a full disk does, at any byte. Each
writer is a process of its own, as a crash may come as late as at its exit.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from featbank import BankWriter, errors, write_bank
from tests.conftest import ROOT
from tests.hostile.banks import everything, write_full
from tests.hostile.children import limit_file_size

FEATBANK = Path(sys.executable).with_name("featbank")

WRITE = """
import sys
import numpy as np
from featbank import write_bank

x, y = np.load("x.npy"), np.load("y.npy")
try:
    write_bank("b.h5", {"train": {"instance": x, "other": x}}, {"train": y}, overwrite=True)
except OSError as error:
    sys.exit(f"featbank: {error}")
"""
IN_PYTHON = [sys.executable, "-c", WRITE]
COMMAND = [FEATBANK, "import", "--train", "x.npy", "y.npy", "-o", "b.h5", "--overwrite"]


def limited(command: Sequence[object], folder: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Run a command that can write files of at most `size` bytes."""

    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        preexec_fn=partial(limit_file_size, size),
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass(frozen=True)
class Sizes:
    """Bytes of the bank that each of the writers makes where there is room."""

    in_python: int
    by_command: int


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arrays of a bank of several chunks, and an older bank."""
    folder = tmp_path_factory.mktemp("arrays")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(3000, 64)).astype("f4"))
    np.save(folder / "y.npy", np.arange(3000) % 5)
    write_full(folder / "b.h5")
    return folder


@pytest.fixture
def folder(arrays: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(arrays, tmp_path / "work"))


@pytest.fixture(scope="module")
def sizes(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    """Both writers work in a folder where both failed before."""
    folder = Path(shutil.copytree(arrays, tmp_path_factory.mktemp("sizes") / "work"))
    sizes = []
    for command in (IN_PYTHON, COMMAND):
        fails_cleanly(command, folder, 50_000)
        done = limited(command, folder, resource.RLIM_INFINITY)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert everything(folder / "b.h5")["train/instance"] == (1, 3000, 64)
        assert sorted(os.listdir(folder)) == ["b.h5", "x.npy", "y.npy"]
        sizes.append((folder / "b.h5").stat().st_size)
    return Sizes(*sizes)


def fails_cleanly(command: Sequence[object], folder: Path, size: int) -> None:
    """A command whose files cannot exceed `size` says so and keeps the older bank."""
    before = (folder / "b.h5").read_bytes()
    done = limited(command, folder, size)
    assert done.returncode == 1, (size, done)
    assert done.stderr.count("\n") == 1, (size, done)
    assert "b.h5 could not be written" in done.stderr, (size, done)
    assert (folder / "b.h5").read_bytes() == before
    assert sorted(os.listdir(folder)) == ["b.h5", "x.npy", "y.npy"], size


SHARES = {
    "before the first byte": 0,
    "in the superblock": 40 / 1e6,
    "after the superblock": 96 / 1e6,
    "in the first columns": 5_000 / 1e6,
    "in the first chunk of features": 0.1,
    "in the middle": 0.5,
    "in the last chunk": 0.98,
    "one byte before the end": 1,
}
"""Share of the bank written before an operation fails, by operation."""


def limit_of(share: float, whole: int) -> int:
    """Bytes that may be written of `whole`; at least one is lacking."""
    return min(whole - 1, int(share * whole))


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES.keys())
def test_full_while_python_writes(folder: Path, sizes: Sizes, share: float) -> None:
    """`write_bank` raises OSError, and nothing is said at the interpreter's exit."""
    fails_cleanly(IN_PYTHON, folder, limit_of(share, sizes.in_python))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_full_while_the_command_writes(folder: Path, sizes: Sizes, share: float) -> None:
    """`featbank import` fails in one line."""
    fails_cleanly(COMMAND, folder, limit_of(share, sizes.by_command))


@pytest.mark.long
def test_full_at_any_byte(folder: Path, sizes: Sizes) -> None:
    """A hundred limits, dense at both ends."""
    whole = sizes.in_python
    near = np.unique(np.geomspace(1, whole // 2, 50).astype(int))
    for size in [*near, *(whole - near)]:
        fails_cleanly(IN_PYTHON, folder, int(size))


def test_room_is_looked_for_before_features_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk too small for the bank is refused at once, with both sizes."""
    path = tmp_path / "b.h5"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100 << 20))
    x = np.broadcast_to(np.float32(1), (50_000, 1024))
    with pytest.raises(errors.NoSpace, match=r"b\.h5 needs 195 MiB more, its disk has 100 MiB"):
        write_bank(path, {"train": {"instance": x}}, {"train": np.arange(50_000) % 2})
    assert os.listdir(tmp_path) == []
    with BankWriter(path, ["a", "b"], dim=1024) as writer:
        writer.split("train", np.zeros(20_000, int))
        writer.features("train", "instance")  # 78 MiB
        with pytest.raises(errors.NoSpace, match="needs 156"):
            writer.features("train", "balanced")
        writer.discard()
    assert os.listdir(tmp_path) == []
