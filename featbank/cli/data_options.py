"""Options that `featbank train` and `featbank extract` share: data set, backbone, preparation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import click

from featbank.cli import completion
from featbank.settings import flag

BACKBONE = (
    "resnetN: for N of 10, 18, 34, 50, 101, 152 torchvision's, for any other 6n+2 the CIFAR "
    "ResNet, which is cifar-resnetN for all 6n+2, so cifar-resnet50; cifar-resnet34, the ResNet-34 "
    "for 32×32 images; resnext50_32x4d, resnext101_32x8d; torchvision:NAME, any other model of it; "
    "timm:NAME, with featbank[timm]."
)
AUGMENTATION = (
    "standard (crop and mirror), none, cutout, autoaugment (the CIFAR-10 policy, and Cutout), "
    "simclr or resized-crop"
)
NORMALISATION = (
    "Channel means and deviations: data, those of the training images; or what pretrained models "
    "had: imagenet, half (0.5 and 0.5) or clip."
)

DATASET_OPTIONS: dict[str, dict[str, Any]] = {
    "root": {"help": "Folder of the images. [default: cifar data; others: required]"},
    "download": {"is_flag": True, "help": "cifar: download to --root. [default: no]"},
    "imbalance": {
        "type": float,
        "help": "n_max / n_min of the training counts. "
        "[default: cifar 100, digits-lt 50, folder its own counts]",
    },
    "val_per_class": {
        "type": int,
        "help": "cifar, folder: training images held out for val. [default: 0]",
    },
    "test_per_class": {
        "type": int,
        "help": "folder: training images held out for test, before those for val. [default: 0]",
    },
    "data_seed": {
        "type": int,
        "help": "Seed of what is held out and of the long tail. [default: 0]",
    },
    "train_balanced": {
        "is_flag": True,
        "help": "Keep the training images before the long tail, too, as the split train_balanced "
        "of the bank: what `oracle` learns from. [default: no]",
    },
    "train_list": {
        "help": "lists: file of lines 'relative/path label'. "
        "[imagenet-lt, places-lt, inaturalist2018: as published, in --root; lists: required]",
    },
    "test_list": {"help": "The same, of the test split. [others: as above; lists: required]"},
    "val_list": {
        "help": "The same, of the val split. [default: no val split; others: as above]",
    },
    "class_names": {
        "help": "lists: file with one name per line. [default: classes are numbers]",
    },
    "image_size": {
        "type": int,
        "help": "lists, folder: resize the shorter side, keep the centre. "
        "[default: the images' own size; imagenet-lt, places-lt, inaturalist2018: 224]",
    },
    "allow_outside": {
        "is_flag": True,
        "help": "lists: read images outside --root, which lists name by .. or from /. "
        "[default: no]",
    },
    "skip_unreadable": {
        "is_flag": True,
        "help": "lists, folder: leave missing and broken images out, with a warning. [default: no]",
    },
}
"""Options of a data set, as `DatasetSettings` of stage 1 names them, by what click takes."""

Command = Callable[..., Any]


def dataset_options(*, default: str = "", **helps: str) -> Callable[[Command], Command]:
    """The decorator that adds ``--dataset`` and `DATASET_OPTIONS` to a command.

    Parameters
    ----------
    default
        What holds where no data set is named; without it, one must be.
    helps
        Other help of an option, by name.
    """

    def decorate(command: Command) -> Command:
        for name, attributes in reversed(DATASET_OPTIONS.items()):
            told = {**attributes, "help": helps.get(name, attributes["help"])}
            command = click.option(flag(name), **told)(command)
        return click.option(
            "--dataset",
            required=not default,
            shell_complete=completion.datasets,
            help="digits-lt, cifar10-lt, cifar100-lt, imagenet-lt, places-lt, inaturalist2018, "
            "lists or folder; `featbank datasets` tells of them."
            + (f" [default: {default}]" if default else ""),
        )(command)

    return decorate


def silence_pillow() -> None:
    """Ignore Pillow's warnings: they name no file, and what matters is reported with its file."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
