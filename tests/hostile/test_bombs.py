"""Small banks that declare terabytes, or chunks of a size that their rows do not have.

Each is read in a child process with little memory, in little time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import errors
from tests.hostile.banks import (
    COPIES,
    DIM,
    FEATURE,
    ROWS,
    VIEWS,
    assert_refused_in_time,
    opened,
    replace,
)

CHECKED = {"fletcher32": True}
MANY = 1 << 62


def huge_chunked(path: Path) -> None:
    shape = (COPIES, 1 << 40, DIM)
    replace(path, FEATURE, None, shape=shape, dtype="f4", chunks=(1, 1 << 20, DIM), **CHECKED)


def huge_contiguous(path: Path) -> None:
    replace(path, FEATURE, None, shape=(COPIES, 1 << 40, DIM), dtype="f4")


def huge_growing(path: Path) -> None:
    shape = (COPIES, 1 << 40, DIM)
    growing = {"maxshape": (None, None, None), "chunks": (1, 1024, DIM), "fletcher32": True}
    replace(path, FEATURE, None, shape=shape, dtype="f4", **growing)


def huge_labels(path: Path) -> None:
    shape = (1 << 45,)
    replace(path, "train/label", None, shape=shape, dtype="i8", chunks=(1 << 20,), **CHECKED)


def huge_class_table(path: Path) -> None:
    shape = (1 << 45,)
    replace(path, "classes/name", None, shape=shape, dtype="S9", chunks=(1 << 20,), **CHECKED)


def huge_texts(path: Path) -> None:
    kind = h5py.string_dtype(length=1 << 31 - 1)
    replace(path, "train/path", None, shape=(ROWS,), dtype=kind, chunks=(1,), **CHECKED)


def more_bytes_than_can_be_counted(path: Path) -> None:
    shape, chunk = (1 << 31, 1 << 31, 4), (1, 1 << 20, 4)
    replace(path, FEATURE, None, shape=shape, dtype="f4", chunks=chunk, **CHECKED)


def huge_number_of_copies_of_nothing(path: Path) -> None:
    for split in ("train", "test"):
        for view in VIEWS:
            replace(path, f"{split}/{view}/feature", None, shape=(MANY, 0, DIM), dtype="f4")
        for column in ("label", "index"):
            replace(path, f"{split}/{column}", np.zeros(0, np.int64))
        replace(path, f"{split}/path", np.zeros(0, "S3"))


def huge_chunk_of_few_rows(path: Path) -> None:
    """A chunk of 2 GiB of which 4 bytes are stored."""
    growing = {"maxshape": (None,), "chunks": (1 << 28,), "fletcher32": True}
    replace(path, "train/label", None, shape=(ROWS,), dtype="i8", **growing)
    with opened(path) as file:
        file["train/label"].id.write_direct_chunk((0,), b"\0\0\0\0")


def short_chunk(path: Path) -> None:
    """One chunk has fewer bytes than its rows need, the next has more."""
    replace(path, "train/label", np.zeros(ROWS, np.int64), chunks=(ROWS // 2,))
    with opened(path) as file:
        file["train/label"].id.write_direct_chunk((0,), b"\0" * 8)
        file["train/label"].id.write_direct_chunk((ROWS // 2,), b"\0" * (16 * ROWS))


def chunk_around_its_checksum(path: Path) -> None:
    """The mask of a chunk says that the checksum was left out."""
    with opened(path) as file:
        file["train/label"].id.write_direct_chunk((0,), b"\1" + b"\0" * (8 * ROWS - 1), 1)


def missing_chunk(path: Path) -> None:
    shape, chunk = (COPIES, ROWS, DIM), (1, ROWS, DIM)
    replace(path, FEATURE, None, shape=shape, dtype="f4", chunks=chunk, **CHECKED)
    with opened(path) as file:
        file[FEATURE][0] = 0


def deep_provenance(path: Path) -> None:
    replace(path, "provenance", np.frombuffer(b'{"a":' + b"[" * 100_000, np.uint8))


BOMBS = [
    (huge_chunked, errors.Truncated, "train/instance/feature declares"),
    (huge_contiguous, errors.Corrupt, "train/instance/feature is stored without checksums"),
    (huge_growing, errors.Truncated, "train/instance/feature declares"),
    (huge_labels, errors.Truncated, "train/label declares"),
    (huge_class_table, errors.Truncated, "classes/name declares"),
    (huge_texts, errors.Truncated, "train/path declares"),
    (more_bytes_than_can_be_counted, errors.Truncated, "train/instance/feature declares"),
    (huge_number_of_copies_of_nothing, errors.Corrupt, f"feature has shape [{MANY}, 0, 8]"),
    (huge_chunk_of_few_rows, errors.Corrupt, "train/label: the chunk at [0] has 4 bytes"),
    (short_chunk, errors.Corrupt, "train/label: the chunk at [0] has 8 bytes"),
    (chunk_around_its_checksum, errors.Corrupt, "192 bytes and the filter mask 1"),
    (missing_chunk, errors.Truncated, "train/instance/feature has 1 chunks, 2 are declared"),
    (deep_provenance, errors.Corrupt, "provenance"),
]


@pytest.mark.parametrize(("attack", "kind", "says"), BOMBS)
def test_a_bomb(bank: Path, attack: Callable[[Path], None], kind: type, says: str) -> None:
    """A bank that declares more than it has is refused before memory is allocated."""
    attack(bank)
    assert_refused_in_time(bank, kind, says)
