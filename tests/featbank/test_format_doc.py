"""docs/format.md says what the code does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank
from featbank.bank import schema
from featbank.bank.fingerprint import array_digest
from tests.conftest import ROOT, Toy

DOC = (ROOT / "docs" / "format.md").read_text()


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bank.h5 in the current folder, with all that a bank can have."""
    monkeypatch.chdir(tmp_path)
    toy = make_toy()
    paths = {split: [f"{split}/ü{i}.png" for i in range(len(y))] for split, y in toy.labels.items()}
    for split, views in toy.features.items():
        views["tokens"] = np.ones((2, len(toy.labels[split]), 3, 4), np.float32)
    text = {"instance": (np.ones((2, 5, 8)), 100.0), "tokens": (np.ones((5, 4)), 1.0)}
    return toy.write(
        tmp_path / "bank.h5",
        paths=paths,
        provenance={"made_by": "a test"},
        text=text,
        default_scale={"tokens": "unit"},
    )


def test_the_example_reads_a_bank(bank: Path) -> None:
    """The document's Python, h5py and hashlib alone, gets features, digests and fingerprint."""
    (example,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    names: dict = {}
    exec(example, names)
    with Bank(bank) as b:
        assert names["digests"] == b.digests
        assert names["stored"] == b.fingerprint
        features, labels = b.load("train")
        np.testing.assert_array_equal(names["features"], features)
        np.testing.assert_array_equal(names["labels"], labels)


def test_the_example_finds_a_changed_value(bank: Path) -> None:
    """One feature changed in place: the example's assertion names the dataset."""
    with h5py.File(bank, "r+") as file:
        file["test/balanced/feature"][0, 3, 1] += 1
    (example,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    with pytest.raises(AssertionError, match="test/balanced/feature"):
        exec(example, {})


def test_the_worked_digest() -> None:
    """The bytes as the document counts them, hashed, and `array_digest`: one number."""
    size, digest = re.findall(r"are the (\d+) bytes.*?digest is `(\w+)`", DOC, re.DOTALL)[0]
    content = b"<i8[4]" + b"".join(value.to_bytes(8, "little") for value in (0, 1, 1, 2))
    assert len(content) == int(size)
    assert hashlib.sha256(content).hexdigest() == digest
    assert array_digest(np.array([0, 1, 1, 2])) == digest


def test_types_and_storage_are_as_described(bank: Path) -> None:
    """Superblock, text types, chunks, filters and fill values of a bank, seen through h5py."""
    assert bank.read_bytes()[8] == 3
    fill = {"f": np.isnan, "i": lambda value: value == -1}
    with Bank(bank) as b:
        names = b.datasets
    with h5py.File(bank) as file:
        for name in ("format", "fingerprint"):
            kind = file.attrs.get_id(name).get_type()
            assert kind.get_strpad() == h5py.h5t.STR_NULLPAD, name
            assert not kind.is_variable_str(), name
        for name in ("schema", "complete", "num_classes", "dim"):
            assert file.attrs.get_id(name).dtype == np.dtype("<i8"), name
        for name in names:
            dataset = file[name]
            assert dataset.fletcher32, name
            assert dataset.id.get_create_plist().get_nfilters() == 1, name
            lead, rows = ((1,), 1) if dataset.ndim > 2 else ((), 0)
            row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[rows + 1 :]))
            r = max(1, min(dataset.shape[rows], 2**18 // row_bytes))
            assert dataset.chunks == (*lead, r, *dataset.shape[rows + 1 :]), name
            assert fill.get(dataset.dtype.kind, lambda value: True)(dataset.fillvalue), name
        longest = max(len(f"train/ü{i}.png".encode()) for i in range(len(file["train/label"])))
        assert file["train/path"].dtype == np.dtype(f"S{longest}")


def test_names_are_those_of_the_schema() -> None:
    """Every dataset and split of the schema is in the document."""
    for name in ("provenance", "classes/name", "classes/train_count", *schema.SPLITS):
        assert f"`{name}`" in DOC, name
    for column in schema.SPLIT_COLUMNS:
        assert f"`<split>/{column}`" in DOC, column
    for name in ("text/<view>/feature", "text/<view>/logit_scale", "scale/<view>/default"):
        assert f"`{name}`" in DOC, name
    assert f"The bank format, schema {schema.SCHEMA}" in DOC


def test_what_a_reader_ignores(bank: Path) -> None:
    """Unknown members of `/` and classifier, even links that lead nowhere, change nothing."""
    with Bank(bank) as b:
        before = b.fingerprint, b.datasets, b.views
    with h5py.File(bank, "r+", libver=schema.LIBVER) as file:
        file["notes"] = np.ones(3)
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["classifier/other/weight"] = np.ones(2)
        file["batchnorm/other/layer/mean"] = np.ones(2)
        file.create_group("train/nothing")
    with Bank(bank) as b:
        assert (b.fingerprint, b.datasets, b.views) == before
