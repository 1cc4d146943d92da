"""Shards: finished parts that are there whole, of the same work, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank.bank.shards import Shards

KEY = {"checkpoint": "3f2a" * 16, "seed": 0, "views": "instance", "gone": 1}
ARRAYS = {
    "instance": np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2],
    "expert0/instance": np.zeros((0, 2), np.float32),
    "count": np.arange(3),
}


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def open_shards(tmp_path: Path, lines: list[str]) -> Callable[..., Shards]:
    """Opens the shards of one target, as a run does, with some fields of `KEY` changed."""
    return lambda **changes: Shards(tmp_path / "bank.h5", {**KEY, **changes}, report=lines.append)


def test_a_later_run_reads_what_was_written(
    open_shards: Callable[..., Shards], lines: list[str]
) -> None:
    """Types, shapes and values come back; a shard never written is None; nothing is reported."""
    open_shards().write("train-0-0", ARRAYS)
    again = open_shards()
    read = again.read("train-0-0")
    assert read is not None
    assert again.names == {"train-0-0"}
    assert again.size == (again.folder / "train-0-0.shard").stat().st_size
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    assert again.read("train-0-4096") is None
    assert lines == []
    again.remove()
    assert not again.folder.exists()


def test_every_changed_byte_and_every_length_is_noticed(
    open_shards: Callable[..., Shards], lines: list[str]
) -> None:
    """Each bit-flipped or cut file counts as not finished, with a line that names it."""
    shards = open_shards()
    shards.write("a", ARRAYS)
    path = shards.folder / "a.shard"
    whole = path.read_bytes()
    flipped = [
        whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))
    ]
    damaged = flipped + [whole[:n] for n in range(len(whole))] + [whole + b"\0"]
    for content in damaged:
        path.write_bytes(content)
        assert shards.read("a") is None
    assert lines == [f"{path} is damaged. It is made again."] * len(damaged)
    shards.write("a", ARRAYS)
    assert shards.read("a") is not None


def test_a_shard_of_another_key_does_not_count(
    open_shards: Callable[..., Shards], tmp_path: Path
) -> None:
    """A file put among shards of another key is not taken for one of them."""
    open_shards().write("a", ARRAYS)
    file = tmp_path / "kept"
    (tmp_path / ".bank.h5.shards/a.shard").rename(file)
    other = open_shards(seed=1)
    file.rename(other.folder / "a.shard")
    assert other.read("a") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": "9c1d" * 16}, "the checkpoint changed (3f2a3f2a… → 9c1d9c1d…)"),
        (
            {"seed": 7, "views": None},
            "the seed changed (0 → 7), the views changed (instance → none)",
        ),
        ({"new": "x"}, "the new changed (none → x)"),
        (
            {"checkpoint": "", "seed": 1, "views": "", "gone": 2, "new": 3},
            "the checkpoint changed (3f2a3f2a… → ), the seed changed (0 → 1), "
            "the views changed (instance → ), 2 more fields changed",
        ),
    ],
)
def test_another_key_starts_anew_and_names_the_fields(
    open_shards: Callable[..., Shards], lines: list[str], changes: dict[str, Any], words: str
) -> None:
    """Old shards are removed; without any, nothing is reported."""
    open_shards()
    assert open_shards(seed=3).names == set()
    assert lines == []
    open_shards().write("a", ARRAYS)
    shards = open_shards(**changes)
    assert lines == [f"Shards of an earlier run are not used: {words}. Starting anew."]
    assert shards.names == set()
    assert shards.read("a") is None
    shards.write("a", ARRAYS)
    assert open_shards(**changes).read("a") is not None


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"\xff\xfe", b"[1, 2]", b"7", None])
def test_an_unreadable_key_counts_as_another(
    open_shards: Callable[..., Shards], lines: list[str], content: bytes | None
) -> None:
    """Cut, of other text, of another type, or missing."""
    shards = open_shards()
    shards.write("a", ARRAYS)
    key = shards.folder / "key.json"
    key.unlink() if content is None else key.write_bytes(content)
    assert open_shards().read("a") is None
    assert lines == [
        "Shards of an earlier run are not used: their key cannot be read. Starting anew."
    ]


def test_what_a_killed_run_was_writing_is_removed(open_shards: Callable[..., Shards]) -> None:
    """A file under its temporary name is no shard, and goes with the next run."""
    shards = open_shards()
    shards.write("a", ARRAYS)
    (shards.folder / "b.shard.part").write_bytes(b"half")
    assert shards.names == {"a"}
    again = open_shards()
    assert {path.name for path in again.folder.iterdir()} == {"key.json", "a.shard"}


def test_what_cannot_be_written_is_told_in_one_line(open_shards: Callable[..., Shards]) -> None:
    """With the file and the reason; the file system's own error stays an OSError."""
    shards = open_shards()
    shards.remove()
    with pytest.raises(OSError, match=r"a\.shard could not be written \(No such file or directory"):
        shards.write("a", ARRAYS)


def test_a_folder_that_leads_elsewhere_is_not_emptied(
    open_shards: Callable[..., Shards], tmp_path: Path
) -> None:
    """A link in the place of the folder: its target keeps its files."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.shard").write_text("mine")
    (tmp_path / ".bank.h5.shards").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        open_shards()
    assert (elsewhere / "a.shard").read_text() == "mine"
