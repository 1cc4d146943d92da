"""`featbank export-features`: plain files that hold what the bank holds."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyarrow import parquet

from featbank import Bank, write_bank
from tests.conftest import Run, Toy


def test_files_mirror_the_bank(
    featbank: Run, make_toy: Callable[..., Toy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every array of the bank, read back by NumPy, also where it is written in many blocks."""
    toy = make_toy()
    for split, views in toy.features.items():
        x = views["instance"].astype(np.float16)
        toy.features[split] = {"instance": x, "expert0/copies": np.stack([x, -x])}
    paths = {"train": [f"b{row}.png" for row in range(len(toy.labels["train"]))]}
    path = toy.write(tmp_path / "b.h5", paths=paths, class_names=["ä", "b", "c", "d", "e"])
    monkeypatch.setattr("featbank.bank.blocks.BLOCK_BYTES", 64)
    featbank("export-features", path, "-o", "out")
    out = tmp_path / "out"
    for split, views in toy.features.items():
        np.testing.assert_array_equal(np.load(out / split / "label.npy"), toy.labels[split])
        np.testing.assert_array_equal(
            np.load(out / split / "index.npy"), np.arange(len(toy.labels[split]))
        )
        for view, x in views.items():
            read = np.load(out / split / view / "feature.npy")
            assert read.dtype == np.float16
            np.testing.assert_array_equal(read, x)
    assert (out / "train" / "path.txt").read_text().splitlines() == paths["train"]
    assert not (out / "val" / "path.txt").exists()
    for name, array in zip(("weight", "bias"), toy.classifier, strict=True):
        np.testing.assert_array_equal(np.load(out / f"classifier/instance/{name}.npy"), array)
    assert (out / "classes/name.txt").read_text(encoding="utf-8").splitlines()[0] == "ä"
    assert np.load(out / "classes/train_count.npy").tolist() == [120, 60, 25, 12, 5]
    about = json.loads((out / "bank.json").read_text())
    with Bank(path) as bank:
        assert about["fingerprint"] == bank.fingerprint
    assert (about["num_classes"], about["dim"], about["views"]) == (
        5,
        8,
        ["instance", "expert0/copies"],
    )
    assert about["splits"]["val"] == {"rows": 100, "source": "val"}


def test_an_export_imports_into_an_equal_bank(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """The help's round trip keeps the fingerprint."""
    path = make_toy(splits=("train", "test"), views=("instance",)).write(tmp_path / "b.h5")
    featbank("export-features", path, "-o", "out")
    pairs = [
        (f"--{split}", f"out/{split}/instance/feature.npy", f"out/{split}/label.npy")
        for split in ("train", "test")
    ]
    files = [f"out/classifier/instance/{name}.npy" for name in ("weight", "bias")]
    featbank(
        "import", *pairs[0], *pairs[1], "--classifier", *files,
        "--class-names", "out/classes/name.txt", "-o", "again.h5",
    )  # fmt: skip
    with Bank(path) as one, Bank(tmp_path / "again.h5") as other:
        assert one.fingerprint == other.fingerprint


def test_a_split_without_rows_exports(featbank: Run, tmp_path: Path) -> None:
    """As an array without rows."""
    x, y = np.ones((2, 3), np.float32), np.array([0, 1])
    write_bank(
        tmp_path / "b.h5",
        {"train": {"instance": x}, "test": {"instance": x[:0]}},
        {"train": y, "test": y[:0]},
    )
    featbank("export-features", "b.h5", "-o", "out")
    assert np.load(tmp_path / "out/test/instance/feature.npy").shape == (0, 3)


def test_what_is_there_is_kept(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """An export is replaced on demand, any other folder or file never."""
    featbank("export-features", toy_bank, "-o", "out")
    (tmp_path / "out" / "stale").touch()
    assert (
        "out exists. Choose another name or --overwrite"
        in featbank("export-features", toy_bank, "-o", "out", code=2).stderr
    )
    featbank("export-features", toy_bank, "-o", "out", "--overwrite")
    assert not (tmp_path / "out" / "stale").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for other in ("home", "file"):
        error = featbank("export-features", toy_bank, "-o", other, "--overwrite", code=2).stderr
        assert "It is not an earlier export" in error
    assert (tmp_path / "home" / "thesis.tex").exists()
    assert (
        "no is not a folder" in featbank("export-features", toy_bank, "-o", "no/out", code=2).stderr
    )


def test_a_damaged_bank_leaves_nothing(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """A checksum that fails half-way is one line, and no folder."""
    content = bytearray(toy_bank.read_bytes())
    with Bank(toy_bank) as bank:
        block = bank.load("test", "balanced")[0].tobytes()
    content[bytes(content).index(block[:64])] ^= 1
    toy_bank.write_bytes(content)
    error = featbank("export-features", toy_bank, "-o", "out", code=2).stderr
    assert error.count("\n") == 1, error
    assert sorted(path.name for path in tmp_path.iterdir()) == [toy_bank.name]


def _rich(make_toy: Callable[..., Toy], path: Path, dtype: str) -> Path:
    """A bank with all that an export keeps: copies, views in folders, marks, odd names."""
    toy = make_toy((9, 7, 4), splits=("train", "val", "test", "train_balanced"))
    for split, views in toy.features.items():
        x = views["instance"].astype(dtype)
        toy.features[split] = {"instance": x, "expert1/clip": np.stack([x, -x, 2 * x])}
    rows = {split: len(y) for split, y in toy.labels.items()}
    weight, bias = toy.classifier
    return toy.write(
        path,
        class_names=["2", " 0", "ä\u2028b"],
        classifier={"instance": (weight, bias), "expert1/clip": (-weight, None)},
        index={"train": np.arange(rows["train"])[::-1] + 90, "val": np.arange(rows["val"])},
        sources={"train": "images", "val": "images"},
        paths={"val": [f" {i}\r.png" for i in range(rows["val"])]},
        seen={"train": np.arange(rows["train"]) % 3 > 0, "val": np.arange(rows["val"]) % 2 > 0},
        held_out={"val": np.arange(rows["val"]) % 4 > 0},
    )


FORMS = ["out", "out.h5", "out.npz", "out.zarr", "out.parquet"]


@pytest.mark.parametrize("held", [0, 1 << 26])
@pytest.mark.parametrize("out", FORMS)
def test_every_form_is_read_back(
    featbank: Run,
    make_toy: Callable[..., Toy],
    tmp_path: Path,
    out: str,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same fingerprint, of a table that of the bank without classifiers and text."""
    monkeypatch.setattr("featbank.exchange.ondisk.HELD_BYTES", held)
    monkeypatch.setattr("featbank.bank.blocks.BLOCK_BYTES", 64)
    toy = make_toy((9, 7, 4), splits=("train", "val", "test"))
    rng = np.random.default_rng(1)
    for split, views in toy.features.items():
        x = views["instance"]
        patches = rng.normal(size=(1, len(x), 3, 5)).astype(np.float32)
        toy.features[split] = {
            "instance": x, "b1/c": np.stack([x, -x]), "layer0": patches,
            "layer1": np.concatenate([patches, patches + 1]),
        }  # fmt: skip
    rows = {split: len(y) for split, y in toy.labels.items()}
    table = out.endswith(".parquet")
    text = {"layer0": (rng.normal(size=(2, 3, 5)).astype(np.float32), 40.5)}
    path = toy.write(
        tmp_path / "rich.h5",
        class_names=["2", " 0", "ä\u2028b"],
        classifier={} if table else {"instance": toy.classifier, "b1/c": toy.classifier},
        text={} if table else text,
        default_scale={"instance": "unit", "layer1": "2.5"},
        paths={"val": [f" {i}\r.png" for i in range(rows["val"])]},
        seen={"train": np.arange(rows["train"]) % 3 > 0},
        held_out={"val": np.arange(rows["val"]) % 4 > 0},
        provenance={"long": "x" * 9000},
    )
    featbank("export-features", path, "-o", out)
    assert f"{out} exists" in featbank("export-features", path, "-o", out, code=2).stderr
    featbank("export-features", path, "-o", out, "--overwrite")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([out, "rich.h5"])
    featbank("import", out, "-o", "back.h5")
    with Bank(path) as before, Bank(tmp_path / "back.h5") as after:
        assert after.fingerprint == before.fingerprint
        assert after.full_counts.tolist() == before.full_counts.tolist()
        assert after.default_scale("layer1") == "2.5"
    error = featbank("import", out, "--renumber", "--dry-run", code=2).stderr
    assert "is an export of a bank, which says all that --renumber would" in error


@pytest.mark.parametrize("out", FORMS)
def test_other_programs_read_an_export(
    featbank: Run, toy_bank: Path, tmp_path: Path, out: str
) -> None:
    """By the names in the bank, or as the columns of a table."""
    featbank("export-features", toy_bank, "-o", out)
    with Bank(toy_bank) as bank:
        x, y = bank.load("val")
    if out == "out.parquet":
        frame = parquet.read_table(tmp_path / out).to_pylist()
        rows = [row for row in frame if row["split"] == "val"]
        np.testing.assert_array_equal([row["embedding"] for row in rows], x)
        assert [row["label"] for row in rows] == y.tolist()
        assert list(rows[0]) == ["split", "label", "index", "embedding", "embedding/balanced"]
    elif out == "out.h5":
        with h5py.File(tmp_path / out) as file:
            np.testing.assert_array_equal(file["val/instance/feature"], x)
            assert file["classes/name"].asstr()[0] == "0"
    elif out == "out.npz":
        np.testing.assert_array_equal(np.load(tmp_path / out)["val/instance/feature"], x)
    elif out == "out.zarr":
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(tmp_path / out, mode="r")
        np.testing.assert_array_equal(group["val/instance/feature"][:], x)


@pytest.mark.parametrize("out", FORMS[1:])
def test_a_file_that_is_no_export_is_kept(
    featbank: Run, toy_bank: Path, tmp_path: Path, out: str
) -> None:
    """Nor is a bank, or a file that is damaged; what fails leaves nothing."""
    (tmp_path / out).write_bytes(b"thesis")
    shutil.copy(toy_bank, tmp_path / "bank.h5")
    for other in (out, "bank.h5"):
        error = featbank("export-features", toy_bank, "-o", other, "--overwrite", code=2).stderr
        assert "It is not an earlier export" in error
    assert (tmp_path / out).read_bytes() == b"thesis"
    (tmp_path / out).unlink()
    with h5py.File(toy_bank, "r+") as file:
        file["test/instance/feature"][0, 4] = np.nan
    featbank("export-features", toy_bank, "-o", out, code=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bank.h5", toy_bank.name]


@pytest.mark.parametrize(("out", "package"), [("a.zarr", "zarr"), ("a.parquet", "pyarrow")])
def test_a_package_that_is_missing(
    featbank: Run, toy_bank: Path, monkeypatch: pytest.MonkeyPatch, out: str, package: str
) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, package, None)
    error = featbank("export-features", toy_bank, "-o", out, code=2).stderr
    assert f"needs {package}, which is not installed. Run: pip install 'featbank[" in error


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_export_is_read_back(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path, dtype: str
) -> None:
    """The same fingerprint, and what the fingerprint does not cover."""
    path = _rich(make_toy, tmp_path / "rich.h5", dtype)
    featbank("export-features", path, "-o", "out")
    featbank("import", "out", "-o", "back.h5")
    with Bank(path) as before, Bank(tmp_path / "back.h5") as after:
        assert after.fingerprint == before.fingerprint
        assert after.full_counts.tolist() == before.full_counts.tolist()
        for split in before.splits:
            assert after.source(split) == before.source(split)
            assert after.seen(split).tolist() == before.seen(split).tolist()
        about = json.loads((tmp_path / "out/bank.json").read_text())
        assert about["full_counts"] == before.full_counts.tolist()
        held_out = before.held_out("val")
        assert held_out is not None
        assert about["splits"]["val"]["held_out"] == held_out.sum()
        assert about["splits"]["val"]["seen"] == before.seen("val").sum()
    assert np.load(tmp_path / "out/val/held_out.npy").dtype == bool
    assert not (tmp_path / "out/test/seen.npy").exists()


def test_a_split_bank_keeps_its_groups(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Classes are grouped by train and what was held out of it; a seen val stays seen."""
    make_toy((130, 30, 8), splits=("train", "test")).write(tmp_path / "b.h5")
    featbank("split", "b.h5", "--val-fraction", 0.4, "-o", "v.h5")
    featbank("export-features", "v.h5", "-o", "out")
    featbank("import", "out", "-o", "back.h5")
    with Bank(tmp_path / "v.h5") as before, Bank(tmp_path / "back.h5") as after:
        assert after.fingerprint == before.fingerprint
        assert after.seen("val").all()
        assert after.groups()["many"].tolist() == [True, False, False]
    featbank("import", "out", "--seen", "none", "-o", "frozen.h5")
    with Bank(tmp_path / "frozen.h5") as bank:
        assert not bank.seen("val").any()


def test_an_export_without_val_may_be_split(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Marks go along with their rows, as `featbank split` has it."""
    toy = make_toy((9, 7, 4), splits=("train",))
    toy.write(tmp_path / "b.h5", seen={"train": np.arange(20) % 2 > 0})
    featbank("export-features", "b.h5", "-o", "out")
    featbank("import", "out", "--val-per-class", 2, "-o", "one.h5")
    featbank("split", "b.h5", "--val-per-class", 2, "-o", "other.h5")
    with Bank(tmp_path / "one.h5") as one, Bank(tmp_path / "other.h5") as other:
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bank.json", "{", "bank.json is not what `featbank export-features` writes now"),
        ("bank.json", '{"splits": {"../x": {}}, "views": [], "classifiers": []}', "is not what"),
        ("classes/name.txt", "a\nb\nc\nd\n", "name.txt has 4 lines, bank.json says K = 3"),
        ("val/path.txt", "a\n", "val: row counts disagree"),
        ("train/seen.npy", np.ones(3, bool), "train: row counts disagree"),
        ("val/held_out.npy", np.ones(60), "It must be bool [N]"),
        ("train/label.npy", np.full(20, 3), "train: label 3 in row 0 is outside 0…2"),
        ("test/index.npy", None, "index.npy: no such file"),
    ],
)  # fmt: skip
def test_a_changed_export(
    featbank: Run,
    make_toy: Callable[..., Toy],
    tmp_path: Path,
    name: str,
    content: str | np.ndarray | None,
    message: str,
) -> None:
    """One line that names what is wrong."""
    featbank("export-features", _rich(make_toy, tmp_path / "b.h5", "float32"), "-o", "out")
    file = tmp_path / "out" / name
    file.unlink()
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        np.save(file, content)
    error = featbank("import", "out", "-o", "back.h5", code=2).stderr
    assert message in error
    assert error.count("\n") == 1


def test_options_that_an_export_answers(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """They are refused, and the output may be none of its files."""
    featbank("export-features", _rich(make_toy, tmp_path / "b.h5", "float32"), "-o", "out")
    for options in (["--renumber"], ["--label-base", 1], ["--test", "a.npy", "b.npy"]):
        error = featbank("import", "out", *options, "--dry-run", code=2).stderr
        assert f"says all that {options[0]} would" in error
    inside = "out/train/instance/feature.npy"
    error = featbank("import", "out", "-o", inside, "--overwrite", code=2).stderr
    assert f"{inside} is read as well" in error


def test_values_that_are_not_finite_are_refused(featbank: Run, tmp_path: Path) -> None:
    """The row is named, and nothing is left."""
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    y = np.array([0, 1, 0, 1, 0, 1, 0])
    write_bank(tmp_path / "b.h5", {"train": {"instance": np.stack([x, x])}}, {"train": y})
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["train/instance/feature"][1, 4] = np.nan
    error = featbank("export-features", "b.h5", "-o", "out", code=2).stderr
    assert "train/instance: NaN or infinity in row 4 (1 such row)" in error
    assert not (tmp_path / "out").exists()


def test_a_bank_within_an_export_is_not_removed(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Also where it is named by a link."""
    bank = make_toy((9, 7, 4)).write(tmp_path / "b.h5")
    featbank("export-features", bank, "-o", "out")
    bank.rename(tmp_path / "out" / "b.h5")
    (tmp_path / "link.h5").symlink_to("out/b.h5")
    for name in ("out/b.h5", "link.h5"):
        error = featbank("export-features", name, "-o", "out", "--overwrite", code=2).stderr
        assert f"out holds {name}, which is read" in error
    assert (tmp_path / "out" / "b.h5").exists()
