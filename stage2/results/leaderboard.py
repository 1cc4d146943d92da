"""The leaderboard: stored runs, averaged over seeds, ranked under a stated protocol."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featbank import errors
from stage2.engine.metrics import METRICS, RANKING, UNCALIBRATED
from stage2.features.experts import short_name
from stage2.features.folds import fold_count, is_folds
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import settings_of
from stage2.results.configurations import Configuration
from stage2.results.ensembles import ENSEMBLE, summary
from stage2.results.protocol import THRESHOLDS, Protocol, is_calibrated
from stage2.results.ranking import in_order
from stage2.results.store import Run

Row = dict[str, Any]


@dataclass(frozen=True)
class Leaderboard:
    """Ranked rows and the protocol they follow.

    Attributes
    ----------
    rows
        One per configuration and epoch, best configuration first. Keys: ``recipe``, ``name``,
        ``parameters``, ``seeds``, ``split``, ``epoch``, ``status``, ``tied`` (whether it ties with
        the best; None where that is unknown), ``selection`` (what ranks it, percent), the metrics
        of `METRICS` and their ``…_std`` over seeds; None where there is nothing to average. Where
        folds of rows that stage 1 has seen rank, ``rank`` in place of ``selection``.
        Configurations that halving stopped have no rank and stand below; they were measured on val
        alone, when they were stopped.
    terms
        The protocol of the figures.
    per
        The setting for each of whose values the best is shown, and its value by configuration.
    """

    rows: list[Row]
    terms: Protocol
    per: tuple[str, Mapping[str, Any]] | None = None

    @property
    def select_on(self) -> str:
        """The split whose macro accuracy ranks."""
        return self.terms.select_on

    @property
    def protocol(self) -> str:
        """One line: bank, selection, configurations tried and how a search chose them, seeds, group
        thresholds, and filters and orders applied since."""
        units = ["mean ± std over seeds", "accuracy and ECE in %", THRESHOLDS]
        if self.terms.split == "val":
            units.insert(0, f"figures of val{self._optimism}")
        elif is_folds(self.terms.split) and self.select_on == self.terms.split:
            units.insert(0, f"figures of {self.terms.split}, which selected: optimistic")
        return self.terms.line(self.rows, *units)

    @property
    def _optimism(self) -> str:
        """The reasons why figures of val are better than they would be elsewhere."""
        fitted = any(map(is_calibrated, self.rows))
        reasons = ["which selected"] if self.select_on == "val" else []
        reasons += ["to which calibrations were fitted"] if fitted else []
        return f", {' and '.join(reasons)}: optimistic" if reasons else ""

    def first(self, top: int | None) -> Leaderboard:
        """Only the first configurations, or all."""
        rows = [row for rows in self.configurations()[:top] for row in rows]
        return replace(self, rows=rows)

    def best(self) -> Leaderboard:
        """Only the best configuration of each recipe; the protocol still counts all that ran."""
        return self.best_per("name", {row["recipe"]: row["name"] for row in self.rows})

    def best_per(self, name: str, value: Mapping[str, Any]) -> Leaderboard:
        """Only the best configuration for each value of the setting `name`; `value` has it by id.

        The protocol still counts all that ran.
        """
        ranked = [rows[0]["recipe"] for rows in _ordered(self.configurations())]
        best = {value[recipe]: recipe for recipe in reversed(ranked)}.values()  # the first wins
        kept = [row for row in self.rows if row["recipe"] in best]
        terms = self.terms.noting(f"best of each {'recipe' if name == 'name' else name}")
        per = None if name in ("name", "recipe") else (name, value)
        return replace(self, rows=kept, terms=terms, per=per)

    def configurations(self) -> list[list[Row]]:
        """The rows of each configuration."""
        by_id: dict[str, list[Row]] = {}
        for row in self.rows:
            by_id.setdefault(row["recipe"], []).append(row)
        return list(by_id.values())

    def first_rows(self) -> list[Row]:
        """The first row of each configuration."""
        return [rows[0] for rows in self.configurations()]

    def ranked(self, rows: Sequence[Row]) -> Row:
        """The row at the epoch that ranks, of the rows of a configuration."""
        return next((row for row in rows if row["epoch"] == self.terms.epoch), rows[0])


def board_of(
    configurations: Iterable[Configuration], terms: Protocol, tied: Mapping[str, bool]
) -> Leaderboard:
    """Rank configurations under the terms of a protocol; `tied`, by id, with the best."""
    ordered = _ordered(_rows(configuration, terms, tied) for configuration in configurations)
    if terms.is_screen:
        ordered = [_with_rank_alone(rows, rank) for rank, rows in enumerate(ordered, 1)]
    return Leaderboard([row for rows in ordered for row in rows], terms)


def _with_rank_alone(rows: Sequence[Row], rank: int) -> list[Row]:
    """The rows of a configuration with its rank in place of the figure that gave it."""
    known = rank if is_ranked(rows[0]) else None
    return [{**row, "selection": None, "selection_std": None, "rank": known} for row in rows]


def is_ranked(row: Row) -> bool:
    """Whether the configuration of a row has a rank."""
    return row["selection"] is not None or row.get("rank") is not None


def why_unranked(rows: Sequence[Row], select_on: str) -> str:
    """The end of a sentence: the reason why none of these configurations has a rank by a split, and
    the remedy."""
    if is_folds(select_on) and any(row["status"] == "done" for row in rows):
        n = fold_count(select_on)
        return f"was not measured on {n} folds or diverged there. Sweep it with --folds {n}."
    if any(row["status"] == "stopped" for row in rows):
        return "was stopped by halving or diverged. Sweep them without a search."
    return "diverged. Sweep them with a smaller lr."


def _rows(configuration: Configuration, terms: Protocol, tied: Mapping[str, bool]) -> list[Row]:
    """A configuration's rows, one per epoch it was measured at, averaged over its seeds."""
    status = configuration.status
    stopped = [run for run in configuration.runs if run.status == "stopped"]
    averaged = stopped or configuration.done
    epochs = sorted({epoch for run in averaged for _, epoch in run.metrics}) or ["last"]
    ranked_at = terms.epoch if terms.epoch in epochs else "last"
    complete = averaged if status == "done" else []  # a mean over surviving seeds ranks nothing
    if not all(run.has(terms.select_on, ranked_at) for run in complete):
        complete = []
    selection = [_selection(run, terms.select_on, ranked_at) for run in complete]
    rows = []
    for epoch in epochs:
        row: Row = {
            "recipe": configuration.id,
            "name": configuration.name,
            "parameters": configuration.parameters,
            "seeds": [run.seed for run in configuration.runs],
            "split": terms.split,
            "epoch": epoch,
            "status": status,
        }
        row["selection"], row["selection_std"] = _over_seeds(selection)
        for metric in METRICS:
            values = _metrics(averaged, terms.split, epoch, metric)
            row[metric], row[f"{metric}_std"] = _over_seeds(values)
        row["tied"] = tied.get(configuration.id)
        rows.append(row)
    return rows


def _metrics(runs: Sequence[Run], split: str, epoch: str, metric: str) -> list[float | None]:
    """A metric of runs; of none where one of them was not measured on the split, as runs on folds
    alone on test: the mean over seeds would be one over some of them."""
    if not all(run.has(split, epoch) for run in runs):
        return []
    return [_metric(run, split, epoch, metric) for run in runs]


def _metric(run: Run, split: str, epoch: str, metric: str) -> float | None:
    """A metric of a run; where no epoch was selected, the last one counts as that.

    None where it was not measured: older files lack newer metrics.
    """
    return run.metrics.get((split, run.measured_at(split, epoch)), {}).get(metric)


def _selection(run: Run, select_on: str, epoch: str) -> float | None:
    """The figure that ranks a run; on val, to which a calibration is fitted, that before it."""
    uncalibrated = _metric(run, select_on, epoch, UNCALIBRATED)
    return _metric(run, select_on, epoch, RANKING) if uncalibrated is None else uncalibrated


def _over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation (n − 1) from two values on.

    `statistics.stdev` computes in fractions: for thousands of runs that takes seconds.
    """
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    if len(known) < 2:
        return mean, None
    gaps = [value - known[0] for value in known]  # zeros, not rounding errors, for equal values
    middle = statistics.fmean(gaps)
    return mean, math.sqrt(math.fsum((gap - middle) ** 2 for gap in gaps) / (len(gaps) - 1))


def differences(row: Row) -> str:
    """The settings in which a row differs from its preset, and whether it was stopped or a seed
    diverged; of an ensemble the numbers of its members and of those it was chosen from."""
    if row["name"] == ENSEMBLE:
        return summary(row["parameters"])
    usual = _usual(row["name"], row["parameters"])
    changed = {k: v for k, v in row["parameters"].items() if usual.get(k) != v}
    texts = [f"{name}={setting_text(name, value)}" for name, value in changed.items()]
    return " ".join([*texts, *([f"({row['status']})"] if row["status"] != "done" else [])])


def _usual(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The settings of a preset, and the defaults of parts that replace those of the preset."""
    try:
        defaults = {k: s.default for k, s in settings_of(name, parameters).settings.items()}
        return {**defaults, **Recipe(name).parameters}
    except errors.ConfigError:  # stored by a version that knew other names
        return {}


def setting_text(name: str, value: Any) -> str:
    """A setting's value as people read it."""
    if name == "view":
        return short_name(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ordered(configurations: Iterable[list[Row]]) -> list[list[Row]]:
    """The rows of each configuration, best first; of those without a rank, the stopped first.

    Among equals the uncalibrated stands first: calibration did not make the other as good.
    """

    def name(rows: list[Row]) -> tuple[bool, bool, str]:
        first = rows[0]
        return first["status"] != "stopped", is_calibrated(first), first["recipe"]

    def figure(rows: list[Row]) -> float | None:
        first = rows[0]
        return -first["rank"] if first.get("rank") else first["selection"]

    return in_order(configurations, figure, name)
