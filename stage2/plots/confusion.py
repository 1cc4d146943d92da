"""Confusion matrices of the classes that are most often confused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featbank import errors
from featbank.characters import clipped
from stage2.engine.details import CONFUSIONS
from stage2.plots.figure import GROUP_COLOURS, caption, fitted, letters, panels, panels_across
from stage2.plots.picture import Picture
from stage2.results.choice import Choice, measured_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 4
"""Configurations in one plot."""

CLASSES = 12
"""Classes of a matrix."""

_LONGEST = 16
"""Characters of a class name."""

_HUES = ("blue", "green", "red")
"""The colours of the class groups, in words."""

_NARROWEST = 3.2
"""Inches of a panel."""


def confusion(picture: Picture) -> Figure:
    """Draw the confusion matrix of the most confused classes, largest class first.

    Without recipes the best configuration is drawn.
    """
    choice, width = picture.choose(MOST if picture.recipes else 1), picture.width
    matrices = _matrices(choice)
    names = [clipped(name, _LONGEST) for name in choice.results.class_names]
    groups = choice.results.groups
    group_of = groups.of_classes()
    longest = letters(names[k] for classes, _ in matrices for k in classes)
    margin = 0.4 + 0.06 * longest  # names and an axis label
    across = panels_across(len(matrices), width, _NARROWEST)
    cell = min(0.27, (width / across - margin - 0.1) / CLASSES)
    height = margin + cell * max(len(classes) for classes, _ in matrices) + 0.3
    figure, axes = panels(len(matrices), width, narrowest=_NARROWEST, height=height)
    for place, ([panel], (classes, matrix), each) in enumerate(
        zip(axes, matrices, choice.shown, strict=True)
    ):
        _matrix(panel, matrix, cell > 0.13)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_ticks(range(len(classes)), [names[k] for k in classes])
            for label, k in zip(axis.get_ticklabels(), classes, strict=True):
                label.set_color(GROUP_COLOURS.get(group_of[k], "black"))
        turned = longest > 3
        panel.tick_params(axis="x", rotation=90 if turned else 0)
        panel.set(xlabel="predicted", ylabel="true" if place % across == 0 else "")
        panel.set_title(fitted(each.label, width / across), loc="left")
    hues = (f"{hue} {name}" for hue, name in zip(_HUES, groups.names, strict=True))
    caption(
        figure,
        choice.protocol(),
        f"cells: rows of the true class in %; empty: not among the {CONFUSIONS} most frequent",
        f"the {CLASSES} most confused classes" if len(names) > CLASSES else "",
        "largest class first",
        f"names: {', '.join(hues)}",
    )
    return figure


def _matrices(choice: Choice) -> list[tuple[np.ndarray, np.ndarray]]:
    """The most confused classes and their matrix of each configuration."""
    matrices = []
    results, counts = choice.results, choice.results.counts
    for arrays in measured_all(choice, "confusions"):
        configuration = arrays.configuration
        tested = results.store.tested(results.fingerprint, choice.split)
        assert tested is not None  # files with confusions have them
        rows = len(configuration.done) * tested.rows_of_classes(len(counts))
        confusions = arrays.details["confusions"]
        if not len(confusions):
            raise errors.ConfigError(
                f"{configuration.id} confuses no classes of {choice.split}. Choose another with "
                "--recipe."
            )
        matrices.append(confused(confusions, arrays.per_class, rows, counts, CLASSES))
    return matrices


def confused(
    confusions: np.ndarray, per_class: np.ndarray, rows: np.ndarray, counts: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the most confused classes and compute their confusion matrix.

    Parameters
    ----------
    confusions
        Class, predicted class and rows of pairs [M, 3], most frequent first.
    per_class
        Accuracy of each class in percent [K].
    rows
        Rows of each class [K] that `confusions` counts, all seeds together.
    counts
        Training counts [K].
    most
        Number of classes, at least two.

    Returns
    -------
    Indices of n ≤ `most` classes, those of the most frequent pairs, by training samples, most
    first; and the share of each one's rows that is predicted as each [n, n], percent, NaN for a
    pair that is not among `confusions`.
    """
    taken: set[int] = set()
    for k, other, _ in confusions.tolist():
        if len(taken | {k, other}) <= most:
            taken |= {k, other}
    classes = np.array(sorted(taken, key=lambda k: (-counts[k], k)), int)
    place = {int(k): i for i, k in enumerate(classes)}
    matrix = np.full((len(classes), len(classes)), np.nan)
    np.fill_diagonal(matrix, per_class[classes])
    for k, other, wrong in confusions.tolist():
        if k in place and other in place:
            matrix[place[k], place[other]] = 100 * wrong / rows[k]
    return classes, matrix


def _matrix(axes: Axes, matrix: np.ndarray, roomy: bool) -> None:
    """Draw shares in percent [n, n]: confusions in reds, the accuracy on the diagonal in grey."""
    from matplotlib import colormaps

    diagonal = np.eye(len(matrix), dtype=bool)
    wrong = np.where(diagonal, np.nan, matrix)
    high = np.nanmax(wrong)
    axes.imshow(wrong, cmap=colormaps["OrRd"], vmin=0, vmax=1.15 * high)
    axes.imshow(np.where(diagonal, 0.15, np.nan), cmap="Greys", vmin=0, vmax=1)
    for (y, x), value in np.ndenumerate(matrix):
        if np.isfinite(value) and roomy:
            dark = x != y and value > 0.65 * high
            text = f"{value:.0f}" if value >= 1 else f"{value:.1f}".removeprefix("0")
            colour = "white" if dark else "black"
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
