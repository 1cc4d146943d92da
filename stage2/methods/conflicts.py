"""Settings of a recipe that exclude each other: each check raises `ConfigError`, with a remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from featbank import errors
from featbank.settings import read_number, shortened
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import learning_rates
from stage2.methods.recipe_settings import UNIT, Takes, own_settings, uses_text
from stage2.methods.samplers import SAMPLERS


def shares_of(weights: str) -> tuple[float, ...] | None:
    """Weights joined by + divided by their sum; None for a text that is not weights > 0."""
    words = [read_number(word, float) for word in weights.split("+")]
    values = [word for word in words if word is not None and 0 < word < math.inf]
    total = math.fsum(values)
    return tuple(value / total for value in values) if len(values) == len(words) else None


def require_shares(name: str, values: Mapping[str, Any]) -> None:
    """Raise unless there is a weight > 0 for each view, where there are any."""
    if (text := values.get("view_weights")) is None:
        return
    views = values["view"].split("+")
    if len(shares_of(text) or ()) != len(views):
        raise errors.ConfigError(
            f"The 'view_weights' of recipe {name!r} must be {len(views)} floats > 0 joined by +, "
            f"one for each view of {values['view']}, got {shortened(text)}."
        )


def require_unit(name: str, values: Mapping[str, Any]) -> None:
    """Raise where a recipe on text would have features of other lengths than the cosine takes."""
    scale = values.get("feature_scale")
    if scale not in (None, UNIT) and uses_text(values):
        raise errors.ConfigError(
            f"Recipe {name!r} uses text, whose logits are cosines: its rows have one length, not "
            f"feature_scale={scale}. Leave feature_scale out."
        )


def require_head(name: str, values: Mapping[str, Any]) -> None:
    """Raise for a loss on another head than the one that it is made for."""
    loss, head = LOSSES[values["loss"]], values["head"]
    if loss.head and head != loss.head:
        raise errors.ConfigError(
            f"Loss {values['loss']!r} of recipe {name!r} {loss.unsuited}; it is for head "
            f"{loss.head!r}, not {head!r}. Take head={loss.head}, or loss={loss.instead}."
        )


def require_effect(name: str, values: Mapping[str, Any], takes: Takes) -> None:
    """Raise if every step has learning rate 0, or a setting would act after the last epoch."""
    epochs = values["epochs"]
    if not learning_rates({**values, "epochs": min(epochs, 3)}, 1).any():
        raise errors.ConfigError(
            f"Recipe {name!r} cannot move: with schedule={values['schedule']} and epochs={epochs} "
            "every step has the learning rate 0. Give it epochs=2, or schedule=cosine."
        )
    for key, setting in takes.settings.items():
        if setting.role == "epoch" and values[key] >= epochs:
            raise errors.ConfigError(
                f"Recipe {name!r} ends after {epochs} epochs, before its {key}={values[key]} acts. "
                f"Give {key} below epochs, or 0."
            )


def require_convex(name: str, values: Mapping[str, Any], takes: Takes) -> None:
    """Raise if the recipe has no single optimum for full-batch training to find."""
    loss, sampler = LOSSES[values["loss"]], SAMPLERS[values["sampler"]]
    reasons = [
        (not HEADS[values["head"]].convex, f"head {values['head']!r} is not convex"),
        (
            not loss.convex_at(own_settings(values, "loss")),
            f"loss {values['loss']!r} is not convex" + (" with focusing" if loss.convex else ""),
        ),
        (values["generator"] != "none", f"generator {values['generator']!r} draws anew each epoch"),
        (
            loss.changes(own_settings(values, "loss")),
            f"loss {values['loss']!r} changes over the epochs",
        ),
        (
            sampler.distribution(np.ones(2), own_settings(values, "sampler")) is None,
            f"sampler {values['sampler']!r} changes over the epochs",
        ),
        *(
            (values[key] != setting.default, f"{key} is a constraint")
            for key, setting in takes.settings.items()
            if setting.role == "constraint"
        ),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise errors.ConfigError(
                f"Recipe {name!r} cannot have optimiser={values['optimiser']}: {reason}. "
                "Choose sgd or adamw."
            )
