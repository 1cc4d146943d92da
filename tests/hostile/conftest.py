"""Files that the tests of hostile ones share: a sound bank and results, and copies of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hostile.banks import write_full
from tests.hostile.results import write_results


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bank with everything a bank can have."""
    return write_full(tmp_path_factory.mktemp("sound") / "b.h5").read_bytes()


@pytest.fixture
def bank(sound: bytes, tmp_path: Path) -> Path:
    """That bank, to be tampered with."""
    path = tmp_path / "full.h5"
    path.write_bytes(sound)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with everything it can have, in WAL mode, beside its bank."""
    return write_results(tmp_path_factory.mktemp("results") / "r.sqlite", banks=1)


@pytest.fixture
def path(results: Path, tmp_path: Path) -> Path:
    """A copy of it, with its bank, in a folder of their own."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(results.with_name("bank.h5"), place)
    return Path(shutil.copy(results, place))
