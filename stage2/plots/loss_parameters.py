"""Figures of what losses make of a bank's counts, by class and over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.features.loading import class_counts, facts_of
from stage2.methods.loss_by_class import ByClass, LossOnCounts, drawn_of
from stage2.methods.losses import LOSSES
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


def losses(picture: BankPicture) -> Figure:
    """Draw what losses make of a bank's counts: ε, ω, m, … of each class in the last epoch, and
    over the epochs where they change [MiSLAS Fig. 6 and 8, DisAlign Fig. 3, GLAG Fig. 3].

    Whatever its loss, a recipe that is trained can be drawn, as its parameters are those of
    `stage2.methods.family`; factors that depend on what the model says of a row are not among them.
    """
    configurations = _configurations(picture)
    drawn = drawn_of(configurations)
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


def _by_count(axes: Axes, parameter: ByClass, configurations: Sequence[LossOnCounts]) -> None:
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


def _configurations(picture: BankPicture) -> list[LossOnCounts]:
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
        LossOnCounts(name, recipe, class_counts(bank, split), facts_of(bank, split))
        for name, recipe in zip(names, recipes, strict=True)
        for split in [recipe.settings["train_on"]]
    ]
