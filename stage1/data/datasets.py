"""The data sets of stage 1 by name: which options each takes and needs, and their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from featbank import errors
from featbank.settings import Setting, flag, wrong_values
from stage1.data import sources
from stage1.data.images import DatasetSettings, ImageDataset


@dataclass(frozen=True)
class Source:
    """A row of `DATASETS`: how to load it, the options it takes and needs, and its defaults.

    `place` tells where it looks. `classes` and `images` are K and the numbers of images by split
    under the defaults; None and nothing where the images decide.
    """

    description: str
    load: Callable[[DatasetSettings], ImageDataset]
    options: tuple[str, ...]
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    classes: int | None = None
    images: Mapping[str, int] = field(default_factory=dict)


_CIFAR_OPTIONS = (
    "root",
    "download",
    "imbalance",
    "val_per_class",
    "data_seed",
    "train_balanced",
)
_CIFAR_DEFAULTS = {"root": "data", "imbalance": 100.0, "val_per_class": 0, "data_seed": 0}
_CIFAR_PLACE = "--root, as torchvision keeps it; --download fetches it"
_LIST_OPTIONS = (
    "root",
    "train_list",
    "test_list",
    "val_list",
    "class_names",
    "image_size",
    "allow_outside",
    "skip_unreadable",
    "stream",
)


def _published(description: str, known: sources.Published) -> Source:
    """The row of a benchmark whose lists stand under the root by the names they are known by."""
    return Source(
        description,
        partial(sources.lists, known=known),
        options=_LIST_OPTIONS,
        needs=("root",),
        defaults={"image_size": 224},
        place=f"--root: the images and {', '.join(known.files.values())}",
        classes=known.classes,
        images=known.images,
    )


DATASETS: dict[str, Source] = {
    "digits-lt": Source(
        "scikit-learn's digits, 8×8 grey, long-tailed; needs no download",
        sources.digits,
        options=("imbalance", "data_seed", "train_balanced"),
        defaults={"imbalance": 50.0, "data_seed": 0},
        training={"backbone": "resnet8", "epochs": 100, "batch_size": 32},
        place="within scikit-learn",
        classes=10,
        images={"train": 328, "val": 150, "test": 400},
    ),
    "cifar10-lt": Source(
        "CIFAR-10, long-tailed as the LDAM release does it",
        sources.cifar,
        options=_CIFAR_OPTIONS,
        defaults=_CIFAR_DEFAULTS,
        place=_CIFAR_PLACE,
        classes=10,
        images={"train": 12406, "test": 10000},
    ),
    "cifar100-lt": Source(
        "CIFAR-100, long-tailed as the LDAM release does it",
        sources.cifar,
        options=_CIFAR_OPTIONS,
        defaults=_CIFAR_DEFAULTS,
        place=_CIFAR_PLACE,
        classes=100,
        images={"train": 10847, "test": 10000},
    ),
    "imagenet-lt": _published(
        "ImageNet-LT, by its published lists",
        sources.Published(
            files={
                "train": "ImageNet_LT_train.txt",
                "val": "ImageNet_LT_val.txt",
                "test": "ImageNet_LT_test.txt",
            },
            images={"train": 115_846, "val": 20_000, "test": 50_000},
            classes=1000,
        ),
    ),
    "places-lt": _published(
        "Places-LT, by its published lists",
        sources.Published(
            files={
                "train": "Places_LT_train.txt",
                "val": "Places_LT_val.txt",
                "test": "Places_LT_test.txt",
            },
            images={"train": 62_500, "val": 7_300, "test": 36_500},
            classes=365,
        ),
    ),
    "inaturalist2018": _published(
        "iNaturalist 2018, by its lists; its val is the test split",
        sources.Published(
            files={"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
            images={"train": 437_513, "test": 24_426},
            classes=8142,
        ),
    ),
    "lists": Source(
        "any images, by list files of lines 'relative/path label'",
        sources.lists,
        options=_LIST_OPTIONS,
        needs=("root", "train_list", "test_list"),
        place="--root: the images; the lists wherever they are",
    ),
    "folder": Source(
        "any images, in a sub-folder per class",
        sources.folder,
        options=(
            "root",
            "imbalance",
            "val_per_class",
            "test_per_class",
            "data_seed",
            "image_size",
            "train_balanced",
            "skip_unreadable",
            "stream",
        ),
        needs=("root",),
        defaults={"val_per_class": 0, "test_per_class": 0, "data_seed": 0},
        place="--root: train/CLASS, test/CLASS and, if there, val/CLASS; or CLASS alone",
    ),
}
"""The data sets of stage 1, by name."""


_SETTINGS = (
    Setting("imbalance", 100.0, "n_max / n_min", low=1),
    Setting("val_per_class", 0, "images of each class held out first", low=0),
    Setting("test_per_class", 0, "images of each class held out first of all", low=0),
    Setting("data_seed", 0, "which images are kept", low=0, high=2**32 - 1),  # RandomState's range
    Setting("image_size", 32, "side of the square images are cropped to", low=1),
)


def load_dataset(settings: DatasetSettings) -> ImageDataset:
    """Load a data set.

    Raises
    ------
    ConfigError
        For a wrong name or option, a missing list file or a missing data set.
    DataError, LabelRange
        For an image or a list line that cannot be used.
    """
    if problems := dataset_problems(settings):
        raise errors.ConfigError(" ".join(problems))
    source = DATASETS[settings.name]
    missing = {k: v for k, v in source.defaults.items() if getattr(settings, k) is None}
    return source.load(dataclasses.replace(settings, **missing))


def dataset_problems(settings: DatasetSettings) -> list[str]:
    """Every wrong name or option of `settings`, one sentence each."""
    if settings.name not in DATASETS:
        return [f"Unknown data set {settings.name!r}. {errors.closest(settings.name, [*DATASETS])}"]
    source, name = DATASETS[settings.name], f"data set {settings.name!r}"
    given = {
        option: value
        for option, value in vars(settings).items()
        if option != "name" and value is not None and value is not False
    }
    problems = []
    for option in source.needs:
        if option not in given:
            problems.append(f"The {name} needs {flag(option)}.")
    for option in given:
        if option not in source.options:
            takes = ", ".join(map(flag, source.options))
            problems.append(f"The {name} does not take {flag(option)}; it takes {takes}.")
    return problems + wrong_values(_SETTINGS, given, name)
