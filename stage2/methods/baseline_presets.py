"""Baselines as presets: stage 1's own classifier, and those of 2022–2026 as releases train them."""

from __future__ import annotations

from stage2.methods.recipe_preset import RecipePreset

BASELINES: dict[str, RecipePreset] = {
    "stage1": RecipePreset(
        {"head": "logit_adjust", "tau": 0.0},
        "stage-1 classifier as it is, the first row of a table",
        "crt",
        origin="paper",
        place="its joint training",
    ),
    "gcl": RecipePreset(
        {
            "head": "cosine",
            "init": "stage1",
            "head.scale": 20.0,
            "loss": "gcl",
            "sampler": "class_balanced",
            "generator": "mixup",
            "lr": 0.004,
            "weight_decay": 2e-4,
            "batch_size": 64,
            "epochs": 30,
        },
        "cosine classifier under Gaussian clouded logits, on mixed class-balanced batches",
        "gcl",
        origin="release",
        place="its stage 2 on CIFAR, without its stage 1",
    ),
    "vmf": RecipePreset(
        {
            "head": "vmf",
            "loss": "balanced_softmax",
            "decay_bias": False,
            "lr": 0.1,
            "weight_decay": 5e-4,
            "batch_size": 256,
            "epochs": 10,
        },
        "von Mises–Fisher classifier with the log counts added in training",
        "vmf",
        place="the release's rates of its classifier on ImageNet-LT, ten epochs",
    ),
    "dot_regression": RecipePreset(
        {
            "head": "etf",
            "head.scale": 1.0,
            "loss": "dot_regression",
            "lr": 0.1,
            "weight_decay": 2e-4,
            "batch_size": 128,
            "epochs": 10,
        },
        "projection onto a fixed simplex by dot regression",
        "etf",
        place="the release's rates on CIFAR, ten epochs without mixup",
    ),
    "samn": RecipePreset(
        {
            "head": "samn",
            "init": "stage1",
            "loss": "ce",
            "lr": 5e-4,
            "weight_decay": 0.0,
            "batch_size": 64,
            "epochs": 20,
        },
        "stage-1 classifier with row norms that do not fall as classes get rarer",
        "samn",
        origin="release",
        place="CIFAR",
    ),
    "h2t": RecipePreset(
        {
            "head": "linear",
            "init": "stage1",
            "loss": "ce",
            "sampler": "class_balanced",
            "generator": "h2t",
            "view": "balanced",
            "lr": 0.02,
            "weight_decay": 5e-4,
            "batch_size": 128,
            "epochs": 10,
        },
        "stage-1 classifier retrained on class-balanced rows with channels of common classes",
        "h2t",
        origin="release",
        place="CIFAR-100-LT",
    ),
}
"""They join the presets of papers."""
