"""The data sets by name: what they hold, and what they refuse."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from featbank import errors
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings
from stage1.data.sources import long_tailed

MakeLists = Callable[..., dict[str, Any]]
CIFAR = Path(__file__).parents[2].parent / "shared" / "data" / "cifar100-lt.tar.xz"


def test_digits_are_the_source_rows_long_tailed_with_balanced_val_and_test() -> None:
    """Against scikit-learn's arrays at the stored rows, and the counts 119 · 50^(−k/9)."""
    digits, source = load_dataset(DatasetSettings("digits-lt")), load_digits()
    assert digits.train_counts.tolist() == [int(119 / 50 ** (k / 9)) for k in range(10)]
    assert digits.image_shape == (1, 8, 8)
    assert digits.settings.imbalance == 50
    for split in digits.splits.values():
        assert (split.images[:, 0].numpy() == source.images[split.index]).all()
        assert (split.labels.numpy() == source.target[split.index]).all()
    for name, per_class in (("val", 15), ("test", 40)):
        assert np.bincount(digits.splits[name].labels).tolist() == [per_class] * 10
    rows = np.concatenate([split.index for split in digits.splits.values()])
    assert len(set(rows.tolist())) == len(rows)
    assert {split.source for split in digits.splits.values()} == {"digits"}


def test_a_longer_tail_leaves_val_and_test_as_they_are() -> None:
    """Held-out splits are drawn first, so `imbalance` must not touch them."""
    short, long = (load_dataset(DatasetSettings("digits-lt", imbalance=i)) for i in (10, 100))
    for name in ("val", "test"):
        assert (short.splits[name].index == long.splits[name].index).all()
    assert len(short.splits["train"].labels) > len(long.splits["train"].labels)


@pytest.mark.parametrize("val_per_class", [0, 5])
def test_cifar_arrays_keep_the_official_test_split(val_per_class: int) -> None:
    """Against arrays of CIFAR's form: test whole and in order, val held out of train."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (500, 3, 4, 4), np.uint8), np.repeat(np.arange(10), 50)
    test = rng.integers(0, 256, (30, 3, 4, 4), np.uint8), np.repeat(np.arange(10), 3)
    dataset = long_tailed(
        DatasetSettings("cifar10-lt", imbalance=10.0, data_seed=0, train_balanced=True),
        (images, labels),
        class_names=[str(k) for k in range(10)],
        pad=4,
        flip=True,
        held_out={"val": val_per_class} if val_per_class else None,
        test=test,
    )
    held_out = ["val"] if val_per_class else []
    assert list(dataset.splits) == ["train", *held_out, "test", "train_balanced"]
    whole = set(range(500)) - {int(row) for name in held_out for row in dataset.splits[name].index}
    assert set(dataset.splits["train_balanced"].index) == whole
    assert (dataset.splits["test"].images.numpy() == test[0]).all()
    assert dataset.train_counts[[0, -1]].tolist() == [
        50 - val_per_class,
        (50 - val_per_class) // 10,
    ]
    for name, split in dataset.splits.items():
        assert split.source == ("test" if name == "test" else "train")
        source = test[0] if name == "test" else images
        assert (split.images.numpy() == source[split.index]).all()


def test_digits_keep_the_images_before_the_long_tail() -> None:
    """Reference: 1,797 less 55 of each class, cut to the smallest class; train is among them."""
    digits, source = load_dataset(DatasetSettings("digits-lt", train_balanced=True)), load_digits()
    whole = digits.splits["train_balanced"]
    n_max = np.bincount(source.target).min() - 55
    assert np.bincount(whole.labels).tolist() == [n_max] * 10
    assert (whole.images[:, 0].numpy() == source.images[whole.index]).all()
    assert set(digits.splits["train"].index) < set(whole.index)
    for name in ("val", "test"):
        assert not set(digits.splits[name].index) & set(whole.index)
    plain = load_dataset(DatasetSettings("digits-lt"))
    assert list(digits.splits) == [*plain.splits, "train_balanced"]
    for name, split in plain.splits.items():
        assert (digits.splits[name].index == split.index).all()


def test_lists_name_classes_and_allow_empty_ones(make_lists: MakeLists, tmp_path: Path) -> None:
    """K is the highest label of all lists + 1, or the number of names; paths are kept."""
    options = make_lists(train=[0, 0, 0, 2], val=[2], test=[0, 1, 3])
    dataset = load_dataset(DatasetSettings("lists", **options))
    assert dataset.train_counts.tolist() == [3, 0, 1, 0]
    assert dataset.class_names == ("0", "1", "2", "3")
    assert dataset.image_shape == (3, 12, 16)
    assert dataset.splits["val"].paths == ("val/0 of val.png",)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    named = load_dataset(
        DatasetSettings("lists", class_names=str(tmp_path / "names.txt"), image_size=8, **options)
    )
    assert named.train_counts.tolist() == [3, 0, 1, 0, 0]
    assert named.image_shape == (3, 8, 8)


@pytest.mark.skipif(not CIFAR.exists(), reason="the shared CIFAR-100-LT is not here")
def test_real_cifar_images_by_lists(tmp_path: Path) -> None:
    """Against the folder names of the first images of the shared archive: 32×32, one class."""
    with tarfile.open(CIFAR) as archive:
        names = []
        for member in archive:
            archive.extract(member, tmp_path, filter="data")
            names.append(member.name)
            if len(names) == 40:
                break
    lines = [f"{name} {row % 2}" for row, name in enumerate(names)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    dataset = load_dataset(
        DatasetSettings(
            "lists",
            root=str(tmp_path),
            train_list=str(tmp_path / "train.txt"),
            test_list=str(tmp_path / "test.txt"),
        )
    )
    assert dataset.splits["train"].images.shape == (40, 3, 32, 32)
    assert dataset.splits["train"].paths == tuple(names)
    assert dataset.preprocessing.pad == 4
    assert all(20 < mean < 235 for mean in dataset.preprocessing.mean)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (DatasetSettings("digit-lt"), r"Unknown data set 'digit-lt'\. Did you mean 'digits-lt'\?"),
        (DatasetSettings("digits-lt", imbalance=0), r"must be a float ≥ 1, got 0"),
        (DatasetSettings("digits-lt", imbalance=float("nan")), r"must be a float ≥ 1, got nan"),
        (DatasetSettings("digits-lt", imbalance=120), r"from 1 to 119, got 120"),
        (DatasetSettings("digits-lt", data_seed=-1), r"'data_seed' of data set 'digits-lt'"),
        (DatasetSettings("digits-lt", root="x"), r"does not take --root; it takes --imbalance"),
        (DatasetSettings("folder"), r"The data set 'folder' needs --root\."),
        (DatasetSettings("imagenet-lt"), r"The data set 'imagenet-lt' needs --root\."),
        (
            DatasetSettings("folder", root="x", test_per_class=-1),
            r"'test_per_class' .* ≥ 0, got -1",
        ),
        (DatasetSettings("lists", train_balanced=True), r"does not take --train-balanced"),
        (DatasetSettings("digits-lt", skip_unreadable=True), r"does not take --skip-unreadable"),
        (DatasetSettings("lists", root="x"), r"needs --train-list\..* needs --test-list\."),
        (DatasetSettings("cifar10-lt", root="/nowhere"), r"/nowhere/cifar-10.* Add --download"),
        (
            DatasetSettings("lists", root="/nowhere", train_list="a", test_list="b"),
            "/nowhere is not a folder",
        ),
    ],
)
def test_wrong_options_are_reported(settings: DatasetSettings, words: str) -> None:
    """One sentence each, with the value and the remedy."""
    with pytest.raises(errors.ConfigError, match=words):
        load_dataset(settings)


def test_lists_of_one_class_are_refused(make_lists: MakeLists) -> None:
    """There is nothing to tell apart."""
    options = make_lists(train=[0, 0], test=[0])
    with pytest.raises(errors.DataError, match="one class only"):
        load_dataset(DatasetSettings("lists", **options))
