"""Cross-entropy with distillation from stage 1: `distil`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.family import LossParameters, Moment, growth


def _ramp(start: Setting, symbol: str) -> tuple[Setting, Setting]:
    """A setting, and one for the value that it reaches in the last epoch."""
    end = f"{symbol} in the last epoch; constant if not set"
    name = f"{start.name}_end"
    return start, replace(
        start, name=name, default=None, help=end, kind=start.type, role="schedule"
    )


DISTIL = (
    *_ramp(Setting("distil_weight", 1.0, "weight α of the distillation", low=0), "α"),
    Setting(
        "distil_weight_base",
        1.0,
        "base c of α's growth to distil_weight_end: 1 linear, 2 as eq. 3 of GLAG",
        above=0,
    ),
    *_ramp(Setting("temperature", 2.0, "temperature T of the distillation", above=0), "T"),
    Setting(
        "distil_groups",
        "many+medium",
        "groups of classes to distil; a bank's own groups, or many n > 100, medium 20 ≤ n ≤ 100, "
        "few n < 20",
        choices=("many+medium", "many", "medium", "few", "medium+few", "many+medium+few"),
        role="groups",
    ),
)
"""Settings of `distil`."""


def distil(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Cross-entropy, with distillation from stage 1 for samples of some groups [GLAG eq. 11].

    α is constant, or goes from ``distil_weight`` in the first epoch to ``distil_weight_end`` in the
    last: linearly, or with ``distil_weight_base`` = c as (c^e − 1)/(c − 1), eq. 3 at c = 2. The
    paper gives no T; 2 is ours.
    """
    start, end, base = (settings[f"distil_weight{part}"] for part in ("", "_end", "_base"))
    return LossParameters(
        distil=_towards(start, end, growth(moment.progress, base)),
        temperature=_towards(settings["temperature"], settings["temperature_end"], moment.progress),
        distil_classes=settings["distil_groups"],
    )


def _towards(start: float, end: float | None, part: float) -> float:
    """The value at a `part` in [0, 1] of the way from `start` to `end`; `start` without an end."""
    return start if end is None else start + (end - start) * part


def distil_conflict(settings: Mapping[str, Any]) -> str | None:
    """A growth of α without an end to grow to."""
    if settings["distil_weight_base"] == 1 or settings["distil_weight_end"] is not None:
        return None
    return (
        f"has distil_weight_base={settings['distil_weight_base']:g} and no distil_weight_end, so "
        "its weight does not change. Set distil_weight_end, or leave distil_weight_base out."
    )
