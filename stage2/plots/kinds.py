"""The kinds of plots, and a plot as a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank import errors
from stage2.plots.beta import beta
from stage2.plots.by_class import classes, norms
from stage2.plots.confidence import confidence, versus
from stage2.plots.confusion import confusion
from stage2.plots.curves import curves, shift
from stage2.plots.figure import WIDTH, save
from stage2.plots.groups import groups
from stage2.plots.logits import logits
from stage2.plots.picture import Picture, kind_of
from stage2.plots.reliability import reliability
from stage2.plots.scatter import scatter
from stage2.plots.settings import heatmap, setting
from stage2.results.banks import banks_of
from stage2.results.results import Results
from stage2.results.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PlotKind:
    """A kind of plot: a row of `KINDS`.

    Attributes
    ----------
    draw
        Draws the figure.
    description
        One line for people.
    options
        The options it takes beside results, recipes and a width.
    on_selection
        Show the split that ranks, unless another is asked for.
    banks
        Whether it can draw several banks.
    """

    draw: Callable[[Picture], Figure]
    description: str
    options: tuple[str, ...] = ("split", "select_on")
    on_selection: bool = False
    banks: bool = False


_GRID = ("split", "select_on", "metric", "by")

KINDS = {
    "groups": PlotKind(
        groups,
        "gain over the baseline with paired intervals, and macro, many, medium and few of the best "
        "of each recipe as dots",
        banks=True,
    ),
    "classes": PlotKind(
        classes,
        "accuracy by class, sorted by training count, and the bound of `oracle` (DisAlign Fig. 1)",
        banks=True,
    ),
    "logits": PlotKind(
        logits,
        "logit magnitude and regularised deviation over classes sorted by count (LOS Fig. 3)",
        banks=True,
    ),
    "scatter": PlotKind(
        scatter,
        "macro accuracy against ECE or another metric, a point for each recipe (SLA Fig. 4)",
        ("split", "select_on", "metric"),
        banks=True,
    ),
    "reliability": PlotKind(
        reliability,
        "reliability diagrams in a row, ECE in the titles (MiSLAS Fig. 1 and 4)",
        banks=True,
    ),
    "confidence": PlotKind(
        confidence, "violins of the confidence by group, for wrong and right rows", banks=True
    ),
    "versus": PlotKind(
        versus,
        "violins of the confidence by group, one half for each of two recipes (MiSLAS Fig. 3)",
        banks=True,
    ),
    "heatmap": PlotKind(
        heatmap,
        "a metric over two settings of a recipe (MiSLAS Fig. 5)",
        _GRID,
        on_selection=True,
    ),
    "setting": PlotKind(
        setting,
        "macro, many, medium and few over one setting, the selected value marked (DisAlign Fig. 5)",
        _GRID,
    ),
    "norms": PlotKind(
        norms,
        "norms of the classifier's weights by class (MiSLAS Fig. 2, 13 and 14)",
        ("select_on",),
        banks=True,
    ),
    "shift": PlotKind(shift, "accuracy under shifted test priors (SADE)", banks=True),
    "confusion": PlotKind(confusion, "the twelve classes most often confused with one another"),
    "curves": PlotKind(
        curves,
        "training loss and val accuracy over the epochs; bands over seeds",
        ("select_on",),
        banks=True,
    ),
    "beta": PlotKind(
        beta, "how adaptive generators moved β, over the epochs and by class size", ()
    ),
}
"""Every kind of plot by name; help, documentation and checks of options follow."""


def plot(
    kind: str,
    store: Store | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    bank: str | None = None,
    recipes: Sequence[str] = (),
    width: float = WIDTH,
    split: str | None = None,
    select_on: str | None = None,
    select_by: str | None = None,
    select_epoch: str = "selected",
    metric: str | None = None,
    by: Sequence[str] = (),
) -> Figure:
    """Draw stored results, into a file where one is given; one that is there is replaced.

    Parameters
    ----------
    kind
        A key of `KINDS`.
    store
        The results, open or the path of their file.
    output
        The file; its ending, one of `stage2.plots.FORMATS`, is the format. None: none is written.
    bank
        The banks, as of `stage2.results.banks.banks_of`; needed where the store holds several.
    recipes
        Names of recipes, or beginnings of configurations' ids; by default all that have something
        to show. A name means the best configuration of the recipe, or all of them for ``heatmap``,
        ``setting`` and ``beta``. Of more configurations than there is room for the best on val are
        drawn, with a warning.
    width
        Inches.
    split
        The split that is shown; by default ``test`` where the bank has it, for ``heatmap`` the one
        that ranks.
    select_on, select_by, select_epoch
        What selects configurations, as of `stage2.results.results.Results`.
    metric
        The metric of ``heatmap`` and ``setting``.
    by
        The settings of ``heatmap`` and ``setting``.

    Returns
    -------
    The figure, which notebooks show.

    Raises
    ------
    ConfigError
        For an unknown kind, format or recipe, an option that the kind does not take, or where no
        run has what the plot shows.
    """
    row = kind_of(KINDS, kind, {"split": split, "select_on": select_on, "metric": metric, "by": by})
    with contextlib.ExitStack() as stack:
        if not isinstance(store, Store):
            store = stack.enter_context(Store(store))
        banks = banks_of(
            store,
            bank,
            split=split,
            select_on=select_on,
            select_by=select_by,
            select_epoch=select_epoch,
        )
        _require_drawable(kind, banks)
        results = banks[0]
        if row.on_selection and split is None and results.select_on:
            results = results.on(results.select_on)
        picture = Picture(results, tuple(recipes), width, metric, tuple(by), [results, *banks[1:]])
        return save(lambda: row.draw(picture), output)


def _require_drawable(kind: str, banks: Sequence[Results]) -> None:
    """Raise where a kind of plot does not draw this number of banks."""
    if len(banks) > 1 and not KINDS[kind].banks:
        names = ", ".join(bank.name for bank in banks)
        others = ", ".join(name for name, row in KINDS.items() if row.banks)
        raise errors.ConfigError(
            f"The plot {kind!r} draws one bank, got {len(banks)}: {names}. Choose one of them with "
            f"--bank; several are for: {others}."
        )
