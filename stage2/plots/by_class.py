"""Values by class, from the largest class to the smallest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from featbank.bank import GROUPS, ClassGroups
from featbank.characters import clipped
from stage2.plots.figure import (
    GRID,
    MARKERS,
    QUIET,
    caption,
    legend,
    letters,
    line_style,
    panels,
    running_mean,
    thick_line,
)
from stage2.plots.picture import Picture, counts_of
from stage2.results.choice import Choice, Shown
from stage2.results.measured import Measured, measured
from stage2.results.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 4
"""Configurations in one plot: of more, points and lines cover each other."""

NAMED = 20
"""Up to this many classes have their names below and no running mean."""

_LONGEST = 28
"""Characters of a class name."""


@dataclass(frozen=True)
class _Value:
    """A value of each class: its name, a function that reads it [K], and whether that of a head on
    balanced data is a bound."""

    name: str
    read: Callable[[Measured], np.ndarray]
    bounded: bool = False


def classes(picture: Picture) -> Figure:
    """Draw the accuracy of each class, classes sorted by training count.

    Points are classes, lines running means. A head on balanced data, such as `oracle`, is the bound
    of those on the same features, and drawn as a black line [DisAlign Fig. 1].
    """
    choice = picture.choose(MOST)
    accuracy = _Value("accuracy, %", lambda arrays: arrays.per_class, bounded=True)
    return _draw(choice, picture.width, accuracy, choice.protocol())


def norms(picture: Picture) -> Figure:
    """Draw the norm of each class's weights, classes sorted by training count [MiSLAS Fig. 2].

    Heads without a weight per class are left out.
    """
    results = picture.results
    choice = picture.choose(
        MOST,
        having=lambda of, each, row: "weight_norm" in measured(of, each, row["epoch"]).details,
    )
    if not choice.shown:
        raise errors.ConfigError(
            f"No head asked for in {results.path} has a weight per class. Choose one such as crt "
            "with --recipe."
        )
    norm = _Value("‖w‖ of a class's weights", lambda arrays: arrays.details["weight_norm"])
    return _draw(choice, picture.width, norm, f"{choice.epoch()} · {choice.conditions()}")


def _draw(choice: Choice, width: float, value: _Value, protocol: str) -> Figure:
    """Draw a value of each class: training counts above, points and running means below."""
    results, counts = choice.results, counts_of(choice)
    order = in_order(results)
    ranks = np.arange(len(counts))
    few = len(counts) <= NAMED
    names = [clipped(results.class_names[k], _LONGEST) for k in order]
    room = 0.05 * letters(names) if few and letters(names) > 3 else 0.0
    figure, ((above, below),) = panels(
        1, width, narrowest=1, height=2.6 + room, rows=2, heights=(1, 4), sharex=True
    )
    window = max(1, len(counts) // 20 * 2 + 1)
    lines = []
    for place, each in enumerate(choice.shown):
        values = value.read(measured(each.results, each.configuration, each.epoch))[order]
        is_bound = value.bounded and _on_balanced_data(each)
        smooth = 1 if few else window
        lines.append(_line(below, values, smooth, place, label=each.label, is_bound=is_bound))
    _counts_above(above, counts[order])
    for panel in (above, below):
        boundaries(panel, results.groups, order, named=panel is above)
    below.set(xlim=(-0.5, len(counts) - 0.5), ylabel=value.name)
    below.grid(axis="y", **GRID)
    below.set_ylim(bottom=0)
    if few:
        upright = letters(names) <= 3
        below.set_xticks(
            ranks, names, rotation=0 if upright else 45, ha="center" if upright else "right"
        )
    else:
        below.set_xlabel("classes, from most to fewest training samples")
    legend(figure, lines)
    caption(
        figure,
        protocol,
        "mean over seeds",
        "" if few else f"points: classes, lines: running mean over {window} classes",
        "the bound, of macro accuracy: a head trained on balanced data"
        if value.bounded and any(map(_on_balanced_data, choice.shown))
        else "",
    )
    return figure


def _on_balanced_data(shown: Shown) -> bool:
    """Whether a head was trained on a balanced split."""
    return shown.configuration.parameters.get("train_on") == "train_balanced"


def _line(
    axes: Axes, values: np.ndarray, window: int, place: int, *, label: str, is_bound: bool
) -> Any:
    """Draw values [K] as points and a running mean over a window, of 1 for few classes; return the
    line, of a bound alone."""
    ranks, few = np.arange(len(values)), window == 1
    look: dict[str, Any] = line_style(place) | {"label": label}
    if is_bound:
        look = {"color": "black", "linestyle": "-", "label": f"{label}: the bound"}
    else:
        axes.scatter(
            ranks,
            values,
            s=14 if few else 5,
            marker=MARKERS[place] if few else "o",
            color=look["color"],
            alpha=1.0 if few else 0.35,
            linewidths=0,
            rasterized=len(values) > 500,
            zorder=4 if few else 2,
        )
    if few:
        (line,) = axes.plot(ranks, values, linewidth=0.9, **look)
        return line
    return thick_line(axes, ranks, running_mean(values, window), linewidth=1.6, **look)


def _counts_above(axes: Axes, counts: np.ndarray) -> None:
    """Draw training counts [K], in order, as a strip."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    positive = np.maximum(counts, 1)
    axes.fill_between(np.arange(len(counts)), positive, 0.5, step="mid", color="0.8", linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(0.7 * positive.min(), 1.6 * positive.max())
    low, high = int(positive.min()), int(positive.max())
    axes.set_yticks([low, high] if high > 5 * low else [high], minor=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("train", color=QUIET)


def in_order(results: Results) -> np.ndarray:
    """The classes [K] from most to least frequent, group by group; those in none last."""
    member = results.groups.member
    return np.lexsort((-results.counts, np.where(member < 0, len(GROUPS), member)))


def boundaries(axes: Axes, groups: ClassGroups, order: np.ndarray, *, named: bool) -> None:
    """Draw lines between the groups of classes in their `order` [K], and `named` their names."""
    for group, name in enumerate(groups.names):
        places = np.flatnonzero(groups.member[order] == group)
        if not len(places):
            continue
        if places[0] > 0:
            axes.axvline(places[0] - 0.5, color="0.6", linewidth=0.6, linestyle=(0, (2, 2)))
        if named:
            axes.text(
                places.mean(),
                1.02,
                name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=7,
                color=QUIET,
            )
