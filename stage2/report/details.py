"""The data of single configurations that the page carries beside the leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featbank.bank import class_groups
from stage2.results.measured import Measured

POINTS = 120
"""Epochs of a curve that are carried; longer ones are thinned evenly."""

CONFUSED = 60
"""Pairs of confused classes that are carried, most frequent first."""

_OLDER = "the results were written by an older version: sweep again"
_CLOSER = "kept where val selects, by this version on"


@dataclass(frozen=True)
class Section:
    """A figure of the page about single configurations.

    Attributes
    ----------
    label
        Its name for people.
    missing
        The reason why no configuration may have its data.
    of
        Its data, which JSON can carry, from the arrays of a configuration and the training counts
        [K]; None where there are none.
    """

    label: str
    missing: str
    of: Callable[[Measured, np.ndarray], Any]


def _array(name: str, decimals: int) -> Callable[[Measured, np.ndarray], Any]:
    """The data of a section that shows one of `stage2.engine.details.DETAILS`."""

    def of(arrays: Measured, counts: np.ndarray) -> Any:
        values = arrays.details.get(name)
        return None if values is None or np.isnan(values).all() else plain(values, decimals)

    return of


def _confusions(arrays: Measured, counts: np.ndarray) -> Any:
    return arrays.details.get("confusions", np.empty(0))[:CONFUSED].tolist() or None


def _curves(arrays: Measured, counts: np.ndarray) -> Any:
    return {name: _curve(values) for name, values in arrays.curves.items() if values.size} or None


def _shift(arrays: Measured, counts: np.ndarray) -> Any:
    names = ("shift_forward", "shift_backward")
    if not arrays.details.keys() >= set(names):
        return None
    known = [f"{name}_known" for name in names]
    present = [*names, *(name for name in known if name in arrays.details)]
    return [plain(arrays.details[name], 2) for name in present]


SECTIONS = {
    "per_class": Section(
        "accuracy by class",
        "no configuration finished",
        lambda arrays, counts: plain(arrays.per_class, 1),
    ),
    "reliability": Section("reliability diagrams", _OLDER, _array("reliability", 2)),
    "confidence": Section("confidence by group", _CLOSER, _array("confidence", 0)),
    "weight_norm": Section(
        "weight norms",
        "no head with one weight vector per class",
        _array("weight_norm", 4),
    ),
    "confusions": Section("confused classes", _CLOSER, _confusions),
    "curves": Section(
        "training curves",
        "no run trained over epochs, or the results were written by an older version",
        _curves,
    ),
    "shift": Section("test-prior shift", _OLDER, _shift),
    "beta": Section(
        "β trajectories",
        "no generator moved β",
        lambda arrays, counts: None if arrays.beta is None else _beta(arrays.beta, counts),
    ),
}
"""The sections, by the names that the page asks for."""


def details_of(arrays: Measured, counts: np.ndarray) -> dict[str, Any]:
    """The data of a configuration by the names of `SECTIONS`, as far as there are any.

    Parameters
    ----------
    arrays
        Means over the seeds.
    counts
        Training counts [K].
    """
    data = {name: section.of(arrays, counts) for name, section in SECTIONS.items()}
    return {name: values for name, values in data.items() if values is not None}


def _curve(values: np.ndarray) -> dict[str, Any]:
    """Epochs from 1, and the mean of a curve [seeds, epochs] over the seeds that ran so long."""
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
    """An array as lists that JSON can carry: rounded, None for values that are not finite."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    rounded = np.where(finite, values, 0).round(decimals)
    numbers = rounded.astype(float if decimals else int).astype(object)
    numbers[~finite] = None
    return numbers.tolist()
