"""Backbones: images to features, with the linear classifier they are trained under.

- ``resnet8``, ``resnet20``, ``resnet32``, …: the CIFAR ResNet of any depth 6n+2 but 50 and 152;
  ``cifar-resnet8``, …, ``cifar-resnet50``, …: the same, of every depth 6n+2. D = 64.
- ``cifar-resnet34``: the ResNet-34 for 32×32 images. 34 is no 6n+2, and it is the name by which
  CIFAR papers know it; but it is of another family. D = 512.
- ``resnet10``, ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101``, ``resnet152``,
  ``resnext50_32x4d``, ``resnext101_32x8d``: torchvision's, made for large images.
- ``torchvision:NAME``: any classification model of torchvision with a linear head.
- ``timm:NAME``: any model of timm, which is an extra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from featbank import errors
from stage1.backbones.base import Backbone, Outputs, SingleBackbone
from stage1.backbones.cifar import WIDTHS, CifarResNet
from stage1.backbones.cosine import CosineClassifier
from stage1.backbones.experts import Experts
from stage1.backbones.libraries import (
    RESNETS,
    cifar_resnet34,
    timm_backbone,
    timm_problem,
    torchvision_backbone,
    torchvision_problem,
)
from stage1.backbones.weights import load_weights, read_weights

__all__ = [
    "CLASSIFIERS",
    "WIDTHS",
    "Backbone",
    "CifarResNet",
    "CosineClassifier",
    "Experts",
    "Outputs",
    "SingleBackbone",
    "backbone_problem",
    "build_backbone",
    "load_weights",
    "read_weights",
]

_EXAMPLES = ["resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "cifar-resnet34", *RESNETS]


CLASSIFIERS = ("linear", "cosine")


def build_backbone(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    experts: int = 1,
    expert_weights: Sequence[float] = (),
    classifier: str = "linear",
) -> Backbone:
    """Build a backbone by name, with fresh weights from torch's global generator.

    Parameters
    ----------
    name
        One of the names above. A bare ``resnet50`` or ``resnet152`` is torchvision's, although
        50 and 152 are 6n+2 as well; the CIFAR ResNet of that depth is ``cifar-resnet50``.
    in_channels
        C of the images.
    num_classes
        K.
    experts
        E: 1 for the backbone itself, more for `Experts` made of it.
    expert_weights
        ε_k of each in loss and prediction; one alone, or none, stands for 1.
    classifier
        ``linear`` or ``cosine`` (`CosineClassifier`).

    Returns
    -------
    The model, in channels-last memory format, on the CPU, in training mode.

    Raises
    ------
    ConfigError
        For a name that is none of them, timm not installed, a model without a linear head, or
        experts of a backbone without stages.
    """
    if problem := backbone_problem(name):
        raise errors.ConfigError(problem)
    if classifier not in CLASSIFIERS:
        hint = errors.closest(classifier, CLASSIFIERS)
        raise errors.ConfigError(f"Unknown classifier {classifier!r}. {hint}")
    if experts < 1:
        raise errors.ConfigError(
            f"A backbone needs at least 1 expert, got {experts}. Take 1 for none beside it."
        )

    def single() -> SingleBackbone:
        model = _build(name, in_channels=in_channels, num_classes=num_classes)
        model.name = name
        if classifier == "cosine":
            model.classifier = CosineClassifier(model.dim, num_classes)
        return model

    model = single() if experts == 1 else Experts(single, experts, expert_weights)
    # Channels last is 1.2 to 1.6 times as fast on two CPU cores, and the format of tensor cores.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _build(name: str, **sizes: int) -> SingleBackbone:
    library, _, model_name = name.rpartition(":")
    if library == "timm":
        return timm_backbone(model_name, **sizes)
    if library == "torchvision" or name in RESNETS:
        return torchvision_backbone(model_name, **sizes)
    if name == "cifar-resnet34":
        return cifar_resnet34(**sizes)
    depth = int(name.removeprefix("cifar-").removeprefix("resnet"))
    return CifarResNet((depth - 2) // 6, **sizes)


def backbone_problem(name: str) -> str | None:
    """Say in one sentence what is wrong with a backbone's name; None if nothing.

    Only building it reveals a model without a linear head.
    """
    library, _, model_name = name.partition(":")
    if library == "torchvision" and model_name:
        return torchvision_problem(model_name)
    if library == "timm" and model_name:
        return timm_problem(model_name)
    if name in RESNETS:
        return None
    number = re.fullmatch("(cifar-)?resnet([1-9][0-9]{0,3})", name)
    if number is None:
        hint = errors.closest(name, [*_EXAMPLES, "torchvision:NAME", "timm:NAME"])
    else:
        prefix, depth = number[1] or "", int(number[2])
        others = {34} if prefix else {10, 18, 34, 101}
        below = max(8, (depth - 2) // 6 * 6 + 2)
        nearest = min(sorted({below, below + 6} | others), key=lambda known: abs(known - depth))
        if depth == nearest:
            return None
        hint = f"Did you mean '{prefix}resnet{nearest}'?"
    return (
        f"Unknown backbone {name!r}: CIFAR ResNets have a depth of 6n+2 (50 and 152 are written "
        "cifar-resnet50, cifar-resnet152), torchvision's one of 10, 18, 34, 50, 101, 152. "
        f"{hint}"
    )
