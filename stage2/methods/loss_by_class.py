"""The parameters that losses make of training counts, by class and over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.family import EXCLUDED, LossParameters, Moment
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe


def _smallest(values: np.ndarray, counts: np.ndarray) -> float:
    """The value of the smallest class."""
    return float(values[counts.argmin()])


def _slope(shift: np.ndarray, counts: np.ndarray) -> float:
    """α of m = α log π + constant, by least squares; 0 for equal counts, where m has no effect."""
    x = np.log(counts) - np.log(counts).mean()
    return float(shift @ x / (x @ x)) if x.any() else 0.0


@dataclass(frozen=True)
class ByClass:
    """A row of `BY_CLASS`: a parameter of each class.

    Attributes
    ----------
    label
        Of its axis.
    of
        Reads its values [K]; None where it is neutral.
    neutral
        Its neutral value.
    over
        Label of the number that stands for it over the epochs.
    number
        Computes that from values and counts.
    log
        Whether the axis of the counts is logarithmic, and that of the values.
    whole
        Whether the number says all of the values.
    """

    label: str
    of: Callable[[LossParameters], np.ndarray | None]
    neutral: float
    over: str
    number: Callable[[np.ndarray, np.ndarray], float] = _smallest
    log: tuple[bool, bool] = (True, False)
    whole: bool = False


def _distilled(row: LossParameters) -> np.ndarray | None:
    classes = row.distil_classes
    return None if classes is None else row.distil * classes.astype(float)


BY_CLASS = (
    ByClass(
        "smoothing ε",
        lambda row: row.smoothing,
        0,
        "ε of the smallest class",
        log=(False, False),  # a linear form is a line
    ),
    ByClass("weight ω", lambda row: row.weight, 1, "ω of the smallest class", log=(True, True)),
    ByClass(
        "addend m of the logit", lambda row: row.shift, 0, "α of m = α log π", _slope, whole=True
    ),
    ByClass("factor a of the logit", lambda row: row.scale, 1, "a of the smallest class"),
    ByClass("margin Δ of the logit", lambda row: row.margin, 0, "Δ of the smallest class"),
    ByClass("noise c of the logit", lambda row: row.cloud, 0, "c of the smallest class"),
    ByClass(
        "weight α of distillation",
        _distilled,
        0,
        "α of distillation",
        lambda values, _: float(values.max()),
    ),
)
"""The parameters of `stage2.methods.family` by class, in the order of figures."""


@dataclass(frozen=True)
class LossOnCounts:
    """The loss of a recipe on training counts [K], of rows or from outside, and other facts."""

    label: str
    recipe: Recipe
    counts: np.ndarray
    facts: ClassFacts = ROWS_ALONE

    @cached_property
    def epochs(self) -> list[LossParameters]:
        """Its parameters in each epoch."""
        loss, settings = LOSSES[self.recipe.settings["loss"]], self.recipe.part("loss")
        epochs = self.recipe.settings.get("epochs", 1)
        return [loss(self.counts, settings, Moment(t, epochs), self.facts) for t in range(epochs)]

    def has(self, parameter: ByClass) -> bool:
        """Whether the loss uses a parameter."""
        return any(parameter.of(row) is not None for row in self.epochs)

    def by_class(self, parameter: ByClass, epoch: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Counts, in order, and values of the classes that the loss does not leave out."""
        counts = self.facts.prior_counts(self.counts)
        values = parameter.of(self.epochs[epoch])
        if values is None:
            values = np.full(len(counts), float(parameter.neutral))
        order = np.argsort(counts, kind="stable")
        order = order[(counts[order] > 0) & (values[order] != EXCLUDED)]
        return counts[order], values[order]

    def over_epochs(self, parameter: ByClass) -> tuple[np.ndarray, np.ndarray]:
        """Epochs from 1, and the number that stands for a parameter in each."""
        pairs = [self.by_class(parameter, epoch) for epoch in range(len(self.epochs))]
        numbers = [parameter.number(values, counts) for counts, values in pairs]
        return 1 + np.arange(len(numbers)), np.array(numbers)


def drawn_of(configurations: Sequence[LossOnCounts]) -> list[tuple[ByClass, bool]]:
    """The panels: parameters that a loss uses, by class or, where they change, over the epochs."""
    drawn = []
    for parameter in BY_CLASS:
        having = [each for each in configurations if each.has(parameter)]
        changes = any(np.ptp(each.over_epochs(parameter)[1]) > 0 for each in having)
        if having and not (changes and parameter.whole):
            drawn.append((parameter, False))
        if changes:
            drawn.append((parameter, True))
    return drawn
