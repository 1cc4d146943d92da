"""The data sets of stage 1 by name: which options each takes and needs, and their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from featbank import errors
from featbank.settings import Setting, wrong_values
from stage1 import sources
from stage1.images import DatasetSettings, ImageDataset


@dataclass(frozen=True)
class Source:
    """A row of `DATASETS`: how to load it, the options it takes and needs, and its defaults."""

    description: str
    load: Callable[[DatasetSettings], ImageDataset]
    options: tuple[str, ...]
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


_CIFAR_OPTIONS = ("root", "download", "imbalance", "val_per_class", "data_seed")
_CIFAR_DEFAULTS = {"root": "data", "imbalance": 100.0, "val_per_class": 0, "data_seed": 0}

DATASETS: dict[str, Source] = {
    "digits-lt": Source(
        "scikit-learn's digits, 8×8 grey, long-tailed; needs no download",
        sources.digits,
        options=("imbalance", "data_seed"),
        defaults={"imbalance": 50.0, "data_seed": 0},
        training={"backbone": "resnet8", "epochs": 100, "batch_size": 32},
    ),
    "cifar10-lt": Source(
        "CIFAR-10, long-tailed as the LDAM release does it",
        sources.cifar,
        options=_CIFAR_OPTIONS,
        defaults=_CIFAR_DEFAULTS,
    ),
    "cifar100-lt": Source(
        "CIFAR-100, long-tailed as the LDAM release does it",
        sources.cifar,
        options=_CIFAR_OPTIONS,
        defaults=_CIFAR_DEFAULTS,
    ),
    "lists": Source(
        "any images, by list files of lines 'relative/path label'",
        sources.lists,
        options=("root", "train_list", "test_list", "val_list", "class_names", "image_size"),
        needs=("root", "train_list", "test_list"),
    ),
}
"""The data sets of stage 1, by name."""


_SETTINGS = (
    Setting("imbalance", 100.0, "n_max / n_min", low=1),
    Setting("val_per_class", 0, "images of each class held out first", low=0),
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
            problems.append(f"The {name} needs {_flag(option)}.")
    for option in given:
        if option not in source.options:
            takes = ", ".join(map(_flag, source.options))
            problems.append(f"The {name} does not take {_flag(option)}; it takes {takes}.")
    return problems + wrong_values(_SETTINGS, given, name)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
