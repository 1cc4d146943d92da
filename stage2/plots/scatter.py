"""One metric against another, a point for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank import errors
from stage2.engine.metrics import METRICS, RANKING
from stage2.plots.figure import COLOURS, GRID, MARKERS, QUIET, caption, legend, panels
from stage2.plots.picture import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 16
"""Configurations in one plot."""


def scatter(picture: Picture) -> Figure:
    """Draw macro accuracy against another metric, by default ECE [SLA Fig. 4].

    Points are the best configuration of each recipe, bars the standard deviation over seeds.
    """
    name = picture.metric_key or "ece"
    if name == RANKING:
        raise errors.ConfigError(f"{RANKING} is on the other axis. Choose another --metric.")
    choice = picture.choose(
        MOST, having=lambda _of, _, row: row[name] is not None and row[RANKING] is not None
    )
    if not choice.shown:
        raise errors.ConfigError(
            f"Nothing asked for in {choice.results.path} has {name} and {RANKING} on "
            f"{choice.split}. Choose another --metric or --recipe."
        )
    metric = choice.metrics[name]
    wide = picture.width >= 5
    figure, [[panel]] = panels(1, picture.width, narrowest=1, height=3.0 if wide else 2.4)
    handles, ties = [], any(row["tied"] is not None for row in choice.rows)
    for place, shown in enumerate(choice.shown):
        row = shown.row
        handles.append(
            panel.errorbar(
                row[name],
                row[RANKING],
                xerr=row[f"{name}_std"],
                yerr=row[f"{RANKING}_std"],
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
                markersize=5,
                markerfacecolor=None if row["tied"] or not ties else "white",
                linestyle="none",
                elinewidth=0.8,
                label=shown.label,
            )
        )
    unit = f", {metric.unit}" if metric.unit else ""
    panel.set(xlabel=f"{metric.label}{unit}", ylabel=f"{METRICS[RANKING].label} accuracy, %")
    panel.margins(0.08)
    panel.grid(**GRID)
    panel.set_axisbelow(True)
    better = "↖ better" if metric.lower_is_better else "better ↗"
    side = 0.01 if metric.lower_is_better else 0.99
    panel.text(
        side,
        0.99,
        better,
        transform=panel.transAxes,
        ha="left" if metric.lower_is_better else "right",
        va="top",
        fontsize=7,
        color=QUIET,
    )
    legend(figure, handles)
    spread = any(row[f"{RANKING}_std"] is not None for row in choice.rows)
    caption(
        figure,
        choice.protocol(),
        f"{metric.label}: {metric.meaning}",
        "bars: ± one standard deviation over seeds" if spread else "",
        f"filled: ties with the best on {choice.results.select_on}" if ties else "",
    )
    return figure
