"""Reliability diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stage2.plots.figure import COLOURS, GRID, QUIET, caption, fitted, legend, panels, panels_across
from stage2.plots.picture import Picture
from stage2.results.choice import measured_all
from stage2.results.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Configurations in one plot."""

_NARROWEST = 1.55


def reliability(picture: Picture) -> Figure:
    """Draw accuracy against confidence, with the rows of each bin below and ECE in the title."""
    choice = picture.choose(MOST)
    width = picture.width
    arrays = measured_all(choice, "reliability")
    count = len(arrays)
    across = panels_across(count, width, _NARROWEST)
    figure, axes = panels(
        count,
        width,
        narrowest=_NARROWEST,
        height=1.3 * width / across if width / across < 2.4 else 2.9,
        rows=2,
        heights=(3.2, 1),
        sharex=True,
    )
    for place, ((above, below), shown, each) in enumerate(
        zip(axes, choice.shown, arrays, strict=True)
    ):
        _diagram(above, below, each.details["reliability"])
        spread = shown.row["ece_std"]
        ece = f"ECE {shown.row['ece']:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")
        above.set_title(f"{fitted(shown.label, width / across)}\n{ece} %", loc="left", fontsize=7.5)
        above.tick_params(labelleft=place % across == 0)
        if place % across == 0:
            above.set_ylabel("accuracy, %")
            below.set_ylabel("rows")
        if place + across >= count:
            below.set_xlabel("confidence, %")
            below.tick_params(labelbottom=True)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS[0], label="accuracy"),
        Patch(facecolor="none", edgecolor=COLOURS[1], hatch="//////", linewidth=0.6, label="gap"),
        Line2D([], [], color=QUIET, linewidth=0.8, linestyle="--", label="calibrated"),
    ]
    legend(figure, handles)
    caption(
        figure,
        choice.protocol(),
        "rows of all seeds together, ECE: mean ± standard deviation over seeds",
        "gap: from the accuracy of a bin to its mean confidence",
        f"rows: {_totals(arrays)} in all",
    )
    return figure


def _diagram(above: Axes, below: Axes, diagram: np.ndarray) -> None:
    """Draw a diagram [3, bins] and the number of rows in each bin."""
    rows, confidence, accuracy = diagram
    bins = len(rows)
    left = np.arange(bins) * 100 / bins
    look: dict[str, Any] = {"width": 100 / bins, "align": "edge", "linewidth": 0.4}
    filled = rows > 0
    above.bar(left[filled], accuracy[filled], color=COLOURS[0], edgecolor="white", zorder=2, **look)
    above.bar(
        left[filled],
        confidence[filled] - accuracy[filled],
        bottom=accuracy[filled],
        facecolor="none",
        edgecolor=COLOURS[1],
        hatch="//////",
        zorder=3,
        **look,
    )
    above.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle="--", zorder=4)
    above.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 25, 50, 75, 100))
    above.grid(**GRID)
    below.bar(left, rows, color="0.6", edgecolor="white", **look)
    most = int(rows.max())
    below.set(xlim=(0, 100), ylim=(0, 1.6 * max(most, 1)), yticks=())
    below.text(2, 1.56 * max(most, 1), f"most: {most:,}", fontsize=6, va="top", color=QUIET)


def _totals(arrays: list[Measured]) -> str:
    """The numbers of rows that diagrams count, over all seeds."""
    totals = {int(each.details["reliability"][0].sum()) for each in arrays}
    return " or ".join(f"{total:,}" for total in sorted(totals))
