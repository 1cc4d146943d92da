"""Arrays from NumPy files, and what `featbank import` makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.importers import read_array, read_npz
from tests.conftest import Run

X, Y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 1, 2])


def test_npz_keys_tell_split_and_view(tmp_path: Path) -> None:
    """`x_train_balanced` is a view, unless `y_train_balanced` makes it a split."""
    keys = {"x_train": X, "x_train_balanced": X + 1, "y_train": Y, "w0": np.ones((3, 2))}
    np.savez(tmp_path / "views.npz", **keys)
    arrays = read_npz(tmp_path / "views.npz")
    assert list(arrays.features["train"]) == ["instance", "balanced"]
    assert arrays.classifier["instance"][1] is None
    np.savez(tmp_path / "splits.npz", **keys, y_train_balanced=Y)
    assert set(read_npz(tmp_path / "splits.npz").features) == {"train", "train_balanced"}
    np.savez(tmp_path / "odd.npz", **keys, x_trian=X)
    with pytest.raises(errors.DataError, match="key 'x_trian' is not understood"):
        read_npz(tmp_path / "odd.npz")


def test_read_array_finds_files_and_keys(tmp_path: Path) -> None:
    """A path, or an archive's key; every failure names what there is."""
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "two.npz", a=X, b=Y)
    np.savez(tmp_path / "one.npz", only=Y)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(read_array(str(tmp_path / "x.npy")), X)
    np.testing.assert_array_equal(read_array(f"{tmp_path}/two.npz:b"), Y)
    np.testing.assert_array_equal(read_array(f"{tmp_path}/one.npz"), Y)
    for place, message in (
        ("gone.npy", "no such file"),
        ("two.npz", "has several arrays. Write .*two.npz:KEY with one of: a, b"),
        ("two.npz:c", "has no key 'c'"),
        ("x.npy:k", "a single array without key 'k'"),
        ("text.npy", "is not a readable"),
        ("objects.npy", "is not a readable"),
    ):
        with pytest.raises(errors.DataError, match=message):
            read_array(f"{tmp_path}/{place}")


def test_import_command(featbank: Run, tmp_path: Path) -> None:
    """The options make the same bank as an archive with the same arrays, and tell what they saw."""
    weight, bias = np.ones((3, 2), np.float32), np.arange(3, dtype=np.float32)
    named = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "w0": weight, "b0": bias}
    np.savez(tmp_path / "all.npz", **named, x_train_balanced=X + 1, x_test_balanced=X + 1)
    for key, array in {**named, "xb": X + 1}.items():
        np.save(tmp_path / f"{key}.npy", array)
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    names = ("--class-names", "names.txt")
    featbank("import", "all.npz", *names, "-o", "a.h5")
    told = featbank(
        "import", "--train", "x_train.npy", "y_train.npy", "--test", "x_test.npy", "y_test.npy",
        "--view", "balanced", "train", "xb.npy", "--view", "balanced", "test", "xb.npy",
        "--classifier", "w0.npy", "b0.npy", *names, "-o", "b.h5",
    ).stdout  # fmt: skip
    assert "train/balanced: 4 × 2 float32, labels 4" in told
    with Bank(tmp_path / "a.h5") as a, Bank(tmp_path / "b.h5") as b:
        assert a.fingerprint == b.fingerprint
        assert b.class_names == ["cat", "dog", "owl"]
    shown = featbank("info", "b.h5").stdout
    for part in ("D = 2", "instance, balanced", "K = 3", "selected on test", "featbank import"):
        assert part in shown, (part, shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "x.npy", "gone.npy"], "gone.npy: no such file"),
        (["--train", "x.npy", "short.npy"], "row counts disagree: 3 in labels, 4 in instance"),
        (["--train", "nan.npy", "y.npy"], "NaN or infinity in row 1"),
        (
            ["--train", "x.npy", "y.npy", "--class-names", "two.txt"],
            "label 2 in row 3 is outside 0…1",
        ),
        (["--test", "x.npy", "y.npy"], "No training features were given"),
        (["--train", "x.npy", "y.npy", "-o", "there.h5"], "there.h5 exists"),
        (["--train", "x.npy", "y.npy", "-o", "no/b.h5"], "no is not a folder"),
        (["--train", "x.npy", "y.npy", "--classifier", "w.npy", "y.npy"], "bias has shape [4]"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    featbank: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, nothing half-written."""
    bad = X.copy()
    bad[1, 1] = np.inf
    for name, array in {"x": X, "y": Y, "short": Y[:3], "nan": bad, "w": np.ones((3, 2))}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "there.h5").write_text("")
    before = sorted(p.name for p in tmp_path.iterdir())
    output = [] if "-o" in arguments else ["-o", "b.h5"]
    error = featbank("import", *arguments, *output, code=2).stderr
    assert message in error
    assert error.count("\n") == 1, error
    assert sorted(p.name for p in tmp_path.iterdir()) == before
