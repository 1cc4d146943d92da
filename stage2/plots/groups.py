"""Gain over the baseline, and accuracy of many, medium and few, for many recipes as dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stage2.engine.metrics import RANKING
from stage2.plots.figure import (
    GRID,
    GROUP_COLOURS,
    QUIET,
    caption,
    fitted,
    letters,
    new_figure,
)
from stage2.plots.picture import Picture
from stage2.results.choice import Choice
from stage2.results.significance import LEVEL
from stage2.results.verdict import Gain, gains_over_baseline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 24
"""Configurations in one plot."""

_LONGEST = 34
"""Characters of a label in a line."""

_NARROWEST_RANGE = 2.0
"""Points of accuracy that an axis shows at least: smaller differences are not stretched."""


@dataclass(frozen=True)
class _Column:
    """A figure of every configuration: title, colour, for each value its ends and text, or None
    where it has none, and whether 0 is drawn as a line."""

    title: str
    colour: str
    values: Sequence[tuple[float, float, float, str] | None]
    from_zero: bool = False


def groups(picture: Picture) -> Figure:
    """Draw the gain over the baseline, macro accuracy and that of many, medium and few as dots,
    best configuration on top.

    Of several banks the dots of a recipe stand together, in the order of the first bank, and each
    bank has its own baseline. Bars are the standard deviation over seeds, those of gains paired
    intervals; filled dots tie with the best.
    """
    choice = picture.choose(MOST)
    rows = choice.rows
    names = [fitted(each.label, _LONGEST / 16) for each in choice.shown]
    lines = sum(name.count("\n") for name in names)
    shown = [name for name in GROUP_COLOURS if any(row[name] is not None for row in rows)]
    narrow = picture.width < 1.1 * (len(shown) + 1) + 0.05 * letters("\n".join(names).split("\n"))
    gains, baseline = _gains(choice)
    columns = [_of_gains(gains)] if baseline else []
    columns += [_of_metric(choice, name) for name in shown]
    figure = new_figure(picture.width, 0.45 + 0.17 * len(rows) + 0.09 * lines)
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    ties = any(row["tied"] is not None for row in rows)
    filled = [bool(row["tied"]) or not ties for row in rows]
    for panel, column in zip(axes, columns, strict=True):
        _draw(panel, column, filled, narrow=narrow)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.45, -0.55)
    spread = any(row[f"{RANKING}_std"] is not None for row in rows)
    caption(
        figure,
        "mean per-class accuracy, %",
        f"gain: points of macro accuracy over {baseline}, {LEVEL} % paired intervals"
        if baseline
        else "",
        choice.protocol(),
        f"in the order of {choice.results.board.terms.order}"
        + (f", of {choice.results.name}" if len(picture.banks) > 1 else ""),
        f"filled: ties with the best on {choice.results.select_on}" if ties else "",
        "bars: ± one standard deviation over seeds" if spread else "",
        choice.thresholds,
    )
    return figure


def _gains(choice: Choice) -> tuple[list[Gain | None], str]:
    """The gain of each configuration over the baseline of its bank, and that in words; none where a
    bank has none."""
    by_bank = {
        bank: gains_over_baseline(bank, [e.row for e in choice.shown if e.results is bank])
        for bank in choice.banks
    }
    gains = [by_bank[each.results].get(each.row["recipe"]) for each in choice.shown]
    baselines = dict.fromkeys(gain.over for gain in gains if gain is not None)
    return gains, " or ".join(baselines)


def _of_gains(gains: Sequence[Gain | None]) -> _Column:
    values = [
        None
        if gain is None
        else (
            gain.difference,
            gain.difference if gain.low is None else gain.low,
            gain.difference if gain.high is None else gain.high,
            f"{gain.difference:+.1f}".replace("-", "−"),
        )
        for gain in gains
    ]
    return _Column("gain", "black", values, from_zero=True)


def _of_metric(choice: Choice, name: str) -> _Column:
    """The column of a metric."""
    values: list[tuple[float, float, float, str] | None] = []
    for row in choice.rows:
        value, spread = row[name], row[f"{name}_std"]
        if value is None:
            values.append(None)
            continue
        text = f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")
        values.append((value, value - (spread or 0), min(100.0, value + (spread or 0)), text))
    return _Column(choice.metrics[name].label, GROUP_COLOURS[name], values)


def _draw(panel: Axes, column: _Column, filled: Sequence[bool], *, narrow: bool) -> None:
    """Draw a column, its values as text on the right unless it is `narrow`."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    known = [each for each in column.values if each is not None]
    low = min([*(each[1] for each in known), *([0.0] if column.from_zero else [])])
    high = max([*(each[2] for each in known), *([0.0] if column.from_zero else [])])
    room = max(0.08 * (high - low), (_NARROWEST_RANGE - (high - low)) / 2)
    panel.set_xlim(low - room, high + room)
    for place, (value, is_filled) in enumerate(zip(column.values, filled, strict=True)):
        if value is None:
            continue
        middle, start, end, text = value
        panel.hlines(place, start, end, color=column.colour, linewidth=0.9, zorder=2)
        panel.plot(
            middle,
            place,
            marker="o",
            markersize=3.6,
            color=column.colour,
            markerfacecolor=column.colour if is_filled else "white",
            markeredgewidth=0.9,
            clip_on=False,
            zorder=3,
        )
        if not narrow:
            panel.annotate(
                text,
                (1, place),
                (3, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
    if column.from_zero:
        panel.axvline(0, color=QUIET, linewidth=0.8, zorder=1)
    title = panel.set_title(column.title, loc="left", color=column.colour, fontweight="bold")
    panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if narrow:
        title.set_fontsize(6.5)
        ends = math.ceil(low - room / 2), math.floor(high + room / 2)
        panel.xaxis.set_major_locator(FixedLocator(ends))
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", **GRID)
    panel.grid(axis="y", color="0.95", linewidth=0.5, zorder=0)
    panel.spines["left"].set_visible(False)
    panel.set_axisbelow(True)
