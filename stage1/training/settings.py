"""The settings of a training run: names, defaults, checks, and the learning rate they give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from featbank import errors
from featbank.settings import Setting, wrong_values
from stage1.augment import AUGMENTATIONS
from stage1.backbones import CLASSIFIERS, Backbone, backbone_problem, build_backbone
from stage1.data.datasets import DATASETS, dataset_problems
from stage1.data.images import DatasetSettings
from stage1.inference.normalisation import NORMALISATIONS
from stage1.training.presets import PRESETS

SCHEDULES = ("multistep", "cosine")
PRECISIONS = ("fp32", "bf16")
KEEP = ("last", "best")
MILESTONES = (0.8, 0.9)
"""Shares of the epochs after which `multistep` multiplies the rate by 0.1: 160 and 180 of 200."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of stage 1; the defaults are the CIFAR-LT row of [MiSLAS], mixup off.

    Raises
    ------
    ConfigError
        Naming every wrong setting at once.
    """

    dataset: DatasetSettings
    backbone: str = "resnet32"
    weights: str | None = None
    weights_sha256: str | None = None
    freeze_but_last_block: bool = False
    experts: int = 1
    classifier: str = "linear"
    epochs: int = 200
    lr: float = 0.1
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    schedule: str = "multistep"
    warmup: int = 5
    augmentation: str = "standard"
    normalisation: str = "data"
    mixup: float = 0.0
    loss: str = "ce"
    loss_settings: dict[str, Any] = field(default_factory=dict)
    deferred_sampling: bool = False
    deferral: float = 0.8
    seed: int = 0
    precision: str = "fp32"
    compile: bool = False
    keep: str = "last"
    checkpoint_every: int = 10
    device: str = "auto"

    def __post_init__(self) -> None:
        problems = dataset_problems(self.dataset)
        problems += wrong_values(_SETTINGS, vars(self), "stage 1")
        if problem := backbone_problem(self.backbone):
            problems.append(problem)
        problems += _augmentation_problems(self.augmentation, self.experts)
        if self.freeze_but_last_block and self.weights is None:
            problems.append(
                "--freeze-but-last-block would keep random weights. Give trained --weights."
            )
        if not problems and self.warmup >= self.epochs:
            problems.append(
                f"The 'warmup' of stage 1 must be shorter than its {self.epochs} epochs, "
                f"got {self.warmup}."
            )
        if not problems and self.nesterov and self.momentum == 0:
            problems.append("The 'nesterov' of stage 1 needs a 'momentum' > 0, got 0.")
        if problems:
            raise errors.ConfigError(" ".join(problems))

    def model(self, *, in_channels: int, num_classes: int) -> Backbone:
        """The model that is trained under these settings, with fresh weights."""
        return build_backbone(
            self.backbone,
            in_channels=in_channels,
            num_classes=num_classes,
            experts=self.experts,
            classifier=self.classifier,
        )


def default_settings(
    dataset: DatasetSettings | str, *, preset: str | None = None, **changes: Any
) -> TrainSettings:
    """Settings for `dataset`, which may be just its name.

    Its own defaults, then those of a `preset` of `stage1.training.presets`, then `changes`. A
    warm-up that is not among the `changes` is at most a tenth of the epochs.

    Raises
    ------
    ConfigError
        Naming every wrong setting at once.

    Examples
    --------
    >>> default_settings("digits-lt").backbone
    'resnet8'
    >>> default_settings("cifar10-lt", epochs=20).warmup
    2
    """
    if isinstance(dataset, str):
        dataset = DatasetSettings(dataset)
    own = DATASETS[dataset.name].training if dataset.name in DATASETS else {}
    if preset is not None and preset not in PRESETS:
        raise errors.ConfigError(f"Unknown preset {preset!r}. {errors.closest(preset, PRESETS)}")
    settings = {**own, **(PRESETS[preset].settings if preset else {}), **changes}
    if "warmup" not in changes:
        epochs = settings.get("epochs", TrainSettings.epochs)
        warmup = settings.get("warmup", TrainSettings.warmup)
        settings["warmup"] = max(0, min(warmup, epochs // 10))
    return TrainSettings(dataset, **settings)


def learning_rate(settings: TrainSettings, epoch: int) -> float:
    """Learning rate of `epoch` 0…T−1; it changes between epochs only.

    Warm-up of w epochs: lr·(epoch+1)/w. Then `multistep` multiplies by 0.1 from 80 % and again
    from 90 % of T on; `cosine` is lr·½(1 + cos(π·epoch/T)).
    """
    if epoch < settings.warmup:
        return settings.lr * (epoch + 1) / settings.warmup
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
    passed = sum(epoch >= round(share * settings.epochs) for share in MILESTONES)
    return settings.lr * 0.1**passed


def deferral_epoch(settings: TrainSettings) -> int:
    """Epoch 0…T−1 from which what is deferred acts: 160 of 200, the last at the latest."""
    return min(round(settings.deferral * settings.epochs), settings.epochs - 1)


def _augmentation_problems(text: str, experts: int) -> list[str]:
    names = text.split("+")
    unknown = [name for name in names if name not in AUGMENTATIONS]
    problems = [
        f"Unknown augmentation {name!r}. {errors.closest(name, [*AUGMENTATIONS])}"
        for name in unknown
    ]
    if not unknown and len(names) not in (1, experts):
        problems.append(
            f"The 'augmentation' of stage 1 names {len(names)}, for {experts} experts. "
            "Give one for all, or one for each."
        )
    return problems


def settings_from(document: dict[str, Any]) -> TrainSettings:
    """The inverse of `dataclasses.asdict`, for settings read from a checkpoint."""
    fields = dict(document)
    return TrainSettings(DatasetSettings(**fields.pop("dataset")), **fields)


_SETTINGS = (
    Setting("weights", None, "file of the weights to begin with", kind=str),
    Setting("experts", 1, "deep branches over shared early layers", low=1),
    Setting("classifier", "linear", "what gives the logits", choices=CLASSIFIERS),
    Setting("epochs", 200, "passes over the training images", low=1),
    Setting("lr", 0.1, "learning rate", above=0),
    Setting("batch_size", 128, "images of a step", low=1),
    Setting("momentum", 0.9, "momentum of SGD", low=0, below=1),
    Setting("weight_decay", 2e-4, "weight decay", low=0),
    Setting("schedule", "multistep", "learning rate over training", choices=SCHEDULES),
    Setting("warmup", 5, "epochs of linear warm-up", low=0),
    Setting("normalisation", "data", "channel moments of the input", choices=NORMALISATIONS),
    Setting("mixup", 0.0, "α of mixup's Beta(α, α); 0 is off", low=0),
    Setting("loss", "ce", "the loss"),
    Setting("deferral", 0.8, "share of the epochs before what is deferred acts", low=0, below=1),
    Setting("seed", 0, "seed of weights, order and augmentation", low=0, high=2**63 - 1),
    Setting("precision", "fp32", "precision of the forward pass", choices=PRECISIONS),
    Setting("compile", False, "whether the training step is compiled"),
    Setting("keep", "last", "epoch whose weights are kept", choices=KEEP),
    Setting("checkpoint_every", 10, "epochs between two states to resume from", low=1),
)
