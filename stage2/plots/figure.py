"""The frame of all plots: look, panels, captions, legends, and writing the file."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from featbank.characters import visible, visible_lines
from featbank.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png", "svg")

WIDTH = 7.0
"""Inches: the text of a page; a column has 3.3."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a dollar
    "svg.fonttype": "none",  # text that can be searched and edited
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Colours of configurations, distinguishable by the colour-blind (Okabe and Ito)."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))

MARKERS = "osD^vP*X"

GROUP_COLOURS = {"macro": "#4D4D4D", "many": "#0072B2", "medium": "#009E73", "few": "#D55E00"}

GRID: dict[str, Any] = {"color": "0.9", "linewidth": 0.5, "zorder": 0}

QUIET = "0.3"
"""Grey of captions and reference lines."""


def form_of(output: str | os.PathLike[str], forms: Sequence[str] = FORMATS) -> str:
    """The format that the ending of a file names, one of `forms`.

    Raises
    ------
    ConfigError
        For another ending, or a missing folder.
    """
    path = Path(output)
    form = path.suffix[1:].lower()
    if form not in forms:
        *first, last = (f".{each}" for each in forms)
        raise errors.ConfigError(
            f"{path} does not end in the name of a plot's format. "
            f"Choose {', '.join(first)} or {last}."
        )
    if not path.parent.is_dir():
        raise errors.ConfigError(f"{path.parent} is not a folder. Create it first.")
    return form


def save(draw: Callable[[], Figure], output: str | os.PathLike[str] | None) -> Figure:
    """Draw a figure, into a file where one is given, in our style and leaving matplotlib's settings
    as they are."""
    import matplotlib

    form = form_of(output) if output is not None else "png"
    drawn = io.BytesIO()
    with matplotlib.rc_context(STYLE), _warnings_in_a_line(form):
        figure = draw()
        make_visible(figure)
        if output is not None:
            figure.savefig(drawn, format=form)
    if output is not None:
        with replacing(Path(output)) as part:
            part.write_bytes(drawn.getvalue())
    return figure


def make_visible(figure: Figure) -> None:
    """Show every text of a figure as `featbank.characters.visible` does, whatever brought it."""
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(visible_lines(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for formatter in (axis.get_major_formatter(), axis.get_minor_formatter()):
                if isinstance(formatter, FuncFormatter):  # names ticks each time they are drawn
                    formatter.func = _visible_ticks(formatter.func)


def _visible_ticks(name: Callable[..., str]) -> Callable[..., str]:
    return lambda value, place=None: visible(name(value, place))


@contextlib.contextmanager
def _warnings_in_a_line(form: str) -> Iterator[None]:
    """Replace matplotlib's warnings, one for each character, by at most one of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    lacking, narrow = set(), False
    for each in caught:
        text = str(each.message)
        if glyph := re.match(r"Glyph (\d+) ", text):
            lacking.add(glyph[1])
        elif "constrained_layout" in text:
            narrow = True
        elif not text.startswith("Matplotlib"):  # follows those of a script's characters
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if narrow:
        warnings.warn("the figure has too little room for its texts. Give a larger --width.")
    elif lacking and form != "svg":  # there the viewer chooses the font
        characters = "1 character" if len(lacking) == 1 else f"{len(lacking)} characters"
        warnings.warn(
            f"the font lacks {characters} of the names, shown as boxes. Write .svg, in which the "
            "viewer chooses the font."
        )


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of the line at a place among several."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from stage2.plots.styled import StyledFigure

    return StyledFigure(figsize=(width, height), layout="constrained")


def panels_across(count: int, width: float, narrowest: float) -> int:
    """The number of `count` panels, each at least so many inches wide, that fit side by side."""
    return min(count, max(1, int(width / narrowest)))


def panels(
    count: int,
    width: float,
    *,
    narrowest: float,
    height: float,
    rows: int = 1,
    heights: Sequence[float] = (1.0,),
    **shared: Any,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `count` panels, side by side as far as there is room.

    Parameters
    ----------
    narrowest
        Inches that a panel needs.
    height
        Inches of a panel.
    rows, heights
        Axes of a panel, one above another, and the ratio of their heights.

    Returns
    -------
    The figure, and the axes of each panel.
    """
    across = panels_across(count, width, narrowest)
    down = math.ceil(count / across)
    figure = new_figure(width, 0.2 + height * down)
    axes = figure.subplots(
        down * rows,
        across,
        squeeze=False,
        gridspec_kw={"height_ratios": list(heights) * down},
        **shared,
    )
    by_panel = [
        [axes[rows * (place // across) + row, place % across] for row in range(rows)]
        for place in range(across * down)
    ]
    for unused in by_panel[count:]:
        for each in unused:
            each.remove()
    return figure, by_panel[:count]


def caption(figure: Figure, *parts: str) -> None:
    """Write the protocol and an explanation below a figure."""
    text = " · ".join(part for part in parts if part)
    for kept in (r" (?=·)", r"(?<=\d,) (?=\d)", r"(?<=[<>≤]) ", r" (?=[<>≤])"):
        text = re.sub(kept, "\u00a0", text)  # no line ends here
    lines = textwrap.wrap(text, int(19.5 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=6.5, color=QUIET)
    figure.set_figheight(figure.get_figheight() + 0.12 * len(lines))


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str] | None = None) -> None:
    """Draw a legend above a figure, in as many columns as fit."""
    names = list(labels) if labels else [str(handle.get_label()) for handle in handles]
    widest = max(map(len, names))
    columns = min(len(names), max(1, int(figure.get_figwidth() / (0.45 + 0.055 * widest))))
    figure.legend(handles, names, loc="outside upper left", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.14 * math.ceil(len(names) / columns))


def fitted(text: str, inches: float) -> str:
    """A title wrapped to a width."""
    return textwrap.fill(text, max(10, int(16 * inches)))


def label_counts(axis: Axis, low: int, high: int) -> None:
    """Label training counts along a logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def label_ratios(axis: Axis, low: float, high: float) -> None:
    """Label ratios from `low` to `high` along a logarithmic axis with plain numbers."""
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 200 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    if high < 4 * low:
        values = np.asarray(MaxNLocator(4).tick_values(low, high))
        axis.set_major_locator(FixedLocator(values[values > 0.9 * low].tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over `window` ≤ K neighbours of each value [K], fewer at the ends, without NaN."""
    known = np.isfinite(values)
    ones = np.ones(window)
    sums = np.convolve(np.where(known, values, 0.0), ones, "same")
    with np.errstate(invalid="ignore"):
        return sums / np.convolve(known.astype(float), ones, "same")


def thick_line(axes: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> Any:
    """Draw a line with a white edge, which stands out among points and other lines."""
    from matplotlib.patheffects import withStroke

    edge = withStroke(linewidth=2.5, foreground="white")
    look: dict[str, Any] = {"color": "black", "linewidth": 1.5, "zorder": 3, "path_effects": [edge]}
    (line,) = axes.plot(x, y, **(look | style))
    return line


def letters(names: Iterable[str]) -> int:
    """Characters of the longest name."""
    return max((len(name) for name in names), default=0)
