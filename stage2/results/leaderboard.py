"""The leaderboard: stored runs, averaged over seeds, ranked under a stated protocol."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stage2.engine.metrics import RANKING, UNCALIBRATED
from stage2.features.experts import short_name
from stage2.features.folds import fold_count, is_folds
from stage2.methods.precisions import PRECISION
from stage2.results.classes import metric_named
from stage2.results.configurations import Configuration
from stage2.results.ensembles import ENSEMBLE, summary
from stage2.results.figures import Row, over_seeds
from stage2.results.protocol import Protocol, is_calibrated
from stage2.results.selection import NLL, Correctness, Ranking
from stage2.results.store import Run
from stage2.results.usual import own_settings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Leaderboard:
    """Ranked rows and the protocol they follow.

    Attributes
    ----------
    rows
        One per configuration and epoch, best configuration first. Keys: ``id``, which is also
        under its older name ``recipe``, ``name``, ``parameters``, ``seeds``, ``split``, ``epoch``,
        ``status``, ``tied`` (whether it ties with the best; None where that is unknown), ``rank``
        (from 1, of what was tried, whatever is filtered or sorted since; None where nothing
        selects), ``selection``
        (macro accuracy on the split that selects, percent; None where nothing selects, and where
        folds of rows that stage 1 has seen rank), ``selection_nll`` (NLL,T there), the metrics of
        `METRICS` and their ``…_std`` over seeds; None where there is nothing to average.
        Configurations that halving stopped have no rank and stand below; they were measured on val
        alone, when they were stopped.
    terms
        The protocol of the figures.
    per
        The setting for each of whose values the best is shown, and its value by configuration.
    ranking
        The order of configurations; by default that of their ``selection``.
    more
        Names of metrics that tables show beside their own.
    """

    rows: list[Row]
    terms: Protocol
    per: tuple[str, Mapping[str, Any]] | None = None
    ranking: Ranking | None = field(default=None, repr=False, compare=False)
    more: tuple[str, ...] = ()
    _epochs: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def select_on(self) -> str | None:
        """The split that selects; None where nothing does."""
        return self.terms.select_on

    @property
    def protocol(self) -> str:
        """One line: bank, selection, configurations tried and how a search chose them, seeds, group
        thresholds, and filters and orders applied since."""
        return " · ".join(self.protocol_parts)

    @property
    def protocol_parts(self) -> list[str]:
        """The parts of that line."""
        units = ["mean ± std over seeds", "accuracy and ECE in %", self.terms.thresholds]
        if self.terms.split == "val":
            units.insert(0, f"figures of val{self._optimism}")
        elif is_folds(self.terms.split) and self.select_on == self.terms.split:
            units.insert(0, f"figures of {self.terms.split}, which selected: optimistic")
        return self.terms.parts(self.rows, *units)

    @property
    def _optimism(self) -> str:
        """The reasons why figures of val are better than they would be elsewhere."""
        fitted = any(map(is_calibrated, self.rows))
        reasons = ["which selected"] if self.select_on == "val" else []
        reasons += ["to which calibrations were fitted"] if fitted else []
        return f", {' and '.join(reasons)}: optimistic" if reasons else ""

    @property
    def epochs(self) -> tuple[str, ...]:
        """The epochs of the rows, and of those that `first` left out."""
        return self._epochs or tuple(sorted({row["epoch"] for row in self.rows}))

    def first(self, top: int | None) -> Leaderboard:
        """Only the first configurations, or all."""
        if top is None:
            return self
        rows = [row for rows in self.configurations()[:top] for row in rows]
        return replace(self, rows=rows, _epochs=self.epochs)

    def showing(self, metrics: Sequence[str]) -> Leaderboard:
        """The same with `metrics`, by their keys or what class groups are called, among those that
        tables show.

        Raises
        ------
        ConfigError
            For one that is unknown.
        """
        named = [metric_named(name, self.terms.groups) for name in metrics]
        return replace(self, more=(*self.more, *named))

    def best(self) -> Leaderboard:
        """Only the best configuration of each recipe; the protocol still counts all that ran."""
        return self.best_per("name", {row["recipe"]: row["name"] for row in self.rows})

    def best_per(self, name: str, value: Mapping[str, Any]) -> Leaderboard:
        """Only the best configuration for each value of the setting `name`; `value` has it by id.

        The protocol still counts all that ran. Where nothing selects, presets as published count as
        the best of their recipe.
        """
        parts: dict[Any, list[str]] = {}
        for rows in self.configurations():
            parts.setdefault(value[rows[0]["recipe"]], []).append(rows[0]["recipe"])
        ranking = self.ranking or _by_selection(self.rows)
        best = {id_ for ids in parts.values() for id_ in ranking.best(ids)}
        kept = [row for row in self.rows if row["recipe"] in best]
        terms = self.terms.noting(f"best of each {'recipe' if name == 'name' else name}")
        per = None if name in ("name", "recipe") else (name, value)
        return replace(self, rows=kept, terms=terms, per=per)

    def configurations(self) -> list[list[Row]]:
        """The rows of each configuration."""
        return [*self._by_configuration.values()]

    @cached_property
    def _by_configuration(self) -> dict[str, list[Row]]:
        by_id: dict[str, list[Row]] = {}
        for row in self.rows:
            by_id.setdefault(row["recipe"], []).append(row)
        return by_id

    def rows_of(self, id_: str) -> list[Row]:
        """The rows of a configuration."""
        return self._by_configuration[id_]

    def first_rows(self) -> list[Row]:
        """The first row of each configuration."""
        return [rows[0] for rows in self.configurations()]

    def has_place(self, row: Row) -> bool:
        """Whether a row is of a configuration that can be the best: it has a figure that selects,
        or is done where nothing selects."""
        if self.select_on is None:
            return row["status"] == "done"
        return is_ranked(row)

    def ranked(self, rows: Sequence[Row]) -> Row:
        """The row at the epoch that ranks, of the rows of a configuration."""
        epoch = self.terms.epoch
        return next((row for row in rows if row["epoch"] == epoch), rows[0])

    def to_pandas(self) -> pd.DataFrame:
        """Every row and metric, as ``featbank leaderboard --format csv`` writes them.

        Raises
        ------
        ConfigError
            Where pandas is not installed.
        """
        from stage2.results.notebook import data_frame

        return data_frame(row.whole() for row in self.rows)

    def __repr__(self) -> str:
        from stage2.results.notebook import board_text

        return board_text(self)

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        from stage2.results.notebook import board_html

        return board_html(self)


def board_of(
    configurations: Iterable[Configuration],
    terms: Protocol,
    ranking: Ranking,
    tied: Mapping[str, bool],
) -> Leaderboard:
    """Rank configurations under the terms of a protocol; `tied`, by id, with the best."""
    by_id = {each.id: _rows(each, terms, ranking, tied) for each in configurations}
    ordered = [by_id[id_] for id_ in ranking.order(list(by_id))]
    places = itertools.count(1)
    rows = []
    for each in ordered:
        counts = is_ranked(each[0]) and each[0]["name"] != ENSEMBLE
        rank = next(places) if counts else None
        rows += [row.with_rank(rank, alone=terms.is_screen) for row in each]
    return Leaderboard(rows, terms, ranking=ranking)


def ranking_of(
    configurations: Iterable[Configuration],
    rule: str | None,
    select_on: str | None,
    epoch: str,
    rows: tuple[Sequence[str], Correctness | None] = ((), None),
) -> Ranking:
    """The order of configurations by a rule.

    Among equals the uncalibrated stands first: calibration did not make the other as good. Where
    nothing selects, they stand by name, presets as published before others of their recipe.

    Parameters
    ----------
    configurations
        Those that were tried.
    rule
        One of `stage2.results.selection.RULES`; None where nothing selects.
    select_on, epoch
        The split and epoch that select.
    rows
        Ids whose rows are compared, and their rows.
    """
    keys: dict[str, Any] = {}
    macro: dict[str, float] = {}
    nll: dict[str, float] = {}
    configurations = list(configurations)
    published = _published(configurations)
    for each in configurations:
        keys[each.id] = (
            each.status != "stopped",
            is_calibrated({"parameters": each.parameters}),
            each.id,
        )
        if rule is None or select_on is None:
            keys[each.id] = (each.status != "done", each.name, each.id not in published, each.id)
        elif each.status == "done" and all(run.has(select_on, epoch) for run in each.runs):
            for metric, values in ((RANKING, macro), (NLL, nll)):
                found = [selecting_figure(run, select_on, epoch, metric) for run in each.runs]
                if (mean := over_seeds(found)[0]) is not None:
                    values[each.id] = mean
    return Ranking(rule, keys, macro, nll, *rows, published=published)


def _published(configurations: Sequence[Configuration]) -> frozenset[str]:
    """Ids of presets as they are published; where that was not tried, at another precision."""
    changed = {each.id: set(own_settings(each.name, each.parameters)) for each in configurations}
    exact = {each.name for each in configurations if not changed[each.id]}
    return frozenset(
        each.id
        for each in configurations
        if not changed[each.id] or (each.name not in exact and changed[each.id] == {PRECISION.name})
    )


def is_ranked(row: Row) -> bool:
    """Whether the configuration of a row has a rank."""
    return row["selection"] is not None or row.get("rank") is not None


def why_unranked(rows: Sequence[Row], select_on: str | None) -> str:
    """The end of a sentence: the reason why none of these configurations has a rank by a split, and
    the remedy."""
    if select_on and is_folds(select_on) and any(row["status"] == "done" for row in rows):
        n = fold_count(select_on)
        return f"was not measured on {n} folds or diverged there. Sweep it with --folds {n}."
    if any(row["status"] == "stopped" for row in rows):
        return "was stopped by halving or diverged. Sweep them without a search."
    return "diverged. Sweep them with a smaller lr."


def _rows(
    configuration: Configuration, terms: Protocol, ranking: Ranking, tied: Mapping[str, bool]
) -> list[Row]:
    """A configuration's rows, one per epoch it was measured at, averaged over its seeds."""
    status = configuration.status
    stopped = [run for run in configuration.runs if run.status == "stopped"]
    averaged = stopped or configuration.done
    epochs = sorted({epoch for run in averaged for _, epoch in run.metrics}) or ["last"]
    selecting: list[float | None] = []
    at = terms.select_on
    if status == "done" and at is not None and all(run.has(at, terms.epoch) for run in averaged):
        selecting = [selecting_figure(run, at, terms.epoch, RANKING) for run in averaged]
    selection, spread = over_seeds(selecting)
    known = {
        "id": configuration.id,
        "recipe": configuration.id,
        "name": configuration.name,
        "parameters": configuration.parameters,
        "seeds": [run.seed for run in configuration.runs],
        "split": terms.split,
        "status": status,
        "selection": selection,
        "selection_std": spread,
        "selection_nll": ranking.nll.get(configuration.id),
        "tied": tied.get(configuration.id),
    }
    return [Row({**known, "epoch": epoch}, averaged) for epoch in epochs]


def selecting_figure(run: Run, select_on: str, epoch: str, metric: str) -> float | None:
    """A figure by which a run is selected; of accuracies on val, that before calibration."""
    values = run.metrics.get((select_on, run.measured_at(select_on, epoch)), {})
    uncalibrated = values.get(UNCALIBRATED) if metric == RANKING else None
    return values.get(metric) if uncalibrated is None else uncalibrated


def differences(row: Row) -> str:
    """The settings in which a row differs from its preset, and whether it was stopped or a seed
    diverged; of an ensemble the numbers of its members and of those it was chosen from."""
    if row["name"] == ENSEMBLE:
        return summary(row["parameters"])
    own = own_settings(row["name"], row["parameters"])
    texts = [f"{name}={setting_text(name, value)}" for name, value in own.items()]
    return " ".join([*texts, *([f"({row['status']})"] if row["status"] != "done" else [])])


def setting_text(name: str, value: Any) -> str:
    """A setting's value as people read it."""
    if name == "view":
        return short_name(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_selection(rows: Iterable[Row]) -> Ranking:
    """The order of rows by the figure that they carry."""
    figures = {row["recipe"]: row["selection"] for row in rows}
    known = {id_: value for id_, value in figures.items() if value is not None}
    return Ranking("macro", dict(zip(figures, figures, strict=True)), known)
