"""Writing banks: the layout, blocks of rows, one clear error for arrays that make none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, BankWriter, errors, write_bank
from featbank.bank.summary import summary

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 1, 2])


def small(path: Path, **options: object) -> Path:
    """A bank of four rows, three classes, one view."""
    features = options.pop("features", {"train": {"instance": X}})
    labels = options.pop("labels", {"train": Y})
    write_bank(path, features, labels, **options)  # type: ignore[arg-type]
    return path


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


def test_written_in_blocks_of_all_copies(tmp_path: Path) -> None:
    """Reference: the bank `write_bank` writes, several chunks a copy; wrong blocks are refused."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 900, 256)).astype(np.float32), np.arange(900) % 3
    write_bank(tmp_path / "whole.h5", {"train": {"instance": x}}, {"train": y})
    for block in (100, 256, 900):
        path = tmp_path / f"{block}.h5"
        with BankWriter(path, ["0", "1", "2"], dim=256) as writer:
            writer.split("train", y)
            rows = writer.features("train", "instance", copies=3)
            with pytest.raises(errors.DataError, match=r"a block has shape \[2, 900, 256\]"):
                rows.append(x[:2])
            with pytest.raises(errors.DataError, match="more than 3 × 900 rows arrived"):
                rows.append(np.zeros((3, 901, 256), np.float32))
            for start in range(0, 900, block):
                rows.append(x[:, start : start + block])
        with Bank(tmp_path / "whole.h5") as expected, Bank(path) as bank:
            assert bank.fingerprint == expected.fingerprint, block
            np.testing.assert_array_equal(bank.load("train", copy=2)[0], x[2])


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
        classifier = bank.classifier("balanced")
        assert classifier is not None
        np.testing.assert_array_equal(classifier[1], bias)


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
         errors.NotFinite, "which overflow float16"),
        ({"features": {"train": {"instance": X[0]}}},
         errors.DataError, "shape \\[3\\]"),
        ({"features": {"train": {"instance": X}, "test": {"instance": X[:, :2]}},
          "labels": {"train": Y, "test": Y}},
         errors.DataError, "rows of shape \\[2\\], other splits of the view \\[3\\]"),
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
        ({"labels": {"train": Y * 0}}, errors.DataError, "1 class. A bank needs 2"),
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


def misuse(path: Path) -> BankWriter:
    """A writer with a train split of four rows."""
    writer = BankWriter(path, ["a", "b", "c"], dim=3)
    writer.split("train", Y)
    return writer


BLOCK = np.zeros((2, 3), np.float32)
ONES = np.ones(3)


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [
        (lambda w: w.features("train", "v").append(np.zeros((2, 4), np.float32)),
         errors.DataError, "train/v/feature: a block has shape [2, 4], the bank needs [rows, 3]"),
        (lambda w: w.features("train", "v").append(np.zeros(3, np.float32)),
         errors.DataError, "a block has shape [3]"),
        (lambda w: w.features("train", "v").append(BLOCK.astype(object)),
         errors.DataError, "train/v/feature has type object. It must be real numbers"),
        (lambda w: w.features("train", "v").append(BLOCK.astype(complex)),
         errors.DataError, "train/v/feature has type complex128"),
        (lambda w: w.features("train", "v").append(np.zeros((5, 3), np.float32)),
         errors.DataError, "train/v/feature: more than 1 × 4 rows arrived"),
        (lambda w: w.features("train", "v").append(BLOCK),
         errors.DataError, "train/v/feature: 2 rows arrived, 1 × 4 are needed"),
        (lambda w: w.features("train", "v", copies=0), errors.DataError, "0 copies"),
        (lambda w: w.features("train", "v").append(BLOCK + np.float32(np.inf)),
         errors.NotFinite, "train/v/feature: NaN or infinity in row 0"),
        (lambda w: w.features("train", "v").append(BLOCK.astype(float) + 1e300),
         errors.NotFinite, "values up to 1e+300, which overflow float32"),
        (lambda w: w.features("test", "v"), errors.ConfigError, "test has no labels yet"),
        (lambda w: w.split("train", Y), errors.ConfigError, "the split 'train' comes twice"),
        (lambda w: w.split("trane", Y), errors.ConfigError, "Did you mean 'train'"),
        (lambda w: [w.features("train", "v") for _ in range(2)],
         errors.ConfigError, "Give each view once"),
        (lambda w: [w.features("train", v) for v in ("v", "v/w")],
         errors.ConfigError, "none within another"),
        (lambda w: [w.features("train", v) for v in ("v/w", "v")],
         errors.ConfigError, "none within another"),
        *((lambda w, name=name: w.features("train", name), errors.ConfigError, "is not usable")
          for name in ("", ".", "..", "a/../b", "/a", "a/", "a/b/c", "a b", "a\n", "ü", "a\0",
                       "label", "path/a", "v/feature")),
        (lambda w: w.split("val", Y, index=[1, 2, 3, 3]),
         errors.DataError, "val: index 3 in row 3 occurs before"),
        (lambda w: w.split("val", Y, index=[1, 2, -3, 4]),
         errors.DataError, "val: index -3 in row 2 is negative"),
        (lambda w: w.split("val", Y, index=np.array([1, 2, 3, 2**63], np.uint64)),
         errors.DataError, "index 9223372036854775808 does not fit"),
        (lambda w: w.split("val", Y, index=[1, 2, 3]),
         errors.DataError, "val: row counts disagree: 4 in labels, 3 in index"),
        (lambda w: w.split("val", Y, paths=["a"]),
         errors.DataError, "val: row counts disagree: 4 in labels, 1 in path"),
        (lambda w: w.split("val", Y, paths=["a", "b", "c\0", "d"]),
         errors.DataError, r"val/path: 'c\x00' in row 2 has a NUL"),
        (lambda w: w.split("val", Y, paths=["a", "b\udcff", "c", "d"]),
         errors.DataError, r"val/path: 'b\udcff' in row 1 cannot be stored as UTF-8"),
        (lambda w: w.split("val", Y, source="a\0"), errors.DataError, "has a NUL"),
        (lambda w: w.classifier("v", np.ones((3, 3)), ONES[:2]),
         errors.DataError, "classifier/v/bias has shape [2], the bank needs [3]"),
        (lambda w: w.classifier("v", np.ones((3, 3)) * 1e300),
         errors.NotFinite, "classifier/v/weight: NaN or infinity in row 0"),
        (lambda w: w.classifier("v", np.full((3, 3), "a")), errors.DataError, "has type <U1"),
        (lambda w: [w.classifier("v", np.ones((3, 3))) for _ in range(2)],
         errors.ConfigError, "classifier/v/weight comes twice"),
        (lambda w: w.batchnorm("v", {"bn": (ONES, ONES[:2])}),
         errors.DataError, "batchnorm/v/bn/variance has shape [2], the bank needs [3]"),
        (lambda w: w.batchnorm("v", {"bn": (ONES, ONES * np.nan)}),
         errors.NotFinite, "batchnorm/v/bn/variance: NaN"),
        (lambda w: w.batchnorm("v", {"a/b": (ONES, ONES)}), errors.ConfigError, "Layer name 'a/b'"),
        (lambda w: [w.batchnorm("v", {"bn": (ONES, ONES)}) for _ in range(2)],
         errors.ConfigError, "batchnorm/v/bn/mean comes twice"),
    ],
)  # fmt: skip
def test_misuse_of_the_writer(
    tmp_path: Path, use: Any, kind: type[Exception], message: str
) -> None:
    """Each has its error, which says where; nothing is left behind."""
    with pytest.raises(kind, match=re.escape(message)), misuse(tmp_path / "b.h5") as writer:
        use(writer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("store", "message"),
    [
        (
            lambda w: w.classifier("other", np.ones((3, 3))),
            "classifier/other is given, the views are v",
        ),
        (lambda w: w.batchnorm("w", {"bn": (ONES, ONES)}), "batchnorm/w is given, the views are v"),
    ],
)
def test_a_model_of_no_view(tmp_path: Path, store: Any, message: str) -> None:
    """A classifier or statistics nobody would read are refused; ``instance`` may be without
    features, its classifier is every view's."""

    def write(*extra: Any) -> None:
        with misuse(tmp_path / "b.h5") as writer:
            writer.features("train", "v").append(X)
            for use in extra:
                use(writer)

    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        write(store)
    write(lambda w: w.classifier("instance", np.ones((3, 3))))
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.classifier("v") is not None


def test_inner_layers_use_no_other_views_models(tmp_path: Path) -> None:
    """Reference: what is stored; classifier and text are made for the final features, of any D.
    The norm is recorded where no classifier is used."""
    views = dict.fromkeys(("instance", "layer11/cls", "layers/cls", "layer3"), X)
    path = small(
        tmp_path / "b.h5",
        features={"train": views},
        classifier={"instance": (np.ones((3, 3)), None)},
        text={"instance": (np.ones((3, 3)), 100.0)},
        seen={"train": False},
    )
    with Bank(path) as bank:
        users = {view for view in views if bank.classifier(view) is not None}
        assert users == {view for view in views if bank.text(view) is not None}
        assert users == {view for view in views if bank.norm(view) is None}
        assert users == {"instance", "layers/cls", "layer3"}
        shown = summary(bank)["views"]
    assert (shown["layer11/cls"]["classifier"], shown["layer3"]["classifier"]) == (None, "instance")


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ([1, 2], "The provenance cannot be stored as JSON"),
        ({"path": Path()}, "The provenance cannot be stored as JSON"),
        ({1: "a", "b": 2}, "The provenance cannot be stored as JSON"),
    ],
)
def test_provenance_that_is_no_json(tmp_path: Path, provenance: Any, message: str) -> None:
    """A provenance that could not be read back is refused."""
    with pytest.raises(errors.DataError, match=message):
        small(tmp_path / "b.h5", provenance=provenance)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\0b", "a\0", "\ud800"])
def test_class_names_that_cannot_be_stored(tmp_path: Path, name: str) -> None:
    """NUL would be lost, and a lone surrogate has no UTF-8."""
    with pytest.raises(errors.DataError, match="classes/name: .* in row 1 .* Rename it"):
        small(tmp_path / "b.h5", class_names=["a", name, "c"])
    assert list(tmp_path.iterdir()) == []


def test_val_must_not_share_rows_of_one_source(tmp_path: Path) -> None:
    """Results need splits without common rows; rows of different sources are not common."""
    both = {"train": {"instance": X}, "val": {"instance": X}}
    given = {"features": both, "labels": {"train": Y, "val": Y}}
    index = {"train": np.arange(4), "val": np.arange(3, 7)}
    with pytest.raises(errors.DataError, match="train and val share 1 row of 'images'"):
        small(tmp_path / "b.h5", index=index, sources={s: "images" for s in both}, **given)
    assert list(tmp_path.iterdir()) == []
    small(tmp_path / "b.h5", index=index, **given)


@pytest.mark.parametrize("place", ["/dev/null", "folder"])
def test_only_a_file_is_replaced(tmp_path: Path, place: str) -> None:
    """A device or a folder is no target, whatever is asked for."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.ConfigError, match="is not a file. Give the name of a file"):
        small(tmp_path / place, overwrite=True)
    assert Path("/dev/null").is_char_device()
