"""Files cut short: a bank is whole or refused, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from featbank import errors
from tests.hostile.banks import assert_refused, everything

SUPERBLOCK = 48


@pytest.mark.parametrize("sixteenth", range(1, 16))
def test_cut_at_a_sixteenth(sound: bytes, tmp_path: Path, sixteenth: int) -> None:
    """The superblock tells how long the file was."""
    path = tmp_path / "cut.h5"
    path.write_bytes(sound[: len(sound) * sixteenth // 16])
    assert_refused(path, errors.Truncated, "is cut short")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 47])
def test_cut_in_the_superblock(sound: bytes, tmp_path: Path, size: int) -> None:
    """Too short to tell anything."""
    path = tmp_path / "cut.h5"
    path.write_bytes(sound[:size])
    assert_refused(path, errors.NotABank, "is not a readable HDF5 file")


@pytest.mark.parametrize("size", [SUPERBLOCK, SUPERBLOCK + 1, 100, -1])
def test_cut_after_the_superblock(sound: bytes, tmp_path: Path, size: int) -> None:
    """As little as the superblock is left, or one byte is missing."""
    path = tmp_path / "cut.h5"
    path.write_bytes(sound[:size])
    assert_refused(path, errors.Truncated, "is cut short")


@pytest.mark.parametrize("kept", [1, 8, 15])
def test_the_rest_is_zeros(sound: bytes, tmp_path: Path, kept: int) -> None:
    """A copy that was interrupted on a disk that had reserved the whole length."""
    path = tmp_path / "zeros.h5"
    begin = sound[: len(sound) * kept // 16]
    path.write_bytes(begin.ljust(len(sound), b"\0"))
    assert_refused(path, errors.Corrupt, "is damaged")


def test_four_bytes_too_many(sound: bytes, tmp_path: Path) -> None:
    """Appended bytes are no part of the bank and do no harm."""
    path = tmp_path / "long.h5"
    path.write_bytes(sound)
    content = everything(path)
    path.write_bytes(sound + b"\xde\xad\xbe\xef")
    assert everything(path) == content


def test_begins_with_something_else(sound: bytes, tmp_path: Path) -> None:
    """HDF5 looks for its signature at 512 bytes, too; a bank begins with it."""
    path = tmp_path / "late.h5"
    path.write_bytes(bytes(512) + sound)
    assert_refused(path, errors.Corrupt, "begins with something else")
