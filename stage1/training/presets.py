"""Published settings of stage 1, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedSettings:
    """A row of `PRESETS`: a description, and the fields of `TrainSettings` that it sets."""

    description: str
    settings: Mapping[str, Any]


_MISLAS_CIFAR: dict[str, Any] = {
    "backbone": "resnet32",
    "epochs": 200,
    "lr": 0.1,
    "warmup": 5,
    "batch_size": 128,
    "weight_decay": 2e-4,
    "schedule": "multistep",
    "mixup": 1.0,
}


def _mislas_large(
    data: str,
    *,
    backbone: str,
    epochs: int,
    weight_decay: float = 5e-4,
    augmentation: str = "resized-crop",
) -> PublishedSettings:
    return PublishedSettings(
        f"{data} [MiSLAS]",
        {
            "backbone": backbone,
            "epochs": epochs,
            "lr": 0.1,
            "warmup": 0,
            "batch_size": 256,
            "weight_decay": weight_decay,
            "schedule": "cosine",
            "mixup": 0.2,
            "augmentation": augmentation,
        },
    )


PRESETS: dict[str, PublishedSettings] = {
    "mislas-cifar": PublishedSettings(
        "CIFAR-10-LT and CIFAR-100-LT [MiSLAS]",
        _MISLAS_CIFAR,
    ),
    "sla-cifar": PublishedSettings(
        "CIFAR-10-LT and CIFAR-100-LT, three experts [SLA], else as mislas-cifar",
        {
            **_MISLAS_CIFAR,
            "experts": 3,
            "augmentation": "standard+cutout+autoaugment",
            "loss": "sla",
        },
    ),
    "los-cifar100": PublishedSettings(
        "CIFAR-100-LT [LOS, LTWB]",
        {
            "backbone": "cifar-resnet34",
            "epochs": 200,
            "lr": 0.01,
            "warmup": 0,
            "batch_size": 64,
            "weight_decay": 5e-3,
            "schedule": "cosine",
            "mixup": 0.0,
        },
    ),
    "crt-imagenet-lt": PublishedSettings(
        "ImageNet-LT [cRT]",
        {
            "backbone": "resnet50",
            "epochs": 90,
            "lr": 0.2,
            "warmup": 0,
            "batch_size": 512,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "mixup": 0.0,
            "augmentation": "resized-crop",
        },
    ),
    "mislas-imagenet-lt": _mislas_large("ImageNet-LT", backbone="resnet50", epochs=180),
    "mislas-places-lt": _mislas_large("Places-LT", backbone="resnet152", epochs=90),
    "mislas-inaturalist": _mislas_large(
        "iNaturalist 2018",
        backbone="resnet50",
        epochs=200,
        weight_decay=1e-4,
        augmentation="resized-flip",
    ),
}
"""The presets; on the large data sets, backbones are those that most papers report."""
