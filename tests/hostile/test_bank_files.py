"""Files that are no bank, or one with something missing, misnamed or out of place."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import BankWriter, errors
from tests.hostile.banks import FEATURE, assert_refused, opened

Attack = Callable[[Path], None]
MANY = 1 << 62


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_text(path: Path) -> None:
    path.write_text("a text\n" * 1000)


def a_database(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE t (x)")


def an_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.ones(3))


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def not_there(path: Path) -> None:
    path.unlink()


def signature_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8] + os.urandom(5000))


def unfinished(path: Path) -> None:
    with opened(path) as file:
        file.attrs["complete"] = np.int64(0)


def open_for_writing(path: Path) -> None:
    """As a writer leaves its part file when it is killed."""
    writer = BankWriter(path.with_name("killed.h5"), ["a", "b"], dim=2)
    writer._file.flush()
    path.write_bytes(writer._target.part.read_bytes())
    writer.discard()


NO_BANKS = [
    (empty, errors.NotABank, "not a readable HDF5 file"),
    (a_text, errors.NotABank, "not a readable HDF5 file"),
    (a_database, errors.NotABank, "is a results file, not a bank"),
    (an_archive, errors.NotABank, "is a checkpoint or .npz, not a bank"),
    (other_hdf5, errors.NotABank, "but not a bank"),
    (a_folder, errors.NotABank, "is a folder"),
    (a_pipe, errors.NotABank, "not a file"),
    (not_there, errors.NotABank, "no such file"),
    (signature_only, errors.NotABank, "not a readable HDF5 file"),
    (unfinished, errors.Incomplete, "not finished"),
    (open_for_writing, errors.Incomplete, "Run that command again"),
]

NUMBERS = ("schema", "complete", "num_classes", "dim")
TEXTS = ("format", "fingerprint")
NO_HASH = "is not 64 hexadecimal digits"

ATTRIBUTES = {
    **{f"{name} a float": (name, np.float64(1), "has type float64") for name in NUMBERS},
    **{f"{name} a text": (name, np.bytes_(b"1"), "has type |S1") for name in NUMBERS},
    **{f"{name} an array": (name, np.ones(2, int), "and shape (2,)") for name in NUMBERS},
    **{f"{name} null": (name, h5py.Empty("i8"), "and shape None") for name in NUMBERS},
    **{f"{name} of any length": (name, "featbank", "has type object") for name in TEXTS},
    **{f"{name} null": (name, h5py.Empty("S8"), "and shape None") for name in TEXTS},
    **{f"{name} not UTF-8": (name, np.bytes_(b"\xff"), "is not UTF-8") for name in TEXTS},
    "fingerprint too short": ("fingerprint", np.bytes_(b"00"), NO_HASH),
    "fingerprint of two lines": ("fingerprint", np.bytes_(b"0" * 64 + b"\n0"), NO_HASH),
}

COLUMN_ATTRIBUTES = {
    "no source": ("train/index", "source", None, "is missing"),
    "source of any length": ("train/index", "source", "there", "has type object"),
    "source not UTF-8": ("train/index", "source", np.bytes_(b"\xff"), "is not UTF-8"),
    "source null": ("train/index", "source", h5py.Empty("S8"), "and shape None"),
    "no digest": (FEATURE, "sha256", None, "is missing"),
    "digest of any length": (FEATURE, "sha256", "0" * 64, "has type object"),
    "digest too short": (FEATURE, "sha256", np.bytes_(b"00"), NO_HASH),
    "digest null": (FEATURE, "sha256", h5py.Empty("S64"), "and shape None"),
}

VALUES = [
    ("format", np.bytes_(b"other"), errors.NotABank, "is an HDF5 file, but not a bank"),
    ("schema", np.int64(7), errors.TooNew, "has schema 7, this version reads up to 6"),
    ("schema", np.int64(MANY), errors.TooNew, "this version reads up to 6"),
    ("schema", np.int64(0), errors.Corrupt, "it has schema 0, the first is 1"),
    ("schema", np.int64(-1), errors.Corrupt, "it has schema -1, the first is 1"),
    ("complete", np.int64(2), errors.Incomplete, "was not finished"),
    *(("num_classes", np.int64(n), errors.Corrupt, f"not [{n}]") for n in (2, 9, MANY)),
    *(("num_classes", np.int64(n), errors.Corrupt, f"is {n}, the least is 2") for n in (1, 0, -1)),
    ("num_classes", np.int64(-MANY), errors.Corrupt, "the least is 2"),
    *(("dim", np.int64(n), errors.Corrupt, f"not [A ≥ 1, 24, {n}]") for n in (1, 9, MANY)),
    *(("dim", np.int64(n), errors.Corrupt, f"is {n}, the least is 1") for n in (0, -1, -MANY)),
]


def set_attribute(path: Path, place: str, name: str, value: object) -> None:
    """Set an attribute; None takes it away."""
    with opened(path) as file:
        del file[place].attrs[name]
        if value is not None:
            file[place].attrs[name] = value


def without(*names: str) -> Attack:
    """An attack that removes something."""

    def attack(path: Path) -> None:
        with opened(path) as file:
            for name in names:
                del file[name]

    return attack


def group_for_a_dataset(path: Path) -> None:
    with opened(path) as file:
        del file["train/label"]
        file.create_group("train/label")


def dataset_for_a_group(path: Path) -> None:
    with opened(path) as file:
        del file["train/instance"]
        file["train/instance"] = 3


def type_for_a_group(path: Path) -> None:
    with opened(path) as file:
        del file["train/instance"]
        file["train/instance"] = np.dtype("f4")


def view_in_test_only(path: Path) -> None:
    with opened(path) as file:
        file.move("train/balanced", "elsewhere")


def view_three_deep(path: Path) -> None:
    with opened(path) as file:
        file.move("train/balanced", "train/a/b/balanced")


def features_a_group(path: Path) -> None:
    with opened(path) as file:
        file.move(FEATURE, "train/instance/feature_/feature")
        file.move("train/instance/feature_", FEATURE)


def no_layer(path: Path) -> None:
    with opened(path) as file:
        file["batchnorm/instance/bn2/mean"] = file["batchnorm/instance/bn1/mean"][()]


def root_as_a_split(path: Path) -> None:
    with opened(path) as file:
        file["val"] = file["/"]


STRUCTURE = {
    "no provenance": (without("provenance"), "provenance is missing"),
    "no classes": (without("classes"), "classes is missing"),
    "no class names": (without("classes/name"), "classes/name is missing"),
    "no class counts": (without("classes/train_count"), "classes/train_count is missing"),
    "no train": (without("train"), "there is no train split"),
    "no labels": (without("test/label"), "test/label is missing"),
    "no index": (without("test/index"), "test/index is missing"),
    "no features": (without("train/instance", "train/balanced"), "no features"),
    "a view missing in test": (
        without("test/balanced"),
        "test has the views instance, train has instance, balanced",
    ),
    "a view in test only": (
        view_in_test_only,
        "test has the views instance, balanced, train has instance",
    ),
    "no bias": (without("classifier/instance/bias"), "classifier/instance/bias is missing"),
    "no weight": (without("classifier/instance/weight"), "classifier/instance/weight is missing"),
    "no variance": (
        without("batchnorm/instance/bn1/variance"),
        "batchnorm/instance/bn1/variance is missing",
    ),
    "a layer of half": (no_layer, "batchnorm/instance/bn2"),
    "a group for a dataset": (group_for_a_dataset, "train/label is not a dataset"),
    "a dataset for a group": (dataset_for_a_group, "train/instance is not a group"),
    "a type for a group": (type_for_a_group, "train/instance is not a group"),
    "the root as a split": (root_as_a_split, "val/provenance is not a group"),
    "a view three deep": (view_three_deep, "train has instance"),
    "features a group": (features_a_group, "train/instance/feature is not a dataset"),
}

NAMES = {
    "of two lines": "a\nb",
    "with a space": "a b",
    "with an escape": "\x1b[2J",
    "in another script": "猫",
    "not UTF-8": b"\xff\xfe",
    "parent folder": "..",
    "hidden": ".x",
    "an option": "-x",
    "a path": "~",
    "10 kB long": "x " * 5000,
}


@pytest.mark.parametrize(("attack", "kind", "says"), NO_BANKS)
def test_what_is_no_bank(bank: Path, attack: Attack, kind: type, says: str) -> None:
    """Other files, and banks of a writer that did not finish."""
    attack(bank)
    assert_refused(bank, kind, says)


@pytest.mark.parametrize("name", [*NUMBERS, "fingerprint"])
def test_a_missing_attribute(bank: Path, name: str) -> None:
    """The head of a bank is complete."""
    set_attribute(bank, "/", name, None)
    assert_refused(bank, errors.Corrupt, f"the attribute {name!r} is missing")


def test_no_format(bank: Path) -> None:
    """A file that does not call itself a bank is none."""
    set_attribute(bank, "/", "format", None)
    assert_refused(bank, errors.NotABank, "is an HDF5 file, but not a bank")


@pytest.mark.parametrize(("name", "value", "says"), ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
def test_another_attribute(bank: Path, name: str, value: object, says: str) -> None:
    """Attributes are single values of fixed length."""
    set_attribute(bank, "/", name, value)
    assert_refused(bank, errors.Corrupt, f"the attribute {name!r}")
    assert_refused(bank, errors.Corrupt, says)


@pytest.mark.parametrize("case", COLUMN_ATTRIBUTES.values(), ids=COLUMN_ATTRIBUTES.keys())
def test_another_attribute_of_a_column(bank: Path, case: tuple[str, str, object, str]) -> None:
    """The same of a column's source and of a digest."""
    place, name, value, says = case
    set_attribute(bank, place, name, value)
    assert_refused(bank, errors.Corrupt, f"the attribute {name!r}")
    assert_refused(bank, errors.Corrupt, says)


@pytest.mark.parametrize(("name", "value", "kind", "says"), VALUES)
def test_a_value_out_of_range(bank: Path, name: str, value: object, kind: type, says: str) -> None:
    """Numbers are what the datasets are, and at least what a bank needs."""
    set_attribute(bank, "/", name, value)
    assert_refused(bank, kind, says)


@pytest.mark.parametrize(("attack", "says"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_something_missing(bank: Path, attack: Attack, says: str) -> None:
    """A bank without one of its parts, or with another in its place."""
    attack(bank)
    assert_refused(bank, errors.Corrupt, says)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_is_none(bank: Path, name: str | bytes) -> None:
    """A view's name becomes part of paths and tables."""
    with opened(bank) as file:
        for split in ("train", "test"):
            encoded = name.encode() if isinstance(name, str) else name
            h5py.h5g.create(file[split].id, encoded)
    assert_refused(bank, errors.Unsafe, "has a member named")


def test_a_flipped_bit_in_the_features_is_found(bank: Path) -> None:
    """A changed byte of a chunk fails its checksum when it is read; the message names the rows."""
    with h5py.File(bank) as file:
        offset = file[FEATURE].id.get_chunk_info(1).byte_offset
    damaged = bytearray(bank.read_bytes())
    damaged[offset + 5] ^= 1
    bank.write_bytes(damaged)
    assert_refused(bank, errors.Corrupt, "train/instance/feature, rows 0…23 of copy 1")
