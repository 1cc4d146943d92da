"""The parameters that losses make of a bank's counts, by class and over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.features.views import class_counts
from stage2.methods.family import EXCLUDED, LossParameters, Moment
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from stage2.plots.figure import (
    GRID,
    MARKERS,
    caption,
    label_counts,
    label_ratios,
    legend,
    line_style,
    panels,
    whole_numbers,
)
from stage2.plots.picture import BankPicture
from stage2.results.choice import labels, warn_left_out
from stage2.specification import read_specification

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Configurations in one plot."""

_POINTS = 25
"""Up to this many classes, or epochs, are points as well."""


def _smallest(values: np.ndarray, counts: np.ndarray) -> float:
    """The value of the smallest class."""
    return float(values[counts.argmin()])


def _slope(shift: np.ndarray, counts: np.ndarray) -> float:
    """α of m = α log π + constant, by least squares; 0 for equal counts, where m has no effect."""
    x = np.log(counts) - np.log(counts).mean()
    return float(shift @ x / (x @ x)) if x.any() else 0.0


@dataclass(frozen=True)
class _Parameter:
    """A parameter of each class.

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


_PARAMETERS = (
    _Parameter(
        "smoothing ε",
        lambda row: row.smoothing,
        0,
        "ε of the smallest class",
        log=(False, False),  # a linear form is a line
    ),
    _Parameter("weight ω", lambda row: row.weight, 1, "ω of the smallest class", log=(True, True)),
    _Parameter(
        "addend m of the logit", lambda row: row.shift, 0, "α of m = α log π", _slope, whole=True
    ),
    _Parameter("factor a of the logit", lambda row: row.scale, 1, "a of the smallest class"),
    _Parameter("margin Δ of the logit", lambda row: row.margin, 0, "Δ of the smallest class"),
    _Parameter(
        "weight α of distillation",
        _distilled,
        0,
        "α of distillation",
        lambda values, _: float(values.max()),
    ),
)


@dataclass(frozen=True)
class _Configuration:
    """The loss of a recipe on training counts [K]."""

    label: str
    recipe: Recipe
    counts: np.ndarray

    @cached_property
    def epochs(self) -> list[LossParameters]:
        """Its parameters in each epoch."""
        loss, settings = LOSSES[self.recipe.settings["loss"]], self.recipe.part("loss")
        epochs = self.recipe.settings.get("epochs", 1)
        return [loss(self.counts, settings, Moment(t, epochs)) for t in range(epochs)]

    def has(self, parameter: _Parameter) -> bool:
        """Whether the loss uses a parameter."""
        return any(parameter.of(row) is not None for row in self.epochs)

    def by_class(self, parameter: _Parameter, epoch: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Counts, in order, and values of the classes that the loss does not leave out."""
        values = parameter.of(self.epochs[epoch])
        if values is None:
            values = np.full(len(self.counts), float(parameter.neutral))
        order = np.argsort(self.counts, kind="stable")
        order = order[(self.counts[order] > 0) & (values[order] != EXCLUDED)]
        return self.counts[order], values[order]

    def over_epochs(self, parameter: _Parameter) -> tuple[np.ndarray, np.ndarray]:
        """Epochs from 1, and the number that stands for a parameter in each."""
        pairs = [self.by_class(parameter, epoch) for epoch in range(len(self.epochs))]
        numbers = [parameter.number(values, counts) for counts, values in pairs]
        return 1 + np.arange(len(numbers)), np.array(numbers)


def losses(picture: BankPicture) -> Figure:
    """Draw what losses make of a bank's counts: ε, ω, m, … of each class in the last epoch, and
    over the epochs where they change [MiSLAS Fig. 6 and 8, DisAlign Fig. 3, GLAG Fig. 3].

    Whatever its loss, a recipe that is trained can be drawn, as its parameters are those of
    `stage2.methods.family`; factors that depend on what the model says of a row are not among them.
    """
    configurations = _configurations(picture)
    drawn = _drawn(configurations)
    if not drawn:
        raise errors.ConfigError(
            f"The loss of {' and '.join(each.label for each in configurations)} treats all classes "
            "and epochs alike. Choose a recipe such as mislas."
        )
    figure, axes = panels(len(drawn), picture.width, narrowest=2.3, height=2.2)
    handles: dict[str, Any] = {}
    for [panel], (parameter, over_epochs) in zip(axes, drawn, strict=True):
        for place, each in enumerate(configurations):
            if each.has(parameter):
                x, y = each.over_epochs(parameter) if over_epochs else each.by_class(parameter)
                look = line_style(place) | ({"marker": MARKERS[place]} if len(x) <= _POINTS else {})
                (handles[each.label],) = panel.plot(x, y, linewidth=1.2, markersize=3, **look)
        if over_epochs:
            panel.set(xlabel="epoch", ylabel=parameter.over)
            whole_numbers(panel.xaxis)
        else:
            _by_count(panel, parameter, configurations)
        panel.grid(axis="y", **GRID)
    shown = [each for each in configurations if each.label in handles]
    legend(figure, [handles[each.label] for each in shown], [each.label for each in shown])
    names = dict.fromkeys(each.recipe.settings["loss"] for each in shown)
    changing = [parameter for parameter, over_epochs in drawn if over_epochs]
    caption(
        figure,
        f"bank {picture.bank.fingerprint[:12]}",
        *(f"{name}: {LOSSES[name].description}" for name in names),
        "by class: in the last epoch" if changing and len(changing) < len(drawn) else "",
    )
    return figure


def _drawn(configurations: Sequence[_Configuration]) -> list[tuple[_Parameter, bool]]:
    """The panels: parameters that a loss uses, by class or, where they change, over the epochs."""
    drawn = []
    for parameter in _PARAMETERS:
        having = [each for each in configurations if each.has(parameter)]
        changes = any(np.ptp(each.over_epochs(parameter)[1]) > 0 for each in having)
        if having and not (changes and parameter.whole):
            drawn.append((parameter, False))
        if changes:
            drawn.append((parameter, True))
    return drawn


def _by_count(axes: Axes, parameter: _Parameter, configurations: Sequence[_Configuration]) -> None:
    """Label the axes of a parameter by class."""
    along, up = parameter.log
    counts = np.concatenate([each.counts[each.counts > 0] for each in configurations])
    axes.set(xlabel="training samples of a class", ylabel=parameter.label)
    if along and np.ptp(counts) > 0:
        axes.set_xscale("log")
        label_counts(axes.xaxis, int(counts.min()), int(counts.max()))
    if up:
        axes.set_yscale("log")
        label_ratios(axes.yaxis, axes.dataLim.y0, axes.dataLim.y1)


def _configurations(picture: BankPicture) -> list[_Configuration]:
    """The configurations of the recipes asked for, at most `MOST`."""
    if not picture.recipes:
        raise errors.ConfigError(
            "Name the recipes whose losses are drawn, such as --recipe mislas."
        )
    specification = read_specification(only=picture.recipes, overrides=picture.overrides, seeds=[0])
    recipes = list(specification.recipes)
    for each in recipes:
        if not each.trained:
            raise errors.ConfigError(
                f"Recipe {each.name!r} has no loss: its head is not trained. Choose one such as "
                "mislas."
            )
    if len(recipes) > MOST:
        warn_left_out([each.id for each in recipes], MOST, "the first")
    recipes = recipes[:MOST]
    names = labels([{"name": r.name, "parameters": r.parameters} for r in recipes])
    bank = picture.bank
    return [
        _Configuration(name, recipe, class_counts(bank, recipe.settings["train_on"]))
        for name, recipe in zip(names, recipes, strict=True)
    ]
