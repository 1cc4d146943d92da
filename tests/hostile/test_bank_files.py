"""Files that are not what they seem: each is refused with its own type of error."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank, errors


def not_hdf5(path: Path) -> None:
    path.write_text("a text")


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)


def a_database(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE t (x)")


def unfinished(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = np.int64(0)


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = np.int64(99)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_labels(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["train/label"]


def wrong_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["train/instance/feature"]
        file["train/instance/feature"] = np.ones((1, 3, 8), np.float32)


def soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = file["train/label"][()]
        del file["train/label"]
        file["train/label"] = h5py.SoftLink("/elsewhere")


def external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["train/label"]
        file["train/label"] = h5py.ExternalLink("/etc/passwd", "/x")


def external_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        shape = file["train/label"].shape
        del file["train/label"]
        file.create_dataset("train/label", shape, "i8", external=[("/etc/passwd", 0, 8 * shape[0])])


def one_class_missing(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        counts = file["classes/train_count"][:-1]
        del file["classes/train_count"]
        file["classes/train_count"] = counts


@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        (not_hdf5, errors.NotABank),
        (other_hdf5, errors.NotABank),
        (a_database, errors.NotABank),
        (unfinished, errors.Incomplete),
        (newer, errors.TooNew),
        (truncated, errors.BankError),
        (missing_labels, errors.Corrupt),
        (wrong_shape, errors.Corrupt),
        (soft_link, errors.Unsafe),
        (external_link, errors.Unsafe),
        (external_storage, errors.Unsafe),
        (one_class_missing, errors.Corrupt),
    ],
)
def test_refused(toy_bank: Path, defect: Callable[[Path], None], kind: type[Exception]) -> None:
    """Opening says what is wrong, in one line that names the file."""
    defect(toy_bank)
    with pytest.raises(kind, match="toy.h5") as caught:
        Bank(toy_bank)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_features_is_found(toy_bank: Path) -> None:
    """A changed byte of a chunk fails its checksum when it is read."""
    with h5py.File(toy_bank) as file:
        offset = file["train/instance/feature"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(toy_bank.read_bytes())
    damaged[offset + 5] ^= 1
    toy_bank.write_bytes(damaged)
    with Bank(toy_bank) as bank, pytest.raises(errors.Corrupt, match="train/instance/feature"):
        bank.load("train")
