"""The data of single configurations that the page carries beside the leaderboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from featbank import errors
from featbank.bank import ClassGroups
from stage2.engine.overlap import iou
from stage2.methods.class_facts import ClassFacts
from stage2.methods.loss_by_class import LossOnCounts, drawn_of
from stage2.methods.recipe import Recipe
from stage2.results.classes import facts_of
from stage2.results.measured import Measured, magnitude_shares, segment_means, segments_of
from stage2.results.results import Results

POINTS = 120
"""Epochs of a curve that are carried; longer ones are thinned evenly."""

CONFUSED = 60
"""Pairs of confused classes that are carried, most frequent first."""

_OLDER = "the results were written by an older version: sweep again"
_CLOSER = "kept where val selects, by this version on"


class Counts(NamedTuple):
    """Training counts [K]: those that order classes, and of the rows that train; groups of classes
    and other facts about them; rows of each class on the split shown [K], where they are pixels."""

    full: np.ndarray
    train: np.ndarray
    groups: ClassGroups
    facts: ClassFacts
    pixels: np.ndarray | None = None

    @classmethod
    def of(cls, results: Results) -> Counts:
        """Those of the bank of some results."""
        about, pixels = results.about, None
        if about.get("pixels"):
            tested = results.store.tested(results.fingerprint, results.split)
            if tested is not None:
                pixels = tested.rows_of_classes(about["num_classes"])
        train = np.asarray(about["train_counts"])
        return cls(results.counts, train, results.groups, facts_of(about), pixels)


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
        Its data, which JSON can carry, from the arrays of a configuration and the counts; None
        where there are none.
    of_pixels
        Whether only banks whose rows are pixels can have it.
    """

    label: str
    missing: str
    of: Callable[[Measured, Counts], Any]
    of_pixels: bool = False


def _array(name: str, decimals: int) -> Callable[[Measured, Counts], Any]:
    """The data of a section that shows one of `stage2.engine.details.DETAILS`."""

    def of(arrays: Measured, counts: Counts) -> Any:
        values = arrays.details.get(name)
        return None if values is None or np.isnan(values).all() else plain(values, decimals)

    return of


def _iou(arrays: Measured, counts: Counts) -> Any:
    """Intersection over union of each class in percent, the pixels of all seeds together."""
    predictions = arrays.details.get("predictions")
    if counts.pixels is None or predictions is None:
        return None
    rows = counts.pixels * len(arrays.configuration.done)
    right = (np.nan_to_num(arrays.per_class) / 100 * rows).round()
    return plain(iou(right, rows, predictions), 1)


def _confusions(arrays: Measured, counts: Counts) -> Any:
    return arrays.details.get("confusions", np.empty(0))[:CONFUSED].tolist() or None


def _curves(arrays: Measured, counts: Counts) -> Any:
    return {name: _curve(values) for name, values in arrays.curves.items() if values.size} or None


def _shift(arrays: Measured, counts: Counts) -> Any:
    names = ("shift_forward", "shift_backward")
    if not arrays.details.keys() >= set(names):
        return None
    known = [f"{name}_known" for name in names]
    present = [*names, *(name for name in known if name in arrays.details)]
    return [plain(arrays.details[name], 2) for name in present]


def _logits(arrays: Measured, counts: Counts) -> Any:
    """Magnitude in percent and deviation by segment of classes, and their sizes [LOS Fig. 3]."""
    names = ("logit_magnitude", "logit_deviation")
    found = [arrays.details.get(name) for name in names]
    if any(values is None or np.isnan(values).all() for values in found):
        return None
    magnitude, deviation = (values for values in found if values is not None)
    segments = segments_of(np.argsort(-counts.full, kind="stable"))
    lines = (magnitude_shares(magnitude), deviation)
    return [*(plain(segment_means(line, segments), 3) for line in lines), [*map(len, segments)]]


def _loss(arrays: Measured, counts: Counts) -> Any:
    """The parameters that the loss makes of the counts: by class [K], null for a class that it
    leaves out, and where they change over the epochs."""
    configuration = arrays.configuration
    if configuration.parameters.get("train_on") != "train" or not counts.train.any():
        return None
    try:
        recipe = Recipe(configuration.name, **configuration.parameters)
    except errors.ConfigError:  # stored by a version that knew other names
        return None
    if not recipe.trained:
        return None
    loss = LossOnCounts(recipe.name, recipe, counts.train.astype(np.float64), counts.facts)
    found = []
    for parameter, over_epochs in drawn_of([loss]):
        x, y = loss.over_epochs(parameter) if over_epochs else loss.by_class(parameter)
        found.append(
            {
                "label": parameter.over if over_epochs else parameter.label,
                "epochs": over_epochs,
                "neutral": parameter.neutral,
                "log": parameter.log[1] and not over_epochs,
                "x": [int(value) for value in x],
                "y": [float(f"{value:.4g}") for value in y],
            }
        )
    return found or None


SECTIONS = {
    "per_class": Section(
        "accuracy by class",
        "no configuration finished",
        lambda arrays, counts: plain(arrays.per_class, 1),
    ),
    "iou": Section("IoU by class", _CLOSER, _iou, of_pixels=True),
    "reliability": Section("reliability diagrams", _OLDER, _array("reliability", 2)),
    "confidence": Section("confidence by group", _CLOSER, _array("confidence", 0)),
    "weight_norm": Section(
        "weight norms",
        "no head with one weight vector per class",
        _array("weight_norm", 4),
    ),
    "loss": Section(
        "losses by class",
        "no loss that treats classes or epochs differently",
        _loss,
    ),
    "confusions": Section("confused classes", _CLOSER, _confusions),
    "curves": Section(
        "training curves",
        "no run trained over epochs, or the results were written by an older version",
        _curves,
    ),
    "logits": Section("logit magnitude and deviation", _OLDER, _logits),
    "shift": Section("test-prior shift", _OLDER, _shift),
    "beta": Section(
        "β trajectories",
        "no generator moved β",
        lambda arrays, counts: None if arrays.beta is None else _beta(arrays.beta, counts.groups),
    ),
}
"""The sections, by the names that the page asks for."""


def details_of(arrays: Measured, counts: Counts) -> dict[str, Any]:
    """The data of a configuration by the names of `SECTIONS`, as far as there are any.

    Parameters
    ----------
    arrays
        Means over the seeds.
    counts
        The training counts of the bank.
    """
    data = {name: section.of(arrays, counts) for name, section in SECTIONS.items()}
    return {name: values for name, values in data.items() if values is not None}


def _curve(values: np.ndarray) -> dict[str, Any]:
    """Epochs from 1, and the mean of a curve [seeds, epochs] over the seeds that ran so long."""
    kept = _thinned(values.shape[1])
    mean = np.ma.masked_invalid(values[:, kept]).mean(0).filled(np.nan)
    return {"epoch": (kept + 1).tolist(), "mean": plain(mean, 4)}


def _beta(values: np.ndarray, groups: ClassGroups) -> dict[str, Any]:
    """β [seeds, epochs, K] over the epochs by group (mean and the 10th and 90th percentile over
    classes), and of every class at the end; means over seeds."""
    mean = values.mean(0)  # [epochs, K]
    has = np.isfinite(mean).all(0)
    kept = _thinned(len(mean))
    by_group = {}
    for key, mask in groups.masks.items():
        if (mask & has).any():
            members = mean[kept][:, mask & has]
            low, high = np.percentile(members, (10, 90), axis=1)
            by_group[key] = [plain(line, 3) for line in (members.mean(1), low, high)]
    return {"epoch": (kept + 1).tolist(), "groups": by_group, "last": plain(mean[-1], 3)}


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
