"""Named recipes: the settings of each paper's stage 2, as data.

A preset's settings are those it fixes; everything else is at the default of its part. `origin`
says where they come from, and `reported` holds the top-1 in percent that papers report after full
training, to stand beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stage2.methods.baseline_presets import BASELINES
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe_preset import RecipePreset

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
_MAX_NORM = {
    "head": "linear",
    "init": "stage1",
    "loss": "ce",
    "max_norm_fraction": 0.1,
    "lr": 0.01,
    "weight_decay": 0.1,
    "batch_size": 64,
    "schedule": "cosine_prestep",
    "epochs": 10,
}
_LTWB = {**_MAX_NORM, "loss": "cb_bce", "loss.beta": 0.9999}
_DISALIGN = {"head": "disalign", "loss": "weighted", "rho": 1.2, **_STAGE2, "batch_size": 256}
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
    **_STAGE2,
    "epochs": 40,
}
_CIFAR = {"lr": 0.1, "batch_size": 128}
_LOS_TABLE = "CIFAR-100-LT IF 100 ResNet-34, shared backbone"
_RATES = "one set for every loss and head"
_REPORTED: dict[str, dict[str, dict[str, float]]] = {
    "cosine": {"los": {_LOS_TABLE: 52.20}},
    "tau_norm": {"crt": {"ImageNet-LT ResNet-50": 46.7}, "los": {_LOS_TABLE: 53.01}},
    "ncm": {"crt": {"ImageNet-LT ResNet-50": 44.3, "Places-LT ResNet-152": 36.4}},
    "logit_adjust": {"los": {_LOS_TABLE: 52.45}},
}
"""Figures of presets that are made from the registries."""


def _mislas(
    smooth_head: float,
    smooth_tail: float,
    delta_lr: float,
    *,
    view: str = "balanced",
    weight_decay: float = 2e-4,
    batch_size: int = 128,
    epochs: int = 10,
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
        "epochs": epochs,
    }


def _variant(
    name: str, suffix: str, settings: Mapping[str, Any], **more: Any
) -> dict[str, RecipePreset]:
    """A preset of `_PAPERS` at its settings for a data set, by its name."""
    source, data = _PAPERS[name].source, suffix.removesuffix("-released")
    text = f"{name} at its {'released ' * (data != suffix)}settings for {data}"
    return {f"{name}-{suffix}": RecipePreset(settings, text, source, True, **more)}


def _of_losses() -> dict[str, RecipePreset]:
    """A fresh linear classifier under every loss that no paper's preset is named after."""
    return {
        name: RecipePreset(
            {"head": "linear", "loss": name, **_STAGE2},
            f"fresh classifier: {loss.description}",
            loss.source,
            place=_RATES,
        )
        for name, loss in LOSSES.items()
        if name not in _PAPERS
    }


def _of_heads() -> dict[str, RecipePreset]:
    """Every head but `linear` that no paper's preset is named after, under cross-entropy."""
    return {
        name: RecipePreset(
            {"head": name, **({"loss": "ce", **_STAGE2} if head.trained else {})},
            head.description,
            head.source,
            place=_RATES if head.trained else "the defaults of the head",
            reported=_REPORTED.get(name, {}),
        )
        for name, head in HEADS.items()
        if name not in {*_PAPERS, "linear"}
    }


_PAPERS: dict[str, RecipePreset] = {
    "crt": RecipePreset(
        _CRT,
        "classifier re-training on class-aware batches",
        "crt",
        origin="release",
        reported={"crt": {"ImageNet-LT ResNet-50": 47.3}},
    ),
    "lws": RecipePreset(
        _LWS,
        "learnable weight scaling",
        "crt",
        origin="release",
        reported={"crt": {"ImageNet-LT ResNet-50": 47.7}},
    ),
    "mislas": RecipePreset(
        _mislas(0.4, 0.1, 0.2),
        "label-aware smoothing and weight scaling (settings of CIFAR-100-LT, imbalance 100)",
        "mislas",
        origin="release",
        reported={"mislas": {"CIFAR-100-LT IF 100 ResNet-32": 47.0}},
    ),
    "disalign": RecipePreset(
        _DISALIGN,
        "confidence-weighted calibration under generalised re-weighting",
        "disalign",
        origin="release",
        reported={"disalign": {"ImageNet-LT ResNet-50": 51.3}},
    ),
    "marc": RecipePreset(
        {"head": "marc", "loss": "weighted", "rho": 1.2, **_STAGE2},
        "scale and shift of the stage-1 margins under generalised re-weighting",
        "marc",
        place="rates as for every loss and head, weights as disalign",
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
        origin="paper",
        reported={
            "los": {"CIFAR-100-LT IF 100 ResNet-34": 54.9, "ImageNet-LT ResNeXt-50": 54.4},
        },
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
        origin="release",
        reported={"los": {_LOS_TABLE: 52.23}},
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
        place="the release's settings of stage 1, ten epochs",
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
        "logit-aware re-weighting from the stage-1 classifier: SLA's loss without its experts",
        "sla",
        place="an adaptation; the paper trains three experts with this loss in stage 1",
    ),
    "glag": RecipePreset(
        _GLAG,
        "weight scaling on generated features, with distillation on all but the rare classes",
        "glag",
        origin="paper",
        place="but learning rate, batch size and temperature are ours",
        reported={"glag": {"CIFAR-100-LT IF 100 ResNet-32, its own stage 1": 51.7}},
    ),
    "ltwb": RecipePreset(
        _LTWB,
        "max-norm constraint and class-balanced binary cross-entropy",
        "ltwb",
        origin="release",
        place="but the norm bound is applied after each step",
    ),
    "clap": RecipePreset(
        {"head": "clap", "loss": "ce", **_STAGE2, "weight_decay": 1.0},
        HEADS["clap"].description,
        "clap",
        place="penalty, rate and schedule of the release, ten epochs instead of 300",
    ),
    "max_norm": RecipePreset(
        _MAX_NORM,
        "max-norm constraint alone, from the stage-1 classifier",
        "ltwb",
        place="those of ltwb",
        reported={"los": {_LOS_TABLE: 51.64}},
    ),
    "cb_bce": RecipePreset(
        {"head": "linear", "init": "stage1", "loss": "cb_bce", **_STAGE2},
        "class-balanced binary cross-entropy from the stage-1 classifier",
        "ltwb",
        place=f"{_RATES}; a fresh classifier does not leave chance under this loss",
    ),
    "alf": RecipePreset(
        {
            "head": "attentive",
            "queries": 0,
            "values": 2,
            "token_norm": "layer",
            "loss": "weighted",
            "rho": 1.0,
            "optimiser": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch_size": 2048,
            "schedule": "cosine_step",
            "epochs": 40,
        },
        "attention over the layers of a backbone, a query for each of their tokens",
        "alf",
        origin="release",
        place="without its dropout of attention and batch normalisation; lr one of its grid",
    ),
    "oracle": RecipePreset(
        {"head": "linear", "loss": "ce", "train_on": "train_balanced", **_STAGE2},
        "upper bound for any classifier: a linear one trained on balanced data",
        "disalign",
    ),
    **BASELINES,
}
"""Presets with a name of their own, most of them a paper's."""

_TABLE_6: dict[str, Any] = {"origin": "paper", "place": "Table 6"}
_RELEASED: dict[str, Any] = {"origin": "release"}


def _by_mislas(benchmark: str, top1: float) -> dict[str, Any]:
    return {"reported": {"mislas": {benchmark: top1}}}


_VARIANTS: dict[str, RecipePreset] = {
    "ldam-linear": RecipePreset(
        {"head": "linear", "loss": "ldam", **_STAGE2},
        "ldam with its margin on the logits of a linear classifier",
        "ldam",
        variant=True,
        place=_RATES,
        reported={"los": {_LOS_TABLE: 52.94}},
    ),
    "disalign-cosine": RecipePreset(
        {**_DISALIGN, "z0": "cosine"},
        "disalign on the logits of a cosine classifier (DisAlign*)",
        "disalign",
        variant=True,
        place="those of disalign; s = 16 where a cosine probe is trained",
        reported={"disalign": {"ImageNet-LT ResNet-50": 52.9}},
    ),
    **{
        f"logit_adjusted-{suffix}": RecipePreset(
            {"head": "linear", "loss": "logit_adjusted", **weights, **_STAGE2},
            f"logit_adjusted with {what} (LA+{suffix.upper()}), from epoch defer on",
            "sla",
            variant=True,
            place="after Tables 1 and 6 of the paper, which do so late in stage 1",
        )
        for suffix, what, weights in (
            ("rw", "inverse-count weights", {"loss.rho": 1.0}),
            ("cb", "effective-number weights", {"loss.beta": 0.9999}),
            ("fl", "focusing", {"loss.gamma": 2.0}),
        )
    },
    **_variant(
        "crt",
        "cifar",
        {**_CRT, **_CIFAR},
        place="rate and batch size of MiSLAS on CIFAR",
        **_by_mislas("CIFAR-100-LT IF 100 ResNet-32, mixup", 45.1),
    ),
    "ltwb-released": RecipePreset(
        {**_LTWB, "max_norm_when": "epoch"},
        "ltwb with its norm bound applied once per epoch, as released",
        "ltwb",
        variant=True,
        origin="release",
    ),
    **_variant(
        "lws",
        "cifar",
        {**_LWS, **_CIFAR, "epochs": 10},
        place="rate and batch size of MiSLAS on CIFAR",
        **_by_mislas("CIFAR-100-LT IF 100 ResNet-32, mixup", 44.2),
    ),
    **_variant(
        "mislas",
        "cifar100-if50",
        _mislas(0.3, 0.0, 0.1),
        **_RELEASED,
        **_by_mislas("CIFAR-100-LT IF 50 ResNet-32", 52.3),
    ),
    **_variant(
        "mislas",
        "cifar100-if10",
        _mislas(0.2, 0.0, 0.1),
        **_RELEASED,
        **_by_mislas("CIFAR-100-LT IF 10 ResNet-32", 63.2),
    ),
    **_variant("mislas", "cifar10-if100", _mislas(0.3, 0.0, 0.5, view="instance"), **_RELEASED),
    **_variant("mislas", "cifar10-if50", _mislas(0.2, 0.0, 0.2, view="instance"), **_RELEASED),
    **_variant("mislas", "cifar10-if10", _mislas(0.1, 0.0, 0.2, view="instance"), **_RELEASED),
    **_variant(
        "mislas",
        "imagenet",
        _mislas(0.4, 0.1, 0.05, weight_decay=5e-4, batch_size=256),
        **_TABLE_6,
        **_by_mislas("ImageNet-LT ResNet-50", 52.7),
    ),
    **_variant(
        "mislas",
        "inaturalist",
        _mislas(0.4, 0.1, 0.05, weight_decay=1e-4, batch_size=256, epochs=30),
        **_TABLE_6,
        **_by_mislas("iNaturalist 2018 ResNet-50", 71.6),
    ),
    **_variant(
        "mislas",
        "places",
        _mislas(0.4, 0.1, 0.05, weight_decay=5e-4, batch_size=256),
        same_as="mislas-imagenet",
        **_TABLE_6,
        **_by_mislas("Places-LT ResNet-152", 40.4),
    ),
    **_variant(
        "mislas",
        "imagenet-released",
        _mislas(0.3, 0.0, 0.05, weight_decay=5e-4, batch_size=256),
        **_RELEASED,
    ),
    **_variant(
        "mislas",
        "inaturalist-released",
        _mislas(0.3, 0.0, 0.05, weight_decay=1e-4, batch_size=256),
        **_RELEASED,
    ),
}

PRESETS: dict[str, RecipePreset] = {**_PAPERS, **_of_losses(), **_of_heads(), **_VARIANTS}
"""Every preset by name."""
