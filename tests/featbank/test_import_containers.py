"""Containers of arrays: HDF5, patterns of files, and arrays that stay in their file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank, errors
from featbank.exchange import ondisk, read_array, read_file, settle
from featbank.exchange.formats import locate, matching
from featbank.exchange.ondisk import OnDisk
from tests.conftest import Run
from tests.featbank.test_importers import X, Y, save_h5

WIDE = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No array of rows is small enough to be read at once."""
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)


def disk(array: np.ndarray) -> OnDisk:
    """An array as if it were in a file that can be sliced."""
    return OnDisk(Path("x.h5"), array.shape, array.dtype, array.__getitem__)


INDICES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda x: x[2:5],
    lambda x: x[-3:],
    lambda x: x[1:15:4],
    lambda x: x[[7, 0, 7, 19]],
    lambda x: x[np.array([-1, 3])],
    lambda x: x[np.arange(20) % 3 == 0],
    lambda x: x[np.array([], int)],
    lambda x: x[3:1],
    lambda x: x[4],
    lambda x: x[None][0][2:4],
    lambda x: x[2:5, :2],
    lambda x: x[4, 1:],
    lambda x: x[None][:, 2:4],
]


@pytest.mark.parametrize("take", INDICES)
def test_rows_on_disk_are_indexed_as_numpy_has_it(take: Callable[..., np.ndarray]) -> None:
    """Rows, ranges, copies and axes of length 1, against the array in memory."""
    for shape in [(20, 3), (20, 1, 3), (20, 3, 1, 1)]:
        array = WIDE.reshape(shape)
        stored = disk(array)
        np.testing.assert_array_equal(np.asarray(take(stored)), take(array))
        settled = stored.squeeze(tuple(i for i, n in enumerate(shape) if n == 1))
        np.testing.assert_array_equal(np.asarray(take(settled)), take(WIDE))
    copies = np.stack([WIDE, -WIDE])
    for copy in (0, 1, -1):
        np.testing.assert_array_equal(np.asarray(take(disk(copies)[copy])), take(copies[copy]))
    assert [x.shape for x in disk(copies)] == [(20, 3), (20, 3)]
    (only,) = disk(WIDE[None])
    np.testing.assert_array_equal(np.asarray(take(only)), take(WIDE))


def test_nested_keys_and_packed_chunks(tmp_path: Path) -> None:
    """A key is a path in the file, with or without a slash in front."""
    save_h5(tmp_path / "a.h5", **{"deep/er/x": X, "deep/y": Y})
    for key in ("deep/er/x", "/deep/er/x"):
        np.testing.assert_array_equal(read_array(f"{tmp_path}/a.h5:{key}"), X)
    with pytest.raises(errors.DataError, match=r"KEY with one of: deep/er/x, deep/y\.$"):
        read_array(f"{tmp_path}/a.h5")
    with pytest.raises(errors.DataError, match=r"has no key 'deep'\. Write .* deep/er/x"):
        read_array(f"{tmp_path}/a.h5:deep")


def test_a_file_with_features_and_labels_is_a_table(tmp_path: Path) -> None:
    """Texts are names; what is not used is told; big-endian numbers are numbers."""
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["features"] = X.astype(">f8")
        file["labels"] = ["owl", "cat", "cat", "owl"]
        file["split"] = np.array([b"train", b"train", b"test", b"test"])
        file["coords"] = np.zeros((4, 2), int)
    arrays = read_file(tmp_path / "t.h5")
    settle(arrays)
    assert arrays.class_names == ["cat", "owl"]
    assert arrays.labels["test"].tolist() == [0, 1]
    assert arrays.notes == ["not used: coords"]
    np.testing.assert_array_equal(np.asarray(arrays.features["test"]["instance"]), X[2:])


def test_a_bank_is_no_import_but_its_arrays_are(
    featbank: Run, toy_bank: Path, tmp_path: Path
) -> None:
    """Under their names in the bank; the axis of one copy is dropped."""
    error = featbank("import", toy_bank, "--dry-run", code=2).stderr
    assert f"{toy_bank} is a bank already. Use it as it is, or give its arrays, as with" in error
    places = (f"{toy_bank}:train/balanced/feature", f"{toy_bank}:train/label")
    featbank("import", "--train", *places, "-o", "b.h5")
    with Bank(toy_bank) as bank, Bank(tmp_path / "b.h5") as other:
        np.testing.assert_array_equal(other.load("train")[0], bank.load("train", "balanced")[0])


@pytest.mark.usefixtures("kept_on_disk")
@pytest.mark.parametrize("shape", [(20, 3), (20, 1, 3), (20, 3, 1), (1, 20, 3)])
@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_large_features_stay_on_disk(
    featbank: Run, tmp_path: Path, shape: tuple[int, ...], suffix: str
) -> None:
    """The bank is that of the arrays in memory, also with a classifier and rows held out."""
    x, y = WIDE.reshape(shape), np.arange(20) % 4
    np.savez(tmp_path / "a.npz", x=x, y=y, w=np.ones((4, 3)), b=np.ones(4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=True, compression="lzf")
        file["y"] = y[:, None]
        file["w"], file["b"] = np.ones((4, 3)), np.ones(4)
    stored = read_array(f"{tmp_path}/a.{suffix}:x")
    assert isinstance(stored, OnDisk if suffix == "h5" else np.memmap)
    places = [f"a.{suffix}:{key}" for key in "xywb"]
    featbank(
        "import", "--train", *places[:2], "--classifier", *places[2:], "--val-per-class", 2,
        "-o", "b.h5",
    )  # fmt: skip
    with Bank(tmp_path / "b.h5") as bank:
        for split in ("train", "val"):
            rows = bank.index(split)
            np.testing.assert_array_equal(bank.load(split)[0], WIDE[rows])
            np.testing.assert_array_equal(bank.load(split)[1], y[rows])


def test_what_hdf5_files_may_hide(tmp_path: Path) -> None:
    """Links and other files are not followed; what was not written is not zeros."""
    path = tmp_path / "odd.h5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = X
    with h5py.File(path, "w") as file:
        file["x"] = X
        file["soft"], file["out"] = h5py.SoftLink("/x"), h5py.ExternalLink("other.h5", "x")
        file["group/again"] = file["x"]
        file["loop/loop"] = file["group"]
        layout = h5py.VirtualLayout((4, 2), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4, 2))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (2,), "f4", external=[(str(tmp_path / "other.h5"), 0, 8)])
        file.create_dataset("never", (1 << 40, 4), "f4")
        file.create_dataset("partly", (1 << 40, 4), "f4", chunks=(4, 4))[:4] = 1
        file.create_dataset("ragged", (2,), h5py.vlen_dtype(np.float32))
        file["pairs"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["complex"], file["one"], file["none"] = X * 1j, 3.0, h5py.Empty("f4")
        file["bad"] = np.array([b"\xff", b"a"])
        file["refs"] = np.array([file["x"].ref], h5py.ref_dtype)
        file.create_dataset("text", data=["a" * 5000], dtype=h5py.string_dtype())
    np.testing.assert_array_equal(read_array(f"{path}:x"), X)
    for key, message in {
        "soft": "has no key 'soft'",
        "out": "has no key 'out'",
        "virtual": "is made of other files",
        "external": "is made of other files",
        "never": "but only 0 of 1 chunks were written",
        "partly": "but only 1 of 274,877,906,944 chunks were written",
        "ragged": "has rows of unequal length. Pool or pad each",
        "pairs": "It must be numbers or texts",
        "complex": "has type complex64",
        "refs": "It must be numbers or texts",
        "one": "is a single value",
        "none": "is a single value",
        "text": "the text in row 0 has 5,000 characters",
    }.items():
        with pytest.raises(errors.DataError, match=message) as raised:
            read_array(f"{path}:{key}")
        assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("kept_on_disk")
def test_a_damaged_chunk_is_found_where_it_is_read(featbank: Run, tmp_path: Path) -> None:
    """One line, and no bank."""
    x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(50, 8), fletcher32=True)
        file["y"] = np.arange(400) % 3
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[content.index(x[210].tobytes())] ^= 1
    (tmp_path / "a.h5").write_bytes(content)
    error = featbank("import", "--train", "a.h5:x", "a.h5:y", "-o", "b.h5", code=2).stderr
    assert error.startswith("featbank: a.h5 is not a readable .h5 file of numbers")
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5"]


def test_an_archive_that_unpacks_to_more_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed zeros are refused before they are unpacked."""
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 1000), np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    monkeypatch.setattr("featbank.exchange.arrayfile.whole_memory", lambda: 1 << 20)
    with pytest.raises(errors.DataError, match=r"bomb.npz:x needs 3.81 MiB of memory, the machine"):
        read_array(f"{tmp_path}/bomb.npz:x")


def test_patterns_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Braces count and choose, stars match in natural order; the rows follow one another."""
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        np.save(f"x-{number}.npy", WIDE[number : number + 1])
        np.savez(f"s-{number:03}.npz", f=WIDE[number : number + 1], y=np.array([f"c{number}"]))
    assert matching(Path("x-{9..10}.npy")) == [Path("x-9.npy"), Path("x-10.npy")]
    assert matching(Path("{a,b}{08..09}")) == [Path(n) for n in ("a08", "a09", "b08", "b09")]
    assert locate("s-*.npz:f") == (Path("s-*.npz"), "f")
    for place in ("x-*.npy", "x-{0..10}.npy", "s-{000..010}.npz:f", "s-*.npz:f", "s-0??.npz:f"):
        np.testing.assert_array_equal(read_array(place), WIDE[:11])
    assert read_array("s-*.npz:y").tolist() == [f"c{number}" for number in range(11)]
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)
    stored = read_array("x-*.npy")
    assert isinstance(stored, OnDisk)
    np.testing.assert_array_equal(stored[2:9], WIDE[2:9])
    np.testing.assert_array_equal(stored[[10, 0, 5]], WIDE[[10, 0, 5]])
    np.save("x-11.npy", np.ones((1, 4)))
    for place, message in {
        "x-*.npy": r"file 12 has float64 \[1, 4\], the first has float32 \[1, 3\]",
        "gone-*.npy": "no such file",
        "x-{0..12}.npy": "x-12.npy: no such file",
        "x-{5..2}.npy": "no such file",
    }.items():
        with pytest.raises(errors.DataError, match=message):
            read_array(place)
    with pytest.raises(errors.ConfigError, match="are more than 1,000,000 files"):
        read_array("x-{0..999999999}.npy")
