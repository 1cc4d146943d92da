"""The confidence of classifiers in rows of many, medium and few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.bank import GROUPS
from stage2.plots.figure import COLOURS, GRID, caption, fitted, legend, panels, panels_across
from stage2.plots.picture import Picture
from stage2.results.choice import measured_all
from stage2.results.protocol import THRESHOLDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Configurations in one plot."""

RIGHT, WRONG = COLOURS[0], COLOURS[1]

_NARROWEST = 1.6
"""Inches of a panel."""

_DIAMOND: dict[str, Any] = {
    "color": "black",
    "marker": "D",
    "markersize": 3.5,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
}


def confidence(picture: Picture) -> Figure:
    """Draw violins of the confidence in rows of many, medium and few [MiSLAS Fig. 3].

    The left half of a violin are wrong rows, the right half right ones.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    choice, width = picture.choose(MOST), picture.width
    violins = [_shapes(each.details["confidence"]) for each in measured_all(choice, "confidence")]
    across = panels_across(len(violins), width, _NARROWEST)
    figure, axes = panels(len(violins), width, narrowest=_NARROWEST, height=2.0, sharey=True)
    for place, ([panel], each, shapes) in enumerate(zip(axes, choice.shown, violins, strict=True)):
        _violins(panel, shapes)
        panel.set_title(fitted(each.label, width / across), loc="left")
        if place % across == 0:
            panel.set_ylabel("confidence, %")
    handles = [
        Patch(color=WRONG, label="wrong"),
        Patch(color=RIGHT, label="right"),
        Line2D([], [], color="black", linewidth=1.2, label="mean confidence"),
        Line2D([], [], linestyle="none", label="accuracy", **_DIAMOND),
    ]
    legend(figure, handles)
    caption(
        figure,
        choice.protocol(),
        "rows of all seeds, confidence: the largest probability",
        "each violin is as wide as its fullest bin; a line above its diamond: overconfident",
        THRESHOLDS,
    )
    return figure


def _shapes(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of rows of each group that has some, [wrong or right, bins], from counts [3, 2, B]."""
    by_group = zip(GROUPS, counts, strict=True)
    return {name: rows / rows.sum() for name, rows in by_group if rows.sum() > 0}


def _violins(axes: Axes, shapes: dict[str, np.ndarray]) -> None:
    """Draw a violin per group, histograms back to back, with mean confidence and accuracy."""
    for place, shares in enumerate(shapes.values()):
        bins = shares.shape[1]
        edges = np.linspace(0, 100, bins + 1)
        wide = 0.46 * shares / shares.max()
        for sign, half, colour in ((-1, wide[0], WRONG), (1, wide[1], RIGHT)):
            axes.fill_betweenx(
                edges,
                place,
                place + sign * np.append(half, half[-1]),
                step="post",
                color=colour,
                alpha=0.85,
                linewidth=0,
            )
        middle = (edges[:-1] + edges[1:]) / 2
        mean, right = float((shares.sum(0) * middle).sum()), 100 * float(shares[1].sum())
        axes.hlines(mean, place - 0.3, place + 0.3, color="black", linewidth=1.2, zorder=3)
        axes.plot(place, right, zorder=4, **_DIAMOND)
    axes.set(xlim=(-0.55, len(shapes) - 0.45), ylim=(0, 100))
    axes.set_xticks(range(len(shapes)), list(shapes))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)
