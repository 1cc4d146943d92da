"""What an import is given beside labels: axes of features, the classifier, paths and indices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from featbank import Bank, errors
from featbank.bank import agreement as agreements
from featbank.bank.agreement import agreement
from featbank.bank.verify import verify
from tests.conftest import Run, Toy

X, Y = np.arange(15, dtype=np.float32).reshape(5, 3), np.array([0, 1, 1, 0, 2])


@pytest.mark.parametrize(
    ("x", "options", "copies"),
    [
        (X[:, None], (), 1),
        (X[:, :, None], (), 1),
        (X[:, :, None, None], (), 1),
        (X[:, None, None], (), 1),
        (X[None], (), 1),
        (X[None], ("--copies", 1), 1),
        (np.stack([X, X - 1, X]), ("--copies", 3), 3),
        (np.stack([X] * 5), ("--copies", 5), 5),
    ],
)
def test_axes_that_are_understood(
    featbank: Run, tmp_path: Path, x: np.ndarray, options: tuple[object, ...], copies: int
) -> None:
    """Axes of length 1 are dropped; copies are said. A mapped file stays on disk."""
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", Y)
    featbank("import", "--train", "x.npy", "y.npy", *options, "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.shape("train") == (copies, 5, 3)
        np.testing.assert_array_equal(bank.load("train")[0], X)


@pytest.mark.parametrize("rows", [1, 4])
def test_single_numbers_keep_their_axis(featbank: Run, tmp_path: Path, rows: int) -> None:
    """[N, 1, 1] are N features of size 1."""
    np.save(tmp_path / "x.npy", np.arange(rows * 1.0).reshape(-1, 1, 1))
    np.save(tmp_path / "y.npy", np.arange(rows))
    (tmp_path / "n.txt").write_text("a\nb\nc\nd\n")
    featbank("import", "--train", "x.npy", "y.npy", "--class-names", "n.txt", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.load("train")[0].tolist() == [[row] for row in range(rows)]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 5, 3), (), "They look like 4 augmentation copies of [N, D]: give --copies 4."),
        ((4, 5, 3), ("--copies", 2), "give --copies 4"),
        ((5, 50, 3), (), "They look like 50 tokens or points in time per row, [N, T, D]"),
        ((5, 2, 3), ("--copies", 2), "Copies come first, [A, N, D]"),
        ((5, 5, 3), (), "give --copies 5, or pool them"),
        ((5, 3, 7, 7), (), "a map of positions per row: pool it, as by x.mean(axis=(2, 3))"),
        ((2, 6, 3), (), "there are 5 labels. They must be [N, D]"),
        ((5, 3), ("--copies", 2), "--copies 2 is given, but no features have axes [2, N, D]"),
        ((5,), (), "They must be numbers [N, D]"),
        ((5, 0), (), "Features have D = 0"),
        ((3, 5), (), "They look transposed"),
    ],
)
def test_axes_that_are_not(
    featbank: Run, tmp_path: Path, shape: tuple[int, ...], options: tuple[object, ...], message: str
) -> None:
    """Named for what they look like."""
    np.save(tmp_path / "x.npy", np.ones(shape))
    np.save(tmp_path / "y.npy", Y)
    command = ("import", "--train", "x.npy", "y.npy", *options, "--dry-run")
    assert message in featbank(*command, code=2).stderr


@pytest.fixture
def toy(make_toy: Callable[..., Toy], tmp_path: Path) -> Toy:
    """A toy of ten classes, its arrays saved."""
    toy = make_toy((40, 30, 25, 20, 15, 12, 10, 8, 6, 5), dim=24, splits=("train",))
    np.save(tmp_path / "x.npy", toy.features["train"]["instance"])
    np.save(tmp_path / "y.npy", toy.labels["train"])
    np.save(tmp_path / "w.npy", toy.classifier[0])
    np.save(tmp_path / "b.npy", toy.classifier[1])
    np.save(tmp_path / "names.npy", np.array(list("jihgfedcba"))[toy.labels["train"]])
    return toy


TRAIN, CLASSIFIER = ("--train", "x.npy", "y.npy"), ("--classifier", "w.npy", "b.npy")


def test_the_classifier_is_tried_on_train(featbank: Run, tmp_path: Path, toy: Toy) -> None:
    """The figure is the accuracy, at import and in verify."""
    x, (weight, bias) = toy.features["train"]["instance"], toy.classifier
    right = (x @ weight.T + bias).argmax(1) == toy.labels["train"]
    by_class = np.mean([right[toy.labels["train"] == k].mean() for k in range(10)])
    figures = (
        f"right on {100 * right.mean():.1f} % of 171 train rows (chance 10.0 %), "
        f"{100 * by_class:.1f} % averaged by class"
    )
    assert by_class > 0.6
    shown = featbank("import", *TRAIN, *CLASSIFIER, "-o", "b.h5").stdout
    assert figures in shown
    assert "near chance" not in shown
    (check,) = (check for check in verify(tmp_path / "b.h5") if check.name == "classifier")
    assert (check.status, f"instance: {figures}" in check.detail) == ("ok", True)


@pytest.mark.parametrize("fault", ["order", "scale", "view", "bias"])
def test_a_classifier_that_does_not_fit(
    featbank: Run, tmp_path: Path, toy: Toy, fault: str
) -> None:
    """Near chance is a hint of the import and a note of verify, which still passes."""
    x, (weight, bias) = toy.features["train"]["instance"], toy.classifier
    np.save(tmp_path / "xb.npy", x if fault != "view" else x[:, ::-1])
    if fault == "order":
        weight, bias = np.roll(weight, 1, 0), np.roll(bias, 1)
    elif fault == "scale":
        weight = weight / 1e4
    elif fault == "bias":
        shift = np.float32(50) * weight[3]
        np.save(tmp_path / "xb.npy", x + shift)  # a bias -W @ shift would undo it
    np.save(tmp_path / "wb.npy", weight)
    np.save(tmp_path / "bb.npy", bias)
    shown = featbank(
        "import", *TRAIN, *CLASSIFIER, "--view", "other", "train", "xb.npy",
        "--view-classifier", "other", "wb.npy", "bb.npy", "-o", "b.h5",
    ).stdout  # fmt: skip
    assert "the classifier on other is near chance" in shown
    assert "the classifier on instance is" not in shown
    (check,) = (check for check in verify(tmp_path / "b.h5") if check.name == "classifier")
    assert check.status == "note"
    assert [finding.split(":")[0] for finding in check.findings] == ["other"]
    assert "passed 20 checks" in featbank("verify", "b.h5").stdout


def test_the_order_of_named_classes_must_be_given(featbank: Run, tmp_path: Path, toy: Toy) -> None:
    """Rows of W are in no order that the labels' names could say."""
    named = ("--train", "x.npy", "names.npy", *CLASSIFIER)
    assert (
        "Give --class-names FILE, one name per line, in the order of W's rows"
        in featbank("import", *named, "--dry-run", code=2).stderr
    )
    assert (
        "--labels names and --class-names FILE instead of --renumber"
        in featbank("import", *TRAIN, *CLASSIFIER, "--renumber", "--dry-run", code=2).stderr
    )
    (tmp_path / "n.txt").write_text("\n".join("jihgfedcba"))
    by_name = featbank("import", *named, "--class-names", "n.txt", "--dry-run").stdout
    by_number = featbank("import", *TRAIN, *CLASSIFIER, "--dry-run").stdout
    figure = next(line for line in by_number.splitlines() if line.startswith("classifier"))
    assert figure in by_name


def test_a_view_without_its_own_classifier(featbank: Run, tmp_path: Path, toy: Toy) -> None:
    """That of instance is tried on it, too."""
    shown = featbank(
        "import", *TRAIN, *CLASSIFIER, "--view", "scaled", "train", "x.npy", "--dry-run"
    ).stdout
    assert "  on scaled" in shown
    for command, message in (
        (("--view", "a b", "train", "x.npy"), "View name 'a b' is not usable"),
        (("--view-classifier", "other", "w.npy", "b.npy"), "classifier/other is given, the views"),
    ):
        assert (
            message in featbank("import", *TRAIN, *CLASSIFIER, *command, "--dry-run", code=2).stderr
        )


@pytest.mark.parametrize("broken", ["x", "w", "b"])
def test_not_finite_is_found_in_a_dry_run(
    featbank: Run, tmp_path: Path, toy: Toy, broken: str
) -> None:
    """With a classifier, train is gone through before anything is written."""
    array = np.load(tmp_path / f"{broken}.npy")
    array[4] = np.inf
    np.save(tmp_path / f"{broken}.npy", array)
    done = featbank("import", *TRAIN, *CLASSIFIER, "--dry-run", code=2)
    assert "NaN or infinity in row 4" in done.stderr


@pytest.mark.parametrize("budget", [1 << 38, 5_000])
def test_large_train_splits_are_sampled(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, never all at once, and spread over all rows where there are too many."""
    monkeypatch.setattr(agreements, "MOST_WORK", budget)
    monkeypatch.setattr(agreements, "BLOCK_BYTES", 400)
    y = np.repeat(np.arange(4), 250)
    x = np.eye(4, dtype=np.float32)[y]
    x[::5] = x[::5, ::-1]
    read: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return x[start:stop]

    fit = agreement(rows, y, np.eye(4), None, name="x")
    assert fit is not None
    assert max(stop - start for start, stop in read) <= 12
    assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(read))
    assert abs(fit.right - 0.8) < 0.05
    assert fit.by_class == pytest.approx(fit.right, abs=0.05)
    assert (fit.sampled == 1000) == (budget > 5_000)
    assert f"of {fit.sampled:,} of 1,000 train rows" in str(fit) or budget > 5_000
    assert agreement(rows, y[:0], np.eye(4), None, name="x") is None
    with pytest.raises(errors.NotFinite, match="x: NaN or infinity in row 0"):
        agreement(lambda a, b: np.full((b - a, 4), np.nan), y, np.eye(4), None, name="x")


def table(file: Path, columns: dict[str, list[object]]) -> None:
    """A table of four rows in two splits."""
    rows = {"embedding": [[0.0], [1.0], [2.0], [3.0]], "label": [0, 1, 0, 1]}
    split = {"split": ["train", "train", "test", "test"]}
    parquet.write_table(pa.table({**rows, **split, **columns}), file)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"path": ["a.png", "b.png", "c.png", "b.png"]},
            "train and test share 1 path, such as 'b",
        ),
        ({"path": ["a\0", "b", "c", "d"]}, "has a NUL"),
        ({"index": [4, 4, 1, 2]}, "train: index 4 in row 1 occurs before"),
        ({"index": [4, -4, 1, 2]}, "train: index -4 in row 1 is negative"),
        ({"index": pa.array([1, 2, 4000, 4001], pa.float16())}, "is stored as float16"),
        ({"index": ["1", "1_0", "2", "3"]}, "'1_0' in row 1 is not a whole number"),
        ({"index": [1.5, 2.0, 3.0, 4.0]}, "1.5 in row 0 is not a whole number"),
    ],
)
def test_what_verify_would_fail_on_is_refused(
    featbank: Run, tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    """In a dry run, too."""
    table(tmp_path / "t.parquet", columns)
    assert message in featbank("import", "t.parquet", "--dry-run", code=2).stderr


def test_images_of_one_name_in_two_folders(featbank: Run, tmp_path: Path) -> None:
    """Paths name the folder where the names alone do not tell images apart."""
    for split in ("train", "test"):
        for what, values in (("x", X), ("y", Y)):
            folder = tmp_path / split / what
            folder.mkdir(parents=True)
            for row, value in enumerate(values):
                np.save(folder / f"{row:03}.npy", value)
    both = ("--train", "train/x", "train/y", "--test", "test/x", "test/y")
    featbank("import", *both, "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert bank.paths("train")[:2] == ["train/x/000", "train/x/001"]  # type: ignore[index]
        assert bank.paths("test")[0] == "test/x/000"  # type: ignore[index]
    featbank("verify", "b.h5")
    again = ("--train", "train/x", "train/y", "--test", "train/x", "train/y")
    done = featbank("import", *again, "--dry-run", code=2)
    assert "train and test share 5 paths, such as 'train/x/000'" in done.stderr


@pytest.mark.parametrize("width", [0, 3])
def test_features_of_size_0_are_named_first(featbank: Run, tmp_path: Path, width: int) -> None:
    """Whatever the other splits have."""
    for name, d in (("a", width), ("b", 0)):
        np.save(tmp_path / f"{name}.npy", np.ones((5, d), np.float32))
    np.save(tmp_path / "y.npy", Y)
    command = ("import", "--train", "a.npy", "y.npy", "--test", "b.npy", "y.npy", "--dry-run")
    assert "Features have D = 0. Check what was saved." in featbank(*command, code=2).stderr


def test_either_axis_may_be_tokens(featbank: Run, tmp_path: Path) -> None:
    """[N, T, D] and [N, D, T] look the same: both are said."""
    np.save(tmp_path / "x.npy", np.ones((5, 16, 49), np.float32))
    np.save(tmp_path / "y.npy", Y)
    error = featbank("import", "--train", "x.npy", "y.npy", "--dry-run", code=2).stderr
    assert "16 tokens or points in time per row, [N, T, D], or 49 of them, [N, D, T]" in error
    assert "x.mean(axis=1) or x.mean(axis=2)" in error
