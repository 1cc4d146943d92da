"""Tables of Arrow: lists of every kind are vectors, read piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from featbank import Bank, errors
from featbank.exchange import arrow, ondisk, read_array
from featbank.exchange.ondisk import OnDisk
from tests.conftest import Run
from tests.featbank.test_importers import save_arrow

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
T = X.reshape(60, 2, 2)

LISTS: dict[str, tuple[pa.Array, np.ndarray]] = {
    "list": (pa.array(X.tolist(), pa.list_(pa.float32())), X),
    "fixed": (pa.array(X.tolist(), pa.list_(pa.float32(), 4)), X),
    "large": (pa.array(X.tolist(), pa.large_list(pa.float64())), X),
    "half": (pa.array(X.astype(np.float16).tolist(), pa.list_(pa.float16())), X.astype("f2")),
    "nested": (pa.array(T.tolist(), pa.list_(pa.list_(pa.float32(), 2))), T),
    "tensor": (pa.FixedShapeTensorArray.from_numpy_ndarray(T), T),
    "single": (pa.array(X[:, None].tolist(), pa.list_(pa.list_(pa.float32()))), X[:, None]),
}

WRITERS: dict[str, Callable[[pa.Table, Path], object]] = {
    "t.parquet": lambda table, path: parquet.write_table(table, path, row_group_size=13),
    "t.feather": lambda table, path: feather.write_feather(table, path, chunksize=13),
    "plain.feather": lambda table, path: feather.write_feather(table, path, "uncompressed"),
    "t.arrow": lambda table, path: save_arrow(path, table),
}


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors stay on disk and are read a few rows at a time."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)
    monkeypatch.setattr(arrow, "BATCH_ROWS", 5)


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", [*LISTS, "columns"])
def test_vectors_are_read_by_rows(tmp_path: Path, writer: str, form: str) -> None:
    """In order, backwards and by leaps, as the array in memory."""
    column, expected = LISTS.get(form, (None, X))
    columns = {f"v_{i}": X[:, i] for i in range(4)} if form == "columns" else {"v": column}
    WRITERS[writer](pa.table({"y": np.arange(60), **columns}), tmp_path / writer)
    stored = read_array(f"{tmp_path}/{writer}:v")
    assert isinstance(stored, OnDisk)
    assert (stored.shape, stored.ndim) == (expected.shape, expected.ndim)
    rng = np.random.default_rng(1)
    for _ in range(30):
        start, stop = sorted(rng.integers(0, 61, 2).tolist())
        np.testing.assert_array_equal(stored[start:stop], expected[start:stop])
    rows = rng.integers(0, 60, 25)
    np.testing.assert_array_equal(stored[rows], expected[rows])
    np.testing.assert_array_equal(np.asarray(stored), expected)


@pytest.mark.usefixtures("in_pieces")
def test_a_table_of_splits_makes_a_bank(featbank: Run, tmp_path: Path) -> None:
    """Rows of two splits, interleaved, and embedding columns."""
    split = np.where(np.arange(60) % 3 == 0, "test", "train")
    columns = {f"emb_{i}": X[:, i] for i in range(4)}
    table = pa.table({**columns, "label": np.arange(60) // 2 % 5, "split": split})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=11)
    featbank("import", "t.parquet", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        for name in ("train", "test"):
            np.testing.assert_array_equal(bank.load(name)[0], X[split == name])
            np.testing.assert_array_equal(bank.index(name), np.flatnonzero(split == name))


@pytest.mark.parametrize("held", [0, 1 << 26])
@pytest.mark.parametrize("axes", [(1, 4), (4, 1), (1, 4, 1, 1)])
def test_axes_of_length_1_in_a_table_of_splits(
    featbank: Run, tmp_path: Path, axes: tuple[int, ...], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are dropped; further tokens need --tokens."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", held)
    split = np.where(np.arange(60) % 3 == 0, "test", "train")
    facts = {"label": np.arange(60) // 2 % 5, "split": split}
    column = X.reshape(60, *axes).tolist()
    parquet.write_table(pa.table({"embedding": column, **facts}), tmp_path / "t.parquet")
    featbank("import", "t.parquet", "--val-per-class", 1, "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        for name in ("train", "val", "test"):
            np.testing.assert_array_equal(bank.load(name)[0], X[bank.index(name)])
    parquet.write_table(
        pa.table({"embedding": LISTS["tensor"][0], **facts}), tmp_path / "k.parquet"
    )
    error = featbank("import", "k.parquet", "--dry-run", code=2).stderr
    assert "give --tokens for [N, T, D]" in error
    featbank("import", "k.parquet", "--tokens", "--val-per-class", 1, "-o", "k.h5")
    with Bank(tmp_path / "k.h5") as bank:
        np.testing.assert_array_equal(bank.load("val")[0], T[bank.index("val")])


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0]], "row 1 has an empty value. Fill it"),
        ([[1.0, 2.0], None, [1.0, 2.0]], "row 1 is empty. Fill it, or drop the row"),
        ([[1.0, 2.0], [1.0], [1.0, 2.0]], "the vector in row 1 has 1 numbers, the first has 2"),
        ([[[1.0], [2.0]], [[1.0], [2.0, 3.0]]], "the vector in row 1 has 2 numbers, the first"),
        ([[[1.0], [2.0]], [[1.0], [None]]], "row 1 has an empty value"),
        ([[[1.0], [2.0]], [[1.0], None]], "row 1 has an empty value"),
        ([{"a": 1.0}], "is not a readable .parquet file"),
        ([b"\xff"], "is not a readable .parquet file"),
    ],
)
def test_rows_without_a_vector(
    tmp_path: Path, values: list, message: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is named, also where it is read late."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0 if kept else 1 << 20)
    monkeypatch.setattr(arrow, "BATCH_ROWS", 1)
    parquet.write_table(pa.table({"v": values, "y": range(len(values))}), tmp_path / "t.parquet")
    with pytest.raises(errors.DataError, match=message) as raised:
        np.asarray(read_array(f"{tmp_path}/t.parquet:v"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_damaged_tables(tmp_path: Path, writer: str) -> None:
    """Some numbers or one line, never a crash: lengths in them may point anywhere."""
    table = pa.table({"v": LISTS["list"][0], "y": [f"class {i}" for i in range(60)]})
    WRITERS[writer](table, tmp_path / writer)
    content = (tmp_path / writer).read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for trial in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] ^= 1 << rng.integers(0, 8)
        path = tmp_path / f"{trial}{Path(writer).suffix}"  # an old one may still be mapped
        path.write_bytes(damaged)
        for key in ("v", "y"):
            try:
                np.asarray(read_array(f"{path}:{key}"))
            except errors.DataError as error:
                refused.append(str(error))
    assert refused
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("cut", [30, 400, -20])
@pytest.mark.parametrize("writer", ["t.parquet", "t.feather", "t.arrow"])
def test_tables_cut_short(tmp_path: Path, writer: str, cut: int) -> None:
    """One line; nothing is taken for the whole."""
    WRITERS[writer](pa.table({"v": LISTS["list"][0], "y": range(60)}), tmp_path / writer)
    content = (tmp_path / writer).read_bytes()
    (tmp_path / writer).write_bytes(content[:cut])
    with pytest.raises(errors.DataError, match="is not a readable") as raised:
        np.asarray(read_array(f"{tmp_path}/{writer}:v"))
    assert "\n" not in str(raised.value)
