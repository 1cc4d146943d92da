"""Lines: training over the epochs, accuracy over shifted test priors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.engine.details import SHIFT_RATIOS
from stage2.plots.figure import (
    GRID,
    MARKERS,
    QUIET,
    caption,
    legend,
    line_style,
    panels,
    whole_numbers,
)
from stage2.plots.picture import Picture
from stage2.results.choice import measured_all
from stage2.results.configurations import Configuration
from stage2.results.measured import measured
from stage2.results.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Configurations in one plot."""

_NAMES = {
    "loss": "training loss",
    "val_macro": "macro accuracy on val, %",
    "gradient_norm": "norm of the gradient",
}


def curves(picture: Picture) -> Figure:
    """Draw training curves, means over seeds with bands from the lowest to the highest seed.

    Heads that do not train are left out.
    """
    results, width = picture.results, picture.width
    choice = picture.choose(MOST, having=lambda of, each, _: _trained(of, each))
    if not choice.shown:
        raise errors.ConfigError(
            f"Nothing asked for in {results.path} trains in epochs. Choose a recipe such as crt."
        )
    by_label = {
        each.label: measured(each.results, each.configuration, each.epoch).curves
        for each in choice.shown
    }
    names = [name for name in _NAMES if any(name in lines for lines in by_label.values())]
    figure, axes = panels(len(names), width, narrowest=2.2, height=2.0)
    handles: dict[str, Any] = {}
    for [panel], name in zip(axes, names, strict=True):
        for place, (label, lines) in enumerate(by_label.items()):
            if name in lines:
                handles[label] = _with_band(panel, lines[name], line_style(place))
        panel.set(xlabel="epoch" if "gradient_norm" not in names else "epoch or iteration")
        panel.set_ylabel(_NAMES[name])
        low, high = panel.dataLim.y0, panel.dataLim.y1
        if name != "val_macro" and low > 0 and high > 20 * low:
            panel.set_yscale("log")
        whole_numbers(panel.xaxis)
        panel.grid(axis="y", **GRID)
    legend(figure, [handles[label] for label in by_label], list(by_label))
    caption(
        figure,
        choice.conditions(),
        "lines: means over seeds, bands: from the lowest to the highest seed",
        "losses of different kinds have different scales" if len(by_label) > 1 else "",
    )
    return figure


def shift(picture: Picture) -> Figure:
    """Draw accuracy under long-tailed, uniform and inversely long-tailed test priors [SADE], as the
    heads are and, dotted, moved to each prior."""
    choice = picture.choose(MOST)
    arrays = measured_all(choice, "shift_forward")
    figure, [[panel]] = panels(1, picture.width, narrowest=1, height=2.3)
    ticks = [*(f"{r}" for r in SHIFT_RATIOS[::-1]), "1", *(f"{r}" for r in SHIFT_RATIOS)]
    x = np.arange(len(ticks))
    lines = []
    for place, (shown, each) in enumerate(zip(choice.shown, arrays, strict=True)):
        forward, backward = each.details["shift_forward"], each.details["shift_backward"]
        y = np.concatenate([forward[::-1], [np.nanmean(each.per_class)], backward])
        look = line_style(place) | {"marker": MARKERS[place], "markersize": 3}
        lines += panel.plot(x, y, linewidth=1.2, label=shown.label, **look)
        if (known := each.details.get("shift_forward_known")) is not None:
            y = np.concatenate([known[::-1], each.details["shift_backward_known"][1:]])
            panel.plot(x, y, linewidth=1.0, linestyle=":", color=look["color"])
    middle = len(SHIFT_RATIOS)
    panel.axvline(middle, color="0.6", linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    panel.set_xticks(x, ticks)
    panel.set(xlim=(-0.3, x[-1] + 0.3), ylabel="accuracy, %")
    panel.set_xlabel("imbalance of the test prior")
    quiet: dict[str, Any] = {"transform": panel.transAxes, "fontsize": 7, "color": QUIET}
    panel.text(0.01, 0.03, "← as in training", **quiet)
    panel.text(0.99, 0.97, "reversed →", ha="right", va="top", **quiet)
    panel.grid(axis="y", **GRID)
    legend(figure, lines)
    caption(
        figure,
        choice.protocol(),
        "means over seeds",
        "test rows weighted to long-tailed priors of these ratios; 1 is macro accuracy",
        "dotted: the prior known to the head",
    )
    return figure


def _trained(results: Results, configuration: Configuration) -> bool:
    """Whether a configuration has a curve."""
    curves = results.store.curves(results.fingerprint, configuration.runs[0].recipe)
    return any(map(len, curves.values()))


def _with_band(axes: Axes, values: np.ndarray, look: dict[str, Any]) -> Any:
    """Draw the mean of [seeds, epochs] and the range over seeds; return the line."""
    epochs = np.arange(1, values.shape[1] + 1)
    low, high = np.nanmin(values, 0), np.nanmax(values, 0)
    axes.fill_between(epochs, low, high, color=look["color"], alpha=0.18, linewidth=0)
    marker = "o" if len(epochs) == 1 else None
    (line,) = axes.plot(
        epochs, np.nanmean(values, 0), linewidth=1.2, marker=marker, markersize=3, **look
    )
    return line
