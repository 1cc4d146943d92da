"""Files of every format give the arrays that were saved in them; what is no array is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet
from safetensors.torch import save_file
from scipy import io

from featbank import errors
from featbank.bank import HoldOut
from featbank.exchange import Arrays, hold_out_val, read_array, read_file, settle
from featbank.exchange.arrays import SelectedRows
from featbank.exchange.formats import TABLES
from featbank.exchange.integers import as_integers
from featbank.exchange.labels import as_labels, number_labels

X, Y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 1, 2])
KEYS = {"x_train": X, "y_train": Y}


class Code:
    """Something only a pickle can restore."""


def save_mat73(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as MATLAB's -v7.3 does: HDF5 after a header of 512 bytes, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
        file["#refs#/a"] = 1.0
        file["elsewhere"] = h5py.ExternalLink("other.mat", "x")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def save_h5(path: Path, **arrays: np.ndarray) -> None:
    """Write datasets in packed chunks."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=True, compression="gzip")


def save_arrow(path: Path, table: pa.Table) -> None:
    """Write Arrow's stream, as Hugging Face's datasets does."""
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def save_csv(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write columns x_train, a text, and y_train."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["x_train", "y_train"])
        writer.writerows(zip(map(str, x.tolist()), y, strict=True))


def tensors(**arrays: np.ndarray) -> dict[str, torch.Tensor]:
    """Arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


SAVERS: dict[str, Callable[[Path], object]] = {
    "a.npz": lambda path: np.savez(path, **KEYS),
    "v5.mat": lambda path: io.savemat(path, KEYS),
    "v4.mat": lambda path: io.savemat(path, KEYS, format="4"),
    "v73.mat": lambda path: save_mat73(path, x_train=X.astype(float), y_train=Y[None] * 1.0),
    "a.pt": lambda path: torch.save(tensors(**KEYS), path),
    "old.pth": lambda path: torch.save(tensors(**KEYS), path, _use_new_zipfile_serialization=False),
    "nested.bin": lambda path: torch.save(
        {"x_train": torch.tensor(X).bfloat16(), "y_train": Y.tolist(), "epoch": 3}, path
    ),
    "a.safetensors": lambda path: save_file(tensors(**KEYS), path),
    "bf16.safetensors": lambda path: save_file(
        {"x_train": torch.tensor(X).bfloat16(), "y_train": torch.tensor(Y)}, path
    ),
    "a.h5": lambda path: save_h5(path, **KEYS),
    "a.csv": lambda path: save_csv(path, X, Y),
    "a.tsv": lambda path: save_csv(path, X, Y),
    "a.parquet": lambda path: parquet.write_table(
        pa.table({"x_train": list(X), "y_train": Y}), path, row_group_size=3
    ),
    "a.feather": lambda path: feather.write_feather(
        pa.table({"x_train": list(X), "y_train": Y}), path, chunksize=3
    ),
    "a.arrow": lambda path: save_arrow(path, pa.table({"x_train": list(X), "y_train": Y})),
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_format_gives_what_was_saved(tmp_path: Path, name: str) -> None:
    """Features and labels by key; all but tables also as a whole file."""
    path = tmp_path / name
    SAVERS[name](path)
    np.testing.assert_array_equal(read_array(f"{path}:x_train"), X)
    np.testing.assert_array_equal(as_integers(read_array(f"{path}:y_train"), "labels"), Y)
    assert read_array(f"{path}:x_train").dtype in (np.float32, np.float64)
    if path.suffix not in TABLES:
        arrays = read_file(path)
        settle(arrays)
        np.testing.assert_array_equal(arrays.features["train"]["instance"], X)
        np.testing.assert_array_equal(arrays.labels["train"], Y)


def test_keys_tell_split_and_view(tmp_path: Path) -> None:
    """`x_train_balanced` is a view, unless `y_train_balanced` makes it a split."""
    keys = {**KEYS, "x_train_balanced": X + 1, "w0": np.ones((3, 2))}
    np.savez(tmp_path / "views.npz", **keys)
    arrays = read_file(tmp_path / "views.npz")
    assert list(arrays.features["train"]) == ["instance", "balanced"]
    assert arrays.classifier["instance"][1] is None
    np.savez(tmp_path / "splits.npz", **keys, y_train_balanced=Y)
    assert set(read_file(tmp_path / "splits.npz").features) == {"train", "train_balanced"}
    np.savez(tmp_path / "odd.npz", **keys, x_trian=X)
    with pytest.raises(errors.DataError, match="key 'x_trian' is not understood"):
        read_file(tmp_path / "odd.npz")


def test_npy_stays_on_disk(tmp_path: Path) -> None:
    """A file larger than memory is mapped, not read; an empty one can be."""
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "none.npy", X[:0])
    assert isinstance(read_array(str(tmp_path / "x.npy")), np.memmap)
    assert read_array(str(tmp_path / "none.npy")).shape == (0, 2)


def test_nested_tensors_have_joined_keys(tmp_path: Path) -> None:
    """Dicts and lists by name and number."""
    torch.save({"a": {"b": [torch.ones(2), torch.zeros(1)]}, "none": None}, tmp_path / "n.pt")
    torch.save(torch.tensor(X), tmp_path / "one.pt")
    assert read_array(f"{tmp_path}/n.pt:a.b.1").tolist() == [0]
    np.testing.assert_array_equal(read_array(f"{tmp_path}/one.pt"), X)
    with pytest.raises(errors.DataError, match=r"KEY with one of: a\.b\.0, a\.b\.1\."):
        read_array(f"{tmp_path}/n.pt")


def test_texts_in_matlab(tmp_path: Path) -> None:
    """A cell array of names gives labels by name, as does a matrix of padded characters."""
    names = np.array(["owl", "cat", "cat"])
    io.savemat(tmp_path / "t.mat", {"cell": names.astype(object)[:, None], "char": names})
    for key in ("cell", "char"):
        assert as_labels(read_array(f"{tmp_path}/t.mat:{key}"), "labels").tolist() == names.tolist()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gone.npy", "gone.npy: no such file"),
        ("folder.npy", "folder.npy is a folder, not a file"),
        ("two.npz", "has several arrays. Write .*two.npz:KEY with one of: x_train, y_train"),
        ("two.npz:c", "has no key 'c'"),
        ("x.npy:k", "a single array without key 'k'"),
        ("text.npy", "is not a readable .npy file"),
        ("renamed.npz", "rename it to .npy"),
        ("objects.npy", "is not a readable .npy file .*without pickled objects"),
        ("objects.npz:a", "is not a readable .npz file"),
        ("code.pt", "pickled code is not run"),
        ("numbers.pt", "holds no arrays"),
        ("struct.mat:s", "is not a full array of numbers"),
        ("sparse.mat:s", "is not a full array of numbers"),
        ("links.mat:elsewhere", "has no key 'elsewhere'"),
        ("chars.mat:c", "is not a full array of numbers"),
        ("notes.md", "files of type .md are not read. Give one of .npy"),
        *((f"empty{s}", "empty") for s in (".npy", ".npz", ".mat", ".pt", ".csv", ".parquet")),
        ("empty.safetensors", "is not a readable .safetensors"),
        ("uneven.csv:v", "the vector in row 1 has 3 numbers, the first has 2"),
        ("letters.csv:v", "row 1 is not a vector of numbers .*'b'"),
        ("twice.csv", "column 'a' comes twice"),
        ("ragged.csv:a", "row 1 has 1 cells, the header 2"),
        ("numbered.csv:f", "row 1 is not a vector of numbers .*'b'"),
        ("uneven.parquet:v", "the vector in row 2 has 1 numbers, the first has 2"),
        ("gaps.parquet:v", "row 1 is empty"),
    ],
)
def test_each_defect_has_its_sentence(tmp_path: Path, place: str, message: str) -> None:
    """Every failure names the file and what there is; nothing pickled is opened."""
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "two.npz", **KEYS)
    objects = np.array([{}], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=objects, b=Y)
    (tmp_path / "renamed.npz").write_bytes((tmp_path / "x.npy").read_bytes())
    torch.save({"a": Code()}, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    io.savemat(tmp_path / "struct.mat", {"s": {"a": 1}})
    from scipy.sparse import csc_array

    io.savemat(tmp_path / "sparse.mat", {"s": csc_array(X)})
    save_mat73(tmp_path / "links.mat", x=X)
    save_mat73(tmp_path / "chars.mat", c=Y[None].astype(np.uint16))
    with h5py.File(tmp_path / "chars.mat", "r+") as file:
        file["c"].attrs["MATLAB_class"] = np.bytes_("char")
    for name, text in {
        "text.npy": "hello",
        "notes.md": "hello",
        "uneven.csv": "v,y\n1 2,0\n1 2 3,1\n",
        "letters.csv": "v,y\n1 2,0\n1 b,1\n",
        "twice.csv": "a,a\n1,2\n",
        "ragged.csv": "a,b\n1,2\n1\n",
        "numbered.csv": "f0,f1,y\n1,2,0\n1,b,0\n",
        **dict.fromkeys([f"empty{s}" for s in (".npy", ".npz", ".mat", ".pt", ".csv")], ""),
        **dict.fromkeys(["empty.parquet", "empty.safetensors"], ""),
    }.items():
        (tmp_path / name).write_text(text)
    parquet.write_table(pa.table({"v": [[1.0, 2.0]] * 2 + [[1.0]]}), tmp_path / "uneven.parquet")
    parquet.write_table(pa.table({"v": [[1.0, 2.0], None]}), tmp_path / "gaps.parquet")
    with pytest.raises(errors.DataError, match=message) as raised:
        read_array(f"{tmp_path}/{place}")
    assert "\n" not in str(raised.value)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'featbank\[parquet\]'"):
        read_array(f"{tmp_path}/t.parquet")


@pytest.mark.parametrize(
    "columns",
    [
        {"v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float16()))},
        {"v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))},
        {"v": pa.array([[1, 2], [3, 4]], pa.large_list(pa.float64()))},
        {"v": ["[1.0, 2.0]", "[3 4]"]},
        {"v_1": [1.0, 3.0], "v_2": [2.0, 4.0]},
        {
            "v10": [0.0, 0],
            **{f"v{i}": [0.0, 0] for i in range(2, 10)},
            "v0": [1.0, 3],
            "v1": [2.0, 4],
        },
    ],
)
def test_vectors_in_parquet(tmp_path: Path, columns: dict) -> None:
    """Lists of each kind, texts, and numbered columns, sorted by their numbers."""
    parquet.write_table(pa.table({**columns, "v_size": [2, 2]}), tmp_path / "t.parquet")
    read = read_array(f"{tmp_path}/t.parquet:v")
    np.testing.assert_array_equal(read[:, :2], [[1, 2], [3, 4]])
    assert not read[:, 2:].any()


def test_numbered_columns_in_csv(tmp_path: Path) -> None:
    """Gathered under the shared name; columns that are numbers alone are `embedding`."""
    (tmp_path / "f.csv").write_text("label,f0,f1\n0,1,2\n1,3,4\n")
    (tmp_path / "n.csv").write_text("0,1,label\n1,2,0\n3,4,1\n")
    for place in ("f.csv:f", "n.csv:embedding"):
        np.testing.assert_array_equal(read_array(f"{tmp_path}/{place}"), [[1, 2], [3, 4]])


def test_tables_tell_split_index_and_path(tmp_path: Path) -> None:
    """Rows go to their splits; without an index they point into the table."""
    table = pa.table(
        {
            "features": list(X),
            "label": ["owl", "cat", "cat", "dog"],
            "split": ["train", "test", "train", "train"],
            "path": ["007", "8", "9", "10"],
            "caption": ["?"] * 4,
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    arrays = read_file(tmp_path / "t.parquet")
    settle(arrays)
    assert arrays.class_names == ["cat", "dog", "owl"]
    assert {s: y.tolist() for s, y in arrays.labels.items()} == {"train": [2, 0, 1], "test": [0]}
    np.testing.assert_array_equal(arrays.features["train"]["instance"], X[[0, 2, 3]])
    assert arrays.index["train"].tolist() == [0, 2, 3]
    assert set(arrays.sources.values()) == {"t.parquet"}
    assert arrays.paths["test"] == ["8"]
    assert arrays.notes == ["not used: caption"]
    parquet.write_table(table.append_column("index", [[9, 9, 7, 6]]), tmp_path / "i.parquet")
    arrays = read_file(tmp_path / "i.parquet")
    assert (arrays.index["train"].tolist(), arrays.sources) == ([9, 7, 6], {})
    for name, columns, message in (
        ("x", {"label": [1]}, "has no column 'embedding', but label"),
        ("y", {"embedding": [[1.0]]}, "has no column 'label'"),
        ("s", {"embedding": [[1.0]], "label": [1], "split": ["trian"]}, "split 'trian' in row 0"),
    ):
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(errors.DataError, match=message):
            read_file(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1.5]), "labels: 1.5 in row 1 is not a whole number"),
        (np.array([0, np.nan]), "nan in row 1"),
        (np.array([np.inf, 0]), "inf in row 0"),
        (np.array(["cat", ""]), "row 1 is empty .*; row 0 is the name 'cat'"),
        (np.eye(3), r"shape \[3, 3\].*argmax"),
        (np.array([{}], dtype=object), "type object"),
    ],
)
def test_labels_that_are_none(labels: np.ndarray, message: str) -> None:
    """The first such row is named."""
    with pytest.raises(errors.DataError, match=message):
        as_labels(labels, "labels")


def test_labels_as_people_keep_them() -> None:
    """Columns, rows, whole floats, flags and texts of numbers are labels."""
    for kept in (Y[None], Y[:, None], Y * 1.0, Y.astype(str), Y.astype("S"), Y.astype(np.uint8)):
        labels, names = number_labels({"train": kept}, None)
        assert (labels["train"].tolist(), names) == (Y.tolist(), None)
    assert as_integers(np.array([True, False]), "labels").tolist() == [1, 0]


def test_names_become_numbers() -> None:
    """Sorted over all splits, or in the order given; the closest name is suggested."""
    labels = {"train": np.array(["owl ", " cat"]), "test": np.array(["ant"])}
    numbered, names = number_labels(labels, None)
    assert names == ["ant", "cat", "owl"]
    assert {s: y.tolist() for s, y in numbered.items()} == {"train": [2, 1], "test": [0]}
    assert number_labels(labels, ["owl", "cat", "ant"])[0]["train"].tolist() == [0, 1]
    for given_names, message in (
        (["owls", "cat", "ant"], "label 'owl' in row 0 is not among.*Did you mean 'owls'"),
        (["cat", "cat", "owl"], "Class name 'cat' comes twice"),
    ):
        with pytest.raises(errors.DataError, match=message):
            number_labels(labels, given_names)
    with pytest.raises(errors.DataError, match="train labels are names .*, val labels are numbers"):
        number_labels({**labels, "val": Y}, None)
    with pytest.raises(errors.DataError, match="--label-base counts numbers"):
        number_labels(labels, None, base=1)
    with pytest.raises(errors.DataError, match="label 0 in row 0 is below --label-base 1"):
        number_labels({"train": Y}, None, base=1)


@given(st.data())
def test_holding_out_divides_train(data: st.DataObject) -> None:
    """Every row is in train or val, with its own features, label and path, in every view."""
    classes = data.draw(st.integers(2, 4))
    counts = data.draw(st.lists(st.integers(4, 7), min_size=classes, max_size=classes))
    y = np.array(data.draw(st.permutations(np.repeat(np.arange(classes), counts).tolist())))
    n = len(y)
    x = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    arrays = Arrays()
    arrays.add_features("train", "instance", x, "x.npy")
    arrays.add_features("train", "copies", np.stack([x, -x]), "c.npy")
    arrays.add_labels("train", y, "y.npy")
    arrays.paths["train"] = [f"{row}.png" for row in range(n)]
    hold_out_val(arrays, HoldOut(2, seed=data.draw(st.integers(0, 9))))
    rows = arrays.index
    assert sorted([*rows["train"], *rows["val"]]) == list(range(n))
    assert np.bincount(arrays.labels["val"]).tolist() == [2] * classes
    assert arrays.sources == {"train": "train", "val": "train"}
    for split in ("train", "val"):
        np.testing.assert_array_equal(arrays.labels[split], y[rows[split]])
        views = arrays.features[split]
        np.testing.assert_array_equal(views["instance"], x[rows[split]][None])
        np.testing.assert_array_equal(views["copies"][1][1:3], -x[rows[split]][1:3])
        assert arrays.paths[split] == [f"{row}.png" for row in rows[split]]


def test_chosen_rows_read_as_an_array_does() -> None:
    """Also rows of rows, whole or block by block."""
    chosen = SelectedRows(np.stack([X, -X]), np.array([3, 1, 0]), 1)
    again = SelectedRows(chosen, np.array([2, 0]), 1)
    expected = np.stack([X, -X])[:, [0, 3]]
    assert (again.shape, again.ndim, again.size, len(again)) == ((2, 2, 2), 3, 8, 2)
    np.testing.assert_array_equal(again, expected)
    for copy, block in zip(again, expected, strict=True):
        np.testing.assert_array_equal(copy[0:1], block[0:1])
