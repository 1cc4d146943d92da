"""Folders: one file per image or slide, Hugging Face's datasets, Zarr; and tars of WebDataset."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from featbank import Bank, errors
from featbank.exchange import ondisk, read_array, read_file, settle
from featbank.exchange.folder import read_folder
from featbank.exchange.ondisk import OnDisk
from tests.conftest import Run

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3


class Code:
    """Something only a pickle can restore."""


def one_h5(path: Path, row: np.ndarray, label: int) -> None:
    """A file as pathology has it: features and coords of patches."""
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.atleast_2d(row), np.zeros((1, 2), int)
        file["label"] = np.array([label])


ONE: dict[str, Callable[[Path, np.ndarray, int], object]] = {
    "pt": lambda path, row, label: torch.save(torch.tensor(row), path),
    "dict.pt": lambda path, row, label: torch.save(
        {"feats": torch.tensor(row), "label": label, "name": "a"}, path
    ),
    "both.pt": lambda path, row, label: torch.save(
        {"features": torch.tensor(row)[None], "coords": torch.zeros(3)}, path
    ),
    "npz": lambda path, row, label: np.savez(path, f=row),
    "h5": one_h5,
    "safetensors": lambda path, row, label: save_file({"x": torch.tensor(row)}, path),
}


def folder_of(kind: str, folder: Path, rows: np.ndarray, names: list[str] | None = None) -> None:
    """One file per row."""
    folder.mkdir()
    for i, row in enumerate(rows):
        name = names[i] if names else f"s{i}"
        ONE[kind](folder / f"{name}.{kind.rpartition('.')[2]}", row, int(Y[i]))


@pytest.mark.parametrize("held", [0, 1 << 20])
@pytest.mark.parametrize("kind", ONE)
def test_files_of_every_type(
    tmp_path: Path, kind: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In natural order, read at once or by rows; axes of length 1 are dropped."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", held)
    folder_of(kind, tmp_path / "x", X)
    x, names = read_folder(str(tmp_path / "x"))
    assert isinstance(x, np.ndarray) == (held > 0)
    assert names == [f"s{i}" for i in range(12)]
    np.testing.assert_array_equal(x[3:5], X[3:5])
    np.testing.assert_array_equal(np.asarray(x), X)


def test_slides_of_a_table(featbank: Run, tmp_path: Path) -> None:
    """Two splits of one folder by two tables, slides of any number of patches pooled."""
    folder = tmp_path / "slides"
    folder.mkdir()
    bags = [np.stack([row + i, row - i, *[row] * (i % 3)]) for i, row in enumerate(X)]
    for i, bag in enumerate(bags):
        one_h5(folder / f"TCGA-{i}.01.h5", bag, 0)
    lines = [f"cohort/TCGA-{i}.01.svs,{'abc'[Y[i]]}" for i in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["slide_id,label", *lines[7::-1]]))
    (tmp_path / "test.csv").write_text("\n".join(["slide_id,label", *lines[8:]]))
    both = ("--train", "slides:features:mean", "train.csv", "--test", "slides::mean")
    featbank("import", *both, "test.csv:label", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        for split, rows in (("train", range(8)), ("test", range(8, 12))):
            expected = np.stack([bags[i].astype(np.float64).mean(0) for i in rows])
            np.testing.assert_allclose(bank.load(split)[0], expected, rtol=1e-6, atol=1e-6)
            assert bank.labels(split).tolist() == Y[list(rows)].tolist()
        assert bank.paths("test") == [f"TCGA-{i}.01" for i in range(8, 12)]
    x, _ = read_folder(f"{folder}:features:max")
    np.testing.assert_array_equal(x, np.stack([bag.max(0) for bag in bags]))
    for arguments, message in {
        ("slides", "train.csv"): "has shape [3, 4], TCGA-0.01.h5 has shape [2, 4]. Every image "
        "needs as many. Pool their rows: slides::mean",
        ("slides:coords:mean", "train.csv"): None,
        ("slides:none", "train.csv"): "has no key 'none'. Write slides/TCGA-0.01.h5:KEY with one",
        ("slides::mean", "gaps.csv"): "gaps.csv: TCGA-99 in row 1 has no file in slides. Add it",
        ("slides::mean", "twice.csv"): "twice.csv: TCGA-1.01 comes twice",
        ("slides::mean", "bare.csv"): "names of the files in a column 'path'",
        ("slides::mean", "unlabelled.csv"): "unlabelled.csv has no column 'label', but slide_id, g",
    }.items():
        (tmp_path / "gaps.csv").write_text("slide_id,label\nTCGA-1.01,a\nTCGA-99,b\n")
        (tmp_path / "twice.csv").write_text("slide_id,label\nTCGA-1.01,a\nTCGA-1.01.svs,b\n")
        (tmp_path / "bare.csv").write_text("label\na\nb\n")
        (tmp_path / "unlabelled.csv").write_text("slide_id,g\nTCGA-1.01,a\nTCGA-2.01,b\n")
        code = 0 if message is None else 2
        done = featbank("import", "--train", *arguments, "--dry-run", code=code)
        assert message is None or message in done.stderr, done.stderr
    error = featbank("import", *both, "train.csv", "--dry-run", code=2).stderr
    assert "train and test share 8 paths" in error


def test_labels_in_the_files(featbank: Run, tmp_path: Path) -> None:
    """Of one folder, by its keys."""
    folder_of("h5", tmp_path / "x", X)
    featbank("import", "--train", "x", "x:label", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        np.testing.assert_array_equal(bank.load("train")[0], X)
        assert bank.labels("train").tolist() == Y.tolist()


def test_what_no_file_of_a_folder_may_be(tmp_path: Path) -> None:
    """Pickles are not run, and what is ambiguous is not guessed."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for content, message in (
        ({"x": Code()}, "pickled code is not run"),
        ({"a": torch.ones(3), "b": torch.ones(3)}, "KEY with one of: a, b"),
        ({"features": "none"}, "holds no arrays"),
    ):
        torch.save(content, odd / "a.pt")
        with pytest.raises(errors.DataError, match=message):
            read_folder(str(odd))
    torch.save(torch.ones(3), odd / "a.pt")
    np.save(odd / "b.npy", np.ones(3))
    with pytest.raises(errors.DataError, match=r"odd has files of the types \.npy, \.pt"):
        read_folder(str(odd))
    (odd / "b.npy").unlink()
    os.mkfifo(odd / "b.pt")
    with pytest.raises(errors.DataError, match=r"b\.pt is a named pipe"):
        read_folder(str(odd))


def test_datasets_on_disk(featbank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits by name; labels are the names of their ClassLabel, in its order."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)
    names = ["owl", "cat", "bee", "never"]
    features = datasets.Features(
        {
            "embedding": datasets.Sequence(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=names),
            "tokens": datasets.Array2D((2, 2), "float32"),
        }
    )

    def part(rows: slice) -> Any:
        columns = {"embedding": X[rows], "label": Y[rows], "tokens": X[rows].reshape(-1, 2, 2)}
        return datasets.Dataset.from_dict(columns, features=features)

    splits = {"train": part(slice(0, 8)), "validation": part(slice(8, 12))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "hf")
    featbank("import", "hf", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.class_names == names
        np.testing.assert_array_equal(bank.load("train")[0], X[:8])
        np.testing.assert_array_equal(bank.load("val")[0], X[8:])
        assert bank.labels("val").tolist() == Y[8:].tolist()
    for place in ("hf:train/embedding", "hf/train:embedding"):
        stored = read_array(f"{tmp_path}/{place}")
        assert isinstance(stored, OnDisk)
        np.testing.assert_array_equal(stored[[5, 1]], X[[5, 1]])
    assert read_array(f"{tmp_path}/hf/train:tokens").shape == (8, 2, 2)
    assert read_array(f"{tmp_path}/hf/train:label").tolist() == [names[k] for k in Y[:8]]
    sorted_again = splits["train"].select([7, 2, 4])
    sorted_again.save_to_disk(tmp_path / "one")
    np.testing.assert_array_equal(
        read_file(tmp_path / "one").labels["train"], ["cat", "bee", "cat"]
    )
    gaps = datasets.Dataset.from_dict({"embedding": X, "label": [-1] * 12}, features=None)
    gaps = gaps.cast_column("label", datasets.ClassLabel(names=names))
    gaps.save_to_disk(tmp_path / "gaps")
    with pytest.raises(errors.DataError, match=r"label -1 in row 0 is outside 0…3\. Drop rows"):
        read_array(f"{tmp_path}/gaps:label")
    datasets.DatasetDict({"trian": splits["train"]}).save_to_disk(tmp_path / "odd")
    with pytest.raises(errors.DataError, match="split 'trian' is unknown"):
        read_file(tmp_path / "odd")
    with pytest.raises(errors.DataError, match="has no key 'x'. Write .* train/embedding"):
        read_array(f"{tmp_path}/hf:x")
    (tmp_path / "hf/train/state.json").write_text("{")
    with pytest.raises(errors.DataError, match="is not a readable"):
        read_array(f"{tmp_path}/hf/train:label")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays and groups of both formats, by rows; damage and foreign codecs are told."""
    zarr = pytest.importorskip("zarr")
    numcodecs = pytest.importorskip("numcodecs")
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.create_array("deep/x", data=X[:, None], chunks=(5, 1, 4))
    group.create_array("deep/y", data=np.zeros(12, int), chunks=(5,))
    group.create_array("names", data=np.array(["owl", "cat"]))
    group.create_array("partly", shape=(12, 4), chunks=(5, 4), dtype="f4")[:5] = 1
    group.create_array("complex", data=X * 1j)
    stored = read_array(f"{path}:deep/x")
    assert isinstance(stored, OnDisk)
    np.testing.assert_array_equal(stored[4:9], X[4:9, None])
    np.testing.assert_array_equal(stored.squeeze((1,))[[11, 0]], X[[11, 0]])
    np.testing.assert_array_equal(read_array(f"{path}/deep/x")[:], X[:, None])
    assert read_array(f"{path}:deep/y").tolist() == [0] * 12
    assert read_array(f"{path}:names").tolist() == ["owl", "cat"]
    for key, message in {
        "partly": "but only 1 of 3 chunks were written",
        "complex": "It must be numbers or texts",
        "x": "has no key 'x'. Write .* deep/x",
    }.items():
        with pytest.raises(errors.DataError, match=message):
            read_array(f"{path}:{key}")
    if zarr_format == 2:
        about = json.loads((path / "deep/x/.zarray").read_text())
        pickled = {"id": "pickle", "protocol": 5}
        assert numcodecs.get_codec(pickled).codec_id == "pickle"
        for packed in ({"filters": [pickled]}, {"compressor": pickled}):
            (path / "deep/x/.zarray").write_text(json.dumps(about | packed))
            with pytest.raises(errors.DataError, match="packed by 'pickle'|holds Python objects"):
                read_array(f"{path}:deep/x")
        (path / "deep/x/.zarray").write_text(json.dumps(about))
    chunk = next(file for file in (path / "deep/y").rglob("*") if file.is_file())
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.DataError, match="is a link or no plain file"):
        read_array(f"{path}:deep/y")


def npy(array: np.ndarray, **options: Any) -> bytes:
    """The bytes of an ``.npy`` file."""
    np.save(file := io.BytesIO(), array, **options)
    return file.getvalue()


def pack(path: Path, members: dict[str, bytes], **facts: Any) -> Path:
    """Write a tar; `facts` are set in the header of its last member."""
    with tarfile.open(path, "w") as tar:
        for place, (name, content) in enumerate(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for fact, value in facts.items() if place == len(members) - 1 else ():
                setattr(info, fact, value)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(rows: range) -> dict[str, bytes]:
    """Members of a sound tar."""
    members = {}
    for i in rows:
        members[f"{i:04}.npy"] = npy(X[i])
        members[f"{i:04}.cls"] = f"{Y[i]}\n".encode()
        members[f"{i:04}.emb.npy"] = npy(X[i].reshape(2, 2).astype(np.float16))
        members[f"{i:04}.json"] = json.dumps({"kind": "abc"[Y[i]], "n": i, "more": [1]}).encode()
        members[f"{i:04}.jpg"] = b"?"
    return members


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_tars(featbank: Run, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, or a range of them; arrays, classes, and fields of JSON."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", held)
    for shard in range(3):
        pack(tmp_path / f"s-{shard:03}.tar", samples(range(4 * shard, 4 * shard + 4)))
    place = str(tmp_path / "s-{000..002}.tar")
    np.testing.assert_array_equal(np.asarray(read_array(f"{place}:npy")), X)
    np.testing.assert_array_equal(read_array(f"{place}:npy")[3:9], X[3:9])
    np.testing.assert_array_equal(
        np.asarray(read_array(f"{place}:emb")), X.reshape(12, 2, 2).astype(np.float16)
    )
    assert read_array(f"{place}:kind").tolist() == ["abc"[y] for y in Y]
    assert read_array(f"{place}:n").tolist() == list(range(12))
    with pytest.raises(errors.DataError, match=r"KEY with one of: npy, cls, emb, kind, n, __key__"):
        read_array(f"{tmp_path}/s-000.tar:more")
    featbank("import", "--train", "s-*.tar:npy", "s-*.tar:cls", "-o", "a.h5")
    featbank("import", "s-{000..002}.tar", "-o", "b.h5")
    with Bank(tmp_path / "a.h5") as one, Bank(tmp_path / "b.h5") as other:
        for bank in (one, other):
            np.testing.assert_array_equal(bank.load("train")[0], X)
            assert bank.labels("train").tolist() == Y.tolist()
        assert other.paths("train") == [f"{i:04}" for i in range(12)]
    arrays = read_file(tmp_path / "s-000.tar")
    settle(arrays)
    assert arrays.notes == ["not used: emb, kind, n"]


GOOD = {"a.npy": npy(X[0]), "a.cls": b"0", "b.npy": npy(X[1]), "b.cls": b"1"}
HUGE = npy(X[0]).replace(b"(4,), }" + b" " * 9, b"(4000000000,), }")

HOSTILE: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "code": ({"b.npy": npy(np.array([Code()], object), allow_pickle=True)}, {}, "without pickled"),
    "lies": ({"b.npy": HUGE}, {}, "its size is not what its header says"),
    "short": ({"b.npy": npy(X[1])[:-4]}, {}, "its size is not what its header says"),
    "none": ({"b.npy": b""}, {}, "is not a readable array"),
    "wide": ({"b.npy": npy(np.ones(5, "f4"))}, {}, "float32 [5], that of a float32 [4]. Every"),
    "type": ({"b.npy": npy(X[1].astype("f8"))}, {}, "b.npy is float64 [4], that of a float32"),
    "missing": ({"c.cls": b"1"}, {}, "sample 'c' has no .npy, as 'a' has"),
    "up": ({"../b.npy": npy(X[1])}, {}, "'../b.npy' leads out of the archive"),
    "root": ({"/etc/b.npy": npy(X[1])}, {}, "'/etc/b.npy' leads out of the archive"),
    "link": (
        {"c.npy": b""}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link, or no",
    ),
    "pipe": ({"c.npy": b""}, {"type": tarfile.FIFOTYPE}, "is a link, or no plain file"),
    "twice": ({"A.npy": b"", "x/../a.npy": b""}, {}, "leads out of the archive"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars(tmp_path: Path, name: str) -> None:
    """One line that names the member; nothing is extracted."""
    members, facts, message = HOSTILE[name]
    path = pack(tmp_path / "t.tar", {**GOOD, **members}, **facts)
    with pytest.raises(errors.DataError) as raised:
        np.asarray(read_array(f"{path}:npy"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [path]


def test_tars_cut_short_or_joined(tmp_path: Path) -> None:
    """A tar that ends early, at any place, is not taken for a whole one."""
    whole = pack(tmp_path / "t.tar", GOOD).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in (0, 100, 512, 700, 1024, 1536, 2000, end - 1, end):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(errors.DataError, match=r"cut\.tar (is not a readable|is empty|holds)"):
            read_array(f"{tmp_path}/cut.tar:npy")
    for content in (whole + whole, whole[:1024] + b"x" * 512 + whole[1536:]):
        (tmp_path / "odd.tar").write_bytes(content)
        with pytest.raises(errors.DataError, match=r"something follows|damaged"):
            read_array(f"{tmp_path}/odd.tar:npy")


def test_labels_of_a_tar_that_are_none(tmp_path: Path) -> None:
    """Of two kinds, too long, or not in every sample."""
    for second, message in (
        (b'{"y": "a"}', "has numbers and texts"),
        (b"{}", r"b\.json has not what a\.json has"),
        (b"[" * 9999, r"b\.json has not what"),
        (b'{"y": [1]}', r"b\.json has not what"),
    ):
        pack(tmp_path / "t.tar", {"a.json": b'{"y": 1}', "b.json": second})
        with pytest.raises(errors.DataError, match=message):
            read_array(f"{tmp_path}/t.tar:y")
    pack(tmp_path / "t.tar", {"a.cls": b"x" * (1 << 21)})
    with pytest.raises(errors.DataError, match=r"a\.cls has not what|at most"):
        read_array(f"{tmp_path}/t.tar:cls")
