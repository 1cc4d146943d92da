"""`featbank import` of pixels and regions: ignored labels, source groups, counts and groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, write_bank
from featbank.bank import ClassGroups
from tests.conftest import SHARED, Run

DATA = SHARED / "data"
X = np.arange(24, dtype=np.float32).reshape(12, 2)
Y = np.array([0, 255, 1, 2, 255, 0, 1, 2, 0, 0, 255, 1])
NAMES = ["road", "car", "sign"]
IMAGES = np.array(["a", "a", "a", "a", "b", "b", "b", "b", "c", "c", "c", "c"])


@pytest.fixture
def files(tmp_path: Path, featbank: Run) -> Path:
    """Files of pixels in the current folder."""
    arrays: dict[str, Any] = {
        "x": X, "y": Y, "xt": -X[:4] - 1, "yt": np.array([0, 1, 2, 1]), "void": np.full(4, 255),
        "g": IMAGES, "gt": np.array(["d", "d", "a", "e"]), "c": np.stack([np.arange(12)] * 2, 1),
        "counts": np.array([10**6, 10**4, 500]), "few": np.array([1, 2]),
        "none": np.array([10, 0, 3]), "gaps": np.array(["a", " "] * 6),
        "ynames": np.array([*NAMES, "void"])[np.minimum(Y, 3)],
        "new": np.array([0, 1, 2, 3]), "w": np.eye(3, 2), "b": np.zeros(3),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "lvis.txt").write_text("f\nc\nr\n")
    (tmp_path / "odd.txt").write_text("x\ny\nz\n")
    (tmp_path / "short.txt").write_text("f\nc\n")
    (tmp_path / "counts.json").write_text(json.dumps({"sign": 5, "road": 900, "car": 30}))
    (tmp_path / "lacking.json").write_text(json.dumps({"sign": 5, "road": 900}))
    (tmp_path / "list.json").write_text("[900, 30, 5]")
    (tmp_path / "counts.csv").write_text("name,pixels\ncar,30\nroad,900\nsign,5\n")
    categories = [
        {"name": name, "frequency": letter, "image_count": n, "id": n}
        for name, letter, n in (("sign", "r", 5), ("road", "f", 900), ("car", "c", 30))
    ]
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": categories}))
    return tmp_path


TRAIN = ("import", "--train", "x.npy", "y.npy", "-o", "bank.h5")
IGNORING = (*TRAIN, "--ignore-label", "255")
NAMED = (*IGNORING, "--class-names", "names.txt")


def test_ignored_rows_are_left_out(featbank: Run, files: Path) -> None:
    """The bank is that of the other rows, with their index; how many were left out is told."""
    done = featbank(*IGNORING, "--test", "xt.npy", "yt.npy", "--source-groups", "train", "g.npy")
    assert "ignored label 255: 3 rows of train left out" in done.stdout
    kept = np.flatnonzero(Y != 255)
    expected = {
        "source_groups": {"train": np.searchsorted(["a", "b", "c"], IMAGES[kept])},
        "source_group_names": ["a", "b", "c"],
        "index": {"train": kept, "test": np.arange(4)},
    }
    features = {"train": {"instance": X[kept]}, "test": {"instance": -X[:4] - 1}}
    labels = {"train": Y[kept], "test": np.array([0, 1, 2, 1])}
    write_bank(files / "expected.h5", features, labels, **expected)
    with Bank(files / "bank.h5") as bank, Bank(files / "expected.h5") as other:
        assert bank.digests == {**other.digests, "provenance": bank.digest("provenance")}
        assert bank.provenance["ignored"] == {"train": 3}
    assert "ignored   label 255: 3 rows of train" in featbank("info", "bank.h5").stdout
    shown = json.loads(featbank("info", "bank.h5", "--json").stdout)
    assert shown["splits"]["train"]["source_groups"] == 3


def test_255_is_not_class_255_of_256(featbank: Run, files: Path) -> None:
    """With the label there are 256 classes, without it 3."""
    featbank(*TRAIN)
    with Bank(files / "bank.h5") as bank:
        assert bank.num_classes == 256
    featbank(*IGNORING, "--overwrite")
    with Bank(files / "bank.h5") as bank:
        assert bank.num_classes == 3


@pytest.mark.parametrize(
    ("labels", "label", "names"),
    [("y.npy", "0", ["1", "2"]), ("y.npy", "1", ["0", "2"]), ("ynames.npy", "car", None)],
)
def test_no_class_is_left_of_it(
    featbank: Run, files: Path, labels: str, label: str, names: list[str] | None
) -> None:
    """Classes after an ignored one move down by one and keep their names."""
    void = "void" if labels == "ynames.npy" else "255"
    ignored = ("--ignore-label", void, "--ignore-label", label)
    featbank("import", "--train", "x.npy", labels, *ignored, "-o", "bank.h5")
    with Bank(files / "bank.h5") as bank:
        assert bank.class_names == (names or ["road", "sign"])
        kept = (Y != 255) & (int(label == "car" or label) != Y)
        np.testing.assert_array_equal(bank.index("train"), np.flatnonzero(kept))
        np.testing.assert_array_equal(
            bank.labels("train"), np.unique(Y[kept], return_inverse=True)[1]
        )


def test_the_classifier_loses_its_row_too(featbank: Run, files: Path) -> None:
    """Row 1 of W belongs to the ignored label 1."""
    classifier = ("--classifier", "w.npy", "b.npy", "--ignore-label", "1")
    featbank(*NAMED, *classifier)
    with Bank(files / "bank.h5") as bank:
        stored = bank.classifier()
        assert stored is not None
        np.testing.assert_array_equal(stored[0], np.eye(3, 2)[[0, 2]])
        assert bank.class_names == ["road", "sign"]


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        ("counts.npy", [10**6, 10**4, 500]),
        ("counts.json", [900, 30, 5]),
        ("list.json", [900, 30, 5]),
        ("counts.csv", [900, 30, 5]),
        ("counts.csv:pixels", [900, 30, 5]),
        ("lvis.json", [900, 30, 5]),
    ],
)
def test_class_counts(featbank: Run, files: Path, place: str, counts: list[int]) -> None:
    """In label order or by name; groups follow them."""
    featbank(*NAMED, "--class-counts", place, "--background", "car")
    with Bank(files / "bank.h5") as bank:
        assert bank.full_counts.tolist() == counts
        assert bank.background == 1
        assert bank.class_groups.equals(ClassGroups.usual(np.array(counts), 1))


@pytest.mark.parametrize(
    ("text", "names", "rules", "member"),
    [
        ("600,100", "many medium few", "n > 600", [0, 0, 1]),
        ("1%,0.1%", "head body tail", "share > 1 %", [0, 1, 2]),
        ("top,mid,low:1%,0.1%", "top mid low", "share > 1 %", [0, 1, 2]),
        ("lvis.txt", "frequent common rare", "as listed", [0, 1, 2]),
        ("lvis.json", "frequent common rare", "as listed", [0, 1, 2]),
        ("x,y,z:odd.txt", "x y z", "as listed", [0, 1, 2]),
    ],
)
def test_groups(
    featbank: Run, files: Path, text: str, names: str, rules: str, member: list[int]
) -> None:
    """By counts, shares or a list, in import and in amend."""
    facts = ("--class-counts", "counts.npy")
    first = featbank(*NAMED, *facts, "--groups", text)
    assert f"{names.partition(' ')[0]} {member.count(0)} ({rules})" in first.stdout
    featbank("import", "--train", "x.npy", "y.npy", "--ignore-label", 255, "--class-names",
             "names.txt", "-o", "plain.h5")  # fmt: skip
    featbank("amend", "plain.h5", *facts, "--groups", text, "-o", "amended.h5")
    for path in ("bank.h5", "amended.h5"):
        with Bank(files / path) as bank:
            assert bank.class_groups.names == tuple(names.split())
            assert bank.class_groups.rules[0] == rules
            assert bank.class_groups.member.tolist() == member
    shown = featbank("info", "amended.h5").stdout
    assert f"  {names.partition(' ')[0]:<9}" in shown
    assert "counts from outside, 1000000 … 500" in shown


def test_groups_that_are_stored_stay(featbank: Run, files: Path) -> None:
    """Where counts change: said in a note, and made anew on demand."""
    featbank(*NAMED, "--groups", "3,2", "--background", "sign")  # 4, 3 and 2 rows
    new = ("amend", "bank.h5", "--class-counts", "counts.npy")
    note = "Note: the class groups are those of the bank; --groups makes them anew."
    assert note in featbank(*new, "-o", "a.h5").stdout
    assert note not in featbank(*new, "--groups", "600,100", "-o", "b.h5").stdout
    members = {}
    for path in ("a.h5", "b.h5"):
        with Bank(files / path) as bank:
            members[path] = bank.class_groups.member.tolist()
    assert members == {"a.h5": [0, 1, -1], "b.h5": [0, 0, -1]}
    refused = featbank("amend", "bank.h5", "--background", "car", "-o", "c.h5", code=2).stderr
    assert "class 1, is in the class group medium. Leave it out of the groups: --groups" in refused


def test_groups_count_rows_before_val_is_held_out(featbank: Run, files: Path) -> None:
    """As the groups many, medium and few do."""
    featbank(*IGNORING, "--groups", "3,2", "--val-per-class", "1")
    with Bank(files / "bank.h5") as bank:
        assert bank.train_counts.tolist() == [3, 2, 1]
        assert bank.class_groups.member.tolist() == [0, 1, 1]


def test_a_val_of_whole_groups(featbank: Run, files: Path) -> None:
    """Reference: a bank without val and `split --by-group`; of a row per group, one without."""
    grouped = (*IGNORING, "--source-groups", "train", "g.npy")
    featbank(*grouped)
    featbank("split", "bank.h5", "--val-fraction", "0.3", "--by-group", "-o", "val.h5")
    done = featbank(*grouped, "--val-fraction", "0.3", "--overwrite")
    assert "whole source group held out of train, close to 30 % of each class" in done.stdout
    assert "train and val share" not in done.stdout
    with Bank(files / "bank.h5") as bank, Bank(files / "val.h5") as apart:
        assert bank.provenance["by_group"] is True
        assert bank.fingerprint == apart.fingerprint
    np.save("each.npy", np.arange(12))
    held_out = []
    for given in ((), ("--source-groups", "train", "each.npy")):
        done = featbank(*IGNORING, *given, "--val-fraction", "0.3", "--overwrite")
        assert "30 % of each class, at least 1" in done.stdout
        with Bank(files / "bank.h5") as bank:
            assert "by_group" not in bank.provenance
            held_out.append(bank.index("val").tolist())
    assert held_out[0] == held_out[1]


def test_an_archive_names_its_roles(featbank: Run, files: Path) -> None:
    """Keys as options: `source_group_train`, `cell_train`; val keeps both."""
    np.savez("all.npz", x_train=X, y_train=Y, source_group_train=IMAGES, cell_train=X.astype(int))
    featbank("import", "all.npz", "--ignore-label", "255", "-o", "a.h5")
    featbank("split", "a.h5", "--val-fraction", "0.3", "--by-group", "-o", "val.h5")
    with Bank(files / "val.h5") as bank:
        for split in ("train", "val"):
            rows = bank.index(split)
            np.testing.assert_array_equal(bank.cells(split), X[rows])
            np.testing.assert_array_equal(
                bank.source_groups(split), np.unique(IMAGES, return_inverse=True)[1][rows]
            )
        assert not set(bank.source_groups("train")) & set(bank.source_groups("val"))
    save = "index,label,source_group,embedding_0,embedding_1\n"
    rows = (f"{i},{Y[i]},{IMAGES[i]},{X[i, 0]},{X[i, 1]}" for i in range(12))
    Path("t.csv").write_text(save + "\n".join(rows))
    featbank("import", "t.csv", "--ignore-label", "255", "-o", "t.h5")
    with Bank(files / "a.h5") as bank, Bank(files / "t.h5") as table:
        for name in ("train/label", "train/source_group", "train/instance/feature"):
            assert bank.digest(name) == table.digest(name)


def test_a_column_of_a_table(featbank: Run, files: Path) -> None:
    """Of any name; the rows of a table with splits keep theirs."""
    rows = [f"{y % 2},{g},{'test' if i > 7 else 'train'},{i},1" for i, (y, g) in
            enumerate(zip(Y, IMAGES, strict=True))]  # fmt: skip
    Path("t.csv").write_text("\n".join(["label,camera,split,emb_0,emb_1", *rows]))
    featbank("import", "t.csv", "--group-column", "camera", "-o", "b.h5")
    with Bank(files / "b.h5") as bank:
        assert bank.source_groups("train").tolist() == [0] * 4 + [1] * 4
        assert bank.source_groups("test").tolist() == [2] * 4
    np.savez("all.npz", x_train=X, y_train=Y)
    for file, says in (
        (("t.csv",), "t.csv has no column 'site', but label, camera, split, emb. Give one of"),
        (("all.npz",), "--group-column is for tables, and all.npz has the keys x_train, y_train"),
        (("--train", "x.npy", "y.npy"), "--group-column is for a table that is given alone."),
    ):
        done = featbank("import", *file, "--group-column", "site", "-o", "c.h5", code=2)
        assert says in done.stderr


def test_groups_in_two_splits_are_told(featbank: Run, files: Path) -> None:
    """By import and by verify, which passes."""
    told = "train and test share 1 source group (a)"
    done = featbank(*IGNORING, "--test", "xt.npy", "yt.npy", "--source-groups", "train", "g.npy",
                    "--source-groups", "test", "gt.npy")  # fmt: skip
    assert told in done.stdout
    done = featbank("verify", "bank.h5")
    assert f"note    sources     {told}" in done.stdout


def test_a_class_that_only_test_has(featbank: Run, files: Path) -> None:
    """A hint in one line."""
    done = featbank(*IGNORING, "--test", "xt.npy", "new.npy")
    assert "test has classes without a row in train: 3" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--test", "xt.npy", "void.npy"), "test: every row has the ignored label 255 (4 rows)."),
        (("--ignore-label", "void"), "--ignore-label 'void' is a name, but the labels of train"),
        (("--background", "sky"), "--background 'sky' is no class. Give the name of one, or its"),
        (("--background", "3"), "--background '3' is no class."),
        (("--class-counts", "few.npy"), "few.npy has class counts for 2 classes, K = 3."),
        (("--class-counts", "none.npy"), "the class counts say 0 for class 1, train has 3 rows"),
        (("--class-counts", "names.txt"), "names.txt has class counts that are no numbers"),
        (("--class-counts", "lacking.json"), "lacking.json has no class counts for car."),
        (("--class-counts", "gone.npy"), "gone.npy"),
        (("--groups", "short.txt"), "short.txt has class groups for 2 classes, K = 3."),
        (("--groups", "odd.txt"), "odd.txt lists groups such as x, y, z. Give their order"),
        (("--groups", "a,b,c:lvis.txt"), "Class 0 is listed in group 'f', the groups are a, b, c"),
        (("--groups", "20,100"), "cannot be bounded by 20 and 100"),
        (("--groups", "1%,100"), "has a share and a count"),
        (("--groups", "200%,1%"), "at most 1"),
        (("--groups", "abc"), "--groups 'abc' is neither bounds nor a file. Give two counts"),
        (("--groups", "few,many,medium:100,20"), "keep this order"),
        (
            ("--source-groups", "train", "gt.npy"),
            "train/source_group has shape [4], train has 12 labels. Give one",
        ),
        (("--source-groups", "train", "x.npy"), "train/source_group has shape [12, 2], train has"),
        (("--source-groups", "train", "gaps.npy"), "train/source_group: row 1 is empty (6 such"),
        (("--source-groups", "val", "g.npy"), "Unknown split of source groups 'val'"),
        (("--cells", "train", "g.npy"), "train/cell have type <U1 and shape [12]. They must be"),
    ],
)
def test_what_does_not_fit(featbank: Run, files: Path, options: tuple[str, ...], says: str) -> None:
    """One line with the remedy, and no bank."""
    done = featbank(*NAMED, *options, code=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (files / "bank.h5").exists()


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
def test_spectra_by_source(featbank: Run, tmp_path: Path) -> None:
    """Four libraries of spectra stand in all splits, and that is told."""
    stored = np.load(DATA / "earthlib-spectra.npz")
    arrays = {}
    for number, split in enumerate(("train", "val", "test")):
        rows = np.flatnonzero(stored["split"] == number)
        arrays |= {
            f"x_{split}": stored["x"][rows, ::30],
            f"y_{split}": stored["y"][rows],
            f"source_group_{split}": stored["source_names"][stored["source"][rows]],
        }
    np.savez(tmp_path / "earth.npz", class_names=stored["class_names"], **arrays)
    done = featbank("import", "earth.npz", "--groups", "5%,0.5%", "-o", "b.h5")
    assert "train and test share 4 source groups" in done.stdout
    share = np.bincount(arrays["y_train"], minlength=26) / len(arrays["y_train"])
    with Bank("b.h5") as bank:
        assert bank.class_groups.names == ("head", "body", "tail")
        np.testing.assert_array_equal(bank.groups()["many"], share > 0.05)
        np.testing.assert_array_equal(bank.groups()["few"], share < 0.005)
    assert "note    sources     train and test share" in featbank("verify", "b.h5").stdout


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
def test_an_mri_by_slices(featbank: Run, tmp_path: Path) -> None:
    """43 slices of a brain: label 0 ignored, a slice is a source group, a val of whole slices."""
    stored = np.load(DATA / "mri-aal-dense-squeezenet.npz")
    part, y = stored["slice_split"], stored["y_bilateral"]
    cells = np.stack(np.indices(y.shape[1:]), -1)
    arrays = {}
    for split, of in (("train", 0), ("test", 2)):
        slices = np.flatnonzero(part == of)
        arrays |= {
            f"x_{split}": stored["x"][slices].reshape(-1, 64)[:, :8],
            f"y_{split}": y[slices].reshape(-1),
            f"source_group_{split}": np.repeat(slices, y[0].size),
            f"cell_{split}": np.tile(cells.reshape(-1, 2), (len(slices), 1)),
        }
    np.savez(tmp_path / "mri.npz", class_names=stored["bilateral_names"], **arrays)
    done = featbank("import", "mri.npz", "--ignore-label", "0", "--groups", "2%,1%", "-o", "b.h5")
    ignored = {split: int((arrays[f"y_{split}"] == 0).sum()) for split in ("train", "test")}
    assert f"ignored label 0: {ignored['train']} rows of train" in done.stdout
    featbank("split", "b.h5", "--val-fraction", "0.2", "--by-group", "-o", "val.h5")
    with Bank("val.h5") as bank:
        assert bank.provenance["by_group"] is True
        assert bank.class_names == stored["bilateral_names"][1:].tolist()
        of = {split: set(bank.source_groups(split)) for split in ("train", "val")}
        assert not of["train"] & of["val"]
        for split in ("train", "val", "test"):
            z, (r, c) = bank.source_groups(split), bank.cells(split).T
            np.testing.assert_array_equal(bank.labels(split), y[z, r, c] - 1)
        counts = np.bincount(bank.labels("val"), minlength=bank.num_classes)
        assert (bank.train_counts[bank.full_counts > 0] > 0).all()
        assert 0.1 < counts.sum() / bank.full_counts.sum() < 0.3
