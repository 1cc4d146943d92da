"""Accuracy of many, medium and few, side by side for many recipes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stage2.plots.figure import (
    GRID,
    GROUP_COLOURS,
    caption,
    fitted,
    letters,
    new_figure,
)
from stage2.plots.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 24
"""Configurations in one plot."""

_LONGEST = 34
"""Characters of a label in a line."""


def groups(picture: Picture) -> Figure:
    """Draw macro accuracy and that of many, medium and few as bars, best configuration on top.

    Of several banks the bars of a recipe stand together, in the order of the first bank.
    Whiskers are the standard deviation over seeds.
    """
    choice = picture.choose(MOST)
    rows = choice.rows
    shown = [name for name in GROUP_COLOURS if any(row[name] is not None for row in rows)]
    names = [fitted(each.label, _LONGEST / 16) for each in choice.shown]
    lines = sum(name.count("\n") for name in names)
    figure = new_figure(picture.width, 0.45 + 0.17 * len(rows) + 0.09 * lines)
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    highest = max(row[name] or 0 for row in rows for name in shown)
    top = max(20, 20 * math.ceil(highest / 20))
    narrow = picture.width < 1.0 * len(shown) + 0.05 * letters("\n".join(names).split("\n"))
    for panel, name in zip(axes, shown, strict=True):
        for place, row in enumerate(rows):
            if row[name] is None:
                continue
            spread = row[f"{name}_std"]
            panel.barh(place, row[name], 0.72, color=GROUP_COLOURS[name], zorder=2)
            if spread is not None:
                panel.errorbar(
                    row[name], place, xerr=spread, color="black", elinewidth=0.8, capsize=1.5
                )
            text = f"{row[name]:.1f}" + ("" if narrow or spread is None else f" ± {spread:.1f}")
            end = row[name] + (spread or 0)
            panel.annotate(
                text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=6
            )
        title = choice.metrics[name].label
        panel.set_title(title, loc="left", color=GROUP_COLOURS[name], fontweight="bold")
        panel.set(
            xlim=(0, top * (1.5 if narrow else 1.45)),
            xticks=(0, top) if narrow else (0, top // 2, top),
        )
        panel.spines["bottom"].set_bounds(0, top)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", **GRID)
        panel.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.45, -0.55)
    caption(
        figure,
        "mean per-class accuracy, %",
        choice.protocol(),
        f"in the order of {choice.results.board.terms.order}"
        + (f", of {choice.results.name}" if len(picture.banks) > 1 else ""),
        "whiskers: ± one standard deviation over seeds"
        if any(row["macro_std"] is not None for row in rows)
        else "",
        choice.thresholds,
    )
    return figure
