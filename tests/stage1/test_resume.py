"""Extraction that ends early: finished shards stay, and the next run resumes from them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featbank import errors
from featbank.bank import Bank, BankWriter
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, ImageDataset
from stage1.extraction import assemble
from stage1.extraction import extract as extraction
from stage1.extraction.extract import extract
from stage1.training.checkpoint import load_checkpoint, save_checkpoint


class Stopped(Exception):
    """Raised in the middle of an extraction."""


def stop_in(part: int) -> Callable[[int, int], None]:
    """A progress callback that raises in the part of that number, from 0, of 256 images each."""
    calls = iter(range(part + 1))

    def progress(done: int, total: int) -> None:
        if next(calls) == part:
            raise Stopped

    return progress


def fingerprint(path: Path) -> str:
    with Bank(path) as bank:
        return bank.fingerprint


def shards_of(bank: Path) -> set[str]:
    return {path.stem for path in bank.with_name(f".{bank.name}.shards").glob("*.shard")}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts that are computed, and of the BatchNorm estimates."""
    names: list[str] = []

    def watched(name: str, named: Callable[..., str]) -> None:
        real = getattr(assemble, name)

        def call(*arguments: Any, **options: Any) -> Any:
            names.append(named(*arguments))
            return real(*arguments, **options)

        monkeypatch.setattr(assemble, name, call)

    watched("features_of", lambda part, *rest: part.name)
    watched("rebalanced", lambda *rest: "batchnorm")
    return names


def test_a_run_stopped_in_every_part_gives_the_bank_of_an_uninterrupted_one(
    digits_run: Path, tmp_path: Path, made: list[str]
) -> None:
    """Content and provenance; each run makes what is missing and no more."""
    options: dict[str, Any] = {"balanced_batches": 4, "augmentations": 2, "shard_rows": 256}
    whole, path = tmp_path / "whole.h5", tmp_path / "bank.h5"
    extract(digits_run, whole, **options)
    every = list(made)
    assert every == ["batchnorm", "train-0", "train-256", "val-0", "test-0", "test-256"]
    lines: list[str] = []
    for part in range(5):
        made.clear()
        with pytest.raises(Stopped):
            extract(digits_run, path, **options, progress=stop_in(part), report=lines.append)
        assert shards_of(path) == set(every[: part + 1])
        assert made == every[part : part + 2]  # what it finishes, and what it dies in
        assert not path.exists()
    made.clear()
    seen: list[tuple[int, int]] = []
    extract(
        digits_run,
        path,
        **options,
        report=lines.append,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert made == every[5:]
    assert lines[-4:] == [
        "Resuming: 5 of 6 shards are there",
        "Extracting 2 augmented copies of 328 train images: instance, balanced",
        "Extracting 150 val images: instance, balanced",
        "Extracting 400 test images: instance, balanced",
    ]
    assert seen == [(n, 1206) for n in (512, 656, 806, 1062, 1206)]
    assert {file.name for file in tmp_path.iterdir()} == {"whole.h5", "bank.h5"}
    with Bank(whole) as expected, Bank(path) as bank:
        assert bank.fingerprint == expected.fingerprint
        assert bank.provenance == expected.provenance


def one_pixel(dataset: ImageDataset) -> None:
    dataset.splits["train"].images[5, 0, 3, 3] ^= 1


def two_labels(dataset: ImageDataset) -> None:
    labels = dataset.splits["test"].labels
    labels[[0, -1]] = labels[[-1, 0]]


def two_rows(dataset: ImageDataset) -> None:
    index = dataset.splits["val"].index
    index[[0, -1]] = index[[-1, 0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float16"}, r"the dtype changed \(float32 → float16\)\."),
        ({"views": ["balanced"]}, r"the views changed \(instance, balanced → balanced\)\."),
        ({"balanced_batches": 3}, r"the number of balanced batches changed \(2 → 3\)\."),
        ({"augmentations": 0}, r"the number of augmentations changed \(1 → 0\)\."),
        ({"seed": 5}, r"the seed changed \(0 → 5\)\."),
        ({"shard_rows": 512}, r"the shard size changed \(256 → 512\)\."),
        ("threads", r"the device changed \(cpu, \w+, 1 threads → cpu, \w+, 2 threads\)\."),
        ("torch", r"the torch version changed \(\S+ → 1\.0\)\."),
        ("checkpoint", r"the checkpoint changed \([0-9a-f]{8}… → [0-9a-f]{8}…\)\."),
        (one_pixel, r"the train images changed \([0-9a-f]{8}… → [0-9a-f]{8}…\)\."),
        (two_labels, "the test labels changed"),
        (two_rows, "the val index changed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_shards_of_other_work_are_not_used(
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: list[str],
    change: Any,
    words: str,
) -> None:
    """The line names the change; everything is computed again, as without the shards."""
    options: dict[str, Any] = {"balanced_batches": 2, "augmentations": 1, "shard_rows": 256}
    run, path = tmp_path / "run", tmp_path / "bank.h5"
    shutil.copytree(digits_run, run)
    with pytest.raises(Stopped):
        extract(run, path, **options, progress=stop_in(2))
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    elif change == "checkpoint":
        file, checkpoint = load_checkpoint(run)
        checkpoint.weights["classifier.bias"] += 1
        save_checkpoint(file, checkpoint)
    elif callable(change):

        def altered(settings: DatasetSettings) -> ImageDataset:
            dataset = load_dataset(settings)
            change(dataset)
            return dataset

        monkeypatch.setattr(extraction, "load_dataset", altered)
    else:
        options |= change
    lines: list[str] = []
    made.clear()
    extract(run, path, **options, report=lines.append)
    reset = [line for line in lines if "Shards" in line]
    assert len(reset) == 1
    assert reset[0].startswith("Shards of an earlier run are not used: the ")
    assert reset[0].endswith(". Starting anew.")
    assert not any("Resuming" in line for line in lines)
    assert "train-0" in made


def test_damaged_shards_are_made_again(digits_run: Path, tmp_path: Path, made: list[str]) -> None:
    """A file cut, emptied, or with a bit changed: those shards alone, with a line each."""
    options: dict[str, Any] = {"balanced_batches": 2, "shard_rows": 256}
    extract(digits_run, tmp_path / "whole.h5", **options)
    path, lines = tmp_path / "bank.h5", []
    with pytest.raises(Stopped):
        extract(digits_run, path, **options, progress=stop_in(4))
    names = ["batchnorm", "train-256", "test-0"]
    files = [tmp_path / f".bank.h5.shards/{name}.shard" for name in names]
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0][:-1])
    files[1].write_bytes(contents[1][:5000] + bytes([contents[1][5000] ^ 1]) + contents[1][5001:])
    files[2].write_bytes(b"")
    made.clear()
    with pytest.raises(Stopped):
        extract(digits_run, path, **options, report=lines.append, progress=stop_in(4))
    assert [line for line in lines if "damaged" in line] == [
        f"{file} is damaged. It is made again." for file in files
    ]
    assert made == [*names, "test-256"]
    assert [file.read_bytes() for file in files] == contents
    extract(digits_run, path, **options)
    assert fingerprint(path) == fingerprint(tmp_path / "whole.h5")


def test_a_second_run_is_refused_and_touches_nothing(digits_run: Path, tmp_path: Path) -> None:
    """Though it would remove the shards, being of another dtype; the first continues."""
    path, files = tmp_path / "bank.h5", []

    def second(done: int, total: int) -> None:
        if done == 328:
            deadline = time.monotonic() + 120
            while not shards_of(path) and time.monotonic() < deadline:
                time.sleep(0.01)  # it is written while the next part is computed
            with pytest.raises(errors.OutputBusy, match="Another run is writing"):
                extract(digits_run, path, views=["instance"], dtype="float16", overwrite=True)
            files.append(shards_of(path))

    extract(digits_run, path, views=["instance"], shard_rows=256, progress=second)
    assert files == [{"train-0"}]
    with Bank(path) as bank:
        assert bank.dtype == "float32"


def test_room_is_checked_for_shards_and_bank_less_what_is_there(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """878 rows of 64 float32 values, twice; a resumed run needs less, by its shards' size."""
    asked: list[int] = []
    path, options = tmp_path / "bank.h5", {"views": ["instance"], "shard_rows": 256}
    monkeypatch.setattr(BankWriter, "reserve", lambda self, size: asked.append(size))
    with pytest.raises(Stopped):
        extract(digits_run, path, **options, progress=stop_in(1))
    assert asked[0] == 2 * 878 * 64 * 4
    held = (tmp_path / ".bank.h5.shards/train-0.shard").stat().st_size
    asked.clear()
    extract(digits_run, path, **options)
    assert asked[0] == 2 * 878 * 64 * 4 - held
