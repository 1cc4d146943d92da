"""Writing a bank and reading it back."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featbank import Bank, BankWriter, errors, write_bank

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 1, 2])


def small(path: Path, **options: object) -> Path:
    """A bank of four rows, three classes, one view."""
    features = options.pop("features", {"train": {"instance": X}})
    labels = options.pop("labels", {"train": Y})
    write_bank(path, features, labels, **options)  # type: ignore[arg-type]
    return path


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    copies=st.integers(1, 3),
    rows=st.integers(1, 9),
    dim=st.integers(1, 5),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_round_trip(
    data: st.DataObject, copies: int, rows: int, dim: int, dtype: str, tmp_path_factory: object
) -> None:
    """What goes in comes out, for any sizes and types, compared with the arrays themselves."""
    path = tmp_path_factory.mktemp("bank") / "b.h5"  # type: ignore[attr-defined]
    finite = st.floats(-1e4, 1e4, width=16)
    x = data.draw(arrays(dtype, (copies, rows, dim), elements=finite))
    y = data.draw(arrays(np.int64, rows, elements=st.integers(0, 3)))
    write_bank(path, {"train": {"instance": x}}, {"train": y}, class_names=["a", "b", "ü", "d"])
    with Bank(path) as bank:
        assert bank.splits == ("train",)
        assert bank.views == ("instance",)
        assert (bank.num_classes, bank.dim) == (4, dim)
        assert bank.class_names == ["a", "b", "ü", "d"]
        assert bank.copies("train") == copies
        assert bank.dtype("train") == dtype
        np.testing.assert_array_equal(bank.train_counts, np.bincount(y, minlength=4))
        for copy in range(copies):
            features, labels = bank.load("train", copy=copy)
            assert (features.dtype, labels.dtype) == (np.float32, np.int64)
            np.testing.assert_array_equal(features, x[copy].astype(np.float32))
            np.testing.assert_array_equal(labels, y)


def test_readable_with_plain_h5py(tmp_path: Path) -> None:
    """The layout is the one of `featbank.bank.schema`, seen through h5py alone."""
    path = small(tmp_path / "b.h5", classifier={"instance": (np.ones((3, 3)), None)})
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"featbank"
        assert {k: int(file.attrs[k]) for k in ("schema", "complete", "num_classes", "dim")} == {
            "schema": 1,
            "complete": 1,
            "num_classes": 3,
            "dim": 3,
        }
        assert file["train/instance/feature"].shape == (1, 4, 3)
        np.testing.assert_array_equal(file["train/index"], [0, 1, 2, 3])
        np.testing.assert_array_equal(file["classes/train_count"], [1, 2, 1])
        np.testing.assert_array_equal(file["classifier/instance/bias"], [0, 0, 0])
        file.visititems(
            lambda name, item: (
                None
                if not isinstance(item, h5py.Dataset) or name == "provenance"
                else pytest.fail(f"{name} has no checksum")
                if not item.fletcher32
                else None
            )
        )


def test_written_in_blocks_of_any_size(tmp_path: Path) -> None:
    """A bank written in blocks of 1, 7 and all rows is the bank `write_bank` writes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 700)).astype(np.float32), np.arange(50) % 3
    write_bank(tmp_path / "whole.h5", {"train": {"instance": x}}, {"train": y})
    with Bank(tmp_path / "whole.h5") as bank:
        expected = bank.fingerprint
    for block in (1, 7, 50):
        path = tmp_path / f"{block}.h5"
        with BankWriter(path, ["0", "1", "2"], dim=700) as writer:
            writer.split("train", y)
            rows = writer.features("train", "instance", copies=2)
            for copy in x:
                for start in range(0, 50, block):
                    rows.append(copy[start : start + block])
        with Bank(path) as bank:
            assert bank.fingerprint == expected, block
            np.testing.assert_array_equal(bank.load("train", copy=1)[0], x[1])


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    """Equal content has an equal fingerprint, any changed value another; provenance is outside."""

    def of(**options: object) -> str:
        path = small(tmp_path / "b.h5", overwrite=True, **options)
        with Bank(path) as bank:
            return bank.fingerprint

    changed = X.copy()
    changed[3, 2] += 1
    assert of() == of(provenance={"when": "later"})
    others = [
        of(features={"train": {"instance": changed}}),
        of(labels={"train": np.array([0, 1, 2, 2])}),
        of(class_names=["x", "y", "z"]),
        of(classifier={"instance": (np.ones((3, 3)), None)}),
        of(features={"train": {"other": X}}),
        of(index={"train": np.array([9, 8, 7, 6])}),
        of(dtype="float16"),
    ]
    assert len({of(), *others}) == 1 + len(others)


def test_balanced_view_shares_the_classifier(tmp_path: Path) -> None:
    """BatchNorm statistics change, the stage-1 classifier does not."""
    weight, bias = np.ones((3, 3), np.float32), np.arange(3, dtype=np.float32)
    small(
        tmp_path / "b.h5",
        features={"train": {"instance": X, "balanced": X + 1}},
        classifier={"instance": (weight, bias)},
    )
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.views == ("instance", "balanced")
        found = bank.classifier("balanced")
        assert found is not None
        np.testing.assert_array_equal(found[1], bias)


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    """An interrupted writer leaves neither the target nor a part of it."""

    def interrupted() -> None:
        with BankWriter(tmp_path / "b.h5", ["a", "b"], dim=2) as writer:
            writer.split("train", np.array([0, 1]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_overwriting_is_asked_for_and_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    """An existing bank is refused, and survives an overwrite that fails."""
    path = small(tmp_path / "b.h5")
    before = path.read_bytes()
    with pytest.raises(errors.OutputExists, match=r"b\.h5 exists.*--overwrite"):
        small(path)
    with pytest.raises(errors.NotFinite):
        small(path, overwrite=True, features={"train": {"instance": X * np.nan}})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.h5"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"labels": {"train": np.array([0, 1, 3, 2])}, "class_names": ["a", "b", "c"]},
         errors.LabelRange, "train: label 3 in row 2 is outside 0…2"),
        ({"labels": {"train": np.array([0, -1, 1, 2])}},
         errors.LabelRange, "label -1 in row 1"),
        ({"labels": {"train": np.array([0.0, 1, 1, 2])}},
         errors.DataError, "labels have type float64"),
        ({"labels": {"train": Y[:3]}},
         errors.DataError, "row counts disagree: 3 in labels, 4 in instance"),
        ({"features": {"train": {"instance": np.where(X == 7, np.nan, X)}}},
         errors.NotFinite, "train/instance/feature: NaN or infinity in row 2"),
        ({"features": {"train": {"instance": X * 1e5}}, "dtype": "float16"},
         errors.NotFinite, "overflow float16"),
        ({"features": {"train": {"instance": X[0]}}},
         errors.DataError, "shape \\[3\\]"),
        ({"features": {"train": {"instance": X}, "test": {"instance": X[:, :2]}},
          "labels": {"train": Y, "test": Y}},
         errors.DataError, "shape \\[4, 2\\], the bank needs \\[rows, 3\\]"),
        ({"features": {"train": {"instance": X}, "test": {"other": X}},
          "labels": {"train": Y, "test": Y}},
         errors.DataError, "test has the views \\['other'\\], train has \\['instance'\\]"),
        ({"features": {"train": {"instance": X}}, "labels": {"train": Y, "test": Y}},
         errors.DataError, "Give both for every split"),
        ({"features": {"test": {"instance": X}}, "labels": {"test": Y}},
         errors.DataError, "no train split"),
        ({"classifier": {"instance": (np.ones((3, 4)), None)}},
         errors.DataError, "weight has shape \\[3, 4\\], the bank needs \\[3, 3\\]"),
        ({"features": {"train": {"label": X}}},
         errors.ConfigError, "View name 'label' is not usable"),
        ({"features": {"train": {"../x": X}}},
         errors.ConfigError, "is not usable"),
        ({"dtype": "float61"}, errors.ConfigError, "Did you mean 'float16'"),
        ({"labels": {"train": Y * 0}}, errors.DataError, "1 classes. A bank needs 2"),
    ],
)  # fmt: skip
def test_bad_arrays_get_one_clear_error_and_no_file(
    tmp_path: Path, options: dict[str, object], kind: type[Exception], message: str
) -> None:
    """Each defect has its type and a message that tells where; nothing is left behind."""
    with pytest.raises(kind, match=message):
        small(tmp_path / "b.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_tell_what_there_is(tmp_path: Path) -> None:
    """Asking for a split, view or copy that is not there names those that are."""
    with Bank(small(tmp_path / "b.h5")) as bank:
        with pytest.raises(errors.ConfigError, match="no split 'test'. It has: train"):
            bank.load("test")
        with pytest.raises(errors.ConfigError, match="no view 'balanced'. It has: instance"):
            bank.load("train", "balanced")
        with pytest.raises(errors.ConfigError, match="has copies 0…0, not 1"):
            bank.load("train", copy=1)
