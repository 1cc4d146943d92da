"""What the page carries of one configuration beyond its line on the leaderboard."""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.bank import class_groups
from stage2.results.measured import Measured

POINTS = 120
"""Epochs of a curve that are carried: longer ones are thinned, evenly."""

CONFUSED = 60
"""Cells of the confusion matrix that are carried, most frequent first."""

_SEVERAL_EPOCHS = "no run trained over epochs, or the results were written by an older version"
_OLDER = "the results were written by an older version: sweep again"
_CLOSER = "kept where val selects, by this version on"

SHOWN = {
    "per_class": ("accuracy by class", "no configuration finished"),
    "reliability": ("reliability diagrams", _OLDER),
    "confidence": ("confidence by group", _CLOSER),
    "weight_norm": ("weight norms", "no head with one weight vector per class"),
    "confusions": ("confused classes", _CLOSER),
    "curves": ("training curves", _SEVERAL_EPOCHS),
    "shift": ("test-prior shift", _OLDER),
    "beta": ("β trajectories", "no generator moved β"),
}
"""What details there are: what the page calls them, and why they may be missing."""


def details_of(found: Measured, counts: np.ndarray) -> dict[str, Any]:
    """The details by the names of `SHOWN`, those that there are.

    Parameters
    ----------
    found
        Means over the seeds.
    counts
        Training counts [K].
    """
    own: dict[str, Any] = {"per_class": plain(found.per_class, 1)}
    arrays = found.details
    for name, decimals in (("reliability", 2), ("confidence", 0), ("weight_norm", 4)):
        if name in arrays and np.isfinite(arrays[name]).any():
            own[name] = plain(arrays[name], decimals)
    if len(arrays.get("confusions", ())):
        own["confusions"] = arrays["confusions"][:CONFUSED].tolist()
    if {"shift_forward", "shift_backward"} <= arrays.keys():
        own["shift"] = [plain(arrays[f"shift_{way}"], 2) for way in ("forward", "backward")]
    curves = {name: _curve(values) for name, values in found.curves.items() if values.size}
    if curves:
        own["curves"] = curves
    if found.beta is not None:
        own["beta"] = _beta(found.beta, counts)
    return own


def _curve(values: np.ndarray) -> dict[str, Any]:
    """Epochs from 1, and mean of a curve [seeds, epochs] over the seeds that ran that long."""
    kept = _thinned(values.shape[1])
    mean = np.ma.masked_invalid(values[:, kept]).mean(0).filled(np.nan)
    return {"epoch": (kept + 1).tolist(), "mean": plain(mean, 4)}


def _beta(values: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """β [seeds, epochs, K] over the epochs by group (mean and the 10th and 90th percentile over
    classes), and of every class at the end; means over seeds."""
    mean = values.mean(0)  # [epochs, K]
    has = np.isfinite(mean).all(0)
    kept = _thinned(len(mean))
    groups = {}
    for name, mask in class_groups(counts).items():
        if (mask & has).any():
            members = mean[kept][:, mask & has]
            low, high = np.percentile(members, (10, 90), axis=1)
            groups[name] = [plain(line, 3) for line in (members.mean(1), low, high)]
    return {"epoch": (kept + 1).tolist(), "groups": groups, "last": plain(mean[-1], 3)}


def _thinned(epochs: int) -> np.ndarray:
    """At most `POINTS` of the epochs 0 … epochs − 1, first and last among them."""
    return np.unique(np.linspace(0, epochs - 1, min(epochs, POINTS)).round().astype(int))


def plain(values: np.ndarray, decimals: int) -> list[Any]:
    """An array as lists that JSON can carry: rounded, None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), decimals).astype(object)
    rounded[~np.isfinite(np.asarray(values, np.float64))] = None
    if decimals == 0:
        rounded = np.vectorize(lambda v: None if v is None else int(v), otypes=[object])(rounded)
    return rounded.tolist()
