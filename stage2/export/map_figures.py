"""Figures of whole maps: a confusion summed map by map, and what segmentation reports of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import ClassGroups
from featbank.bank.class_names import ClassMatch
from featbank.wording import number
from stage2.engine.overlap import iou, mean_of_known
from stage2.export.evaluation import render_rows
from stage2.export.maps import ClassifiedMap
from stage2.results.tables import Table


@dataclass(frozen=True)
class MapFigures:
    """Figures of maps, in percent.

    Attributes
    ----------
    class_names
        K names.
    confusion
        Pixels [K, K] int64 by class and predicted class.
    groups
        Masks [K] of the class groups by key; none where the bank's are not known.
    foreign
        Pixels of classes that the head does not have, which are in no figure.
    """

    class_names: Sequence[str]
    confusion: np.ndarray
    groups: Mapping[str, np.ndarray]
    foreign: int

    @property
    def pixels(self) -> np.ndarray:
        """Pixels [K] of each class."""
        return self.confusion.sum(1)

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class [K]; NaN for one without pixels or predictions."""
        return iou(self.confusion.diagonal(), self.pixels, self.confusion.sum(0))

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy of each class [K]; NaN for one without pixels."""
        with np.errstate(invalid="ignore"):
            return 100 * self.confusion.diagonal() / self.pixels

    @property
    def metrics(self) -> dict[str, float | None]:
        """mIoU, mIoU and accuracy of the groups, and the accuracies of classes and pixels; None
        for a mean over nothing."""
        of_iou, accuracy = self.iou, self.accuracy
        right, total = self.confusion.trace(), self.confusion.sum()
        figures: dict[str, Any] = {"miou": mean_of_known(of_iou)}
        for group, mask in self.groups.items():
            figures[f"miou_{group}"] = mean_of_known(of_iou[mask])
        figures["mean_accuracy"] = mean_of_known(accuracy)
        for group, mask in self.groups.items():
            figures[f"accuracy_{group}"] = mean_of_known(accuracy[mask])
        figures["pixel_accuracy"] = 100 * right / total if total else np.nan
        return {name: None if np.isnan(f) else float(f) for name, f in figures.items()}

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Name, pixels, IoU and accuracy of each class."""
        known = [
            [None if np.isnan(f) else float(f) for f in figures]
            for figures in (self.iou, self.accuracy)
        ]
        columns = zip(self.class_names, self.pixels.tolist(), *known, strict=True)
        return [
            dict(zip(("class", "pixels", "iou", "accuracy"), row, strict=True)) for row in columns
        ]


def figures_of(
    maps: Iterable[ClassifiedMap], match: ClassMatch, groups: ClassGroups | None
) -> MapFigures:
    """Sum up the confusion of maps.

    Parameters
    ----------
    maps
        Classified maps, read one at a time.
    match
        The bank's classes among the head's.
    groups
        Class groups of the bank.

    Raises
    ------
    ConfigError
        If no pixel has a label of a class that the head has.
    """
    classes = len(match.known)
    confusion, foreign = np.zeros(classes * classes, np.int64), 0
    for each in maps:
        known = (each.truth >= 0) & (each.truth < classes)
        foreign += int((each.truth >= classes).sum())
        cells = each.truth[known] * classes + each.predicted[known]
        confusion += np.bincount(cells, minlength=classes * classes)
    if not confusion.any():
        raise errors.ConfigError(
            "No pixel of the maps has a label of a class that the head has. Give maps with labels."
        )
    masks = {}
    for key, mask in groups.masks.items() if groups else ():
        masks[key] = np.zeros(classes, bool)
        masks[key][match.places[mask & (match.places >= 0)]] = True
    return MapFigures(match.known, confusion.reshape(classes, classes), masks, foreign)


def map_table(figures: Mapping[str, MapFigures], shown: Mapping[str, str], title: str) -> Table:
    """A line of figures for each prior; `shown` has the names of class groups by key."""
    header = ["prior", "mIoU %", *(f"mIoU {name}" for name in shown.values())]
    header += ["mean acc. %", "pixel acc. %"]
    names = ["miou", *(f"miou_{key}" for key in shown), "mean_accuracy", "pixel_accuracy"]
    lines = []
    for prior, each in figures.items():
        metrics = each.metrics
        lines.append([prior, *(_text(metrics.get(name)) for name in names)])
    return Table(title, header, lines)


def render_maps(
    figures: Mapping[str, MapFigures], shown: Mapping[str, str], form: str, title: str
) -> str:
    """Figures of each prior as ``json``, there with those of every class, ``csv``, ``md`` or
    ``latex``."""
    rows: list[dict[str, Any]]
    rows = [{"prior": prior, **each.metrics} for prior, each in figures.items()]
    if form == "json":
        classes = [each.classes for each in figures.values()]
        rows = [{**row, "classes": own} for row, own in zip(rows, classes, strict=True)]
    return render_rows(rows, map_table(figures, shown, title), form)


def foreign_note(figures: MapFigures) -> list[str]:
    """The number of pixels of classes that the head does not have; none where there are none."""
    if not figures.foreign:
        return []
    pixels = number(figures.foreign, "pixel")
    return [f"{pixels} are of classes that the head does not have and are left out"]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
