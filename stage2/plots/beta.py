"""The β of adaptive generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from stage2.engine.metrics import RANKING
from stage2.plots.figure import (
    caption,
    label_counts,
    legend,
    new_figure,
    thick_line,
    whole_numbers,
)
from stage2.plots.picture import Picture
from stage2.results.choice import differing, warn_left_out
from stage2.results.configurations import matching
from stage2.results.results import Results
from stage2.results.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

MOST = 4
"""Configurations in one plot."""

NEIGHBOURS = 1.5
"""Classes whose training counts differ by at most this factor count as of one size."""

_START: dict[str, Any] = {"color": "0.4", "linewidth": 0.8, "linestyle": (0, (6, 4)), "zorder": 1}


@dataclass(frozen=True)
class _Trajectory:
    """β of a configuration: of its `runs`, [seeds, epochs, classes], for classes with `counts`;
    masks of their `groups`, by name."""

    runs: list[Run]
    beta: np.ndarray
    counts: np.ndarray
    groups: dict[str, np.ndarray]

    @property
    def title(self) -> str:
        """Configuration and seeds."""
        seeds = ", ".join(str(run.seed) for run in self.runs)
        return f"{self.runs[0].id} · {'seeds' if len(self.runs) > 1 else 'seed'} {seeds}"

    @property
    def start(self) -> float:
        """β of the first epoch."""
        return float(self.beta[:, 0].mean())

    @property
    def room(self) -> float:
        """The weight of a class's marks: 1 for few classes, towards 0 for many."""
        return min(1.0, 100 / len(self.counts))

    @property
    def crowded(self) -> bool:
        """Whether classes are drawn as pixels also in pdf and svg; axes and text never are."""
        return len(self.counts) > 500


def beta(picture: Picture) -> Figure:
    """Draw the β of adaptive generators: over the epochs, and at the end by class size.

    Left one line per class and the means of many, medium and few; right one point per class and
    the mean of classes of about its size. (Medians would jump: β moves by whole steps.) A row for
    each configuration.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm

    shown = _trajectories(picture)
    counts = np.concatenate([each.counts for each in shown])
    low, high = counts.min(), counts.max()
    pale = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))  # its end drowns in white
    colours = ScalarMappable(LogNorm(low, high), pale)
    figure = new_figure(picture.width, 0.1 + 2.1 * len(shown))
    axes = figure.subplots(len(shown), 2, squeeze=False, sharex="col", sharey=True)
    settings = [each.runs[0].parameters for each in shown]
    titles = differing(settings)
    for (left, right), each, differences in zip(axes, shown, titles, strict=True):
        _over_epochs(left, each, colours)
        _by_size(right, each, colours)
        left.set_title(each.title, loc="left")
        right.set_title(differences, loc="right")
    epochs = max(each.beta.shape[1] for each in shown)
    least, most = min(each.beta.min() for each in shown), max(each.beta.max() for each in shown)
    axes[-1, 0].set(xlim=(0.5, epochs + 0.5), ylim=(least - 0.05, most + 0.05), xlabel="epoch")
    axes[-1, 1].set_xlabel("training samples of a class")
    axes[-1, 1].set_xscale("log")
    label_counts(axes[-1, 1].xaxis, low, high)
    if high > low:
        bar = figure.colorbar(colours, ax=axes, aspect=20 * len(shown), fraction=0.05, pad=0.01)
        bar.set_label("training samples")
        label_counts(bar.ax.yaxis, low, high)
    named = {line.get_label(): line for left in axes[:, 0] for line in left.lines}
    legend(figure, list(named.values()))
    caption(figure, *_explanation(picture.results.fingerprint, shown))
    return figure


def _trajectories(picture: Picture) -> list[_Trajectory]:
    """β of at most `MOST` of the configurations asked for that have one, best on val first."""
    results, counts = picture.results, picture.results.counts
    moved: dict[str, list[Run]] = {}
    for configuration in results.configurations.values():
        if runs := [run for run in configuration.done if np.isfinite(_beta(results, run)).any()]:
            moved[configuration.id] = runs
    if not moved:
        raise errors.ConfigError(
            f"No run in {results.path} moved β. Sweep a recipe whose beta_step is above 0, such as "
            "glag, on a bank with val."
        )
    names = {id_: runs[0].name for id_, runs in moved.items()}
    chosen = [
        id_
        for wanted in dict.fromkeys(picture.recipes or names.values())
        for id_ in matching(wanted, names, f"{results.path} has no {wanted!r} that moved β.")
    ]
    chosen = sorted(dict.fromkeys(chosen), key=lambda id_: -_val_macro(moved[id_]))
    if chosen[MOST:]:
        warn_left_out(chosen, MOST)
    shown, names_of = [], results.groups.shown
    for id_ in chosen[:MOST]:
        values = np.stack([_beta(results, run) for run in moved[id_]])
        has = np.isfinite(values).all((0, 1)) & (counts > 0)
        groups = {name: results.groups.masks[key][has] for key, name in names_of.items()}
        shown.append(_Trajectory(moved[id_], values[..., has], counts[has], groups))
    return shown


def _beta(results: Results, run: Run) -> np.ndarray:
    """β of a run [epochs, K], NaN for classes without; empty where none moved."""
    return results.store.traces(results.fingerprint, run.recipe).get("beta", np.empty(0))


def _val_macro(runs: Sequence[Run]) -> float:
    """Macro accuracy on val at the selected epoch, mean over seeds."""
    return float(np.mean([run.metrics["val", "selected"][RANKING] for run in runs]))


def _explanation(fingerprint: str, shown: Sequence[_Trajectory]) -> list[str]:
    parts = [f"bank {fingerprint[:12]}", "β of each class moved by its accuracy on val"]
    if any(len(each.runs) > 1 for each in shown):
        parts += ["means over seeds, bars from the lowest to the highest seed"]
    return [
        *parts,
        f"right: mean over classes whose sizes are within a factor of {NEIGHBOURS:g}",
    ]


def _over_epochs(axes: Axes, each: _Trajectory, colours: ScalarMappable) -> None:
    """Draw a line per class, mean over seeds, small classes above large ones, and group means."""
    from matplotlib.collections import LineCollection

    mean = each.beta.mean(0)
    epochs = np.arange(1, len(mean) + 1)
    order = np.argsort(-each.counts, kind="stable")
    axes.add_collection(
        LineCollection(
            [np.column_stack([epochs, mean[:, k]]) for k in order],
            colors=colours.to_rgba(each.counts[order]),
            linewidths=0.3 + 0.4 * each.room,
            alpha=0.1 + 0.6 * each.room,
            rasterized=each.crowded,
        )
    )
    for (group, members), dashes in zip(
        each.groups.items(), [":", (0, (4, 1.2)), "-"], strict=True
    ):
        if members.any():
            average = mean[:, members].mean(1)
            thick_line(axes, epochs, average, linestyle=dashes, label=f"{group}, mean")
    axes.axhline(each.start, label="start", **_START)
    axes.set_ylabel("β")
    whole_numbers(axes.xaxis)


def _by_size(axes: Axes, each: _Trajectory, colours: ScalarMappable) -> None:
    """Draw β of the last epoch by training count, a point per class, and a running mean."""
    last = each.beta[:, -1]
    mean, n = last.mean(0), each.counts
    bars: dict[str, Any] = {
        "color": "0.75",
        "linewidth": 0.2 + 0.4 * each.room,
        "rasterized": each.crowded,
    }
    if len(last) > 1:
        axes.vlines(n, last.min(0), last.max(0), **bars)
    marks: dict[str, Any] = {
        "s": 2 + 8 * each.room,
        "linewidths": 0,
        "zorder": 4,
        "rasterized": each.crowded,
    }
    axes.scatter(n, mean, color=colours.to_rgba(n), **marks)
    sizes = np.unique(n)
    near = np.maximum(n, sizes[:, None]) <= NEIGHBOURS * np.minimum(n, sizes[:, None])
    thick_line(axes, sizes, near @ mean / near.sum(1))
    axes.axhline(each.start, **_START)
