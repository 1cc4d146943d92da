"""The data sets of stage 1, a row each: options, defaults and sizes; nothing here loads PyTorch.

The command line, its help and completion, and the checks of settings are made of these rows.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from featbank import errors
from featbank.settings import Setting, flag, options_of, value_text, wrong_values
from stage1.data.settings import DatasetSettings

SPLITS = ("train", "val", "test")
"""Splits that a data set may come with."""

OPTIONS = options_of(DatasetSettings)
"""Options of data sets, by name."""


@dataclass(frozen=True)
class DatasetRow:
    """A row of `DATASETS`.

    Attributes
    ----------
    description
        One line.
    reader
        Function of `stage1.data.sources.READERS` that loads it.
    place
        Where the images are looked for.
    options, needs
        Names of `OPTIONS` that it takes, and of those it requires.
    defaults
        Of its options, where they are not those of `OPTIONS`.
    training
        Defaults of `stage1.training.settings.TrainSettings` for it, likewise.
    files
        Names of published lists under the root, by the option that names another file.
    classes, images
        K, and numbers of images by split under the defaults; None and nothing where the images
        decide.
    """

    description: str
    reader: str
    place: str
    options: tuple[str, ...]
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None
    images: Mapping[str, int] = field(default_factory=dict)

    def default_text(self, setting: Setting) -> str:
        """The default of an option of data sets or of training, as help shows it."""
        if setting.name in self.needs:
            return "required"
        values = ChainMap(*map(dict, (self.files, self.defaults, self.training)))
        known = setting.name in values
        return value_text(values[setting.name]) if known else setting.default_text


_HELD_OUT = ("val_per_class", "val_fraction", "data_seed")
"""Options of data sets whose val is held out of train."""

_NONE_HELD_OUT = {"val_per_class": 0, "data_seed": 0}


def _cifar(classes: int, *, train: int) -> DatasetRow:
    return DatasetRow(
        f"CIFAR-{classes}, long-tailed as the LDAM release does it",
        reader="cifar",
        place="--root, as torchvision keeps it; --download fetches it",
        options=("root", "download", "imbalance", *_HELD_OUT, "train_balanced"),
        defaults={"root": "data", "imbalance": 100.0, **_NONE_HELD_OUT},
        classes=classes,
        images={"train": train, "test": 10_000},
    )


_LIST_OPTIONS = (
    "root",
    "train_list",
    "test_list",
    "val_list",
    "train_balanced_list",
    "class_names",
    "image_size",
    "resize",
    "allow_outside",
    "skip_unreadable",
    "stream",
)


def _published(
    description: str, *, files: Mapping[str, str], classes: int, images: Mapping[str, int]
) -> DatasetRow:
    """The row of a benchmark whose lists stand under the root by the names they are known by."""
    without_val = "val_list" not in files
    return DatasetRow(
        description,
        reader="lists",
        place=f"--root: the images and {', '.join(files.values())}",
        options=(*_LIST_OPTIONS, *(_HELD_OUT if without_val else ())),
        needs=("root",),
        defaults={"image_size": 224, "resize": 256, **(_NONE_HELD_OUT if without_val else {})},
        files=files,
        classes=classes,
        images=images,
    )


DATASETS: dict[str, DatasetRow] = {
    "digits-lt": DatasetRow(
        "scikit-learn's digits, 8×8 grey, long-tailed; needs no download",
        reader="digits",
        place="within scikit-learn",
        options=("imbalance", "data_seed", "train_balanced"),
        defaults={"imbalance": 50.0, "data_seed": 0},
        training={"backbone": "resnet8", "epochs": 100, "batch_size": 32},
        classes=10,
        images={"train": 328, "val": 150, "test": 400},
    ),
    "cifar10-lt": _cifar(10, train=12_406),
    "cifar100-lt": _cifar(100, train=10_847),
    "imagenet-lt": _published(
        "ImageNet-LT, by its published lists",
        files={
            "train_list": "ImageNet_LT_train.txt",
            "val_list": "ImageNet_LT_val.txt",
            "test_list": "ImageNet_LT_test.txt",
        },
        classes=1000,
        images={"train": 115_846, "val": 20_000, "test": 50_000},
    ),
    "places-lt": _published(
        "Places-LT, by its published lists",
        files={
            "train_list": "Places_LT_train.txt",
            "val_list": "Places_LT_val.txt",
            "test_list": "Places_LT_test.txt",
        },
        classes=365,
        images={"train": 62_500, "val": 7_300, "test": 36_500},
    ),
    "inaturalist2018": _published(
        "iNaturalist 2018, by its lists; its val is the test split",
        files={"train_list": "iNaturalist18_train.txt", "test_list": "iNaturalist18_val.txt"},
        classes=8142,
        images={"train": 437_513, "test": 24_426},
    ),
    "lists": DatasetRow(
        "any images, by list files of lines 'relative/path label'",
        reader="lists",
        place="--root: the images; the lists wherever they are",
        options=(*_LIST_OPTIONS, *_HELD_OUT),
        needs=("root", "train_list", "test_list"),
        defaults=_NONE_HELD_OUT,
    ),
    "folder": DatasetRow(
        "any images, in a sub-folder per class",
        reader="folder",
        place="--root: train/CLASS, test/CLASS and, if there, val/CLASS; or CLASS alone",
        options=(
            "root",
            "imbalance",
            *_HELD_OUT,
            "test_per_class",
            "image_size",
            "resize",
            "train_balanced",
            "skip_unreadable",
            "stream",
        ),
        needs=("root",),
        defaults={"test_per_class": 0, **_NONE_HELD_OUT},
    ),
}
"""The data sets of stage 1, by name."""


def dataset_problems(settings: DatasetSettings) -> list[str]:
    """Every wrong name or option of `settings`, one sentence each."""
    if settings.name not in DATASETS:
        return [f"Unknown data set {settings.name!r}. {errors.closest(settings.name, DATASETS)}"]
    row, owner = DATASETS[settings.name], f"data set {settings.name!r}"
    values = {name: getattr(settings, name) for name in OPTIONS}
    chosen = {n: value for n, value in values.items() if value is not None and value is not False}
    problems = [f"The {owner} needs {flag(name)}." for name in row.needs if name not in chosen]
    takes = ", ".join(map(flag, row.options))
    problems += [
        f"The {owner} does not take {flag(name)}; it takes {takes}."
        for name in chosen
        if name not in row.options
    ]
    if settings.val_per_class and settings.val_fraction:
        problems.append("--val-per-class and --val-fraction are both given. Give one of the two.")
    numbers = [setting for setting in OPTIONS.values() if setting.type in (int, float)]
    problems += wrong_values(numbers, chosen, owner)
    size = settings.image_size or row.defaults.get("image_size", 0)
    if not problems and settings.resize and not 0 < size <= settings.resize:
        had = f"is smaller than --image-size {size}" if size else "keeps no centre"
        problems.append(f"--resize {settings.resize} {had}. Give --image-size at most as large.")
    return problems


def resolved_settings(settings: DatasetSettings) -> DatasetSettings:
    """`settings` with the defaults of the data set; its `resize` follows another `image_size`."""
    defaults = dict(DATASETS[settings.name].defaults)
    size = settings.image_size
    if "resize" in defaults and size is not None:
        defaults["resize"] = round(defaults["resize"] * size / defaults["image_size"])
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return replace(settings, **missing)


def takers(option: str) -> str:
    """The data sets that take an option, in short: ``cifar, folder``."""
    return _in_short(name for name, row in DATASETS.items() if option in row.options)


def defaults_help(setting: Setting) -> str:
    """The defaults of an option of data sets or of training, by data set.

    ``[default: 100 (digits-lt), else 200]``, ``[default: data (cifar); required: lists, folder]``
    """
    names_by_text = defaultdict(list)
    for name, row in DATASETS.items():
        if setting.name in row.options or setting.name not in OPTIONS:
            names_by_text[row.default_text(setting)].append(name)
    required = names_by_text.pop("required", [])
    if len(names_by_text) == 1 and not required:
        return f"[default: {next(iter(names_by_text))}]"
    common = names_by_text.pop(setting.default_text, [])
    texts = [f"{text} ({_in_short(names)})" for text, names in names_by_text.items()]
    texts += [f"else {setting.default_text}"] if common else []
    parts = [f"default: {', '.join(texts)}"] if texts else []
    parts += [f"required: {_in_short(required)}"] if required else []
    return f"[{'; '.join(parts)}]"


def _in_short(names: Iterable[str]) -> str:
    """Names of data sets; all those of a reader go by its name, where no data set has that name."""
    names, shown = list(names), []
    for name in names:
        reader = DATASETS[name].reader
        others = {n for n, row in DATASETS.items() if row.reader == reader} - {name}
        whole = others and others <= {*names} and reader not in DATASETS
        shown.append(reader if whole else name)
    return ", ".join(dict.fromkeys(shown))
