"""Named recipes: the settings of each paper's stage 2, as data.

A preset's settings are those it fixes; everything else is at the default of its part. `paper` holds
the numbers the papers report for full training (top-1 in percent), to stand beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES


@dataclass(frozen=True)
class RecipePreset:
    """A row of `PRESETS`: a named recipe.

    Attributes
    ----------
    settings
        Settings it fixes; ``head`` and, for a trained head, ``loss`` among them.
    description
        One line.
    source
        Citation key.
    variant
        Whether it is another preset at the settings of one data set; variants are left out when a
        sweep names no recipe.
    paper
        Reported top-1 by benchmark.
    """

    settings: Mapping[str, Any]
    description: str
    source: str
    variant: bool = False
    paper: Mapping[str, float] = field(default_factory=dict)


_STAGE2 = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "schedule": "cosine", "epochs": 10}
_CRT = {
    "head": "linear",
    "loss": "ce",
    "sampler": "class_aware",
    "lr": 0.2,
    "weight_decay": 5e-4,
    "batch_size": 512,
    "epochs": 10,
}
_LWS = {**_CRT, "head": "lws", "epochs": 5}
_LTWB = {
    "head": "linear",
    "init": "stage1",
    "loss": "cb_bce",
    "loss.beta": 0.9999,
    "max_norm_fraction": 0.1,
    "lr": 0.01,
    "weight_decay": 0.1,
    "batch_size": 64,
    "schedule": "cosine_prestep",
    "epochs": 10,
}
_GLAG = {
    "head": "lws",
    "loss": "distil",
    "distil_weight": 0.0,
    "distil_weight_end": 1.0,
    "distil_weight_base": 2.0,
    "generator": "afg",
    "support": 2,
    "generator.beta": 0.6,
    "generator.gamma": 0.1,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "schedule": "cosine",
    "epochs": 40,
}
_CIFAR = {"lr": 0.1, "batch_size": 128}


def _mislas(
    smooth_head: float,
    smooth_tail: float,
    delta_lr: float,
    *,
    view: str = "balanced",
    weight_decay: float = 2e-4,
    batch_size: int = 128,
) -> dict[str, Any]:
    return {
        "head": "mislas",
        "loss": "las",
        "sampler": "class_aware",
        "view": view,
        "smooth_head": smooth_head,
        "smooth_tail": smooth_tail,
        "delta_lr": delta_lr,
        "lr": 0.1,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "epochs": 10,
    }


def _variants(
    name: str, source: str, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, RecipePreset]:
    return {
        f"{name}-{suffix}": RecipePreset(
            values, f"{name} at its settings for {suffix}", source, True
        )
        for suffix, values in settings.items()
    }


def _of_losses() -> dict[str, RecipePreset]:
    """A fresh linear classifier under every loss that no paper's preset is named after."""
    return {
        name: RecipePreset(
            {"head": "linear", "loss": name, **_STAGE2},
            f"fresh classifier: {loss.description}",
            loss.source,
        )
        for name, loss in LOSSES.items()
        if name not in _PAPERS
    }


def _of_heads() -> dict[str, RecipePreset]:
    """Every head but `linear` that no paper's preset is named after, under cross-entropy."""
    taken = {*_PAPERS, "linear"}
    return {
        name: RecipePreset(
            {"head": name, **({"loss": "ce", **_STAGE2} if head.trained else {})},
            head.description,
            head.source,
        )
        for name, head in HEADS.items()
        if name not in taken
    }


_PAPERS: dict[str, RecipePreset] = {
    "crt": RecipePreset(
        _CRT,
        "classifier re-training on class-aware batches",
        "crt",
        paper={"ImageNet-LT ResNet-50": 47.3, "CIFAR-100-LT IF 100 ResNet-32, mixup": 45.1},
    ),
    "lws": RecipePreset(
        _LWS,
        "learnable weight scaling",
        "crt",
        paper={"ImageNet-LT ResNet-50": 47.7, "CIFAR-100-LT IF 100 ResNet-32, mixup": 44.2},
    ),
    "mislas": RecipePreset(
        _mislas(0.4, 0.1, 0.2),
        "label-aware smoothing and weight scaling (settings of CIFAR-100-LT, imbalance 100)",
        "mislas",
        paper={"CIFAR-100-LT IF 100 ResNet-32": 47.0, "ImageNet-LT ResNet-50": 52.7},
    ),
    "disalign": RecipePreset(
        {"head": "disalign", "loss": "weighted", "rho": 1.2, **_STAGE2, "batch_size": 256},
        "confidence-weighted calibration under generalised re-weighting",
        "disalign",
        paper={"ImageNet-LT ResNet-50": 51.3},
    ),
    "los": RecipePreset(
        {
            "head": "linear",
            "init": "stage1",
            "loss": "los",
            "smoothing": 0.98,
            "lr": 5e-4,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 20,
        },
        "label over-smoothing from the stage-1 classifier",
        "los",
        paper={"CIFAR-100-LT IF 100 ResNet-34": 54.9, "ImageNet-LT ResNeXt-50": 54.4},
    ),
    "balanced_softmax": RecipePreset(
        {
            "head": "linear",
            "loss": "balanced_softmax",
            "lr": 0.1,
            "weight_decay": 5e-4,
            "batch_size": 512,
            "schedule": "cosine_prestep",
            "epochs": 10,
        },
        "softmax with log n added, fresh classifier",
        "balms",
        paper={"CIFAR-100-LT IF 100 ResNet-34": 52.23},
    ),
    "ldam": RecipePreset(
        {
            "head": "cosine",
            "head.scale": 30.0,
            "loss": "ldam",
            **_STAGE2,
            "weight_decay": 2e-4,
        },
        "label-distribution-aware margin on a cosine classifier",
        "ldam",
        paper={"CIFAR-100-LT IF 100 ResNet-34": 52.94},
    ),
    "sla": RecipePreset(
        {
            "head": "linear",
            "init": "stage1",
            "loss": "sla",
            **_STAGE2,
            "lr": 0.01,
            "epochs": 20,
        },
        "logit-aware re-weighting from the stage-1 classifier",
        "sla",
        paper={"CIFAR-100-LT IF 100 ResNet-32, three experts": 54.6},
    ),
    "glag": RecipePreset(
        _GLAG,
        "weight scaling on generated features, with distillation on all but the rare classes",
        "glag",
        paper={"CIFAR-100-LT IF 100 ResNet-32": 51.7},
    ),
    "ltwb": RecipePreset(
        _LTWB, "max-norm constraint and class-balanced binary cross-entropy", "ltwb"
    ),
    "oracle": RecipePreset(
        {"head": "linear", "loss": "ce", "train_on": "train_balanced", **_STAGE2},
        "upper bound for any classifier: a linear one trained on balanced data",
        "disalign",
    ),
}
"""Settings that a paper or its release fixes."""

_VARIANTS: dict[str, RecipePreset] = {
    "ldam-linear": RecipePreset(
        {"head": "linear", "loss": "ldam", **_STAGE2},
        "ldam with its margin on the logits of a linear classifier",
        "ldam",
        variant=True,
    ),
    **_variants("crt", "crt", {"cifar": {**_CRT, **_CIFAR}}),
    "ltwb-released": RecipePreset(
        {**_LTWB, "max_norm_when": "epoch"},
        "ltwb with its norm bound applied once per epoch, as released",
        "ltwb",
        variant=True,
    ),
    **_variants("lws", "crt", {"cifar": {**_LWS, **_CIFAR, "epochs": 10}}),
    **_variants(
        "mislas",
        "mislas",
        {
            "cifar100-if50": _mislas(0.3, 0.0, 0.1),
            "cifar100-if10": _mislas(0.2, 0.0, 0.1),
            "cifar10-if100": _mislas(0.3, 0.0, 0.5, view="instance"),
            "cifar10-if50": _mislas(0.2, 0.0, 0.2, view="instance"),
            "cifar10-if10": _mislas(0.1, 0.0, 0.2, view="instance"),
            "imagenet": _mislas(0.3, 0.0, 0.05, weight_decay=5e-4, batch_size=256),
            "inaturalist": _mislas(0.3, 0.0, 0.05, weight_decay=1e-4, batch_size=256),
            "places": _mislas(0.4, 0.1, 0.05, weight_decay=5e-4, batch_size=256),
        },
    ),
}

PRESETS: dict[str, RecipePreset] = {**_PAPERS, **_of_losses(), **_of_heads(), **_VARIANTS}
"""Every preset by name."""
