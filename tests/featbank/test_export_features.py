"""`featbank export-features`: plain files that hold what the bank holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
    monkeypatch.setattr("featbank.bank.file.BLOCK_BYTES", 64)
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
