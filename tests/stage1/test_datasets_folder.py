"""The data set `folder`: what the folders say, and what they may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import errors
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, ImageDataset

Make = Callable[[dict[str, int]], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes random 6×5 images: a number for each folder."""

    def write(counts: dict[str, int]) -> Path:
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for row in range(count):
                image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
                image.save(tmp_path / folder / f"{row}.png")
        return tmp_path

    return write


def load(root: Path, **options: object) -> ImageDataset:
    """The data set of a folder."""
    return load_dataset(DatasetSettings("folder", root=str(root), **options))  # type: ignore[arg-type]


def test_the_folders_are_the_classes_in_every_split(make: Make) -> None:
    """Reference: Pillow's pixels at the stored paths; labels by name, not by place in a split."""
    root = make({"train/b": 3, "train/c": 2, "train/a": 4, "test/c": 2, "test/a": 1, "val/b": 1})
    (root / "train/a/notes.txt").write_text("no image")
    (root / "train/.cache").mkdir()
    dataset = load(root)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.train_counts.tolist() == [4, 3, 2]
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.splits["test"].labels.tolist() == [0, 2, 2]
    assert dataset.splits["val"].paths == ("val/b/0.png",)
    for name, split in dataset.splits.items():
        assert split.source == name
        assert split.index.tolist() == list(range(len(split.labels)))
        for path, image, label in zip(split.paths or (), split.images, split.labels, strict=True):
            assert (np.asarray(Image.open(root / path)).transpose(2, 0, 1) == image.numpy()).all()
            assert Path(path).parent.name == dataset.class_names[label]


def test_one_folder_keeps_its_counts_after_what_is_held_out(make: Make) -> None:
    """Reference: the counts less those held out; no image twice; test does not depend on val."""
    root = make({"cat": 9, "dog": 7, "train": 5})
    dataset = load(root, test_per_class=2, val_per_class=1)
    assert dataset.train_counts.tolist() == [6, 4, 2]
    for name, per_class in (("val", 1), ("test", 2)):
        assert np.bincount(dataset.splits[name].labels).tolist() == [per_class] * 3
    rows = np.concatenate([split.index for split in dataset.splits.values()])
    assert sorted(rows.tolist()) == list(range(21))
    assert {split.source for split in dataset.splits.values()} == {"images"}
    alone = load(root, test_per_class=2)
    assert (alone.splits["test"].index == dataset.splits["test"].index).all()


def test_imbalance_makes_it_long_tailed_below_train_balanced(make: Make) -> None:
    """Reference: n_max of what is left of the smallest class, 9 and ⌊9/3⌋; both have the rows."""
    root = make({"train/a": 12, "train/b": 10, "test/a": 1, "test/b": 1})
    dataset = load(root, imbalance=3.0, val_per_class=1, train_balanced=True)
    assert dataset.train_counts.tolist() == [9, 3]
    whole = dataset.splits["train_balanced"]
    assert np.bincount(whole.labels).tolist() == [9, 9]
    assert set(dataset.splits["train"].index) < set(whole.index)
    assert not set(dataset.splits["val"].index) & set(whole.index)
    assert whole.source == dataset.splits["train"].source == "train"


@pytest.mark.parametrize(
    ("counts", "options", "error", "words"),
    [
        ({}, {}, errors.DataError, "holds no class folder"),
        ({"a": 2}, {"test_per_class": 1}, errors.DataError, "only one class folder, 'a'"),
        ({"a": 2, "b": 2}, {}, errors.ConfigError, "no test split. Give --test-per-class"),
        ({"train/a": 2, "train/b": 2}, {}, errors.ConfigError, "no test split"),
        ({"a": 2, "b": 0}, {"test_per_class": 1}, errors.EmptyClass, "/b holds no image"),
        ({"a": 1, "b": 1}, {"test_per_class": 2}, errors.ConfigError, "No class has an image to"),
        (
            {"train/a": 1, "train/bee": 1, "test/a": 1, "test/be": 1},
            {},
            errors.DataError,
            r"test has the class 'be', .*train does not\. .* Did you mean 'bee'\?",
        ),
        (
            {"train/a": 1, "train/b": 1, "test/a": 1, "val/c": 1},
            {},
            errors.DataError,
            "val has the class 'c'",
        ),
        ({"train/a": 1, "train/b": 1, "test": 1}, {}, errors.DataError, "test holds no class"),
        (
            {"train/a": 2, "train/b": 2, "test/a": 1},
            {"test_per_class": 1},
            errors.ConfigError,
            "test is there. Leave --test-per-class out",
        ),
        (
            {"train/a": 2, "train/b": 2, "test/a": 1},
            {"train_balanced": True},
            errors.ConfigError,
            "needs --imbalance",
        ),
        (
            {"train/a": 2, "train/b": 2, "test/a": 1},
            {"imbalance": 3.0},
            errors.ConfigError,
            "from 1 to 2, got 3",
        ),
    ],
)
def test_folders_that_cannot_be_used(
    make: Make,
    counts: dict[str, int],
    options: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    """One sentence each: what is wrong, and what to do."""
    root = make(counts)
    with pytest.raises(error, match=f"(?s).*{words}"):
        load(root, **options)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The path, and the option."""
    with pytest.raises(errors.ConfigError, match="none is not a folder. Give --root"):
        load(tmp_path / "none")


def test_a_text_called_jpg_is_told_with_its_class_or_left_out(make: Make) -> None:
    """Reference: the data set without that file; the index keeps its place free."""
    root = make({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
    (root / "train/a/0.jpg").write_text("not an image")
    with pytest.raises(errors.DataError, match=r"class 'a': .*0\.jpg is not a readable image"):
        load(root)
    with pytest.warns(UserWarning, match=r"left out, 1 in all: class 'a' \(train/a/0\.jpg\)\.$"):
        dataset = load(root, skip_unreadable=True)
    (root / "train/a/0.jpg").unlink()
    without = load(root)
    assert (dataset.splits["train"].images == without.splits["train"].images).all()
    assert dataset.splits["train"].paths == without.splits["train"].paths
    assert dataset.splits["train"].index.tolist() == [1, 2, 3, 4, 5]
    assert dataset.preprocessing == without.preprocessing


def test_an_image_left_out_of_both_training_splits_is_counted_once(make: Make) -> None:
    """Reference: one broken file; `train` is part of `train_balanced`, which has it, too."""
    root = make({"a": 4, "b": 4})
    for row in range(4):
        (root / "a" / f"{row}.png").write_bytes(b"")
    options = {"test_per_class": 1, "imbalance": 1.0, "train_balanced": True}
    with pytest.warns(UserWarning, match="are left out") as caught:
        dataset = load(root, skip_unreadable=True, **options)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "4 in all: " in message
    assert message.endswith("class 'a' of train, 'a' of test, 'a' of train_balanced.")
    assert dataset.train_counts.tolist() == [0, 3]


def test_hidden_files_are_no_images(make: Make) -> None:
    """Nor is what lies in hidden folders; a class with nothing else is empty."""
    root = make({"train/a": 2, "train/b": 3, "test/a": 1, "test/b": 1, "train/b/.thumbs": 2})
    (root / "train/a/._0.png").write_bytes(b"\0\5\x16\7")
    (root / "test/b/.old.jpeg").write_bytes(b"")
    dataset = load(root)
    assert dataset.train_counts.tolist() == [2, 3]
    assert dataset.splits["test"].paths == ("test/a/0.png", "test/b/0.png")
    (root / "test/b/0.png").rename(root / "test/b/.0.png")
    with pytest.raises(errors.EmptyClass, match=r"test/b holds no image"):
        load(root)
