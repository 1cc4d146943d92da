"""Banks whose rows are pixels or regions: source groups, cells, and what is said of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, errors, write_bank
from featbank.bank import ClassGroups, HoldOut
from featbank.bank.copying import whole, write_pieces
from featbank.bank.merge import merge
from featbank.bank.source_groups import hold_out_groups
from featbank.bank.split import split_shards, split_val
from tests.conftest import Run

LABELS = {"train": np.arange(24) % 3, "test": np.arange(9) % 3}
GROUPS = {"train": np.arange(24) // 4, "test": 100 + np.arange(9) // 3}
CELLS = {split: np.stack([g * 2, g + 1], axis=1) for split, g in GROUPS.items()}
COUNTS = np.array([5_000_000, 900, 40])
CLASS_GROUPS = ClassGroups.by_shares(COUNTS, background=0)
FACTS: dict[str, Any] = {
    "outside_counts": COUNTS,
    "background": 0,
    "class_groups": CLASS_GROUPS,
}


def write(path: Path, view: str = "instance", **changed: Any) -> Path:
    """A bank with everything of schema 6, but for what is `changed`; None leaves out."""
    rng = np.random.default_rng(0)
    features = {split: {view: rng.normal(size=(len(y), 4))} for split, y in LABELS.items()}
    options = {"source_groups": GROUPS, "cells": CELLS, **FACTS, **changed}
    write_bank(path, features, LABELS, **options)
    return path


def assert_facts(bank: Bank) -> None:
    """What is said of the classes is what was given."""
    np.testing.assert_array_equal(bank.outside_counts, COUNTS)
    assert bank.full_counts.tolist() == COUNTS.tolist()
    assert bank.background == 0
    assert bank.class_groups.equals(CLASS_GROUPS)


def assert_rows(bank: Bank, split: str, of: str, index: np.ndarray) -> None:
    """Rows of a split have the places of these rows of the split `of`."""
    np.testing.assert_array_equal(bank.source_groups(split), GROUPS[of][index])
    np.testing.assert_array_equal(bank.cells(split), CELLS[of][index])


def test_without_any_of_it(tmp_path: Path) -> None:
    """None, the usual groups, and an earlier schema."""
    nothing = dict.fromkeys(("source_groups", "cells", *FACTS))
    with Bank(write(tmp_path / "bank.h5", **nothing)) as bank:
        assert bank.schema == 3
        assert (bank.source_groups("train"), bank.cells("test")) == (None, None)
        assert (bank.outside_counts, bank.background) == (None, None)
        assert bank.class_groups.equals(ClassGroups.usual(bank.train_counts))


NAMED = {
    "source_groups": {"train": GROUPS["train"], "test": 5 + GROUPS["test"] - 100},
    "source_group_names": ["p017", "p018", "été", "x\n", "p021", "p022", "p023", "p024"],
}
"""Groups 5 in train and test."""


def test_names_of_source_groups(featbank: Run, tmp_path: Path) -> None:
    """As given, through every command that copies, and where groups are shown."""
    path = write(tmp_path / "bank.h5", **NAMED)
    split_val(path, tmp_path / "val.h5", HoldOut(per_class=2), by_group=True)
    merge(split_shards(path, tmp_path / "shards", 2), tmp_path / "merged.h5")
    featbank("amend", "bank.h5", "--scale", "unit", "-o", "amended.h5")
    for output in ("out", "out.h5", "out.npz", "out.parquet"):
        featbank("export-features", "bank.h5", "-o", output)
        featbank("import", output, "-o", f"of-{output}.h5")
    back = [f"of-{output}.h5" for output in ("out", "out.h5", "out.npz", "out.parquet")]
    for name in ("bank.h5", "val.h5", "merged.h5", "amended.h5", *back):
        with Bank(tmp_path / name) as bank:
            assert bank.schema == 6
            assert bank.source_group_names == NAMED["source_group_names"], name
    with Bank(path) as before, Bank(tmp_path / "of-out.h5") as after:
        assert before.fingerprint == after.fingerprint
    assert "train and test share 1 source group (p022)" in featbank("verify", "bank.h5").stdout
    shown = featbank("info", "bank.h5").stdout
    assert "source groups are named p017, p018, été, … (8 names)" in shown
    told = json.loads(featbank("info", "bank.h5", "--json").stdout)
    assert told["source_group_names"] == NAMED["source_group_names"]


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    """One for each group, each another; shards have the same ones, or none."""
    for names, says in (
        (["a", "b"], "there is a source group 7, and names of 2"),
        (["a"] * 8, "'a' in row 1 comes twice"),
    ):
        with pytest.raises(errors.DataError, match=says):
            write(tmp_path / "never.h5", **{**NAMED, "source_group_names": names})
    path = write(tmp_path / "bank.h5", **NAMED)
    others = {None: "name being there: yes and no", "z": "differ in source_groups/name"}
    for name, says in others.items():
        names = None if name is None else [name, *NAMED["source_group_names"][1:]]
        changed = {**NAMED, "source_group_names": names}
        other = write(tmp_path / "other.h5", overwrite=True, **changed)
        with pytest.raises(errors.Mismatch, match=says):
            merge([path, other], tmp_path / "never.h5")


def test_the_background_is_in_no_group(tmp_path: Path) -> None:
    """Neither by default; counts from outside group the classes."""
    with Bank(write(tmp_path / "bank.h5", class_groups=None)) as bank:
        assert bank.class_groups.equals(ClassGroups.usual(COUNTS, 0))
        assert bank.class_groups.member.tolist() == [-1, 0, 1]


def test_split_and_shards_keep_it(tmp_path: Path) -> None:
    """Rows keep their places, val has those of train; shards merge to the same bank."""
    path = write(tmp_path / "bank.h5")
    split_val(path, tmp_path / "val.h5", HoldOut(per_class=2))
    with Bank(tmp_path / "val.h5") as bank:
        assert bank.rows("val") == 6
        assert_facts(bank)
        for split, of in (("train", "train"), ("val", "train"), ("test", "test")):
            assert_rows(bank, split, of, bank.index(split))
    shards = split_shards(path, tmp_path / "shards", 3)
    merge(shards, tmp_path / "merged.h5")
    with Bank(path) as before, Bank(tmp_path / "merged.h5") as after:
        assert before.fingerprint == after.fingerprint


def test_views_side_by_side(tmp_path: Path) -> None:
    """The bank that has it gives it; banks that differ do not belong together."""
    nothing = dict.fromkeys(("source_groups", "cells", *FACTS))
    plain = write(tmp_path / "plain.h5", "other", **nothing)
    merge([plain, write(tmp_path / "bank.h5")], tmp_path / "merged.h5")
    with Bank(tmp_path / "merged.h5") as bank:
        assert_facts(bank)
        for split in LABELS:
            assert_rows(bank, split, split, bank.index(split))
    for name, change in {
        "classes/background": {"background": 1, "class_groups": None},
        "classes/full_count": {"outside_counts": COUNTS + 1},
        "classes/group": {"class_groups": ClassGroups.by_list("-rr")},
        "train/source_group": {"source_groups": {s: g + 1 for s, g in GROUPS.items()}},
    }.items():
        other = write(tmp_path / "differs.h5", "other", overwrite=True, **change)
        with pytest.raises(errors.Mismatch, match=f"differ in {name}"):
            merge([tmp_path / "bank.h5", other], tmp_path / "never.h5")


def test_shards_need_the_same_columns(tmp_path: Path) -> None:
    """One that has no source groups cannot be continued."""
    path = write(tmp_path / "bank.h5")
    other = write(tmp_path / "other.h5", source_groups=None)
    with pytest.raises(errors.Mismatch, match="train/source_group being there: yes and no"):
        merge([path, other], tmp_path / "never.h5")


def test_facts_can_be_replaced(tmp_path: Path) -> None:
    """Of a copy; the others stay."""
    with Bank(write(tmp_path / "bank.h5")) as bank:
        write_pieces(
            tmp_path / "copy.h5",
            [bank],
            {split: [whole(bank, split)] for split in bank.splits},
            classes={"class_groups": ClassGroups.by_list("-fr")},
            provenance={},
            overwrite=False,
            progress=None,
            total=0,
        )
    with Bank(tmp_path / "copy.h5") as copy:
        assert copy.class_groups.names == ("frequent", "common", "rare")
        assert (copy.background, copy.full_counts.tolist()) == (0, COUNTS.tolist())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"background": 3}, "the background is class 3, the classes are 0…2"),
        ({"background": 1}, "the background, class 1, is in the class group head. Leave it out"),
        ({"outside_counts": COUNTS[:2]}, "the class counts have type int64 and shape"),
        ({"outside_counts": COUNTS - 41}, "the class counts: -1 in row 2 is not in 0…2⁶³−1"),
        ({"outside_counts": COUNTS * 0.3 + 0.01}, "the class counts have type float64"),
        ({"outside_counts": COUNTS * [1, 1, 0]}, "the class counts say 0 for class 2, train has 8"),
        ({"class_groups": ClassGroups.by_list("rr")}, "class groups cover 2 classes of 3"),
        ({"source_groups": {"train": np.arange(5)}}, "train/source_group have type int64 and"),
        ({"source_groups": {"train": np.arange(24) - 3}}, "train/source_group: -3 in row 0"),
        ({"cells": {"test": np.zeros((9, 3), int)}}, "They must be integers [9, 2]"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    """One line each, and no file."""
    with pytest.raises(errors.FeatbankError) as caught:
        write(tmp_path / "bank.h5", **changed)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.h5*"))


@pytest.mark.parametrize("output", ["out", "out.h5", "out.npz", "out.parquet"])
def test_an_export_reads_back(featbank: Run, tmp_path: Path, output: str) -> None:
    """Every dataset is the same again."""
    write(tmp_path / "bank.h5")
    featbank("export-features", "bank.h5", "-o", output)
    featbank("import", output, "-o", "again.h5")
    with Bank(tmp_path / "bank.h5") as one, Bank(tmp_path / "again.h5") as other:
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("background", "x"),
        ("class_groups", {"names": ["a"]}),
        ("class_groups", {"names": list("abc"), "rules": list("abc"), "member": [9, 0, 0]}),
        ("class_groups", [1]),
        ("outside_counts", {"a": [1]}),
    ],
)
def test_a_changed_export_is_refused(
    featbank: Run, tmp_path: Path, key: str, value: object
) -> None:
    """In one line, whatever its description says."""
    write(tmp_path / "bank.h5")
    featbank("export-features", "bank.h5", "-o", "out")
    about = json.loads((tmp_path / "out/bank.json").read_text())
    (tmp_path / "out/bank.json").write_text(json.dumps({**about, key: value}))
    done = featbank("import", "out", "-o", "again.h5", code=2)
    assert done.stderr.count("\n") == 1


def grouped(seed: int, groups: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a long tail and their source groups, each of a few classes."""
    rng = np.random.default_rng(seed)
    labels, ids = [], []
    for g in range(groups):
        here = rng.choice(6, 2, replace=False, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
        labels.append(rng.choice(here, rng.integers(5, 60)))
        ids.append(np.full(len(labels[-1]), 3 * g))
    return np.concatenate(labels), np.concatenate(ids)


@pytest.mark.parametrize("seed", range(4))
def test_whole_groups_are_held_out(seed: int) -> None:
    """Each in one part, near the share of every class, closer than groups drawn at random."""
    labels, groups = grouped(seed)
    kept, held = hold_out_groups(labels, groups, 6, HoldOut(fraction=0.2, seed=seed))
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert not set(groups[kept]) & set(groups[held])
    counts, of_val = (np.bincount(y, minlength=6) for y in (labels, labels[held]))
    assert ((counts - of_val)[counts > 0] > 0).all()
    wanted = HoldOut(fraction=0.2).sizes(counts)

    def loss(taken: np.ndarray) -> float:
        return float((((np.bincount(labels[taken], minlength=6) - wanted) / wanted) ** 2).sum())

    rng = np.random.default_rng(seed)
    others = [np.isin(groups, rng.choice(np.unique(groups), 12, replace=False)) for _ in range(50)]
    assert loss(held) < min(map(loss, others))
    again = hold_out_groups(labels, groups, 6, HoldOut(fraction=0.2, seed=seed))
    np.testing.assert_array_equal(again[1], held)
    other = hold_out_groups(labels, groups, 6, HoldOut(fraction=0.2, seed=seed + 100))
    assert not np.array_equal(other[1], held)


def test_split_by_group_from_the_command(featbank: Run, tmp_path: Path) -> None:
    """The bank and what is printed; errors where it cannot be."""
    labels, groups = grouped(7)
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    features, y = {"train": {"instance": x}}, {"train": labels}
    write_bank(tmp_path / "b.h5", features, y, source_groups={"train": groups})
    done = featbank("split", "b.h5", "--val-fraction", 0.25, "--by-group", "-o", "val.h5")
    _, held = hold_out_groups(labels, groups, 6, HoldOut(fraction=0.25))
    told = f"{len(held)} rows of {len(set(groups[held]))} whole source groups held out of train"
    assert f"{told}, close to 25 % of each class, seed 0" in done.stdout
    with Bank(tmp_path / "val.h5") as bank:
        np.testing.assert_array_equal(bank.index("val"), held)
        assert bank.class_groups.equals(ClassGroups.usual(np.bincount(labels, minlength=6)))
    one = {"train": np.zeros(len(labels), int)}
    write_bank(tmp_path / "one.h5", features, y, source_groups=one)
    write_bank(tmp_path / "none.h5", features, y)
    for path, says in (
        ("one.h5", "None of 1 source group can be held out for val"),
        ("none.h5", "none.h5 has no source groups of train. Give them with `featbank import"),
    ):
        by_group = ("split", path, "--val-fraction", 0.25, "--by-group", "-o", "never.h5")
        assert says in featbank(*by_group, code=2).stderr
