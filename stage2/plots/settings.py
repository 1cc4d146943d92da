"""A metric over the values of settings: a heat map of two, a curve over one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.engine.metrics import METRICS, RANKING
from stage2.plots.figure import (
    DASHES,
    GRID,
    GROUP_COLOURS,
    MARKERS,
    QUIET,
    caption,
    fitted,
    legend,
    letters,
    panels,
    panels_across,
)
from stage2.plots.picture import Picture
from stage2.results.grids import Grid, grids
from stage2.results.leaderboard import Row, setting_text
from stage2.results.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MOST = 4
"""Recipes in one plot."""

_NARROWEST = 2.3
"""Inches of a panel."""

_LINE = 0.24
"""Inches of a line of cells."""


def heatmap(picture: Picture) -> Figure:
    """Draw a metric over the values of two settings of a recipe, as in MiSLAS Fig. 5.

    Each cell is the best configuration with its two values; the best cell is framed. A name of a
    recipe means all its configurations; by default the recipe with the largest grid is drawn, the
    metric is macro accuracy, and the settings `by` are those with most values.
    """
    from matplotlib import colormaps

    choice, width, metric = picture.every(), picture.width, picture.metric_key or RANKING
    known = choice.metrics[metric]
    name = picture.metric or RANKING
    shown = _grids(picture, choice.rows, 2, metric)
    values = [_cells(grid, metric) for grid in shown]
    every = np.concatenate([cells.ravel() for cells in values])
    low, high, is_widened = _range(every, choice.results, metric)
    tall = max(len(grid.values[1]) for grid in shown)
    height = min(4.5, max(1.6, 0.6 + _LINE * tall))
    figure, axes = panels(len(shown), width, narrowest=_NARROWEST, height=height)
    across = panels_across(len(shown), width, _NARROWEST)
    lower, is_numbered = known.lower_is_better, False
    for [panel], grid, cells in zip(axes, shown, values, strict=True):
        image = panel.imshow(
            cells,
            origin="lower",
            aspect="auto",
            cmap=colormaps["viridis_r" if lower else "viridis"],
            vmin=low,
            vmax=high,
        )
        room, line = (width / across - 1.3) / len(grid.values[0]), (height - 0.5) / tall
        if room > 0.06 * (len(_number(high)) + 1) and line > 0.12:
            _numbers(panel, _texts(grid, cells, metric, (room, line)), (cells - low) / (high - low))
            is_numbered = True
        y, x = np.unravel_index((np.nanargmin if lower else np.nanargmax)(cells), cells.shape)
        _frame(panel, float(x), float(y))
        _ticks(panel.xaxis, grid, 0, room, 0.055)
        _ticks(panel.yaxis, grid, 1, line)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        if len(shown) > 1:
            panel.set_title(grid.recipe, loc="left")
    bar = figure.colorbar(image, ax=[panel for [panel] in axes], fraction=0.05, pad=0.015)
    bar.outline.set_visible(False)
    bar.set_label(f"{name} on {choice.split}")
    caption(
        figure,
        "" if len(shown) > 1 else shown[0].recipe,
        choice.protocol(_rows(shown)),
        f"{name}: {known.description}; mean over seeds",
        "each cell is the best over the other settings" if _several(shown) else "",
        f"framed: the best on {choice.split}",
        "*: ties with the best" if is_numbered and choice.results.board.terms.ties else "",
        _spread(shown, metric),
        f"colours span what one row of {choice.split} can change" if is_widened else "",
    )
    return figure


def setting(picture: Picture) -> Figure:
    """Draw accuracies over the values of one setting of a recipe [DisAlign Fig. 5].

    Each point is the best configuration with its value; bands are the standard deviation over
    seeds; a vertical line marks the value that is selected. Macro, many, medium and few are drawn,
    with a metric it alone. A name of a recipe means all its configurations; by default the recipe
    with most values is drawn, over the setting with most.
    """
    choice, metric, name = picture.every(), picture.metric_key, picture.metric
    shown = _grids(picture, choice.rows, 1, metric or RANKING)
    figure, axes = panels(len(shown), picture.width, narrowest=_NARROWEST, height=2.2, sharey=True)
    curves = [metric] if metric else list(GROUP_COLOURS)
    handles: dict[str, Any] = {}
    for [panel], grid in zip(axes, shown, strict=True):
        (values,) = grid.values
        numeric = all(type(value) in (int, float) for value in values)
        x = np.asarray(values, float) if numeric else np.arange(len(values))
        rows = [grid.best[value,] for value in values]
        for curve in curves:
            if all(row[curve] is not None for row in rows):
                handles[curve] = _curve(panel, x, rows, curve)
        if choice.results.select_on:
            chosen = values.index(next(iter(grid.best))[0])
            panel.axvline(x[chosen], color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if numeric:
            _scale(panel, x)
        else:
            panel.set_xticks(x, [setting_text(grid.settings[0], value) for value in values])
        panel.set_xlabel(grid.settings[0])
        panel.grid(axis="y", **GRID)
        if len(shown) > 1:
            panel.set_title(fitted(grid.recipe, _NARROWEST), loc="left")
    axes[0][0].set_ylabel(f"{name} on {choice.split}" if metric else "accuracy, %")
    titles = [name or choice.metrics[curve].label for curve in handles]
    legend(figure, list(handles.values()), titles)
    spread = any(row["macro_std"] is not None for row in _rows(shown))
    caption(
        figure,
        "" if len(shown) > 1 else shown[0].recipe,
        choice.protocol(_rows(shown)),
        f"{name}: {choice.metrics[metric].description}" if metric else "mean per-class accuracy",
        "each point is the best over the other settings" if _several(shown) else "",
        "dashed: the value selected" if choice.results.select_on else "",
        "bands: ± one standard deviation over seeds" if spread else "",
        "" if metric else choice.thresholds,
    )
    return figure


def _grids(picture: Picture, rows: Sequence[Row], count: int, metric: str) -> list[Grid]:
    """Grids over `count` settings of the configurations that have a metric, the largest first; only
    that one where no recipe is asked for."""
    rows = [row for row in rows if row[metric] is not None]
    by_recipe = grids(rows, count, picture.by)
    if not by_recipe:
        several = "two settings" if count == 2 else "a setting"
        raise errors.ConfigError(
            f"No recipe asked for in {picture.results.path} varies {several}. Sweep a grid, such "
            "as --set lr=0.05,0.1,0.2" + (" --set weight_decay=0,5e-4." if count == 2 else ".")
        )
    return by_recipe[: MOST if picture.recipes else 1]


def _rows(shown: Sequence[Grid]) -> list[Row]:
    """The rows that are drawn."""
    return [row for grid in shown for row in grid.best.values()]


def _several(shown: Sequence[Grid]) -> bool:
    """Whether other settings vary as well."""
    return any(grid.tried > len(grid.best) for grid in shown)


def _cells(grid: Grid, metric: str) -> np.ndarray:
    """A metric over the grid [y, x], NaN where nothing was tried."""
    x, y = grid.values
    rows = [[grid.best.get((a, b)) for a in x] for b in y]
    return np.array([[row[metric] if row else np.nan for row in line] for line in rows], float)


def _number(value: float, *, like: float | None = None) -> str:
    """A value, with the decimals of the value that it is `like`, by default of its own."""
    size = abs(value if like is None else like)
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _range(values: np.ndarray, results: Results, metric: str) -> tuple[float, float, bool]:
    """The ends of the colours, and whether they are widened to what one row can change."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    least = max(_one_row(results, metric), 1e-9)
    if high - low >= least:
        return low, high, False
    middle = (low + high) / 2
    return middle - least / 2, middle + least / 2, True


def _one_row(results: Results, metric: str) -> float:
    """The most that one row of the split shown can change a mean of class accuracies, in points; 0
    of other metrics, and where results do not know the rows."""
    tested = results.store.tested(results.fingerprint, results.split)
    weights = METRICS[metric].weights
    if tested is None or weights is None:
        return 0.0
    rows = tested.rows_of_classes(len(results.counts))
    of_classes = weights(rows, results.groups.masks)
    if of_classes is None:
        return 0.0
    return float(100 * (of_classes / np.maximum(rows, 1)).max())


def _spread(shown: Sequence[Grid], metric: str) -> str:
    """The standard deviations over seeds of what is drawn, for the caption."""
    spread = [row[f"{metric}_std"] for row in _rows(shown)]
    known = [each for each in spread if each is not None]
    return f"±: standard deviation over seeds, at most {max(known):.2g}" if known else ""


def _texts(grid: Grid, cells: np.ndarray, metric: str, room: tuple[float, float]) -> np.ndarray:
    """The texts of cells [y, x] in so many inches: the mean, below it the deviation over seeds if
    that fits; a star marks a tie with the best."""
    wide, high = room
    texts = np.full(cells.shape, "", object)
    for y, b in enumerate(grid.values[1]):
        for x, a in enumerate(grid.values[0]):
            if (row := grid.best.get((a, b))) is None or row[metric] is None:
                continue
            mean = _number(row[metric]) + ("*" if row["tied"] else "")
            spread = row[f"{metric}_std"]
            below = "" if spread is None else f"± {_number(spread, like=row[metric])}"
            fits = below and high > 0.25 and wide > 0.055 * len(below)
            texts[y, x] = f"{mean}\n{below}" if fits else mean
    return texts


def _numbers(axes: Axes, texts: np.ndarray, shares: np.ndarray) -> None:
    """Write texts into the cells, white on the dark ones, by their `shares` of the colours."""
    image = axes.images[0]
    for (y, x), text in np.ndenumerate(texts):
        if text:
            red, green, blue, _ = image.cmap(float(shares[y, x]))
            colour = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=colour)


def _frame(axes: Axes, x: float, y: float) -> None:
    """Draw a frame around a cell."""
    from matplotlib.patches import Rectangle

    for colour, thick in (("white", 2.6), ("black", 1.2)):
        look: dict[str, Any] = {"edgecolor": colour, "linewidth": thick, "fill": False}
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, clip_on=False, zorder=5, **look))


def _ticks(axis: Axis, grid: Grid, place: int, room: float, letter: float = 0.0) -> None:
    """Name a setting and its values, every n-th where a value has too few inches of `room` for a
    line, or for letters of `letter` inches."""
    name, values = grid.settings[place], grid.values[place]
    texts = [setting_text(name, value) for value in values]
    needed = (letters(texts) + 1) * letter if letter else 0.13
    step = math.ceil(needed / max(room, 1e-3))
    axis.set_ticks(range(0, len(texts), step), texts[::step])
    axis.set_label_text(name)


def _curve(axes: Axes, x: np.ndarray, rows: Sequence[Row], curve: str) -> Any:
    """Draw the means of a metric with a band; return the line."""
    place = list(GROUP_COLOURS).index(curve) if curve in GROUP_COLOURS else 0
    colour = list(GROUP_COLOURS.values())[place]
    mean = np.array([row[curve] for row in rows])
    std = np.array([row[f"{curve}_std"] or 0.0 for row in rows])
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
    (line,) = axes.plot(
        x,
        mean,
        color=colour,
        linestyle=DASHES[place],
        linewidth=1.8 if curve == RANKING else 1.2,
        marker=MARKERS[place] if len(x) <= 25 else None,
        markersize=3,
    )
    return line


def _scale(axes: Axes, x: np.ndarray) -> None:
    """Make the axis logarithmic where values grow by ratios."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if x.min() > 0 and x.max() / x.min() >= 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if len(x) <= 6:
            axes.set_xticks(x)
