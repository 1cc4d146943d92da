"""Banks written once, in schemas 1, 5 and 6, are read for ever; `golden/make.py` has them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank
from tests.featbank.golden import make

FINGERPRINTS = {
    "float32": "9cc5dff8e3ed7e5a023f6a9245a0b6c81dfd24b68fd505f89678ea908f527ad1",
    "float16": "60ae5c91bac3f1b6055b91ec8c0196be374d066bfd9e7351058dc7e0a07d6dfb",
}
FILE_HASHES = {
    "float32": "6e62ba1310d0eb48305be2d34d73897c3f679de1b074b3708a01d23745fb3969",
    "float16": "3507d434fc7c9564dc708c24cb1f8a03f213b23eceaf8082b562ac1f11997b0d",
}
FOUNDATION_FINGERPRINT = "d4e56d23420363365774a54c785401903003f2063a4d37f3ac96b02dce9891f2"
FOUNDATION_HASH = "7a26de9ef2dd3a01e154fd14d79a6ee7cc61bc6b8d077d1b24ce80f7d5cdd6b4"
PIXELS_FINGERPRINT = "9c30add4ba7b4dceae3013f09e5f32f00549594ef34ae613a9423abb5db5fc16"
PIXELS_HASH = "6445d342bcc13a2e28fc37cb73d2ef5c15f62bff90e246e3911cc9bee5704c9f"
DATASETS = {
    "provenance": "uint8",
    "classes/name": "|S5",
    "classes/train_count": "int64",
    "train/label": "int64",
    "train/index": "int64",
    "train/path": "|S15",
    "train/instance/feature": "dtype",
    "train/expert0/balanced/feature": "dtype",
    "val/label": "int64",
    "val/index": "int64",
    "val/instance/feature": "dtype",
    "val/expert0/balanced/feature": "dtype",
    "test/label": "int64",
    "test/index": "int64",
    "test/instance/feature": "dtype",
    "test/expert0/balanced/feature": "dtype",
    "classifier/instance/weight": "float32",
    "classifier/instance/bias": "float32",
    "batchnorm/instance/bn1/mean": "float32",
    "batchnorm/instance/bn1/variance": "float32",
    "batchnorm/instance/layer1.0.bn2/mean": "float32",
    "batchnorm/instance/layer1.0.bn2/variance": "float32",
}

every_type = pytest.mark.parametrize("dtype", make.FILES)


def read_plainly(file: h5py.File) -> dict[str, np.ndarray]:
    """Every dataset, with h5py alone."""
    arrays = {}

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    file.visititems(add)
    return arrays


@every_type
def test_the_files_are_those_that_were_written_once(dtype: str) -> None:
    """Not written anew by a later version."""
    content = make.FILES[dtype].read_bytes()
    assert len(content) < 60_000
    assert hashlib.sha256(content).hexdigest() == FILE_HASHES[dtype]


@every_type
def test_read_by_todays_reader(dtype: str) -> None:
    """Every value is what was given to the writer."""
    with Bank(make.FILES[dtype]) as bank:
        assert bank.fingerprint == FINGERPRINTS[dtype]
        assert (bank.schema, bank.num_classes, bank.dim) == (1, 3, 2)
        assert bank.splits == ("train", "val", "test")
        assert bank.views == ("instance", "expert0/balanced")
        assert bank.class_names == ["apple", "bär", "猫"]
        assert bank.train_counts.tolist() == [3, 1, 1]
        assert bank.provenance == make.PROVENANCE
        for split, views in make.FEATURES.items():
            assert bank.labels(split).tolist() == make.LABELS[split]
            assert bank.index(split).tolist() == make.INDEX[split]
            assert bank.source(split) == make.SOURCES[split]
            assert bank.paths(split) == (make.PATHS if split == "train" else None)
            for view, copies in views.items():
                assert bank.copies(split, view) == len(copies)
                assert bank.dtype == dtype
                for copy, rows in enumerate(copies):
                    features, _ = bank.load(split, view, copy=copy)
                    np.testing.assert_array_equal(features, np.array(rows, dtype))
        for view in bank.views:
            classifier = bank.classifier(view)
            assert classifier is not None
            np.testing.assert_array_equal(classifier[0], np.array(make.WEIGHT, np.float32))
            np.testing.assert_array_equal(classifier[1], np.array(make.BIAS, np.float32))
        assert bank.classifiers == ("instance",)
        assert bank.batchnorm("expert0/balanced") == {}
        statistics = bank.batchnorm("instance")
        assert set(statistics) == set(make.BATCHNORM)
        for layer, (mean, variance) in make.BATCHNORM.items():
            np.testing.assert_array_equal(statistics[layer], [mean, variance])


@every_type
def test_todays_writer_gives_the_same_fingerprint(dtype: str, tmp_path: Path) -> None:
    """The same content is the same bank; so are the digests of every dataset."""
    make.write(tmp_path / "today.h5", dtype)
    with Bank(tmp_path / "today.h5") as today, Bank(make.FILES[dtype]) as golden:
        assert today.fingerprint == FINGERPRINTS[dtype]
        assert today.digests == golden.digests


@every_type
def test_read_with_plain_h5py(dtype: str) -> None:
    """Names, types, checksums and attributes are those in `featbank.bank.schema`'s docstring."""
    with h5py.File(make.FILES[dtype]) as file:
        arrays = read_plainly(file)
        types = {name: array.dtype for name, array in arrays.items()}
        assert types == {n: np.dtype(t.replace("dtype", dtype)) for n, t in DATASETS.items()}
        assert dict(file.attrs) == {
            "format": b"featbank",
            "schema": 1,
            "complete": 1,
            "num_classes": 3,
            "dim": 2,
            "fingerprint": FINGERPRINTS[dtype].encode(),
        }
        for name in DATASETS:
            assert file[name].fletcher32, name
            assert file[name].attrs["sha256"].dtype == "S64", name
        assert file["val/index"].attrs["source"] == b"images"
    assert json.loads(arrays["provenance"].tobytes()) == make.PROVENANCE
    assert [name.decode() for name in arrays["classes/name"]] == make.CLASS_NAMES
    assert arrays["classes/train_count"].tolist() == [3, 1, 1]
    assert arrays["train/path"][3].decode() == "1/ä.png"
    assert arrays["test/instance/feature"].shape == (1, 3, 2)
    np.testing.assert_array_equal(
        arrays["train/instance/feature"], np.array(make.FEATURES["train"]["instance"], dtype)
    )


@every_type
def test_digests_and_fingerprint_by_hand(dtype: str) -> None:
    """SHA-256 over type, shape and bytes; over sorted names and digests, without provenance."""
    with h5py.File(make.FILES[dtype]) as file:
        digests = {}
        for name, array in read_plainly(file).items():
            head = f"{array.dtype.str}{list(array.shape)}".encode()
            digests[name] = hashlib.sha256(head + array.tobytes()).hexdigest()
            assert file[name].attrs["sha256"] == digests[name].encode(), name
    del digests["provenance"]
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    assert hashlib.sha256(lines.encode()).hexdigest() == FINGERPRINTS[dtype]


def test_the_bank_of_schema_5(tmp_path: Path) -> None:
    """Tokens, a D for each view, text and default scales, as they were written once."""
    content = make.FOUNDATION.read_bytes()
    assert hashlib.sha256(content).hexdigest() == FOUNDATION_HASH
    make.write_foundation(tmp_path / "today.h5")
    with Bank(make.FOUNDATION) as bank, Bank(tmp_path / "today.h5") as today:
        assert bank.fingerprint == today.fingerprint == FOUNDATION_FINGERPRINT
        assert bank.digests == today.digests
        assert (bank.schema, bank.dim, bank.views) == (5, 2, ("instance", "tokens"))
        for split, tokens in make.TOKENS.items():
            assert bank.shape(split, "tokens") == (1, len(tokens), 2, 3)
            np.testing.assert_array_equal(bank.load(split, "tokens")[0], tokens)
        for view, (features, logit_scale) in make.TEXT.items():
            text = bank.text(view)
            assert text is not None
            np.testing.assert_array_equal(text.features, features)
            assert text.logit_scale == logit_scale
        assert {view: bank.default_scale(view) for view in bank.views} == make.SCALES


def test_the_bank_of_schema_6(tmp_path: Path) -> None:
    """Source groups, cells and what is said of classes, as they were written once."""
    content = make.PIXELS.read_bytes()
    assert hashlib.sha256(content).hexdigest() == PIXELS_HASH
    make.write_pixels(tmp_path / "today.h5")
    with Bank(make.PIXELS) as bank, Bank(tmp_path / "today.h5") as today:
        assert bank.fingerprint == today.fingerprint == PIXELS_FINGERPRINT
        assert bank.digests == today.digests
        assert (bank.schema, bank.splits) == (6, ("train", "test"))
        for split, groups in make.SOURCE_GROUPS.items():
            np.testing.assert_array_equal(bank.source_groups(split), groups)
            np.testing.assert_array_equal(bank.cells(split), make.CELLS[split])
        np.testing.assert_array_equal(bank.outside_counts, make.OUTSIDE_COUNTS)
        np.testing.assert_array_equal(bank.full_counts, make.OUTSIDE_COUNTS)
        assert bank.background == make.BACKGROUND
        assert (bank.class_groups.names, bank.class_groups.rules) == make.GROUPS
        assert bank.class_groups.member.tolist() == make.MEMBER
        assert [m.tolist() for m in bank.groups().values()] == [
            [False, True, False],
            [False, False, False],
            [False, False, True],
        ]
