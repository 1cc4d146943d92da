"""The classes that are most often taken for one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featbank import errors
from featbank.bank import GROUPS, class_groups
from featbank.characters import clipped
from stage2.engine.details import CONFUSIONS
from stage2.plots.figure import GROUP_COLOURS, caption, fitted, letters, panels
from stage2.plots.picture import Picture
from stage2.results.choice import Choice, measured_all
from stage2.results.confused import confused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 4
"""Configurations in one plot."""

CLASSES = 12
"""Classes of a matrix."""

_LONGEST = 16
"""Characters of a class name."""


def confusion(picture: Picture) -> Figure:
    """Draw which classes are taken for which: the most confused ones, largest class first.

    Parameters as of `stage2.plots.plot`; by default the best configuration is drawn.
    """
    choice, width = picture.choose(MOST if picture.recipes else 1), picture.width
    found = _matrices(choice)
    names = [clipped(name, _LONGEST) for name in choice.results.class_names]
    groups = class_groups(choice.results.counts)
    longest = letters(names[k] for classes, _ in found for k in classes)
    margin = 0.4 + 0.06 * longest  # names and an axis label
    across = min(len(found), max(1, int(width / 3.2)))
    cell = min(0.27, (width / across - margin - 0.1) / CLASSES)
    height = margin + cell * max(len(classes) for classes, _ in found) + 0.3
    figure, axes = panels(len(found), width, narrowest=3.2, height=height)
    for place, ([panel], (classes, matrix), each) in enumerate(
        zip(axes, found, choice.shown, strict=True)
    ):
        _matrix(panel, matrix, cell > 0.13)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_ticks(range(len(classes)), [names[k] for k in classes])
            for label, k in zip(axis.get_ticklabels(), classes, strict=True):
                group = next(name for name in GROUPS if groups[name][k])
                label.set_color(GROUP_COLOURS[group])
        turned = longest > 3
        panel.tick_params(axis="x", rotation=90 if turned else 0)
        panel.set(xlabel="predicted", ylabel="true" if place % across == 0 else "")
        panel.set_title(fitted(each.label, width / across), loc="left")
    caption(
        figure,
        choice.protocol(),
        f"cells: rows of the true class in %; empty: not among the {CONFUSIONS} most frequent",
        f"the {CLASSES} most confused classes" if len(names) > CLASSES else "",
        "largest class first",
        "names: blue many, green medium, red few",
    )
    return figure


def _matrices(choice: Choice) -> list[tuple[np.ndarray, np.ndarray]]:
    """The most confused classes and their matrix of each configuration."""
    found = []
    results, counts = choice.results, choice.results.counts
    for one in measured_all(choice, "confusions"):
        own = one.configuration
        labels = results.store.labels(results.fingerprint, choice.split)
        assert labels is not None  # they are of the same schema
        rows = len(own.done) * np.bincount(labels, minlength=len(counts))
        confusions = one.details["confusions"]
        if not len(confusions):
            raise errors.ConfigError(
                f"{own.id} confuses no classes of {choice.split}. Choose another with --recipe."
            )
        found.append(confused(confusions, one.per_class, rows, counts, CLASSES))
    return found


def _matrix(axes: Axes, matrix: np.ndarray, roomy: bool) -> None:
    """Shares in percent [n, n]: confusions in reds, the accuracy on the diagonal in grey."""
    from matplotlib import colormaps

    diagonal = np.eye(len(matrix), dtype=bool)
    wrong = np.where(diagonal, np.nan, matrix)
    high = np.nanmax(wrong)
    axes.imshow(wrong, cmap=colormaps["OrRd"], vmin=0, vmax=1.15 * high)
    axes.imshow(np.where(diagonal, 0.15, np.nan), cmap="Greys", vmin=0, vmax=1)
    for (y, x), value in np.ndenumerate(matrix):
        if np.isfinite(value) and roomy:
            dark = x != y and value > 0.65 * high
            told = f"{value:.0f}" if value >= 1 else f"{value:.1f}".removeprefix("0")
            colour = "white" if dark else "black"
            axes.text(x, y, told, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
