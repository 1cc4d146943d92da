"""BatchNorm statistics of two views of a bank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.characters import clipped
from stage2.plots.figure import (
    COLOURS,
    GRID,
    QUIET,
    caption,
    label_ratios,
    legend,
    line_style,
    panels,
    thick_line,
    whole_numbers,
)
from stage2.plots.picture import BankPicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIEW = "balanced"
"""The statistics that are compared with those of ``instance``."""

_NARROWEST = 2.2
"""Inches of a panel."""

_LONGEST = 24
"""Characters of a layer's name."""

_POINTS = 32
"""Up to this many channels are points as well."""

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
"""Running mean and variance of the channels by layer."""

_DOTS: dict[str, Any] = {"color": COLOURS[0], "linewidths": 0, "s": 4, "alpha": 0.35, "zorder": 2}


def batchnorm(picture: BankPicture) -> Figure:
    """Draw how BatchNorm statistics move from ``instance`` to another view [MiSLAS Fig. 7].

    By layer, μ and σ² of each channel under ``instance`` and μ′ and σ′² under the other view: the
    shift (μ′ − μ)/σ and the ratio σ′²/σ², with the root mean square over the channels of the first
    and of the ratio's logarithm; channels with σ² or σ′² of 0 are left out. By channel: the
    statistics under both views, of the first and the last layer.
    """
    view = picture.view or VIEW
    before, after = _statistics(picture.bank, view)
    layers = list(before)
    ends = dict.fromkeys((layers[0], layers[-1]))
    height = 2.8 if picture.width >= 3 * _NARROWEST else 2.3
    figure, axes = panels(
        1 + len(ends),
        picture.width,
        narrowest=_NARROWEST,
        height=height,
        rows=2,
        heights=(1, 1),
    )
    (first, second), *rest = axes
    moved = [shifts(before[name], after[name]) for name in layers]
    _by_layer(first, [shift for shift, _ in moved], 0)
    _by_layer(second, [ratio for _, ratio in moved], 1)
    first.set_ylabel("(μ′ − μ) / σ")
    second.set(ylabel="σ′² / σ²", xlabel="layer")
    first.set_title("all layers", loc="left")
    lines: list[Any] = []
    for (above, below), name in zip(rest, ends, strict=True):
        for place, panel in enumerate((above, below)):
            lines = _by_channel(panel, before[name][place], after[name][place])
        above.set_title(clipped(name, _LONGEST), loc="left")
        above.set_ylabel("μ")
        below.set(ylabel="σ²", xlabel="channel")
    figure.align_ylabels()
    legend(figure, lines, [_counterpart(view), view])
    caption(
        figure,
        f"bank {picture.bank.fingerprint[:12]}",
        f"BatchNorm statistics of {len(layers)} layers: μ, σ² of {_counterpart(view)}, μ′, σ′² of "
        f"{view}",
        f"all layers, in the order of {_order(picture.bank, view)}: dots are channels, the line is "
        "their root mean square, of σ′²/σ² that of its logarithm",
    )
    return figure


def shifts(
    before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(μ′ − μ)/σ and σ′²/σ² of the channels of a layer that have σ² > 0 and σ′² > 0.

    Parameters
    ----------
    before, after
        μ and σ² [channels], and μ′ and σ′².
    """
    (mean, variance), (new_mean, new_variance) = (
        (each[0].astype(np.float64), each[1].astype(np.float64)) for each in (before, after)
    )
    alive = (variance > 0) & (new_variance > 0)
    shift = (new_mean[alive] - mean[alive]) / np.sqrt(variance[alive])
    return shift, new_variance[alive] / variance[alive]


def _statistics(bank: Bank, view: str) -> tuple[Statistics, Statistics]:
    """The statistics of the counterpart of a view and of the view, layers in the same order.

    Raises
    ------
    ConfigError
        Where the bank lacks one of them, or their layers differ.
    """
    other = _counterpart(view)
    if other == view:
        raise errors.ConfigError(
            f"{view!r} is what other views are compared with. Choose one such as --view {VIEW}."
        )
    if view not in bank.views:
        known = [each for each in bank.views if _counterpart(each) != each]
        remedy = errors.closest(view, known) if known else "Extract it with --views."
        raise errors.ConfigError(f"{bank.path} has no view {view!r}. {remedy}")
    before, after = bank.batchnorm(other), bank.batchnorm(view)
    for name, statistics in ((other, before), (view, after)):
        if not statistics:
            raise errors.ConfigError(
                f"{bank.path} has no BatchNorm statistics of the view {name!r}. `featbank extract` "
                "stores those of a backbone with BatchNorm; imported features have none."
            )
    if before.keys() != after.keys():
        raise errors.ConfigError(
            f"{bank.path} has other BatchNorm layers under {view!r} than under {other!r}. Extract "
            "both from one checkpoint."
        )
    layers = list(after) if bank.is_ordered(view) else sorted(before, key=_by_name)
    return {name: before[name] for name in layers}, {name: after[name] for name in layers}


def _counterpart(view: str) -> str:
    """``instance``, of the same expert: ``expert1/instance`` for ``expert1/balanced``."""
    expert, slash, _ = view.rpartition("/")
    return f"{expert}{slash}instance"


def _order(bank: Bank, view: str) -> str:
    return "the network" if bank.is_ordered(view) else "their names"


def _by_name(layer: str) -> tuple[bool, list[str | int]]:
    """Sorts layers by name, numbers by value and a stem first, which is mostly their order."""
    parts = re.split(r"([0-9]+)", layer)
    named: list[str | int] = [int(part) if i % 2 else part for i, part in enumerate(parts)]
    return not layer.startswith("stem"), named


def _by_layer(axes: Axes, layers: Sequence[np.ndarray], neutral: float) -> None:
    """Draw values of channels by layer around 0, or around 1 on a logarithmic axis."""
    logarithmic = neutral == 1
    numbers = np.arange(1, len(layers) + 1)
    x = np.repeat(numbers, [len(values) for values in layers])
    axes.scatter(x, np.concatenate(layers), rasterized=len(x) > 5000, **_DOTS)
    sizes = [np.log(values) if logarithmic else values for values in layers]
    spread = np.array([np.sqrt(np.mean(s**2)) if len(s) else np.nan for s in sizes])
    thick_line(axes, numbers, np.exp(spread) if logarithmic else spread, linewidth=1.2)
    axes.axhline(neutral, color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    if logarithmic:
        axes.set_yscale("log")
        label_ratios(axes.yaxis, axes.dataLim.y0, axes.dataLim.y1)
    axes.set_xlim(0.4, len(layers) + 0.6)
    whole_numbers(axes.xaxis)
    axes.grid(axis="y", **GRID)


def _by_channel(axes: Axes, before: np.ndarray, after: np.ndarray) -> list[Any]:
    """Draw a statistic of each channel under both views; return the lines."""
    channels = np.arange(1, len(before) + 1)
    lines = []
    for place, values in enumerate((before, after)):
        look = line_style(place) | ({"marker": "o"} if len(channels) <= _POINTS else {})
        lines += axes.plot(channels, values, linewidth=1.0, markersize=2.5, **look)
    whole_numbers(axes.xaxis)
    axes.grid(axis="y", **GRID)
    return lines
