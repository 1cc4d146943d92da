"""Labels of an import: numbers or names, each text a class, or a question to the user."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from scipy import io

from featbank import Bank, errors, write_bank
from tests.conftest import Done, Run

Labels = list | np.ndarray


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    """NumPy's warnings never reach a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def imported(featbank: Run, y: Labels, *options: object, code: int = 0, **splits: Labels) -> Done:
    """Import labels with features that count their rows."""
    command: list[object] = ["import"]
    Path("b.h5").unlink(missing_ok=True)
    for split, labels in {"train": y, **splits}.items():
        np.save(f"{split}_x.npy", np.arange(len(labels) * 2.0).reshape(-1, 2))
        np.save(f"{split}_y.npy", labels)
        command += [f"--{split}", f"{split}_x.npy", f"{split}_y.npy"]
    done = featbank(*command, *options, "-o", "b.h5", code=code)
    assert code == 0 or (done.stderr.count("\n") == 1 and not Path("b.h5").exists())
    return done


def classes(split: str = "train") -> tuple[list[int], list[str]]:
    """Labels and class names of the bank."""
    with Bank("b.h5") as bank:
        return bank.labels(split).tolist(), bank.class_names


@pytest.mark.parametrize(
    ("texts", "labels", "names"),
    [
        (["4_2", "42_", "4_2"], [1, 0, 1], ["42_", "4_2"]),
        (["7e2", "seven", "70e1"], [1, 2, 0], ["70e1", "7e2", "seven"]),
        (["٧", "７", "7"][:2], [0, 1], ["٧", "７"]),
        (["²", "³"], [0, 1], ["²", "³"]),
        (["5,000", "6,000"], [0, 1], ["5,000", "6,000"]),
        (["0x1", "1st"], [0, 1], ["0x1", "1st"]),
        (["  owl", "elk\t"], [1, 0], ["elk", "owl"]),
        (["+1", "0"], [1, 0], ["0", "1"]),
        (["1.", "0.000", "02"], [1, 0, 2], ["0", "1", "2"]),
        ([b"\xc3\xa9lan", b"elk"], [1, 0], ["elk", "élan"]),
        (np.array([[1], [0]], np.int8), [1, 0], ["0", "1"]),
        (np.array([True, False]), [1, 0], ["0", "1"]),
        (np.array([2, 0, 1], ">f2"), [2, 0, 1], ["0", "1", "2"]),
        (np.array([2, 0, 1], np.uint64), [2, 0, 1], ["0", "1", "2"]),
    ],
)
def test_texts_keep_their_identity(
    featbank: Run, texts: Labels, labels: list[int], names: list[str]
) -> None:
    """Whole numbers in ASCII are numbers, all else names."""
    imported(featbank, texts)
    assert classes() == (labels, names)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["09", "9"], "Labels '09' and '9' are the same number and different texts"),
        (["3", "3.0", "1"], "Labels '3' and '3.0' are the same number"),
        (["-0", "0", "1"], "Labels '-0' and '0' are the same number"),
        (["4e1", "40"], "row 0 is the name '4e1'"),
        (["8", "٨", "8"], "2 rows are numbers such as '8', row 1 is the name '٨'"),
        (["1,000", "7", "7"], "2 rows are numbers such as '7', row 0 is the name '1,000'"),
        (["elk"] * 6 + ["12", "13"], "6 rows are names such as 'elk', row 6 is the number '12' (2"),
        (["elk"] * 4 + [" "], "row 4 is empty (1 such row); 4 rows are names such as 'elk'"),
        (["", "5", "6"], "row 0 is empty (1 such row); 2 rows are numbers such as '5'"),
        (["", ""], "row 0 is empty (2 such rows). Fill it in"),
        (["elk", "elk "], "Labels 'elk' and 'elk ' differ by blanks alone"),
        (["4", "\u00a04"], "differ by blanks alone"),
        (["1.25", "3.5"], "numbers such as '1.25', but not whole ones"),
        (["nan", "inf"], "numbers such as 'inf', but not whole ones"),
        (["3", "nan"], "row 1 is the name 'nan'"),
        ([b"\xe9lan", b"elk"], "is not UTF-8"),
        (["1" * 25, "2"], "does not fit 64 bits"),
        (np.array([2**63, 1], np.uint64), "9223372036854775808 in row 0 does not fit 64 bits"),
        (np.array([1, 2, np.nan]), "nan in row 2 is not a whole number"),
        (np.array([0, 1, -np.inf]), "-inf in row 2 is not a whole number"),
        (np.array([0, 1, 1e19]), "1e+19 in row 2 is stored as float64"),
        (
            np.array([0, 2**24 + 2], np.float32),
            "in row 1 is stored as float32, which from 16,777,2",
        ),
        (np.array([0, 4096], np.float16), "4096 in row 1 is stored as float16, which from 2,048"),
        (np.array([0, 1j]), "type complex128"),
        (np.array([0, 1], "m8[D]"), "type timedelta64[D]"),
        (np.array([list("elk"), list("owl")]), "Rows of characters are not read"),
        (np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1]]), "Row 0 has 2 ones (2 rows with several)"),
        (np.array([[0, 1, 0], [0, 0, 0]]), "Row 1 is all zeros"),
        (np.array([[0.5, 0.5], [0, 1]]), "look like features or scores"),
        (np.eye(3, dtype=bool), "Of one-hot rows take argmax(axis=1)"),
        (["elk", "elk"], "The labels have 1 class."),
    ],
)
def test_labels_that_need_a_word(featbank: Run, texts: Labels, message: str) -> None:
    """One line names what there is, and nothing is written."""
    assert message in imported(featbank, texts, code=2).stderr


def test_the_user_decides(featbank: Run) -> None:
    """`--labels` where texts may be either."""
    imported(featbank, ["09", "9", "1"], "--labels", "names")
    assert classes() == ([0, 2, 1], ["09", "1", "9"])
    imported(featbank, ["09", "9", "1"], "--labels", "numbers")
    assert classes()[0] == [9, 9, 1]
    imported(featbank, [7, 7, 3], "--labels", "names", val=["7", "3"])
    assert classes("val") == ([1, 0], ["3", "7"])
    imported(featbank, ["True", "False"], "--labels", "names", val=np.array([False, True]))
    assert (classes()[0], classes("val")[0]) == ([1, 0], [0, 1])
    for other in ("7.0", "07", "+7"):
        error = imported(featbank, [7, 3], "--labels", "names", val=[other, "3"], code=2).stderr
        assert f"val: label {other!r} is another split's integer 7" in error
    assert "'elk' in row 1" in imported(
        featbank, ["1", "elk"], "--labels", "numbers", code=2
    ).stderr  # fmt: skip


def test_splits_are_taken_together(featbank: Run) -> None:
    """A text is one class in all of them, and a number one whatever its type."""
    imported(featbank, ["2", "0"], test=np.array([1.0, 2.0], np.float32))
    assert (classes()[0], classes("test")[0]) == ([2, 0], [1, 2])
    for train, test, message in (
        (["02", "0"], [2, 0], "Labels '2' and '02' are the same number"),
        (["elk", "owl"], [0, 1], "train labels are names such as 'elk', test labels are numbers"),
        (["0", "1"], ["0", "one"], "test labels: row 0 is the number '0', row 1 is the name 'one'"),
        (["elk", "owl"], ["elk", "owl "], "differ by blanks alone"),
    ):
        assert message in imported(featbank, train, test=test, code=2).stderr
    output = imported(featbank, ["elk", "Elk", "nan", "b'owl'"], test=["elk", "ibis"]).stdout
    assert "class names are byte strings as Python prints them: b'owl'" in output
    assert "test has classes without a row in train: ibis" in output
    assert "classes 'Elk' and 'elk' differ by case alone" in output
    assert "a class is named 'nan'" in output


def test_class_names_are_looked_up_first(featbank: Run, tmp_path: Path) -> None:
    """Also where they are numbers; the file may come from any system."""
    names = ("--class-names", "n.txt")
    (tmp_path / "n.txt").write_bytes("\ufeff30\r\n10\r\n20\r\n\r\n".encode())
    imported(featbank, ["10", "20", "30"], *names)
    assert classes() == ([1, 2, 0], ["30", "10", "20"])
    imported(featbank, [0, 1, 2], *names)
    assert classes() == ([0, 1, 2], ["30", "10", "20"])
    error = imported(featbank, [10, 20], *names, code=2).stderr
    assert "Label 10 is also a class name, that of class 1" in error
    imported(featbank, [10, 20], *names, "--labels", "names")
    assert classes()[0] == [1, 2]
    (tmp_path / "n.txt").write_text("0\n2\nx\x0by\n")
    imported(featbank, ["x\x0by", "2"], *names)
    assert classes()[0] == [2, 1]
    assert (
        "'0' is one of the class names, but '1' is not"
        in imported(featbank, ["0", "1"], *names, code=2).stderr
    )
    assert (
        "label 'z' in row 1 is not among the class names"
        in imported(featbank, ["2", "z"], *names, code=2).stderr
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"elk\n\nowl\n", "n.txt: line 2 is empty"),
        (b"\nelk\nowl", "n.txt: line 1 is empty"),
        (b"elk\r\n \t\r\nowl\r\n", "n.txt: line 2 is empty"),
        (b"\n \n", "n.txt has no class names"),
        ("elk\nöwl".encode("latin-1"), "n.txt is not a readable text file"),
        ("elk\nowl".encode("utf-16-le"), "n.txt: line 1 has a NUL. Save the file as UTF-8."),
        (b"elk\nowl\nelk\n", "Class name 'elk' comes twice"),
    ],
)
def test_class_name_files(featbank: Run, tmp_path: Path, content: bytes, message: str) -> None:
    """A defect is named with its line."""
    (tmp_path / "n.txt").write_bytes(content)
    done = imported(featbank, ["elk", "owl"], "--class-names", "n.txt", code=2)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("dtype", "highest"),
    [(torch.bfloat16, 256), (torch.float16, 2048), (torch.float8_e4m3fn, 16)],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_coarse_tensors(
    featbank: Run, tmp_path: Path, dtype: torch.dtype, highest: int, suffix: str
) -> None:
    """Refused from the first number that may stand for another; below it they are labels."""
    name = str(dtype).removeprefix("torch.")
    for top, code in ((highest - 1, 0), (highest, 2), (highest + 1, 2)):
        y = torch.arange(top + 1).to(dtype)[:, None]
        tensors = {"x_train": torch.rand(top + 1, 2).to(dtype), "y_train": y}
        path = tmp_path / f"a{suffix}"
        (torch.save if suffix == ".pt" else save_file)(tensors, str(path))
        done = featbank("import", path, "--dry-run", code=code)
        if code:
            assert f"is stored as {name}, which from {highest:,} on merges" in done.stderr


def test_tables_and_matlab(featbank: Run, tmp_path: Path) -> None:
    """Byte columns, padded characters, lists of both kinds, and NULs."""
    x = [[1.0], [2.0], [3.0]]
    table = {"embedding": x, "label": pa.array(["élan".encode(), b"elk", b"elk"], pa.binary())}
    parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    featbank("import", "t.parquet", "-o", "t.h5")
    with Bank("t.h5") as bank:
        assert (bank.labels("train").tolist(), bank.class_names) == ([1, 0, 0], ["elk", "élan"])
    io.savemat(tmp_path / "a.mat", {"x": np.array(x), "y": np.array(["gnu", "aurochs", "gnu"])})
    io.savemat(tmp_path / "b.mat", {"x": np.array(x), "y": np.array(["gnu", "elk", "gnu"])})
    featbank("import", "--train", "a.mat:x", "a.mat:y", "--val", "b.mat:x", "b.mat:y", "-o", "m.h5")
    with Bank("m.h5") as bank:
        assert bank.class_names == ["aurochs", "elk", "gnu"]
    cells = np.array([["gnu"], [""], ["elk"]], dtype=object)
    io.savemat(tmp_path / "c.mat", {"x": np.array(x), "y": cells})
    done = featbank("import", "--train", "c.mat:x", "c.mat:y", "--dry-run", code=2)
    assert "row 1 is empty" in done.stderr
    for y, message in ((["1", 1, "2"], "has 2 texts and 1 numbers"), (["a\0", "a"], "has a NUL")):
        torch.save({"x_train": torch.rand(len(y), 1), "y_train": y}, tmp_path / "l.pt")
        assert message in featbank("import", "l.pt", "--dry-run", code=2).stderr
    parquet.write_table(
        pa.table({"embedding": x[:2], "label": ["a\0", "a"]}), tmp_path / "n.parquet"
    )
    assert "has a NUL" in featbank("import", "n.parquet", "--dry-run", code=2).stderr


def test_folders_of_one_type(featbank: Run, tmp_path: Path) -> None:
    """Stacked, a text among numbers would make texts of all."""
    for folder, values in (("x", ([1.0], [2.0])), ("y", (1, "one"))):
        (tmp_path / folder).mkdir()
        for row, value in enumerate(values):
            np.save(tmp_path / folder / f"{row}.npy", np.array(value))
    done = featbank("import", "--train", "x", "y", "--dry-run", code=2)
    assert "1.npy has type <U3, 0.npy has int64" in done.stderr


def test_ids_are_renumbered(featbank: Run, tmp_path: Path) -> None:
    """Sparse and huge ids, over all splits, by size; they become the names."""
    ids = np.array([4_000_000_007, 12, 2**62, 12])
    options = ("--renumber",)
    imported(featbank, ids, *options, test=[-5, 12])
    assert classes() == ([2, 1, 3, 1], ["-5", "12", "4000000007", str(2**62)])
    assert classes("test")[0] == [0, 1]
    imported(featbank, ["00700", "9"], *options)
    assert classes() == ([1, 0], ["9", "700"])
    imported(featbank, ["owl", "elk"], *options)
    assert classes() == ([1, 0], ["elk", "owl"])
    with Bank("b.h5") as bank:
        assert bank.provenance["renumber"] is True
    (tmp_path / "n.txt").write_text("12\n13\n")
    for other in (["--label-base", 1], ["--class-names", "n.txt"]):
        assert "both define which class" in imported(featbank, ids, *options, *other, code=2).stderr


def test_the_number_of_classes_has_a_bound(featbank: Run) -> None:
    """Unless most classes are used, or the user lifts it."""
    ids = [3, 250_000, 17, 3]
    error = imported(featbank, ids, code=2).stderr
    assert "3 of 250,001 classes are used. Give --renumber" in error
    assert "2 of" in imported(featbank, [2**62, 5], code=2).stderr
    imported(featbank, ids, "--max-classes", 250_001)
    with Bank("b.h5") as bank:
        assert bank.num_classes == 250_001
    imported(featbank, np.arange(100_002))
    output = imported(featbank, [3, 900, 3]).stdout
    assert "2 of 901 classes are used; if the labels are ids, add --renumber" in output


def test_splits_that_count_from_different_numbers(featbank: Run, tmp_path: Path) -> None:
    """A hint, or where K is known an error that says which split."""
    output = imported(featbank, [0, 1, 2], val=[1, 3, 2]).stdout
    assert "train labels go from 0 to 2, val labels from 1 to 3: does val count from 1?" in output
    output = imported(featbank, [1, 2, 3], val=[0, 2]).stdout
    assert "val labels go from 0 to 2, train labels from 1 to 3: does train count from 1?" in output
    (tmp_path / "n.txt").write_text("elk\nowl\nibis\n")
    error = imported(featbank, [0, 1, 2], "--class-names", "n.txt", val=[1, 3], code=2).stderr
    assert "val seems to count from 1: subtract 1 there" in error


def test_arrays_with_huge_labels(tmp_path: Path) -> None:
    """`write_bank` would name each class below the highest label."""
    x, y = np.ones((2, 1), np.float32), np.array([7, 2**61])
    with pytest.raises(errors.LabelRange, match="would be 2,305,843,009,213,693,953 classes"):
        write_bank(tmp_path / "b.h5", {"train": {"instance": x}}, {"train": y})
    assert not list(tmp_path.iterdir())


LONG = "8" * 4500


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([LONG, "1"], (), "does not fit 64 bits with sign (1 such row)"),
        (["-" + LONG, "1"], ("--labels", "numbers"), "does not fit 64 bits with sign"),
        ([LONG, "0" + LONG], (), "are the same number and different texts"),
        ([LONG, LONG + " "], (), "differ by blanks alone"),
        ([LONG, "owl"], (), "Repair the odd ones"),
        (["1.5", LONG + ".5"], (), "but not whole ones"),
        (["9223372036854775808", "1"], (), "'9223372036854775808' in row 0 does not fit 64 bits"),
    ],
)
def test_numbers_of_any_length(
    featbank: Run, tmp_path: Path, labels: list[str], options: tuple[str, ...], message: str
) -> None:
    """Compared without Python's limit for `int`; one short line."""
    error = imported(featbank, labels, *options, code=2).stderr
    assert message in error
    assert len(error) < 400


def test_long_numbers_that_are_understood(featbank: Run, tmp_path: Path) -> None:
    """Zeros in front and behind count nothing; as names, digits of any number."""
    zeros = "0" * 5000
    imported(featbank, ["+" + zeros + "1", "0." + zeros], "--labels", "numbers")
    assert classes()[0] == [1, 0]
    imported(featbank, [LONG, LONG[1:]], "--labels", "names")
    assert classes()[0] == [1, 0]


def test_numbers_with_blanks_are_one_number(featbank: Run, tmp_path: Path) -> None:
    """`--labels numbers` says what a text is; otherwise they may be two names."""
    texts = ["2", "\t2", "0 ", " 0", "1"]
    assert "differ by blanks alone" in imported(featbank, texts, code=2).stderr
    imported(featbank, texts, "--labels", "numbers")
    assert classes()[0] == [2, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([3, 44_000_000], (), "Give --renumber to number the ids that occur.\n"),
        ([3, 9_999_999], (), "Give --renumber to number the ids that occur, or --max-classes"),
        ([0, -7, 2, -7], (), "label -7 in row 1 is negative (2 such rows). If labels are ids, give "
         "--renumber"),
        ([-3, -1], (), "label -3 in row 0 is negative (2 such rows)"),
        ([0, 815], ("--classifier", "w.npy", "b.npy"), "label 815 in row 1 is outside 0…1, the "
         "rows of the classifier (1 such row). If labels are ids, give --labels names --class-"),
        ([0, 0], (), "The labels have 1 class. A bank needs 2."),
        (np.array(["elk", 3], dtype=object), (), "it holds Python objects. Save texts as "
         "y.astype(str)"),
    ],
)  # fmt: skip
def test_remedies_help(
    featbank: Run, tmp_path: Path, y: Labels, options: tuple[str, ...], message: str
) -> None:
    """What is proposed is accepted."""
    np.save("w.npy", np.ones((2, 2)))
    np.save("b.npy", np.zeros(2))
    assert message in imported(featbank, y, *options, code=2).stderr


def test_the_proposed_options_import_ids(featbank: Run, tmp_path: Path) -> None:
    """Of a classifier, ids are names."""
    np.save("w.npy", np.ones((2, 2)))
    np.save("b.npy", np.zeros(2))
    (tmp_path / "ids.txt").write_text("815\n-4\n")
    classifier = ("--classifier", "w.npy", "b.npy")
    imported(featbank, [-4, 815], *classifier, "--labels", "names", "--class-names", "ids.txt")
    assert classes() == ([1, 0], ["815", "-4"])
    imported(featbank, [-4, 44_000_000], "--renumber")
    assert classes() == ([0, 1], ["-4", "44000000"])
