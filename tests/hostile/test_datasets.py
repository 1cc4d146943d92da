"""Datasets with another type, shape, storage or content than the schema requires."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, errors
from tests.hostile.banks import (
    CLASSES,
    COPIES,
    DIM,
    FEATURE,
    ROWS,
    assert_refused,
    opened,
    replace,
)

CLASSIFIER = "classifier/instance/weight"
LABELS = np.zeros(ROWS, np.int64)
FEATURES = np.zeros((COPIES, ROWS, DIM), np.float32)
RECORDS = np.zeros((COPIES, ROWS, DIM), [("a\nb", "f4")])
TEXTS = np.full(ROWS, "a", object)
WEIGHT = np.zeros((CLASSES, DIM), np.float32)


def json_bytes(text: bytes) -> np.ndarray:
    """A document as provenance is stored."""
    return np.frombuffer(text, np.uint8)


OTHER_ARRAYS = {
    "labels float": ("train/label", LABELS * 1.0, " has type float64"),
    "labels int32": ("train/label", LABELS.astype("i4"), " has type int32"),
    "labels uint64": ("train/label", LABELS.astype("u8"), " has type uint64"),
    "labels big-endian": ("train/label", LABELS.astype(">i8"), " has type >i8"),
    "labels scalar": ("train/label", np.int64(3), " has type int64 and 0 axes"),
    "labels in a table": ("train/label", LABELS[None], " has type int64 and 2 axes"),
    "label negative": ("train/label", np.r_[0, 0, -1, LABELS[3:]], ": label -1 in row 2"),
    "label too large": ("test/label", np.r_[0, CLASSES, LABELS[:10]], ": label 3 in row 1"),
    "index float": ("test/index", np.zeros(ROWS // 2), " has type float64"),
    "index bool": ("train/index", LABELS.astype(bool), " has type bool"),
    "index too short": ("train/index", LABELS[1:], " has shape [23], not [24]"),
    "paths too few": ("train/path", np.full(3, b"a"), " has shape [3], not [24]"),
    "paths not UTF-8": ("train/path", np.full(ROWS, b"\xff"), ": row 0 is not UTF-8"),
    "features float64": (FEATURE, FEATURES.astype("f8"), " has type float64"),
    "features int": (FEATURE, FEATURES.astype("i4"), " has type int32"),
    "features big-endian": (FEATURE, FEATURES.astype(">f4"), " has type >f4"),
    "features complex": (FEATURE, FEATURES.astype("c8"), " has type complex64"),
    "features records": (FEATURE, RECORDS, " has type [('a\\nb', '<f4')]"),
    "features opaque": (FEATURE, FEATURES.view("V4"), " has type |V4"),
    "features of one axis": (FEATURE, FEATURES.ravel(), " has type float32 and 1 axes"),
    "features of two axes": (FEATURE, FEATURES[0], " has type float32 and 2 axes"),
    "features of four axes": (FEATURE, FEATURES[None], " has shape [1, 2, 24, 8]"),
    "features of no copy": (FEATURE, FEATURES[:0], " has shape [0, 24, 8], not [A ≥ 1, 24, 8]"),
    "classes too few": ("classes/train_count", LABELS[:2], " has shape [2], not [3]"),
    "class names too many": ("classes/name", np.full(4, b"a"), " has shape [4], not [3]"),
    "class names not UTF-8": ("classes/name", np.array([b"a", b"\xff", b"c"]), ": row 1 is not"),
    "counts negative": ("classes/train_count", np.array([-1, 20, 5]), " has -1 samples of class 0"),
    "counts of others": ("classes/train_count", np.array([24, 0, 0]), " has 24 samples of class 0"),
    "classifier too wide": (CLASSIFIER, np.c_[WEIGHT, WEIGHT], " has shape [3, 16]"),
    "classifier too long": (CLASSIFIER, np.r_[WEIGHT, WEIGHT], " has shape [6, 8]"),
    "classifier float64": (CLASSIFIER, WEIGHT.astype("f8"), " has type float64"),
    "bias too short": ("classifier/instance/bias", WEIGHT[0, :2], " has shape [2], not [3]"),
    "variance too short": ("batchnorm/instance/bn1/variance", WEIGHT[0, :3], " has shape [3]"),
    "provenance a text": ("provenance", json_bytes(b"made by hand"), " is not JSON"),
    "provenance a list": ("provenance", json_bytes(b"[1]"), " is not a JSON object"),
    "provenance not UTF-8": ("provenance", json_bytes(b'{"a":"\xff"}'), " is not JSON"),
    "provenance empty": ("provenance", json_bytes(b""), " is not JSON"),
    "provenance deep": ("provenance", json_bytes(b'{"a":' + b"[" * 100_000), " is not JSON"),
}  # fmt: skip

EMPTY = {"shape": (ROWS,), "chunks": (4,)}
TEXT_TYPE = h5py.string_dtype()

OTHER_TYPES = {
    "labels null": ("train/label", None, {"dtype": "i8"}),
    "arrays of any length": ("train/label", None, {"dtype": h5py.vlen_dtype("i8"), **EMPTY}),
    "object references": ("train/label", None, {"dtype": h5py.ref_dtype, **EMPTY}),
    "region references": ("train/label", None, {"dtype": h5py.regionref_dtype, **EMPTY}),
    "paths of any length": ("train/path", TEXTS, {"dtype": TEXT_TYPE, "fletcher32": False}),
    "names of any length": ("classes/name", TEXTS[:3], {"dtype": TEXT_TYPE, "fletcher32": False}),
}

FILTERS = {
    "gzip": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "shuffle": {"shuffle": True},
    "scale-offset": {"scaleoffset": 8, "fletcher32": False},
}

UNCHECKED = {
    "chunked": {"fletcher32": False, "chunks": (4,)},
    "contiguous": {"fletcher32": False},
}

OTHER_CHUNKS = {
    "of both copies": (FEATURE, FEATURES, (COPIES, ROWS, DIM)),
    "of half rows": (FEATURE, FEATURES, (1, ROWS, DIM // 2)),
    "of half weights": (CLASSIFIER, WEIGHT, (CLASSES, DIM // 2)),
}


def unknown_filter(path: Path) -> None:
    """A filter by number 32000, which no library has."""
    with opened(path) as file:
        del file["train/label"]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((ROWS,))
        creation.set_filter(32000, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        space = h5py.h5s.create_simple((ROWS,))
        made = h5py.h5d.create(file["train"].id, b"label", h5py.h5t.STD_I64LE, space, dcpl=creation)
        made.write_direct_chunk((0,), b"\0" * (8 * ROWS))


def default_format(path: Path) -> None:
    """The same content as h5py writes it by default: metadata without checksums."""
    with h5py.File(path) as file, h5py.File(path.with_name("default.h5"), "w") as other:
        for name in file:
            file.copy(name, other)
        for name, value in file.attrs.items():
            other.attrs[name] = value
    path.with_name("default.h5").replace(path)


def cases(table: dict[str, Any], names: str) -> Callable[[Callable], Callable]:
    """Parametrize over a table of cases by name."""
    return pytest.mark.parametrize(names, table.values(), ids=table.keys())


@cases(OTHER_ARRAYS, "case")
def test_another_array(bank: Path, case: tuple[str, np.ndarray, str]) -> None:
    """Type, axes, shape and values; the message begins with the dataset."""
    name, array, says = case
    replace(bank, name, array)
    assert_refused(bank, errors.Corrupt, name + says)


@cases(OTHER_TYPES, "case")
def test_another_type(bank: Path, case: tuple[str, np.ndarray | None, dict[str, Any]]) -> None:
    """Types that h5py reads as objects, from heaps without checksums; and nothing at all."""
    name, array, options = case
    replace(bank, name, array, **options)
    assert_refused(bank, errors.Corrupt, f"{name} has type")


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 1])
def test_labels_and_features_of_other_rows(bank: Path, rows: int) -> None:
    """Every column of a split has its N rows."""
    replace(bank, "train/label", np.zeros(rows, np.int64))
    assert_refused(bank, errors.Corrupt, f"train/index has shape [24], not [{rows}]")


@pytest.mark.parametrize("shape", [(COPIES, ROWS - 1, DIM), (COPIES, ROWS, DIM + 1)])
def test_features_of_another_shape(bank: Path, shape: tuple[int, int, int]) -> None:
    """Features have N rows of size D."""
    replace(bank, FEATURE, np.zeros(shape, np.float32), chunks=(1, *shape[1:]))
    assert_refused(bank, errors.Corrupt, f"{FEATURE} has shape {list(shape)}")


@cases(OTHER_CHUNKS, "case")
def test_other_chunks(bank: Path, case: tuple[str, np.ndarray, tuple[int, ...]]) -> None:
    """A chunk holds whole rows of one copy."""
    name, array, chunks = case
    replace(bank, name, array, chunks=chunks)
    assert_refused(bank, errors.Corrupt, f"{name} has chunks {list(chunks)}, not of whole rows")


@cases(FILTERS, "options")
def test_a_filter(bank: Path, options: dict[str, Any]) -> None:
    """Only the checksum: other filters are code that hostile data reaches."""
    replace(bank, "train/label", LABELS, **options)
    assert_refused(bank, errors.Unsafe, "train/label goes through a filter other than fletcher32")


def test_an_unknown_filter(bank: Path) -> None:
    """Its number could name a plugin of the user's."""
    unknown_filter(bank)
    assert_refused(bank, errors.Unsafe, "train/label goes through a filter other than fletcher32")


@cases(UNCHECKED, "options")
def test_no_checksums(bank: Path, options: dict[str, Any]) -> None:
    """Flipped bits would go unnoticed."""
    replace(bank, "train/label", LABELS, **options)
    assert_refused(bank, errors.Corrupt, "train/label is stored without checksums")


def test_no_checksums_of_the_metadata(bank: Path) -> None:
    """As h5py writes by default: of the root, with its attributes, or of one dataset."""
    labels = bank.with_name("labels.h5")
    labels.write_bytes(bank.read_bytes())
    with h5py.File(labels, "r+", libver=("earliest", "v110")) as file:
        del file["train/label"]
        file.create_dataset("train/label", data=LABELS, fletcher32=True)
    assert_refused(labels, errors.Corrupt, "train/label: its header has no checksum")
    default_format(bank)
    assert_refused(bank, errors.Corrupt, "the root: its header has no checksum")


def test_nan_in_the_features_is_not_the_readers_business(bank: Path) -> None:
    """`featbank verify` looks at every value; reading does not."""
    replace(bank, FEATURE, FEATURES * np.nan, chunks=(1, ROWS, DIM))
    with Bank(bank) as opened_bank:
        assert np.isnan(opened_bank.load("train")[0]).all()
