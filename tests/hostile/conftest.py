"""What the tests of hostile files share: a sound bank, and a copy of it to tamper with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.banks import write_full


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
