"""`featbank split --val-from-test`: val out of test, where stage 1 has seen all of train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors, write_bank
from featbank.bank import HoldOut
from featbank.bank.merge import merge
from featbank.bank.split import split_shards, split_val
from featbank.bank.verify import verify
from tests.conftest import Run, Toy

TESTED = (20, 9, 5, 3, 2, 1, 0)


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """A bank of two views, three copies of test, paths, and source rows that are not 0…N−1."""
    toy = make_toy((30, 20, 9, 6, 4, 3, 2), splits=("train", "test"))
    y = toy.labels["test"]
    keep = np.concatenate([np.flatnonzero(y == k)[:n] for k, n in enumerate(TESTED)])
    toy.labels["test"] = y[keep]
    for view, x in toy.features["test"].items():
        toy.features["test"][view] = np.stack([x[keep] + copy for copy in range(3)])
    rows = {split: len(labels) for split, labels in toy.labels.items()}
    return toy.write(
        tmp_path / "b.h5",
        index={"test": np.arange(rows["test"])[::-1] * 2},
        paths={split: [f"{split}/{i}.png" for i in range(n)] for split, n in rows.items()},
    )


def rows_of(path: Path, split: str, view: str) -> dict[int, tuple]:
    """Label, path and features of all copies of a split's rows, by their index."""
    with Bank(path) as b:
        x, paths = b.load_copies(split, view), b.paths(split) or []
        columns = zip(b.index(split), b.labels(split), paths, x.transpose(1, 0, 2), strict=True)
        return {int(i): (int(k), p, row.tobytes()) for i, k, p, row in columns}


def test_val_and_the_rest_are_test_as_it_was(bank: Path) -> None:
    """Row by row in every view and copy, at most half of a class; train keeps every digest."""
    out = bank.with_name("v.h5")
    text = split_val(bank, out, HoldOut(4, seed=2), of="test")
    assert text == (
        "12 rows held out of test, 4 per class, seed 2; 3 smaller classes gave at most half of "
        "their rows; 1 class of one row gave none"
    )
    for view in ("instance", "balanced"):
        val, test = rows_of(out, "val", view), rows_of(out, "test", view)
        assert not set(val) & set(test)
        assert val | test == rows_of(bank, "test", view)
    with Bank(bank) as before, Bank(out) as after:
        assert np.bincount(after.labels("val"), minlength=7).tolist() == [4, 4, 2, 1, 1, 0, 0]
        old, new = (
            {n: d for n, d in b.digests.items() if n != "provenance" and "test/" not in n}
            for b in (before, after)
        )
        assert old.items() <= new.items()
        assert {name for name in new if name not in old} == {
            f"val/{name}"
            for name in (
                "label",
                "index",
                "path",
                "from_test",
                *(f"{v}/feature" for v in after.views),
            )
        }
        assert after.full_counts.tolist() == before.full_counts.tolist()
        assert after.source("val") == after.source("test")
        assert after.from_test("val").all()
        assert after.from_test("test") is None
        assert not after.seen("val").any()
        assert after.seen("train").all()
        assert (before.schema, after.schema) == (1, 3)
        assert after.provenance["taken_from"] == "test"
    assert {check.status for check in verify(out)} == {"ok", "note"}


def test_the_record_survives_every_copy(featbank: Run, bank: Path) -> None:
    """Shards, plain files and views side by side lead back to the same rows of val."""
    out = bank.with_name("v.h5")
    split_val(bank, out, HoldOut(2), of="test")
    merge(split_shards(out, bank.with_name("shards"), 3), bank.with_name("m.h5"))
    featbank("export-features", "v.h5", "-o", "plain")
    featbank("import", "plain", "-o", "i.h5")
    with Bank(out) as b:
        for name in ("m.h5", "i.h5"):
            with Bank(bank.with_name(name)) as again:
                assert again.fingerprint == b.fingerprint, name
    with Bank(out) as b:
        other = {s: {"clip": b.load(s)[0]} for s in b.splits}
        write_bank(
            "clip.h5",
            other,
            {s: b.labels(s) for s in b.splits},
            index={s: b.index(s) for s in b.splits},
            sources={s: b.source(s) for s in b.splits},
        )
    with pytest.raises(errors.Mismatch, match=r"val/from_test: clip\.h5 has none"):
        merge([out, "clip.h5"], "both.h5")


def test_info_says_that_test_is_the_rest(featbank: Run, bank: Path) -> None:
    """The command, as its help shows it, and the lines of the splits."""
    shown = featbank("split", "b.h5", "--val-from-test", 2, "--seed", 3, "-o", "v.h5").stdout
    assert shown.startswith("Wrote v.h5: 8 rows held out of test, 2 per class, seed 3; ")
    lines = [" ".join(line.split()) for line in featbank("info", "v.h5").stdout.splitlines()]
    assert any(line.startswith("val 8 ") and "taken from test" in line for line in lines)
    assert any(line.startswith("test 32 ") and "without the rows of val" in line for line in lines)
    assert "settings val_per_class 2, taken_from test, seed 3" in lines


def test_what_stage_1_saw_of_train_can_be_said(featbank: Run, bank: Path) -> None:
    """`--seen` is about train; val is as unseen as test was."""
    featbank("split", "b.h5", "--val-from-test", 1, "--seen", "none", "-o", "v.h5")
    with Bank("v.h5") as b:
        assert not b.seen("train").any()
        assert not b.seen("val").any()
    write_bank(
        "s.h5",
        {"train": {"instance": np.eye(4)}, "test": {"instance": np.eye(4)}},
        {"train": np.array([0, 0, 1, 1]), "test": np.array([0, 0, 1, 1])},
        seen={"test": True},
    )
    shown = featbank("split", "s.h5", "--val-from-test", 1, "-o", "sv.h5").stdout
    assert "Note: stage 1 was probably trained on the rows of val" in shown
    with Bank("sv.h5") as b:
        assert b.seen("val").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b.h5", "--val-from-test", 0], "0 is not in the range x>=1"),
        (["b.h5", "--val-from-test", -3], "-3 is not in the range x>=1"),
        (["b.h5", "--val-from-test", "2.5"], "'2.5'"),
        (["b.h5", "--val-from-test", 1, "--val-per-class", 1], "Give one of them."),
        (["b.h5", "--val-from-test", 1, "--val-fraction", 0.1], "Give one of them."),
        (["b.h5", "--val-from-test", 1, "--shards", 2], "Give one of them."),
        (["b.h5", "--val-from-test", 1, "-o", "b.h5", "--overwrite"], "b.h5 is read as well."),
        (["val.h5", "--val-from-test", 1], "val.h5 has a val split of 2 rows. Hold out of a bank"),
        (["train.h5", "--val-from-test", 1], "train.h5 has no rows of test. Hold val out of"),
        (["empty.h5", "--val-from-test", 1], "empty.h5 has no rows of test. Hold val out of"),
        (["single.h5", "--val-from-test", 1], "No class has a row to spare for val: the"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(featbank: Run, bank: Path, arguments: list, message: str) -> None:
    """Exit code 2, the fact and the remedy, and nothing written."""
    x, y = np.eye(2), np.arange(2)
    for name, tests in (("train", None), ("empty", x[:0]), ("single", x), ("val", x)):
        splits = {"train": x} if tests is None else {"train": x, "test": tests}
        splits |= {"val": x} if name == "val" else {}
        features = {split: {"instance": rows} for split, rows in splits.items()}
        labels = {split: y[: len(rows)] for split, rows in splits.items()}
        write_bank(bank.with_name(f"{name}.h5"), features, labels)
    before = {p.name: p.stat().st_size for p in bank.parent.iterdir()}
    output = [] if "-o" in arguments else ["-o", "out.h5"]
    done = featbank("split", *arguments, *output, code=2)
    assert message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert {p.name: p.stat().st_size for p in bank.parent.iterdir()} == before


def test_an_empty_val_is_none(featbank: Run, tmp_path: Path) -> None:
    """A split without rows is in nobody's way, whichever split val comes from."""
    x, y = np.eye(4), np.array([0, 0, 1, 1])
    features = {"train": {"instance": x}, "val": {"instance": x[:0]}, "test": {"instance": x + 1}}
    write_bank(tmp_path / "b.h5", features, {"train": y, "val": y[:0], "test": y})
    assert "none to select by" in featbank("info", "b.h5").stdout
    for of in ("train", "test"):
        split_val(tmp_path / "b.h5", tmp_path / f"{of}.h5", HoldOut(1), of=of)
        with Bank(tmp_path / f"{of}.h5") as b:
            assert b.labels("val").tolist() == [0, 1]
            assert (b.from_test("val") is not None) == (of == "test")
    with pytest.raises(errors.ConfigError, match=r"Unknown split 'tset'\. Did you mean 'test'"):
        split_val(tmp_path / "b.h5", tmp_path / "v.h5", HoldOut(1), of="tset")
