"""The confidence of classifiers in rows of many, medium and few, as violins of two halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.plots.figure import COLOURS, GRID, caption, fitted, legend, panels, panels_across
from stage2.plots.picture import Picture
from stage2.results.choice import Choice, measured_all

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
    """Draw violins of the confidence in rows of many, medium and few, one panel for each method.

    The left half of a violin are wrong rows, the right half right ones.
    """
    choice, width = picture.choose(MOST), picture.width
    names = choice.results.groups.names
    counts = [each.details["confidence"] for each in measured_all(choice, "confidence")]
    violins = [_shapes(each, names) for each in counts]
    across = panels_across(len(violins), width, _NARROWEST)
    figure, axes = panels(len(violins), width, narrowest=_NARROWEST, height=2.0, sharey=True)
    for place, ([panel], each, shapes) in enumerate(zip(axes, choice.shown, violins, strict=True)):
        _violins(panel, shapes, (WRONG, RIGHT))
        for spot, halves in enumerate(shapes.values()):
            _marks(panel, spot, halves.sum(0), halves[1].sum(), 0.3)
        panel.set_title(fitted(each.label, width / across), loc="left")
        if place % across == 0:
            panel.set_ylabel("confidence, %")
    _explain(figure, choice, ("wrong", "right"), (WRONG, RIGHT), "each violin")
    return figure


def versus(picture: Picture) -> Figure:
    """Draw violins of the confidence whose halves are two methods [MiSLAS Fig. 3].

    Both halves of a violin have the same rows, those of many, medium or few, and the same area.
    """
    choice = picture.choose(MOST)
    if len(choice.shown) != 2:
        raise errors.ConfigError(
            f"The plot 'versus' is of two configurations, got {len(choice.shown)}. Choose two "
            "recipes, such as --recipe lws --recipe mislas, or one on two banks with --bank A,B."
        )
    groups = choice.results.groups.names
    counts = [each.details["confidence"] for each in measured_all(choice, "confidence")]
    shapes = [_shapes(each, groups) for each in counts]
    figure, [[panel]] = panels(1, picture.width, narrowest=1, height=2.2)
    halves = {  # two banks may have other groups
        name: np.stack([each[name].sum(0) for each in shapes])
        for name in groups
        if all(name in each for each in shapes)
    }
    colours = COLOURS[1], COLOURS[0]
    _violins(panel, halves, colours)
    for spot, name in enumerate(halves):
        for side, each in zip((-0.15, 0.15), shapes, strict=True):
            _marks(panel, spot + side, each[name].sum(0), each[name][1].sum(), 0.15)
    panel.set_ylabel("confidence, %")
    left, right = (each.label for each in choice.shown)
    names = f"{left} (left)", f"{right} (right)"
    _explain(figure, choice, names, colours, "the fuller half of each violin")
    return figure


def _explain(
    figure: Figure, choice: Choice, halves: Sequence[str], colours: Sequence[str], widest: str
) -> None:
    """Add the legend of violins with these halves, and the caption; `widest` is the part that is as
    wide as its fullest bin."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    named = zip(colours, halves, strict=True)
    handles = [
        *(Patch(color=colour, label=name) for colour, name in named),
        Line2D([], [], color="black", linewidth=1.2, label="mean confidence"),
        Line2D([], [], linestyle="none", label="accuracy", **_DIAMOND),
    ]
    legend(figure, handles)
    caption(
        figure,
        choice.protocol(),
        "rows of all seeds, confidence: the largest probability",
        f"{widest} is as wide as its fullest bin; a line above its diamond: overconfident",
        choice.thresholds,
    )


def _shapes(counts: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Shares of rows of each group that has some, [wrong or right, bins], by its name, from counts
    [3, 2, B]."""
    by_group = zip(names, counts, strict=True)
    return {name: rows / rows.sum() for name, rows in by_group if rows.sum() > 0}


def _violins(axes: Axes, shapes: dict[str, np.ndarray], colours: tuple[str, str]) -> None:
    """Draw a violin per group, its halves [2, bins] back to back."""
    for place, shares in enumerate(shapes.values()):
        edges = np.linspace(0, 100, shares.shape[1] + 1)
        for sign, half, colour in zip((-1, 1), 0.46 * shares / shares.max(), colours, strict=True):
            axes.fill_betweenx(
                edges,
                place,
                place + sign * np.append(half, half[-1]),
                step="post",
                color=colour,
                alpha=0.85,
                linewidth=0,
            )
    axes.set(xlim=(-0.55, len(shapes) - 0.45), ylim=(0, 100))
    axes.set_xticks(range(len(shapes)), list(shapes))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)


def _marks(axes: Axes, x: float, shares: np.ndarray, accuracy: float, half: float) -> None:
    """Draw mean confidence, from shares of rows [bins], as a line, and accuracy as a diamond."""
    edges = np.linspace(0, 100, len(shares) + 1)
    mean = float((shares * (edges[:-1] + edges[1:]) / 2).sum())
    axes.hlines(mean, x - half, x + half, color="black", linewidth=1.2, zorder=3)
    axes.plot(x, 100 * float(accuracy), zorder=4, **_DIAMOND)
