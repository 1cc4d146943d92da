"""The rows of a leaderboard, whose figures are averaged over seeds when they are read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stage2.engine.metrics import METRICS
from stage2.results.batches import Values
from stage2.results.store import Run

STD = "_std"
"""The end of the name of a metric's standard deviation over seeds."""

_FIRST = (
    *("id", "recipe", "name", "parameters", "seeds", "split", "epoch", "status"),
    *("selection", f"selection{STD}", "selection_nll"),
)


class Row(Mapping[str, Any]):
    """A configuration at an epoch, as of `stage2.results.leaderboard.Leaderboard`.

    Parameters
    ----------
    known
        What is not a figure of the split shown, by name.
    runs
        The runs over which figures of the split and epoch in `known` are averaged.
    """

    __slots__ = ("_evaluations", "_known", "_last", "_runs")

    def __init__(self, known: dict[str, Any], runs: Sequence[Run]) -> None:
        self._known, self._runs = known, runs
        self._evaluations: list[Values] | None = None
        self._last: tuple[str, tuple[float | None, float | None]] | None = None

    def __getitem__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        metric = name.removesuffix(STD)
        if metric not in METRICS:
            raise KeyError(name)
        if self._last is None or self._last[0] != metric:  # mean and deviation are read in turn
            figures = over_seeds([values.get(metric) for values in self.evaluations])
            self._last = metric, figures
        return self._last[1][name != metric]

    @property
    def evaluations(self) -> list[Values]:
        """The metrics of the runs; of none where one of them was not measured on the split, as
        runs on folds alone on test: the mean over seeds would be one over some of them."""
        if self._evaluations is None:
            split, epoch = self._known["split"], self._known["epoch"]
            places = [(run, (split, run.measured_at(split, epoch))) for run in self._runs]
            whole = all(place in run.metrics for run, place in places)
            self._evaluations = [run.metrics[place] for run, place in places] if whole else []
        return self._evaluations

    def with_rank(self, rank: int | None, *, alone: bool) -> Row:
        """The same with its rank; `alone` without the figure that gave it."""
        hidden = {"selection": None, f"selection{STD}": None} if alone else {}
        return Row({**self._known, **hidden, "rank": rank}, self._runs)

    def whole(self) -> dict[str, Any]:
        """Everything by name, in the order of the names."""
        known = self._known
        row = {name: known[name] for name in _FIRST}
        evaluations = self.evaluations
        for metric in METRICS:
            values = [values.get(metric) for values in evaluations]
            row[metric], row[metric + STD] = over_seeds(values)
        return row | {name: known[name] for name in ("tied", "rank") if name in known}

    def __contains__(self, name: object) -> bool:
        return name in self._known or str(name).removesuffix(STD) in METRICS

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self._known) + 2 * len(METRICS)

    def __repr__(self) -> str:
        return repr(self.whole())


def over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation (n − 1) from two values on.

    `statistics.stdev` computes in fractions: for thousands of runs that takes seconds.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return (float(known[0]), None) if known else (None, None)
    if len(known) == 2:  # what follows gives the same to the last bit, in three times the time
        gap = known[1] - known[0]
        return (known[0] + known[1]) / 2, math.sqrt((-gap / 2) ** 2 + (gap - gap / 2) ** 2)
    gaps = [value - known[0] for value in known]  # zeros, not rounding errors, for equal values
    middle = statistics.fmean(gaps)
    spread = math.fsum((gap - middle) ** 2 for gap in gaps)
    return statistics.fmean(known), math.sqrt(spread / (len(gaps) - 1))
