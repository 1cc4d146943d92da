"""The losses and trained heads that `reference.py` has, at settings that reach each branch."""

from __future__ import annotations

from typing import Any

from stage2.methods.recipe import Recipe

LOSS_CASES: dict[str, list[dict[str, Any]]] = {
    "ce": [{}],
    "weighted": [
        {"rho": 1.2, "normalise": "weights"},
        {"rho": 0.5, "normalise": "batch"},
        {"rho": 0.0, "normalise": "weights"},
        {"rho": 1.0, "normalise": "weights", "defer": 4},
        {"rho": 1.0, "normalise": "batch", "defer": 2},
    ],
    "class_balanced": [
        {"beta": 0.9999, "normalise": "weights"},
        {"beta": 0.9, "normalise": "batch"},
        {"beta": 0.0, "normalise": "batch"},
        {"beta": 0.99, "normalise": "weights", "defer": 4},
        {"beta": 0.99, "normalise": "weights", "defer": 3},
    ],
    "focal": [{"gamma": 1.0}, {"gamma": 2.0}, {"gamma": 0.5}, {"gamma": 0.0}],
    "cb_focal": [
        {"gamma": 1.5, "beta": 0.999},
        {"gamma": 0.0, "beta": 0.9999},
        {"gamma": 1.5, "beta": 0.999, "defer": 4},
        {"gamma": 1.5, "beta": 0.999, "defer": 3},
    ],
    "sigmoid_focal": [
        {"gamma": 2.0, "beta": 0.999},
        {"gamma": 0.5, "beta": 0.0},
        {"gamma": 0.0, "beta": 0.9999},
    ],
    "cb_bce": [{"beta": 0.9999}, {"beta": 0.9}, {"beta": 0.0}],
    "balanced_softmax": [{}, {"rho": 0.7, "defer": 2}, {"beta": 0.99, "gamma": 1.5}],
    "logit_adjusted": [
        {"tau": 1.0},
        {"tau": 2.5},
        {"tau": 0.0},
        {"tau": 1.0, "rho": 1.0},
        {"tau": 1.0, "rho": 0.5, "defer": 4},
        {"tau": 1.0, "beta": 0.99, "defer": 3},
        {"tau": 1.5, "gamma": 2.0},
        {"tau": 1.0, "gamma": 0.5, "defer": 4},
        {"tau": 1.0, "rho": 1.2, "gamma": 1.0, "defer": 1},
    ],
    "gradual": [
        {"base": 2.0, "strength": 1.0},
        {"base": 5.0, "strength": 0.5},
        {"base": 1.0, "strength": 1.5},
        {"base": 0.2, "strength": 1.0},
    ],
    "vs": [{"gamma": 0.15, "tau": 1.0}, {"gamma": 0.0, "tau": 0.5}, {"gamma": 0.4, "tau": 0.0}],
    "sla": [
        {"gamma": 1.0, "tau": 1.0, "tau_prior": 1.0},
        {"gamma": 2.5, "tau": 3.0, "tau_prior": 0.0},
        {"gamma": 0.5, "tau": 0.0, "tau_prior": 1.5},
        {"gamma": 0.0, "tau": 2.0, "tau_prior": 0.5},
    ],
    "distil": [
        {"distil_weight": 1.0, "temperature": 2.0, "distil_groups": "many+medium"},
        {"distil_weight": 0.4, "temperature": 1.0, "distil_groups": "many+medium+few"},
        {"distil_weight": 1.5, "temperature": 4.0, "distil_groups": "few"},
        {"distil_weight": 1.5, "temperature": 4.0, "distil_groups": "many"},
        {"distil_weight": 0.0, "temperature": 2.0, "distil_groups": "many+medium"},
        {
            "distil_weight": 1.0,
            "distil_weight_end": 0.0,
            "temperature": 2.0,
            "distil_groups": "few",
        },
        {
            "distil_weight": 0.0,
            "distil_weight_end": 2.0,
            "temperature": 5.0,
            "temperature_end": 1.0,
            "distil_groups": "medium+few",
        },
        {
            "distil_weight": 0.5,
            "distil_weight_end": 1.5,
            "distil_weight_base": 2.0,
            "temperature": 2.0,
            "distil_groups": "many+medium",
        },
    ],
    "ldam": [
        {"max_margin": 0.5, "scale": 30.0, "defer": 0, "beta": 0.9999},
        {"max_margin": 0.3, "scale": 10.0, "defer": 2, "beta": 0.99},
        {"max_margin": 0.3, "scale": 10.0, "defer": 3, "beta": 0.99},
        {"max_margin": 0.3, "scale": 10.0, "defer": 4, "beta": 0.99},
        {"max_margin": 2.0, "scale": 1.0, "exponent": 0.5, "defer": 0, "beta": 0.99},
    ],
    "las": [
        {"smooth_head": a, "smooth_tail": b, "smooth_shape": shape, "power": p, "smooth_over": o}
        for a, b, shape, p, o in (
            (0.4, 0.1, "concave", 1.0, "uniform"),
            (0.3, 0.0, "linear", 1.0, "others"),
            (0.2, 0.05, "convex", 1.0, "uniform"),
            (0.4, 0.1, "exponential", 2.5, "others"),
            (0.0, 0.0, "concave", 1.0, "uniform"),
        )
    ],
    "gcl": [
        {"margin": 0.1, "scale": 20.0, "cloud": 0.5, "gamma": 1.0},
        {"margin": 0.3, "scale": 5.0, "cloud": 1.0, "gamma": 0.0},
        {"margin": 0.0, "scale": 1.0, "cloud": 0.0, "gamma": 0.5},
    ],
    "lade": [
        {"alpha": 0.1, "penalty": 0.01},
        {"alpha": 1.5, "penalty": 0.4},
        {"alpha": 0.5, "penalty": 0.0},
        {"alpha": 0.0, "penalty": 0.1},
    ],
    "dot_regression": [{"scale": 1.0}, {"scale": 16.0}],
    "los": [
        {"smoothing": 0.98, "smooth_over": "uniform"},
        {"smoothing": 0.6, "smooth_over": "others"},
        {"smoothing": 1.0, "smooth_over": "others"},
    ],
}
"""Settings by loss; at epoch 3 of 8 (`MOMENT`) a deferral is before, at and after it."""

MOMENT = {"epoch": 3, "epochs": 8}

HEAD_CASES: dict[str, list[dict[str, Any]]] = {
    "linear": [{"init": "fresh"}, {"init": "stage1"}],
    "cosine": [
        {"init": "fresh", "scale": 16.0, "learn_scale": False},
        {"init": "stage1", "scale": 5.0, "learn_scale": True},
    ],
    "lws": [{}],
    "mislas": [
        {"retention": 1.0, "delta_lr": 0.2, "scale_lr": 1.0, "decay": "weight"},
        {"retention": 0.4, "delta_lr": 0.0, "scale_lr": 1.0, "decay": "weight"},
    ],
    "disalign": [
        {"init": init, "form": "eq6", "learn": learn, "confidence": "learned", "z0": "linear"}
        for init, learn in (("identity", "both"), ("released", "magnitude"))
    ],
    "marc": [{}],
    "tde": [
        {"init": "fresh", "heads": 2, "scale": 16.0, "gamma": 2.0, "alpha": 3.0},
        {"init": "stage1", "heads": 2, "scale": 5.0, "gamma": 1.5, "alpha": 1.5},
    ],
    "mlp": [{"hidden": 5}],
    "vmf": [
        {"init": "fresh", "concentration": 16.0},
        {"init": "stage1", "concentration": 1.5},
    ],
    "etf": [{"scale": 16.0}, {"scale": 1.0}],
    "samn": [{"init": "fresh"}, {"init": "stage1"}],
}
"""Settings by trained head."""


def has_formula(recipe: Recipe) -> bool:
    """Whether `reference.py` can train it from the W₀ of a problem."""
    return (
        recipe.cosine_scale is None
        and recipe.head in HEAD_CASES
        and recipe.settings["loss"] in LOSS_CASES
    )
