"""Plots of stored results, for papers: a kind of plot is a function here and a line in `KINDS`."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import errors
from featbank.bank import class_groups
from stage2.results.store import Run, Store
from stage2.results.tables import told_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

FORMATS = ("pdf", "png", "svg")

MOST = 4
"""Configurations in one plot."""

WIDTH = 7.0
"""Inches: the text of a page."""

NEIGHBOURS = 1.5
"""Classes whose training counts differ by at most this factor count as of one size."""

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text that can be searched and edited
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}

_START: dict[str, Any] = {"color": "0.4", "linewidth": 0.8, "linestyle": (0, (6, 4)), "zorder": 1}


@dataclass(frozen=True)
class Kind:
    """A kind of plot: what draws it, from a store, and what it shows."""

    draw: Callable[..., Figure]
    description: str


@dataclass(frozen=True)
class _Trajectory:
    """β of a configuration: of its `runs`, [seeds, epochs, classes], for classes with `counts`."""

    runs: list[Run]
    beta: np.ndarray
    counts: np.ndarray

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
        """How boldly a class may be drawn, from 1 towards 0 as there are more of them."""
        return min(1.0, 100 / len(self.counts))

    @property
    def crowded(self) -> bool:
        """Whether classes are drawn as pixels in pdf and svg, too; axes and text never are."""
        return len(self.counts) > 500


def plot(
    kind: str,
    store: Store,
    output: str | os.PathLike[str],
    *,
    bank: str | None = None,
    recipes: Sequence[str] = (),
    width: float = WIDTH,
) -> None:
    """Draw stored results into a file; one that is there is replaced.

    Parameters
    ----------
    kind
        A key of `KINDS`.
    store
        The results.
    output
        The file; its ending, one of `FORMATS`, is the format.
    bank
        Beginning of a fingerprint; needed where the store holds results of several banks.
    recipes
        Names of recipes, or beginnings of configurations' ids; by default all that have something
        to show. Of more than `MOST` configurations the best on val are drawn, with a warning.
    width
        Inches.

    Raises
    ------
    ConfigError
        For an unknown kind, format or recipe, or where no run has what the plot shows.
    """
    path = Path(output)
    form = path.suffix[1:].lower()
    if kind not in KINDS:
        raise errors.ConfigError(f"Unknown plot {kind!r}. {errors.closest(kind, list(KINDS))}")
    if form not in FORMATS:
        raise errors.ConfigError(
            f"{path} does not end in the name of a plot's format. Choose .pdf, .png or .svg."
        )
    if not path.parent.is_dir():
        raise errors.ConfigError(f"{path.parent} is not a folder. Create it first.")
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = KINDS[kind].draw(store, bank=bank, recipes=recipes, width=width)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form)
    path.write_bytes(drawn.getvalue())


def beta(
    store: Store, *, bank: str | None = None, recipes: Sequence[str] = (), width: float = WIDTH
) -> Figure:
    """Draw how adaptive generators moved β: over the epochs, and at the end by class size.

    Left one line per class and the means of many, medium and few; right one point per class and
    the mean of classes of about its size. (Medians would jump: β moves by whole steps.) A row for
    each configuration; parameters as of `plot`.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure

    fingerprint, about = store.one_bank(bank)
    shown = _trajectories(store, fingerprint, np.asarray(about["train_counts"]), recipes)
    counts = np.concatenate([each.counts for each in shown])
    low, high = counts.min(), counts.max()
    pale = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))  # its end drowns in white
    colours = ScalarMappable(LogNorm(low, high), pale)
    figure = Figure(figsize=(width, 0.5 + 2.1 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False, sharex="col", sharey=True)
    told = _differences([each.runs[0] for each in shown])
    for (left, right), each, differences in zip(axes, shown, told, strict=True):
        _over_epochs(left, each, colours)
        _by_size(right, each, colours)
        left.set_title(each.title, loc="left")
        right.set_title(differences, loc="right")
    epochs = max(each.beta.shape[1] for each in shown)
    least, most = min(each.beta.min() for each in shown), max(each.beta.max() for each in shown)
    axes[-1, 0].set(xlim=(0.5, epochs + 0.5), ylim=(least - 0.05, most + 0.05), xlabel="epoch")
    axes[-1, 1].set_xlabel("training samples of a class")
    axes[-1, 1].set_xscale("log")
    _label_counts(axes[-1, 1].xaxis, low, high)
    if high > low:
        bar = figure.colorbar(colours, ax=axes, aspect=20 * len(shown), fraction=0.05, pad=0.01)
        bar.set_label("training samples")
        _label_counts(bar.ax.yaxis, low, high)
    named = {line.get_label(): line for left in axes[:, 0] for line in left.lines}
    figure.legend(handles=named.values(), loc="outside upper right", ncols=4)
    caption = textwrap.fill(_caption(fingerprint, shown), int(19 * width))
    figure.supxlabel(caption, fontsize=6.5, color="0.3")
    return figure


KINDS = {
    "beta": Kind(beta, "how adaptive generators moved β: over the epochs, and by class size"),
}


def _trajectories(
    store: Store, fingerprint: str, counts: np.ndarray, recipes: Sequence[str]
) -> list[_Trajectory]:
    """β of the configurations that have one and are asked for, at most `MOST`, best on val first.

    Parameters
    ----------
    counts
        Training counts of all classes [K].
    """
    found: dict[str, list[Run]] = {}
    for run in store.runs(fingerprint):
        if run.status == "done" and np.isfinite(_beta(store, fingerprint, run)).any():
            found.setdefault(run.id, []).append(run)
    if not found:
        raise errors.ConfigError(
            f"No run in {store.path} moved β. Sweep a recipe whose beta_step is above 0, such as "
            "glag, on a bank with val."
        )
    chosen = _chosen(store, [runs[0] for runs in found.values()], recipes)
    chosen.sort(key=lambda name: -_val_macro(found[name]))
    if chosen[MOST:]:
        warnings.warn(
            f"{MOST} of {len(chosen)} configurations are drawn, the best on val. Left out: "
            f"{', '.join(chosen[MOST:])}. Choose with --recipe."
        )
    shown = []
    for name in chosen[:MOST]:
        values = np.stack([_beta(store, fingerprint, run) for run in found[name]])
        has = np.isfinite(values).all((0, 1)) & (counts > 0)
        shown.append(_Trajectory(found[name], values[..., has], counts[has]))
    return shown


def _beta(store: Store, fingerprint: str, run: Run) -> np.ndarray:
    """β of a run [epochs, K], NaN for classes without; nothing where it moved none."""
    return store.traces(fingerprint, run.recipe).get("beta", np.empty(0))


def _chosen(store: Store, runs: Sequence[Run], recipes: Sequence[str]) -> list[str]:
    """The ids among `runs`, one of each configuration, that `recipes` ask for; all for none."""
    chosen: dict[str, None] = {}
    for wanted in recipes:
        ids = [run.id for run in runs if run.name == wanted]  # crt, without crt-cifar
        ids = ids or [run.id for run in runs if run.id.startswith(wanted)]
        if not ids:
            known = dict.fromkeys([*(run.name for run in runs), *(run.id for run in runs)])
            raise errors.ConfigError(
                f"{store.path} has no {wanted!r} that moved β. {errors.closest(wanted, known)}"
            )
        chosen |= dict.fromkeys(ids)
    return list(chosen) if recipes else [run.id for run in runs]


def _val_macro(runs: Sequence[Run]) -> float:
    """Macro accuracy on val at the selected epoch, mean over seeds."""
    return float(np.mean([run.metrics["val", "selected"]["macro"] for run in runs]))


def _differences(runs: Sequence[Run]) -> list[str]:
    """The settings in which configurations differ from one another, in words."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)

    def told(run: Run, name: str) -> str:
        return told_value(name, run.parameters.get(name))

    differ = [name for name in names if len({told(run, name) for run in runs}) > 1]
    return [
        textwrap.shorten(
            " ".join(f"{n}={told(run, n)}" for n in differ if run.parameters.get(n) is not None),
            60,
            placeholder=" …",
        )
        for run in runs
    ]


def _caption(fingerprint: str, shown: Sequence[_Trajectory]) -> str:
    parts = [f"bank {fingerprint[:12]}", "β of each class moved by its accuracy on val"]
    if any(len(each.runs) > 1 for each in shown):
        parts += ["means over seeds, bars from the lowest to the highest seed"]
    parts += [f"right: mean over classes whose sizes are within a factor of {NEIGHBOURS:g}"]
    return "\u00a0· ".join(parts)  # no line begins with a dot


def _over_epochs(axes: Axes, each: _Trajectory, colours: ScalarMappable) -> None:
    """One line per class, mean over seeds, small classes above large ones; the groups' means."""
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import MaxNLocator

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
    groups = class_groups(each.counts).items()
    for (group, members), dashes in zip(groups, [":", (0, (4, 1.2)), "-"], strict=True):
        if members.any():
            average = mean[:, members].mean(1)
            _thick_line(axes, epochs, average, linestyle=dashes, label=f"{group}, mean")
    axes.axhline(each.start, label="start", **_START)
    axes.set_ylabel("β")
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )


def _by_size(axes: Axes, each: _Trajectory, colours: ScalarMappable) -> None:
    """β of the last epoch against the training count, one point per class; a running mean."""
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
    _thick_line(axes, sizes, near @ mean / near.sum(1))
    axes.axhline(each.start, **_START)


def _thick_line(axes: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """A black line with a white edge, which stands out among the classes."""
    from matplotlib.patheffects import withStroke

    edge = withStroke(linewidth=2.5, foreground="white")
    axes.plot(x, y, color="black", linewidth=1.5, zorder=3, path_effects=[edge], **style)


def _label_counts(axis: Axis, low: int, high: int) -> None:
    """Training counts along a logarithmic axis as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axis.set_minor_formatter(NullFormatter())
