"""Settings of extraction from a pretrained model; importing them is quick.

PyTorch and the libraries of backbones are loaded where settings are checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from featbank import errors
from featbank.settings import option, options_of, wrong_values
from stage1.data.catalogue import dataset_problems
from stage1.data.settings import DatasetSettings
from stage1.inference.normalisation import NORMALISATIONS
from stage1.training.settings import OPTIONS as TRAINING

SEEN = ("train", "train+val", "none")
"""Splits that a pretrained model may have been trained on."""


@dataclass(frozen=True)
class Frozen:
    """A pretrained model and a data set, for `stage1.extract`.

    Attributes
    ----------
    weights
        File of its state dict, as `stage1.backbones.read_weights` takes it.
    backbone
        As `stage1.backbones.build_backbone` takes it.
    dataset
        Whose images go through it.
    normalisation
        The channel moments it was trained with: one of `NORMALISATIONS` of
        stage1.inference.normalisation. By default ``imagenet`` for three channels and a backbone of
        torchvision or timm, else ``data``.
    seen
        The splits that it was trained on: ``train``, ``train+val`` or ``none``. By default
        ``train`` if the weights have a classifier of the data set's classes, else ``none``.
    augmentation
        One of `stage1.augment.AUGMENTATIONS`: of the augmented copies, and of the images from which
        the balanced statistics are estimated.

    Raises
    ------
    ConfigError
        Naming every wrong value at once.
    """

    weights: str = field(
        metadata={
            "help": "In place of RUN: state dict of a pretrained model, a torch file or "
            ".safetensors. It needs --backbone and --dataset; the options below belong to it."
        }
    )
    backbone: str = field(
        metadata={"help": TRAINING["backbone"].help, "default_help": "that of RUN"}
    )
    dataset: DatasetSettings
    normalisation: str | None = option(
        None,
        TRAINING["normalisation"].help,
        choices=NORMALISATIONS,
        default_help="imagenet for colour images and a backbone of torchvision or timm, else data",
    )
    seen: str | None = option(
        None,
        "Images that the weights were trained on: no val among them selects fairly, and no "
        "calibration is fitted to them. ImageNet-LT's train and val are images of ImageNet's train "
        "set.",
        choices=SEEN,
        default_help="train where the weights have a classifier of the data set's classes, else "
        "none",
    )
    augmentation: str = option(
        "standard",
        "Augmentation of the copies of --augmentations and of the images behind the balanced view, "
        "as in `featbank train`: standard, none, cutout, autoaugment, simclr or resized-crop.",
    )

    def __post_init__(self) -> None:
        from stage1.augment import AUGMENTATIONS
        from stage1.backbones import backbone_problem

        options = options_of(Frozen)
        options["augmentation"] = replace(options["augmentation"], choices=(*AUGMENTATIONS,))
        problems = dataset_problems(self.dataset)
        problems += wrong_values(options.values(), vars(self), "extraction")
        if problem := backbone_problem(self.backbone):
            problems.append(problem)
        if problems:
            raise errors.ConfigError(" ".join(problems))
