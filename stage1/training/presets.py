"""Published settings of stage 1, by name.

Each says where its settings come from: the paper, its released code, or us where both are silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featbank.settings import flag, value_text


@dataclass(frozen=True)
class PublishedSettings:
    """A row of `PRESETS`.

    Attributes
    ----------
    description
        One line: the data, and what is trained.
    source
        Where the settings come from: ``paper``, ``release`` or ``ours`` first, and what differs.
    settings
        The fields of `TrainSettings` that it sets.
    weights
        Model that it starts from, whose file must be given; empty for none.
    """

    description: str
    source: str
    settings: Mapping[str, Any]
    weights: str = ""

    @property
    def described(self) -> str:
        """Description and source, in a line."""
        return f"{self.description} ({self.source})"

    @property
    def options(self) -> Iterator[str]:
        """The settings as on the command line: ``--lr 0.1``, ``--set strength=0.5``."""
        for name, value in self.settings.items():
            if name == "loss_settings":
                yield from (f"--set {key}={value_text(entry)}" for key, entry in value.items())
            else:
                yield flag(name) if value is True else f"{flag(name)} {value_text(value)}"
        if self.weights:
            yield "--weights FILE"


_CIFAR = {
    "backbone": "resnet32",
    "epochs": 200,
    "lr": 0.1,
    "warmup": 0,
    "batch_size": 128,
    "weight_decay": 5e-4,
    "schedule": "multistep",
    "mixup": 0.0,
    "augmentation": "standard",
}
_LARGE = {
    "backbone": "resnet50",
    "epochs": 180,
    "lr": 0.1,
    "warmup": 0,
    "batch_size": 256,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "mixup": 0.0,
    "augmentation": "resized-crop",
}
_GLAG = {"epochs": 200, "schedule": "cosine", "loss": "gradual"}

PRESETS: dict[str, PublishedSettings] = {
    "mislas-cifar": PublishedSettings(
        "CIFAR-10-LT and CIFAR-100-LT with mixup",
        "release of MiSLAS, which decays weights by 2e-4",
        {**_CIFAR, "warmup": 5, "weight_decay": 2e-4, "mixup": 1.0},
    ),
    "sla-cifar": PublishedSettings(
        "CIFAR-10-LT and CIFAR-100-LT, three experts",
        "paper, SLA §5.3 and appendix; γ = 1 of the loss and the strength of SimCLR are ours",
        {
            **_CIFAR,
            "mixup": 0.2,
            "augmentation": "standard+simclr-blur+autoaugment-cifar",
            "experts": 3,
            "loss": "sla",
        },
    ),
    "los-cifar100": PublishedSettings(
        "CIFAR-100-LT, ResNet-34 with strong weight decay",
        "paper, LOS, which takes the settings of LTWB's release",
        {
            **_CIFAR,
            "backbone": "cifar-resnet34",
            "lr": 0.01,
            "batch_size": 64,
            "weight_decay": 5e-3,
            "schedule": "cosine",
        },
    ),
    "glag-cifar": PublishedSettings(
        "CIFAR-10-LT and CIFAR-100-LT with GraLoss",
        "paper, GLAG; lr 0.1 is not given there, and ours; the augmentation is BALMS's",
        {**_CIFAR, "augmentation": "autoaugment", **_GLAG},
    ),
    "crt-imagenet-lt": PublishedSettings(
        "ImageNet-LT, ResNet-50, to which papers compare",
        "release of cRT, there with ResNeXt-50",
        {**_LARGE, "epochs": 90, "lr": 0.2, "batch_size": 512},
    ),
    "glag-imagenet-lt": PublishedSettings(
        "ImageNet-LT with GraLoss",
        "paper, GLAG; lr 0.2 is not given there, and ours, that of cRT",
        {**_LARGE, "lr": 0.2, "batch_size": 512, **_GLAG},
    ),
    "sla-imagenet-lt": PublishedSettings(
        "ImageNet-LT, three experts; ResNeXt-50 at --batch-size 64",
        "paper, SLA §5.3 and appendix; γ = 1 of the loss and the strength of SimCLR are ours",
        {
            **_LARGE,
            "lr": 0.025,
            "batch_size": 128,
            "mixup": 0.1,
            "augmentation": "resized-crop+simclr+autoaugment-imagenet",
            "experts": 3,
            "loss": "sla",
            "deferral": 0.889,
        },
    ),
    "mislas-imagenet-lt": PublishedSettings(
        "ImageNet-LT with mixup", "release of MiSLAS", {**_LARGE, "mixup": 0.2}
    ),
    "mislas-places-lt": PublishedSettings(
        "Places-LT with mixup, from ImageNet weights, the last block trained",
        "release of MiSLAS; weights by the paper's Table 9, frozen as in cRT",
        {
            **_LARGE,
            "backbone": "resnet152",
            "epochs": 90,
            "mixup": 0.2,
            "normalisation": "imagenet",
            "freeze_but_last_block": True,
        },
        weights="a ResNet-152 trained on ImageNet",
    ),
    "mislas-inaturalist": PublishedSettings(
        "iNaturalist 2018 with mixup",
        "paper, MiSLAS; its release jitters colours, too",
        {
            **_LARGE,
            "epochs": 200,
            "weight_decay": 1e-4,
            "mixup": 0.2,
            "augmentation": "resized-flip",
        },
    ),
    "glag-inaturalist": PublishedSettings(
        "iNaturalist 2018 with GraLoss of strength 0.5",
        "paper, GLAG, for loss and epochs; all else is not given and ours, the release of cRT's",
        {
            **_LARGE,
            "lr": 0.2,
            "batch_size": 512,
            "weight_decay": 1e-4,
            "augmentation": "resized-flip",
            **_GLAG,
            "loss_settings": {"strength": 0.5},
        },
    ),
}
"""The presets; on the large data sets, backbones are those that most papers report."""
