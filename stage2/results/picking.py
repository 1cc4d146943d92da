"""One configuration under conditions of one's own, picked on the rows that select."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featbank import errors
from featbank.settings import read_number, shortened
from featbank.wording import number
from stage2.engine.metrics import METRICS
from stage2.results import filters
from stage2.results.classes import metric_named
from stage2.results.ensembles import ENSEMBLE
from stage2.results.leaderboard import Leaderboard, Row, differences
from stage2.results.results import Results

_COMMA = re.compile(r""",(?=(?:[^"']|"[^"]*"|'[^']*')*$)""")
"""A comma outside quotes."""


@dataclass(frozen=True)
class Pick:
    """A configuration that was picked.

    Attributes
    ----------
    id, name, settings, rank
        Of the configuration; its rank on the leaderboard.
    wanted, conditions
        Keys of the metrics that were to be best, the first of them first, and the conditions.
    metrics
        Keys of all metrics that were asked for.
    select_on, split
        The split on which it was picked, and the split shown.
    met, tried
        How many configurations meet the conditions, of how many.
    selecting, shown
        Every metric on the two splits.
    labels
        What tables call the metrics.
    """

    id: str
    name: str
    settings: str
    rank: int
    wanted: tuple[str, ...]
    conditions: tuple[str, ...]
    metrics: tuple[str, ...]
    select_on: str
    split: str
    met: int
    tried: int
    selecting: Mapping[str, float | None]
    shown: Mapping[str, float | None]
    labels: Mapping[str, str]

    @property
    def lines(self) -> tuple[str, str]:
        """The pick for people: what it is, and its figures."""
        name = " ".join(filter(None, (self.name, self.settings)))
        what = "is the first"
        if self.wanted:
            end = "lowest" if METRICS[self.wanted[0]].lower_is_better else "highest"
            what = f"has the {end} {self.labels[self.wanted[0]]}"
        those = number(self.tried, "configuration")
        if self.conditions:
            those = f"{self.met} of {those} with {' and '.join(self.conditions)}"
        first = f"{name} (rank {self.rank}, {self.id}) {what} of {those} on {self.select_on}."
        chosen = f"{self._figures(self.selecting)} on {self.select_on}, which chose it: optimistic"
        if self.split == self.select_on:
            return first, f"{chosen}."
        return first, f"{self._figures(self.shown)} on {self.split}; {chosen}."

    def _figures(self, values: Mapping[str, float | None]) -> str:
        return ", ".join(
            f"{self.labels[key]} {_text(key, values[key])}" for key in self.metrics or ("macro",)
        )


def pick(results: Results, asked: str) -> Pick:
    """Pick a configuration under conditions, on the rows that select.

    Parameters
    ----------
    results
        The results; the split that selects is the one that `Results` says.
    asked
        Metrics and conditions separated by commas, such as ``ece, top1>=45``. Conditions are those
        of `stage2.results.filters.where`. A metric is to be as good as can be, lower or higher as
        is better for it; of those that rounding cannot tell apart the next metric decides, and at
        last the rank.

    Raises
    ------
    ConfigError
        For what cannot be read or is unknown; where nothing selects, or by an order alone; and
        where no configuration meets the conditions, with the nearest.
    """
    board = _selecting_board(results)
    metrics, written = _parsed(asked, board)
    conditions = [*map(filters.parse, written)]
    rows = {
        each[0]["recipe"]: each
        for each in board.configurations()
        if each[0].get("rank") is not None and each[0]["name"] != ENSEMBLE
    }
    values = {id_: filters.values_of(board, each) for id_, each in rows.items()}
    kept = filters.meeting(conditions, values)
    if not kept:
        raise errors.ConfigError(_nearest(conditions, values, asked, results))
    found = [id_ for id_ in rows if id_ in kept]  # as ranked
    for metric in metrics:
        found = _best_by(metric, found, values, board)
    row = board.ranked(rows[found[0]])
    shown = results.board.ranked(results.board.rows_of(found[0]))
    named = [metric_of(each, board) for each in filters.relations(conditions)]
    return Pick(
        id=row["recipe"],
        name=row["name"],
        settings=differences(row),
        rank=row["rank"],
        wanted=tuple(metrics),
        conditions=tuple(written),
        metrics=tuple(dict.fromkeys([*metrics, *filter(None, named)])),
        select_on=board.terms.split,
        split=results.split,
        met=len(kept),
        tried=board.terms.tried,
        selecting=_metrics(row),
        shown=_metrics(shown),
        labels={key: metric.label for key, metric in board.terms.metrics.items()},
    )


def metric_of(relation: filters.Relation, board: Leaderboard) -> str | None:
    """The metric that a relation compares; None where it compares something else."""
    key = board.terms.groups.key(relation.name)
    return key if key in METRICS else None


def _selecting_board(results: Results) -> Leaderboard:
    """The board of the split that selects."""
    terms = results.board.terms
    if terms.select_on is None:
        raise errors.ConfigError(
            f"{results.path}: there is no val, and test selects nothing unasked. "
            f"{terms.ways_to_a_val} Or give --select-on test, if you must."
        )
    if terms.is_screen:
        raise errors.ConfigError(
            f"{results.path}: {terms.select_on} of rows that stage 1 has seen gives an order and "
            "no figures to pick by. Take rank 1 of the leaderboard."
        )
    return results.board if results.split == terms.select_on else results.on(terms.select_on).board


def _parsed(asked: str, board: Leaderboard) -> tuple[list[str], list[str]]:
    """The metrics and the conditions that a text asks for."""
    metrics, conditions = [], []
    for part in map(str.strip, _COMMA.split(asked)):
        if not part:
            raise errors.ConfigError(
                f"{shortened(asked)} has an empty part. Write it like ece, top1>=45."
            )
        if re.search(r"[\s=<>!()]", part):
            conditions.append(part)
        else:
            metrics.append(metric_named(part, board.terms.groups))
    return metrics, conditions


def _best_by(
    metric: str, ids: Sequence[str], values: Mapping[str, filters.Values], board: Leaderboard
) -> list[str]:
    """Those of some configurations whose metric is the best, up to rounding, as they stand."""
    known = {id_: values[id_][metric] for id_ in ids if values[id_][metric] is not None}
    if not known:
        raise errors.ConfigError(
            f"No configuration that meets the rest has {metric} on {board.terms.split}. Pick by "
            "another metric."
        )
    row = METRICS[metric]
    best = (min if row.lower_is_better else max)(known.values())
    return [id_ for id_ in known if abs(known[id_] - best) <= row.tie]


def _nearest(
    conditions: Sequence[filters.Condition],
    values: Mapping[str, filters.Values],
    asked: str,
    results: Results,
) -> str:
    """The message where no configuration meets conditions: the nearest, the first of equal ones."""
    if not values:
        return f"No configuration of {results.path} has a rank. `featbank status` shows the runs."
    spans = {
        each.name: _span([own.get(each.name) for own in values.values()])
        for each in filters.relations(conditions)
    }
    lacks = {
        id_: sum(_shortfall(each, own, spans) for each in conditions) for id_, own in values.items()
    }
    nearest = min(lacks, key=lacks.__getitem__)
    own = values[nearest]
    figures = ", ".join(
        f"{name} {_text(name, own[name])}" for name in spans if own.get(name) is not None
    )
    return (
        f"None of {len(values)} configurations meets {shortened(asked)} on {results.select_on}. "
        f"The nearest is rank {own['rank']}, {nearest}: {figures or 'it has none of these'}."
    )


def _shortfall(
    condition: filters.Condition, own: filters.Values, spans: Mapping[str, float]
) -> float:
    """The distance of a configuration from a condition: of a number in spans of it over all."""
    if condition.holds(own):
        return 0.0
    if isinstance(condition, filters.Combination):
        lacks = [_shortfall(part, own, spans) for part in condition.parts]
        return {"and": sum(lacks), "or": min(lacks), "not": 1.0}[condition.word]
    value, bound = own.get(condition.name), read_number(condition.written, float)
    if bound is None or not _is_number(value):
        return 1.0
    return abs(value - bound) / spans[condition.name]


def _span(values: Sequence[Any]) -> float:
    """The range of the numbers among some values; 1 where there is none."""
    known = [value for value in values if _is_number(value)]
    return (max(known) - min(known) if known else 0) or 1.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metrics(row: Row) -> dict[str, float | None]:
    return {name: row[name] for name in METRICS}


def _text(name: str, value: Any) -> str:
    """A figure to the decimals of its metric, another value as it is."""
    if value is None:
        return "–"
    decimals = METRICS[name].decimals if name in METRICS else 1
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
