"""The settings of a training run, and the learning rate they give; importing them is quick.

PyTorch and the libraries of backbones are loaded where settings are checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featbank import errors
from featbank.settings import option, options_of, read_number, shortened, wrong_values
from stage1.data.catalogue import DATASETS, dataset_problems
from stage1.data.settings import DatasetSettings
from stage1.inference.normalisation import NORMALISATIONS
from stage1.training.presets import PRESETS

if TYPE_CHECKING:
    from stage1.backbones import Backbone

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
    backbone: str = option(
        "resnet32",
        "resnetN: for N of 10, 18, 34, 50, 101, 152 torchvision's, for any other 6n+2 the CIFAR "
        "ResNet, which is cifar-resnetN for all 6n+2, so cifar-resnet50; cifar-resnet34, the "
        "ResNet-34 for 32×32 images; resnext50_32x4d, resnext101_32x8d; torchvision:NAME, any "
        "other model of it; timm:NAME, with featbank[timm].",
    )
    weights: str | None = option(
        None,
        "Start from the state dict in this file; its classifier is used only where the number of "
        "classes is the same.",
        default_help="random weights",
    )
    weights_sha256: str | None = None
    freeze_but_last_block: bool = option(
        False,
        "Train only the last residual stage (layer4) and the classifier, as cRT does on Places-LT; "
        "all else stays as in --weights, BatchNorm statistics too.",
    )
    experts: int = option(
        1,
        "Deep branches over shared early layers, each with a classifier; the bank has their views "
        "expert0/instance, …",
        low=1,
    )
    expert_weights: str = option(
        "1",
        "Weights ε of the experts' losses and softmax outputs [SLA eq. 19]: one for each joined by "
        "+, as 1+1+0.5, or 1.",
    )
    classifier: str = option(
        "linear",
        "linear, or cosine with a scale of 30, which --loss ldam needs.",
        choices=("linear", "cosine"),
    )
    epochs: int = option(200, "Passes over the training images.", low=1)
    lr: float = option(0.1, "Learning rate of SGD.", above=0)
    batch_size: int = option(128, "Images per step.", low=1)
    momentum: float = option(0.9, "Momentum of SGD.", low=0, below=1)
    nesterov: bool = option(False, "Nesterov's momentum.")
    weight_decay: float = option(2e-4, "Weight decay.", low=0)
    schedule: str = option(
        "multistep",
        "multistep (×0.1 at 80 and 90 % of the epochs) or cosine.",
        choices=("multistep", "cosine"),
    )
    warmup: int = option(
        5, "Epochs of linear warm-up; by default at most a tenth of the epochs.", low=0
    )
    augmentation: str = option(
        "standard",
        "standard (crop and mirror), none, cutout, autoaugment (the CIFAR-10 policy, and Cutout), "
        "autoaugment-cifar and -imagenet (without), simclr, simclr-blur, resized-crop or "
        "resized-flip; one for each expert joined by +, as standard+cutout+simclr. Extraction uses "
        "it, too.",
    )
    normalisation: str = option(
        "data",
        "Channel means and deviations: data, those of the training images; or those that "
        "pretrained models had: imagenet, half (0.5 and 0.5) or clip.",
        choices=NORMALISATIONS,
    )
    mixup: float = option(0.0, "α of mixup's Beta(α, α); 0 is off.", low=0)
    seed: int = option(0, "Seed of weights, order and augmentation.", low=0, high=2**63 - 1)
    precision: str = option(
        "fp32",
        "fp32, or bf16 autocast, slower on CPUs without bf16 instructions.",
        choices=("fp32", "bf16"),
    )
    compile: bool = option(
        False,
        "Compile the training step with torch.compile: a minute or so at the start, which pays in "
        "long runs on a GPU.",
    )
    keep: str = option(
        "last",
        "Epoch whose weights the checkpoint has: last, or best, the first with the highest "
        "accuracy on val.",
        choices=("last", "best"),
    )
    checkpoint_every: int = option(
        10, "Epochs between two states from which a stopped run can resume.", low=1
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, …")
    loss: str = option(
        "ce",
        "A loss of `featbank methods`; sla is logit_adjusted before the epoch of --deferral, and "
        "without mixup from there on.",
    )
    loss_settings: dict[str, Any] = field(default_factory=dict)
    sampler: str = option(
        "instance",
        "Images of an epoch: instance, each once; or with replacement class_balanced, all classes "
        "alike, or sqrt, by the square root of their counts.",
        choices=("instance", "class_balanced", "sqrt"),
    )
    deferred_sampling: bool = option(
        False, "Deferred re-sampling: class-balanced batches from the epoch of --deferral on."
    )
    drop_augmentation: bool = option(
        False, "Train on plain images from the epoch of --deferral on, as Fig. 3 of SLA has it."
    )
    deferral: float = option(
        0.8,
        "Share of the epochs before --drw, --drs, --drop-augmentation and the weights of sla act: "
        "160 of 200.",
        low=0,
        below=1,
    )

    def __post_init__(self) -> None:
        from stage1.backbones import backbone_problem

        problems = dataset_problems(self.dataset)
        problems += wrong_values(OPTIONS.values(), vars(self), "stage 1")
        if problem := backbone_problem(self.backbone):
            problems.append(problem)
        problems += _augmentation_problems(self.augmentation, self.experts)
        problems += _weight_problems(self.expert_weights, self.experts)
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
        if self.deferred_sampling and self.sampler == "class_balanced":
            problems.append(
                "--drs changes nothing after --sampler class_balanced. Leave one of them out."
            )
        if problems:
            raise errors.ConfigError(" ".join(problems))

    def model(self, *, in_channels: int, num_classes: int) -> Backbone:
        """The model that is trained under these settings, with fresh weights."""
        from stage1.backbones import build_backbone

        return build_backbone(
            self.backbone,
            in_channels=in_channels,
            num_classes=num_classes,
            experts=self.experts,
            expert_weights=tuple(map(float, self.expert_weights.split("+"))),
            classifier=self.classifier,
        )


OPTIONS = options_of(TrainSettings)
"""Settings of training by name, but `dataset`, `loss_settings` and `weights_sha256`."""


def default_settings(
    dataset: DatasetSettings | str, *, preset: str | None = None, **changes: Any
) -> TrainSettings:
    """Settings for `dataset`, which may be just its name.

    The defaults of the data set, then a `preset` of `stage1.training.presets`, then `changes`. A
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
    settings = dict(DATASETS[dataset.name].training) if dataset.name in DATASETS else {}
    if preset is not None and preset not in PRESETS:
        raise errors.ConfigError(f"Unknown preset {preset!r}. {errors.closest(preset, PRESETS)}")
    if preset is not None:
        settings |= _of_preset(preset, changes)
    settings |= changes
    if "warmup" not in changes:
        epochs = settings.get("epochs", TrainSettings.epochs)
        warmup = settings.get("warmup", TrainSettings.warmup)
        settings["warmup"] = max(0, min(warmup, epochs // 10))
    return TrainSettings(dataset, **settings)


def _of_preset(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a preset; those of its loss are for no other.

    Raises
    ------
    ConfigError
        Where the weights it starts from are not among the `changes`.
    """
    preset = PRESETS[name]
    if preset.weights and changes.get("weights") is None:
        raise errors.ConfigError(
            f"Preset {name!r} starts from {preset.weights}. Give the file of its weights by "
            "--weights."
        )
    settings = dict(preset.settings)
    if changes.get("loss", settings.get("loss")) != settings.get("loss"):
        settings.pop("loss_settings", None)
    return settings


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
    """First epoch, of 0…T−1, of deferred weights and sampling: 160 of 200, at most the last."""
    return min(round(settings.deferral * settings.epochs), settings.epochs - 1)


def _augmentation_problems(text: str, experts: int) -> list[str]:
    from stage1.augment import AUGMENTATIONS

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


def _weight_problems(text: str, experts: int) -> list[str]:
    """The problems of ε_k written as ``1+1+0.5``; a single 1 stands for all."""
    words = text.split("+")
    values = [read_number(word, float) for word in words]
    if not all(value is not None and 0 < value < math.inf for value in values):
        return [
            "The 'expert_weights' of stage 1 must be floats > 0 joined by +, as 1+1+0.5, got "
            f"{shortened(text)}."
        ]
    if text != TrainSettings.expert_weights and experts == 1:
        return ["The 'expert_weights' of stage 1 weigh several experts. Give --experts, too."]
    if text != TrainSettings.expert_weights and len(words) != experts:
        return [
            f"The 'expert_weights' of stage 1 are {len(words)}, for {experts} experts. Give one "
            "for each."
        ]
    return []


def settings_from(document: dict[str, Any]) -> TrainSettings:
    """The inverse of `dataclasses.asdict`, for settings read from a checkpoint."""
    fields = dict(document)
    return TrainSettings(DatasetSettings(**fields.pop("dataset")), **fields)
