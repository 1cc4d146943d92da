"""ImageNet-LT, Places-LT and iNaturalist 2018 by their lists, in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from featbank import errors, memory
from stage1.data.catalogue import DATASETS
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings
from stage1.data.longtail import long_tail_counts
from stage1.data.streaming import StreamedImages

MakeLists = Callable[..., dict[str, Any]]


def _published(make_lists: MakeLists, files: dict[str, str]) -> str:
    """Lists under the root by their published names; returns the root."""
    labels = {"train": [0, 0, 7], "val": [7], "test": [0, 7]}
    options = make_lists(**{split: labels[split] for split in files})
    for split, name in files.items():
        Path(options[f"{split}_list"]).rename(Path(options["root"]) / name)
    return str(options["root"])


@pytest.mark.parametrize(
    ("name", "classes", "files"),
    [
        (
            "imagenet-lt",
            1000,
            {split: f"ImageNet_LT_{split}.txt" for split in ("train", "val", "test")},
        ),
        (
            "places-lt",
            365,
            {split: f"Places_LT_{split}.txt" for split in ("train", "val", "test")},
        ),
        (
            "inaturalist2018",
            8142,
            {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
        ),
    ],
)
def test_lists_are_found_by_their_published_names(
    make_lists: MakeLists, name: str, classes: int, files: dict[str, str]
) -> None:
    """Reference: K and file names as published; the lists' own path is not kept, so data can move.

    Other sizes are a warning: this may be a part of the data set.
    """
    root = _published(make_lists, files)
    with pytest.warns(UserWarning, match=f"not {name} as published: they have 3 train images, not"):
        dataset = load_dataset(DatasetSettings(name, root=root, image_size=8))
    assert list(dataset.splits) == list(files)
    assert len(dataset.class_names) == classes
    assert dataset.train_counts.nonzero()[0].tolist() == [0, 7]
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.settings.train_list is None
    assert DATASETS[name].defaults["image_size"] == 224


def test_no_word_about_lists_of_the_published_sizes(
    make_lists: MakeLists, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Reference: the same three files, said to be all."""
    source = DATASETS["inaturalist2018"]
    root = _published(make_lists, {"train": "iNaturalist18_train.txt", "test": "t.txt"})
    monkeypatch.setitem(source.images, "train", 3)  # type: ignore[arg-type]
    monkeypatch.setitem(source.images, "test", 2)  # type: ignore[arg-type]
    test_list = f"{root}/t.txt"
    dataset = load_dataset(
        DatasetSettings("inaturalist2018", root=root, image_size=8, test_list=test_list)
    )
    assert dataset.splits["test"].labels.tolist() == [0, 7]
    assert dataset.settings.test_list == test_list
    assert not recwarn.list


def test_a_list_that_is_not_there_and_a_label_beyond_the_classes(make_lists: MakeLists) -> None:
    """The path with the option that names another; the line."""
    options = make_lists(train=[0, 365], test=[0])
    settings = {"root": options["root"], "test_list": options["test_list"]}
    with pytest.raises(errors.ConfigError, match=r"Places_LT_train\.txt: .* with --train-list"):
        load_dataset(DatasetSettings("places-lt", **settings))
    settings |= {"train_list": options["train_list"], "val_list": options["test_list"]}
    with pytest.raises(errors.LabelRange, match=r"train\.txt line 2 has the label 365"):
        load_dataset(DatasetSettings("places-lt", **settings))


def test_images_that_do_not_fit_into_memory_are_streamed(
    make_lists: MakeLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: N·3·S·S bytes, 5·3·100² = 150 kB; a byte less is too little."""
    settings = DatasetSettings("lists", image_size=100, **make_lists(train=[0, 1, 1], test=[0, 1]))
    for available, kind in ((149_999, StreamedImages), (150_000, Tensor), (None, Tensor)):
        monkeypatch.setattr(memory, "available_memory", lambda free=available: free)
        splits = load_dataset(settings).splits.values()
        assert all(isinstance(split.images, kind) for split in splits), available


def test_skipping_shows_the_first_three_places_and_the_classes_that_are_lost(
    make_lists: MakeLists,
) -> None:
    """Reference: the pixels of the lists without those lines."""
    options = make_lists(train=[0, 0, 1, 2, 2, 2], test=[0, 1])
    root = Path(options["root"])
    whole = load_dataset(DatasetSettings("lists", **options))
    for row in (0, 2, 4):
        (root / f"train/{row} of train.png").unlink()
    (root / "train/5 of train.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(errors.DataError, match=r"train\.txt line 1: .*0 of train\.png does not"):
        load_dataset(DatasetSettings("lists", **options))
    with pytest.warns(UserWarning, match="are left out") as caught:
        rest = load_dataset(DatasetSettings("lists", skip_unreadable=True, **options))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "4 in all: " in message
    places = [f"train.txt line {line} (train/{line - 1} of train.png)" for line in (1, 3, 5)]
    assert all(place in message for place in places)
    assert "line 6" not in message
    assert message.endswith("…. No image is left of class '1' of train.")
    train = rest.splits["train"]
    assert train.index.tolist() == [1, 3]
    assert (train.images == whole.splits["train"].images[[1, 3]]).all()
    assert rest.train_counts.tolist() == [1, 0, 1]


@pytest.mark.parametrize("image_size", [None, 8])
def test_nothing_that_can_be_read_is_an_error(
    make_lists: MakeLists, image_size: int | None
) -> None:
    """A wrong root with --skip-unreadable must not end in a data set of nothing."""
    options = make_lists(train=[0, 1], test=[0])
    for path in Path(options["root"]).rglob("*.png"):
        path.unlink()
    settings = DatasetSettings("lists", skip_unreadable=True, image_size=image_size, **options)
    with pytest.raises(errors.DataError, match="none of the 2 images from here on can be read"):
        load_dataset(settings)


def test_the_sizes_of_the_long_tails_are_those_reported() -> None:
    """Reference: the profile of each data set's defaults, and the digits themselves."""
    digits = load_dataset(DatasetSettings("digits-lt"))
    sizes = {name: len(split.labels) for name, split in digits.splits.items()}
    assert DATASETS["digits-lt"].images == sizes
    for name, n_max in (("cifar10-lt", 5000), ("cifar100-lt", 500)):
        source = DATASETS[name]
        assert source.classes is not None
        counts = long_tail_counts(n_max, source.classes, source.defaults["imbalance"])
        assert source.images["train"] == np.sum(counts)
