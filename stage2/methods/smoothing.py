"""Label smoothing by class, ε_k: `las` and `los`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.family import LossParameters, Moment

_OVER = Setting(
    "smooth_over",
    "uniform",
    "spread the smoothed mass over all K classes (released) or the K−1 others (paper)",
    choices=("uniform", "others"),
)
LAS = (
    Setting("smooth_head", 0.4, "smoothing ε_1 of the largest class", low=0, high=1),
    Setting("smooth_tail", 0.1, "smoothing ε_K of the smallest class", low=0, high=1),
    Setting(
        "smooth_shape",
        "concave",
        "shape of ε as a function of n, between tail and head",
        choices=("concave", "linear", "convex", "exponential"),
    ),
    Setting("power", 1.0, "exponent p of the exponential shape", above=0),
    _OVER,
)
"""Settings of `las`."""

LOS = (Setting("smoothing", 0.98, "smoothing δ of every class", low=0, high=1), _OVER)
"""Settings of `los`."""


def las(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Label-aware smoothing, ε_k from n_k between ε_1 (head) and ε_K (tail) [MiSLAS eq. 1–3, 7].

    ``smooth_over=uniform`` spreads ε_y over all K classes, as released; ``others`` over the K−1
    other classes, as in the paper.
    """
    head, tail = settings["smooth_head"], settings["smooth_tail"]
    spread = counts.max() - counts.min()
    r = (counts - counts.min()) / spread if spread else np.ones_like(counts)
    shapes = {
        "concave": lambda: tail + (head - tail) * np.sin(r * np.pi / 2),
        "linear": lambda: tail + (head - tail) * r,
        "convex": lambda: head + (head - tail) * np.sin(1.5 * np.pi + r * np.pi / 2),
        "exponential": lambda: tail + (head - tail) * r ** settings["power"],
    }
    return LossParameters(
        smoothing=shapes[settings["smooth_shape"]](), others=settings["smooth_over"] == "others"
    )


def las_conflict(settings: Mapping[str, Any]) -> str | None:
    """A power where the shape has none."""
    shape, power = settings["smooth_shape"], settings["power"]
    if shape == "exponential" or power == 1:
        return None
    return (
        f"has power={power:g}, which the {shape} shape does not take. Leave power out, or set "
        "smooth_shape=exponential."
    )


def las_caution(settings: Mapping[str, Any]) -> str | None:
    """A line for ε outside 0 ≤ ε_K ≤ ε_1 ≤ ½, the range that the MiSLAS paper keeps."""
    if settings["smooth_tail"] <= settings["smooth_head"] <= 0.5:
        return None
    return (
        "Loss 'las' smooths outside MiSLAS's range, 0 ≤ smooth_tail ≤ smooth_head ≤ 0.5. Unless "
        "meant, smooth frequent classes at least as much as rare ones, and none above 0.5."
    )


def los(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Label over-smoothing: one constant ε close to 1 for every class [LOS eq. 12]."""
    return LossParameters(
        smoothing=np.full_like(counts, settings["smoothing"]),
        others=settings["smooth_over"] == "others",
    )
