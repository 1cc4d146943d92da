"""`featbank import`: the same arrays give the same bank, whatever file they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy import io

from featbank import Bank, write_bank
from tests.conftest import Run
from tests.featbank.test_importers import KEYS, SAVERS, X, Y

WEIGHT, BIAS = np.ones((3, 2), np.float32), np.arange(3, dtype=np.float32)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A folder of good and bad files."""
    bad = X.copy()
    bad[1, 1] = np.inf
    files = {
        "x": X, "y": Y, "xb": X + 1, "w": WEIGHT, "b": BIAS, "short": Y[:3], "nan": bad,
        "wide": np.arange(20.0).reshape(5, 4), "half": Y + 0.5, "y1": Y + 1, "d3": np.ones((4, 3)),
        "names": np.array(["cat", "dog", "dog", "owl"]), "a": np.stack([X, X + 1]),
    }  # fmt: skip
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "there.h5").write_text("")
    (tmp_path / "empty.csv").write_text("")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    return tmp_path


def fingerprint(path: Path) -> str:
    """A bank's fingerprint."""
    with Bank(path) as bank:
        return bank.fingerprint


@pytest.mark.parametrize("name", SAVERS)
def test_every_format_makes_the_same_bank(featbank: Run, tmp_path: Path, name: str) -> None:
    """The fingerprint is that of `write_bank` on the arrays."""
    SAVERS[name](tmp_path / name)
    write_bank(tmp_path / "expected.h5", {"train": {"instance": X}}, {"train": Y})
    featbank("import", "--train", f"{name}:x_train", f"{name}:y_train", "-o", "b.h5")
    assert fingerprint(tmp_path / "b.h5") == fingerprint(tmp_path / "expected.h5")


def test_folders_make_the_same_bank(featbank: Run, tmp_path: Path) -> None:
    """One file per image, in natural order; the names become the paths."""
    for folder in ("x", "y", "xb"):
        (tmp_path / folder).mkdir()
    for row, name in enumerate(("im1", "im2", "im10", "im20")):
        np.save(tmp_path / "x" / f"{name}.npy", X[row])
        np.save(tmp_path / "xb" / f"{name}.npy", X[row : row + 1])
        np.save(tmp_path / "y" / f"{name}.npy", Y[row])
    featbank("import", "--train", "x", "y", "--view", "balanced", "train", "xb", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.paths("train") == ["im1", "im2", "im10", "im20"]
        for view in bank.views:
            features, labels = bank.load("train", view)
            np.testing.assert_array_equal(features, X)
        assert labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"x/c.npy": X[0]}, "x/c has no partner in y (1 such file)"),
        ({"y/c.npy": Y[0]}, "y/c has no partner in x"),
        ({"x/b.npy": np.ones(3)}, "x/b.npy has 3 numbers, a.npy has 2"),
        ({"x/b.npy": X}, "x/b.npy has shape [4, 2]"),
        ({"xb/c.npy": X[0]}, "xb/c has no partner in x"),
        ({"x/a.npy": None, "x/b.npy": None}, "x has no .npy files"),
    ],
)
def test_broken_folders(
    featbank: Run, tmp_path: Path, broken: dict[str, np.ndarray | None], message: str
) -> None:
    """The file is named."""
    for folder, array in (("x", X[0]), ("xb", X[0]), ("y", Y[0])):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            np.save(tmp_path / folder / f"{name}.npy", array)
    for name, content in broken.items():
        if content is None:
            (tmp_path / name).unlink()
        else:
            np.save(tmp_path / name, content)
    command = ("import", "--train", "x", "y", "--view", "balanced", "train", "xb", "-o", "b.h5")
    assert message in featbank(*command, code=2).stderr


def test_options_and_archive_agree(featbank: Run, arrays: Path) -> None:
    """The options make the same bank as an archive with the same arrays, and tell what they saw."""
    np.savez(
        arrays / "all.npz", **KEYS, x_test=X, y_test=Y, w0=WEIGHT, b0=BIAS,
        x_train_balanced=X + 1, x_test_balanced=X + 1, w0_balanced=WEIGHT + 1, b0_balanced=BIAS,
    )  # fmt: skip
    np.save(arrays / "wb.npy", WEIGHT + 1)
    for name in ("x", "xb"):
        np.save(arrays / f"{name}t.npy", np.load(arrays / f"{name}.npy"))
    (arrays / "names.txt").write_text("cat\ndog\nowl\n")
    names = ("--class-names", "names.txt")
    featbank("import", "all.npz", *names, "-o", "a.h5")
    output = featbank(
        "import", "--train", "x.npy", "y.npy", "--test", "xt.npy", "y.npy",
        "--view", "balanced", "train", "xb.npy", "--view", "balanced", "test", "xbt.npy",
        "--classifier", "w.npy", "b.npy", "--view-classifier", "balanced", "wb.npy", "b.npy",
        *names, "-o", "b.h5",
    ).stdout  # fmt: skip
    lines = [" ".join(line.split()) for line in output.splitlines()]
    fit = "right on 25.0 % of 4 train rows (chance 33.3 %), 33.3 % averaged by class"
    for line in (
        "train/balanced 4 × 2 float32 ← xb.npy",
        "test/label 0 … 2, 3 of 3 classes occur ← y.npy",
        f"classifier/instance 3 × 2; {fit} ← w.npy",
        f"classifier/balanced 3 × 2; {fit} ← wb.npy",
        "classes K = 3: cat, dog, owl",
        "class sizes 2 … 1 training rows (imbalance 2)",
    ):
        assert line in lines, output
    with Bank(arrays / "a.h5") as a, Bank(arrays / "b.h5") as b:
        assert a.fingerprint == b.fingerprint
        assert b.class_names == ["cat", "dog", "owl"]
        assert np.array_equal(b.classifier("balanced")[0], np.array(WEIGHT) + 1)
        assert b.provenance["sources"]["train/balanced"] == "xb.npy"
        assert len(b.provenance["sha256"]["x.npy"]) == 64
    shown = featbank("info", "b.h5").stdout
    for part in ("D = 2", "instance, balanced", "K = 3", "none to select by", "featbank import"):
        assert part in shown, (part, shown)


def test_held_out_val(featbank: Run, arrays: Path) -> None:
    """Val rows leave train in every view, and keep their source rows."""
    y = np.array([0, 0, 1, 1])
    np.save(arrays / "y2.npy", y)
    output = featbank(
        "import", "--train", "a.npy", "y2.npy", "--view", "balanced", "train", "xb.npy",
        "--copies", 2, "--val-per-class", 1, "--val-seed", 3, "-o", "b.h5",
    ).stdout  # fmt: skip
    assert "val: 2 rows held out of train, 1 per class, seed 3" in output
    assert "2 copies of 2 × 2 float32" in output
    with Bank(arrays / "b.h5") as bank:
        rows = {split: bank.index(split) for split in ("train", "val")}
        assert sorted(np.concatenate(list(rows.values()))) == [0, 1, 2, 3]
        assert bank.source("val") == "train"
        assert bank.train_counts.tolist() == [1, 1]
        assert bank.provenance["val_per_class"] == 1
        assert bank.provenance["seed"] == 3
        for split, index in rows.items():
            np.testing.assert_array_equal(bank.labels(split), y[index])
            np.testing.assert_array_equal(bank.load(split, "instance", copy=1)[0], X[index] + 1)
            np.testing.assert_array_equal(bank.load(split, "balanced")[0], X[index] + 1)


def test_labels_from_one_and_by_name(featbank: Run, arrays: Path) -> None:
    """MATLAB's base and text labels give the bank that numbers give."""
    io.savemat(arrays / "m.mat", {"X": X, "y": Y + 1.0})
    (arrays / "names.txt").write_text("cat\ndog\nowl\n\n")
    names = ("--class-names", "names.txt")
    featbank("import", "--train", "x.npy", "y.npy", *names, "-o", "n.h5")
    featbank("import", "--train", "m.mat:X", "m.mat:y", "--label-base", 1, *names, "-o", "m.h5")
    featbank("import", "--train", "x.npy", "names.npy", "-o", "t.h5")
    assert len({fingerprint(arrays / name) for name in ("n.h5", "m.h5", "t.h5")}) == 1
    output = featbank("import", "--train", "x.npy", "y1.npy", "--dry-run").stdout
    assert "if the labels count from 1, add --label-base 1" in output
    assert "1 class has none: 0" in output


def test_dry_run_writes_nothing(featbank: Run, arrays: Path) -> None:
    """It tells what an import tells; errors come as they would."""
    before = sorted(arrays.iterdir())
    dry = featbank("import", "--train", "x.npy", "y.npy", "--dry-run", "-o", "b.h5").stdout
    assert sorted(arrays.iterdir()) == before
    wet = featbank("import", "--train", "x.npy", "y.npy", "-o", "b.h5").stdout
    assert dry.splitlines()[:-1] == wet.splitlines()[:-1]
    assert "dry run" in dry.splitlines()[-1]
    featbank("import", "--train", "x.npy", "short.npy", "--dry-run", code=2)


TRAIN = ["--train", "x.npy", "y.npy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "x.npy", "gone.npy"], "gone.npy: no such file"),
        (["--train", "x.npy", "short.npy"], "row counts disagree: 3 in labels, 4 in instance"),
        (["--train", "nan.npy", "y.npy"], "NaN or infinity in row 1"),
        (["--train", "x.npy", "half.npy"], "train labels: 0.5 in row 0 is not a whole number"),
        (["--train", "x.npy", "x.npy"], "They must be integers [N]"),
        (["--train", "y.npy", "y.npy"], "They must be numbers [N, D]"),
        (["--train", "names.npy", "y.npy"], "They must be numbers [N, D]"),
        (["--train", ".", "y.npy"], "y.npy is not a folder"),
        (["--train", "wide.npy", "y.npy"], "They look transposed"),
        ([*TRAIN, "--test", "d3.npy", "y.npy"], "features have D = 3, train has D = 2"),
        ([*TRAIN, "--class-names", "two.txt"], "label 2 in row 3 is outside 0…1"),
        ([*TRAIN, "--class-names", "gone.txt"], "gone.txt: no such file"),
        ([*TRAIN, "--class-names", "latin.txt"], "latin.txt is not a readable"),
        ([*TRAIN, "--label-base", "1"], "label 0 in row 0 is below --label-base 1"),
        ([*TRAIN, "--val-fraction", "0.7"], "A fraction of 0.7 of each class cannot be held out"),
        ([*TRAIN, "--val", "x.npy", "y.npy", "--val-per-class", "1"], "There is a val split"),
        ([*TRAIN, "--view", "balanced", "test", "x.npy"], "Give both for every split"),
        (
            [*TRAIN, "--test", "x.npy", "y.npy", "--view", "balanced", "test", "x.npy"],
            "test has the views ['balanced', 'instance'], train has ['instance']",
        ),
        (["--test", "x.npy", "y.npy"], "No training features were given"),
        ([*TRAIN, "-o", "there.h5"], "there.h5 exists"),
        ([*TRAIN, "-o", "no/b.h5"], "no is not a folder"),
        ([*TRAIN, "--classifier", "w.npy", "y.npy"], "the bias has shape [4]"),
        (
            ["--train", "x.npy", "y1.npy", "--classifier", "w.npy", "b.npy"],
            "Labels go from 1 to 3, with 3 classes. They seem to start at 1: give --label-base 1.",
        ),
        (["x.npy"], "x.npy is a single array. Give it with --train x.npy LABELS"),
        (["t.parquet"], "t.parquet has no column 'embedding', but x"),
        (["empty.csv"], "empty.csv holds no arrays"),
        (["there.h5"], "there.h5 is not a readable .h5 file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, arrays: Path, arguments: list[str], message: str
) -> None:
    """No traceback, nothing half-written."""
    before = sorted(path.name for path in arrays.iterdir())
    output = [] if "-o" in arguments else ["-o", "b.h5"]
    error = featbank("import", *arguments, *output, code=2).stderr
    assert message in error
    assert error.count("\n") == 1, error
    assert sorted(path.name for path in arrays.iterdir()) == before


def test_a_transposed_classifier_is_told(featbank: Run, arrays: Path) -> None:
    """[D, K] instead of [K, D]."""
    np.save(arrays / "wt.npy", WEIGHT.T)
    error = featbank("import", *TRAIN, "--classifier", "wt.npy", "b.npy", "--dry-run", code=2)
    assert "It looks transposed: give weight [K, D]" in error.stderr


def test_an_output_is_needed(featbank: Run, arrays: Path) -> None:
    """Unless nothing is to be written."""
    assert "Add -o bank.h5, or --dry-run" in featbank("import", *TRAIN, code=2).stderr


def test_real_features(featbank: Run, tmp_path: Path, real_features: Path) -> None:
    """The workplace's own features: what `write_bank` makes of them, and with a val."""
    featbank("import", real_features, "-o", "bank.h5")
    with np.load(real_features) as data:
        write_bank(
            tmp_path / "expected.h5",
            {
                s: {v: data[f"x_{s}_{v}"] for v in ("instance", "balanced")}
                for s in ("train", "test")
            },
            {s: data[f"y_{s}"] for s in ("train", "test")},
            classifier={"instance": (data["w0"], data["b0"])},
        )
    assert fingerprint(tmp_path / "bank.h5") == fingerprint(tmp_path / "expected.h5")
    output = featbank("import", real_features, "--val-per-class", 2, "--dry-run").stdout
    assert "val: 200 rows held out of train" in output
    assert "498 … 3 training rows" in output


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with one input of each kind."""
    np.save(tmp_path / "feat.npy", X)
    np.save(tmp_path / "lab.npy", Y)
    np.save(tmp_path / "feat2.npy", X + 3)
    np.save(tmp_path / "ft.npy", X - 3)
    np.save(tmp_path / "W.npy", WEIGHT)
    np.save(tmp_path / "B.npy", BIAS)
    np.savez(tmp_path / "whole.npz", x_train=X, y_train=Y)
    (tmp_path / "names.txt").write_text("\n".join("abc"))
    for folder, array in (("fx", X), ("fy", Y)):
        (tmp_path / folder).mkdir()
        for row in range(4):
            np.save(tmp_path / folder / f"{row}.npy", array[row])
    return tmp_path


GIVEN = ["--train", "feat.npy", "lab.npy"]


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (GIVEN, "feat.npy"),
        (GIVEN, "lab.npy"),
        ([*GIVEN, "--test", "ft.npy", "lab.npy"], "ft.npy"),
        ([*GIVEN, "--view", "other", "train", "feat2.npy"], "feat2.npy"),
        ([*GIVEN, "--classifier", "W.npy", "B.npy"], "B.npy"),
        ([*GIVEN, "--view-classifier", "instance", "W.npy", "B.npy"], "W.npy"),
        ([*GIVEN, "--class-names", "names.txt"], "names.txt"),
        (["whole.npz"], "whole.npz"),
        (["--train", "whole.npz:x_train", "whole.npz:y_train"], "whole.npz"),
        (["--train", "fx", "fy"], "fy/2.npy"),
    ],
)
@pytest.mark.parametrize("link", [None, "symlink", "hardlink"])
def test_no_input_is_overwritten(
    featbank: Run, inputs: Path, arguments: list[str], output: str, link: str | None
) -> None:
    """Also where the output is a link to it."""
    before = (inputs / output).read_bytes()
    target = inputs / output
    if link == "symlink":
        (inputs / "link").symlink_to(output)
    elif link == "hardlink":
        (inputs / "link").hardlink_to(target)
    out = "link" if link else output
    error = featbank("import", *arguments, "-o", out, "--overwrite", code=2).stderr
    assert error == f"featbank: {out} is read as well. Choose another output.\n"
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*GIVEN, "--val", "feat.npy", "lab.npy"],
            "train and val have the same features, feat.npy",
        ),
        (
            [*GIVEN, "--val", "ft.npy", "lab.npy", "--test", "soft.npy", "lab.npy"],
            "val and test have the same features, ft.npy and soft.npy",
        ),
        (
            [*GIVEN, "--test", "hard.npy", "lab.npy"],
            "train and test have the same features, feat.npy and hard.npy",
        ),
        (
            ["--train", "one.npz:f", "lab.npy", "--test", "one.npz", "lab.npy"],
            "train and test have the same features, one.npz:f and one.npz",
        ),
        (
            [*GIVEN, "--test", "ft.npy", "lab.npy", "--view", "b", "train", "feat2.npy", "--view",
             "b", "test", "feat2.npy"],
            "train and test have the same features, feat2.npy",
        ),
        (
            ["--train-balanced", "ft.npy", "lab.npy", *GIVEN, "--test", "ft.npy", "lab.npy"],
            "test and train_balanced have the same features, ft.npy",
        ),
    ],
)  # fmt: skip
def test_splits_from_one_place_are_refused(
    featbank: Run, inputs: Path, arguments: list[str], message: str
) -> None:
    """By file and key, also through links."""
    (inputs / "soft.npy").symlink_to("ft.npy")
    (inputs / "hard.npy").hardlink_to(inputs / "feat.npy")
    np.savez(inputs / "one.npz", f=X)
    assert message in featbank("import", *arguments, "-o", "b.h5", code=2).stderr
    assert not (inputs / "b.h5").exists()


def test_a_split_from_the_rows_of_a_table_and_from_all(featbank: Run, inputs: Path) -> None:
    """The rows of a table may be several splits, its column may not be another beside them."""
    table = pa.table({"embedding": X.tolist(), "label": Y, "split": ["train"] * 3 + ["val"]})
    parquet.write_table(table, inputs / "rows.parquet")
    whole = ("--test", "rows.parquet:embedding", "rows.parquet:label")
    error = featbank("import", "rows.parquet", *whole, "--dry-run", code=2).stderr
    assert "train and test have the same features, rows.parquet:embedding" in error
    featbank("import", "rows.parquet", "--dry-run")


def test_splits_that_may_be_from_one_place(featbank: Run, inputs: Path) -> None:
    """A balanced train set, and labels."""
    featbank(
        "import", *GIVEN, "--train-balanced", "feat.npy", "lab.npy", "--test", "ft.npy", "lab.npy",
        "-o", "b.h5",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-seed", 0], "--val-seed is for a val that is held out. Give --val-per-class or"),
        (["--val-seed", 7, "--val", "ft.npy", "lab.npy"], "--val-seed is for a val"),
        (
            ["--val-per-class", 1, "--val-fraction", 0.1],
            "--val-per-class and --val-fraction are both given. Give one of the two.",
        ),
        (["--seen", "train+val"], "--seen train+val needs a val split of the input"),
        (["--seen", "train+val", "--val-per-class", 1], "counts as train does"),
    ],
)
def test_options_about_val(
    featbank: Run, inputs: Path, options: list[object], message: str
) -> None:
    """Each says what it needs."""
    assert message in featbank("import", *GIVEN, *options, "--dry-run", code=2).stderr


def test_a_given_val_may_be_seen(featbank: Run, inputs: Path) -> None:
    """Not seen unless it is said, with a note where that is not sure."""
    val = [*GIVEN, "--val", "ft.npy", "lab.npy", "--classifier", "W.npy", "B.npy"]
    for seen, rows, noted in (("train+val", 4, False), ("train", 0, True), ("none", 0, False)):
        output = featbank("import", *val, "--seen", seen, "-o", f"{seen}.h5").stdout
        assert ("if it was, give --seen train+val" in output) == noted
        assert ("stage 1 was probably trained on the rows of val" in output) == (rows > 0)
        with Bank(inputs / f"{seen}.h5") as bank:
            assert bank.seen("val").sum() == rows
            assert bank.seen("train").all() == (seen != "none")


def test_more_val_rows_than_any_class_has(featbank: Run, inputs: Path) -> None:
    """Half of each class."""
    output = featbank("import", *GIVEN, "--val-per-class", 2**63 - 1, "-o", "b.h5").stdout
    assert "smaller class" in output
    with Bank(inputs / "b.h5") as bank:
        assert bank.rows("val") == sum(n // 2 for n in np.bincount(Y))


def test_held_out_images_may_not_be_balanced_ones(featbank: Run, inputs: Path) -> None:
    """train_balanced may share its paths with train, not with a val that is held out of it."""
    both = ("--train", "fx", "fy", "--train-balanced", "fx", "fy")
    featbank("import", *both, "-o", "b.h5")
    error = featbank("import", *both, "--val-per-class", 2, "-o", "v.h5", code=2).stderr
    assert "share 1 path, such as " in error
    assert "train_balanced" in error
    assert not (inputs / "v.h5").exists()
