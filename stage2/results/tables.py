"""The leaderboard: stored runs, averaged over seeds, ranked under a stated protocol."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featbank import errors
from featbank.bank import GROUPS
from featbank.characters import in_csv, in_latex, in_markdown, visible
from stage2.engine.metrics import METRICS, RANKING, UNCALIBRATED, Metric
from stage2.features.experts import short_name
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import settings_of
from stage2.results.configurations import Configuration
from stage2.results.protocol import Protocol
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
        ``parameters``, ``seeds``, ``split``, ``epoch``, ``status``, ``selection`` (what ranks it,
        percent), the metrics of `METRICS` and their ``…_std`` over seeds; None where there is
        nothing to average. What halving stopped has no rank and stands below; it was measured on
        val alone, when it was stopped.
    terms
        How the figures came about.
    per
        The setting of which the rows are the best of each value, and that value by configuration.
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
        """One line: bank, selection, how many were tried and what a search did to them, seeds,
        group thresholds, and what was done to the rows."""
        thresholds = ", ".join(f"{name}: {rule}" for name, rule in GROUPS.items())
        units = ["mean ± std over seeds", "accuracy and ECE in %", thresholds]
        if self.terms.split == "val":
            units.insert(0, f"figures of val{self._optimism}")
        return self.terms.line(self.rows, *units)

    @property
    def _optimism(self) -> str:
        """Why figures of val are better than they would be elsewhere."""
        fitted = any(row["parameters"].get("calibration", "none") != "none" for row in self.rows)
        reasons = ["which selected"] if self.select_on == "val" else []
        reasons += ["to which calibrations were fitted"] if fitted else []
        return f", {' and '.join(reasons)}: optimistic" if reasons else ""

    def first(self, top: int | None) -> Leaderboard:
        """Only the first configurations, or all."""
        rows = [row for rows in self.configurations()[:top] for row in rows]
        return replace(self, rows=rows)

    def best(self) -> Leaderboard:
        """Only the best configuration of each recipe; the protocol still tells how many ran."""
        return self.best_per("name", {row["recipe"]: row["name"] for row in self.rows})

    def best_per(self, name: str, value: Mapping[str, Any]) -> Leaderboard:
        """Only the best configuration of each `value`, which is given by configuration and called
        `name`; the protocol still tells how many ran."""
        first: dict[Any, str] = {}
        for rows in _ordered(self.configurations()):
            first.setdefault(value[rows[0]["recipe"]], rows[0]["recipe"])
        best = set(first.values())
        kept = [row for row in self.rows if row["recipe"] in best]
        terms = self.terms.noting(f"best of each {'recipe' if name == 'name' else name}")
        per = None if name in ("name", "recipe") else (name, value)
        return replace(self, rows=kept, terms=terms, per=per)

    def configurations(self) -> list[list[Row]]:
        """The rows of each configuration."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["recipe"], []).append(row)
        return list(found.values())

    def ranked(self, rows: Sequence[Row]) -> Row:
        """Of a configuration's rows that of the epoch that ranks."""
        return next((row for row in rows if row["epoch"] == self.terms.epoch), rows[0])


def board_of(configurations: Iterable[Configuration], terms: Protocol) -> Leaderboard:
    """Rank configurations under the terms of a protocol."""
    rows = [_rows(own, terms) for own in configurations]
    return Leaderboard([row for own in _ordered(rows) for row in own], terms)


def why_unranked(rows: Sequence[Row]) -> str:
    """Why none of some configurations has a rank, and what to do: the end of a sentence."""
    if any(row["status"] == "stopped" for row in rows):
        return "was stopped by halving or diverged. Sweep them without a search."
    return "diverged. Sweep them with a smaller lr."


def render(board: Leaderboard, form: str, *, top: int | None = None) -> str:
    """A leaderboard as text: ``json``, ``csv``, ``md`` or ``latex``.

    ``json`` and ``csv`` have every row and metric; ``md`` and ``latex`` the columns of the table,
    its first `top` configurations.
    """
    if form == "json":
        return json.dumps(board.rows, indent=1, allow_nan=False)
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(board.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in board.rows:
            writer.writerow(
                {
                    k: json.dumps(v) if isinstance(v, (dict, list)) else in_csv(v)
                    for k, v in row.items()
                }
            )
        return out.getvalue().rstrip("\n")
    board = board.first(top)
    header, lines = columns(board)
    if form == "md":
        return f"{markdown(header, lines)}\n\n{in_markdown(board.protocol)}"
    return f"% {visible(board.protocol)}\n{latex(header, lines, texts=text_columns(board))}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    names, *rows = [list(map(in_markdown, line)) for line in (header, *lines)]
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, rule, *rows))


def latex(header: Sequence[str], lines: Sequence[Sequence[str]], *, texts: int) -> str:
    """A ``tabular`` with rules of booktabs; the first `texts` columns are flush left."""
    names, *body = [_latex_row(line) for line in (header, *lines)]
    rows = " \\\\\n".join(body)
    return (
        f"\\begin{{tabular}}{{{'l' * texts}{'r' * (len(header) - texts)}}}\n\\toprule\n"
        f"{names} \\\\\n\\midrule\n{rows} \\\\\n\\bottomrule\n"
        "\\end{tabular}"
    )


def text_columns(board: Leaderboard) -> int:
    """How many columns of the human table, from the left, are texts."""
    return 3 if board.per else 2


def columns(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the human table: one line per configuration, last and selected epoch side
    by side, what ranks, groups and calibration of the epoch that counts."""
    numbers = metric_columns(board, "leaderboard")
    header = ["recipe", *([board.per[0]] if board.per else []), "settings"]
    header += [column.label for column in numbers]
    lines = []
    for rows in board.configurations():
        last = rows[0]
        line = [last["name"]]
        if board.per:
            name, value = board.per
            own = value[last["recipe"]]
            line.append("–" if own is None else told_value(name, own))
        line.append(differences(last))
        line += [_mean_std(*column.value(board, rows), column.metric) for column in numbers]
        lines.append(line)
    return header, lines


@dataclass(frozen=True)
class Column:
    """A column of numbers: a metric at an epoch, or what ranks.

    Attributes
    ----------
    key
        Its name: the metric, with the epoch where it shows each, or ``selection``.
    label
        Its title.
    metric
        Row of `stage2.engine.metrics.METRICS`.
    name
        Key in the rows of a leaderboard.
    epoch
        ``last``, ``selected``, or None for the one that ranks.
    """

    key: str
    label: str
    metric: Metric
    name: str
    epoch: str | None = None

    def value(self, board: Leaderboard, rows: Sequence[Row]) -> tuple[float | None, float | None]:
        """Mean and standard deviation over seeds, from the rows of a configuration."""
        row = board.ranked(rows)
        if self.epoch is not None:  # where no epoch was selected, the last one counts as that
            row = {row["epoch"]: row for row in rows}.get(self.epoch, rows[0])
        return row[self.name], row[f"{self.name}_std"]


def metric_columns(board: Leaderboard, table: str) -> list[Column]:
    """The columns of numbers of a table, ``leaderboard`` or ``report``: metrics of each epoch, what
    ranks, and the other metrics."""
    shown = {name: metric for name, metric in METRICS.items() if table in metric.columns}
    epochs = [
        epoch for epoch in ("last", "selected") if any(row["epoch"] == epoch for row in board.rows)
    ]
    each_epoch = [
        Column(f"{name}_{epoch}", f"{metric.label} {epoch}", metric, name, epoch)
        for name, metric in shown.items()
        if metric.each_epoch
        for epoch in epochs
    ]
    ranking = METRICS[RANKING]
    return [
        *each_epoch,
        Column("selection", f"{board.select_on} {ranking.label}", ranking, "selection"),
        *(
            Column(name, metric.label, metric, name)
            for name, metric in shown.items()
            if not metric.each_epoch
        ),
    ]


def _rows(own: Configuration, terms: Protocol) -> list[Row]:
    """A configuration's rows, one per epoch it was measured at, averaged over its seeds."""
    status = own.status
    averaged = [run for run in own.runs if run.status == "stopped"] or own.done
    epochs = sorted({epoch for run in averaged for _, epoch in run.metrics}) or ["last"]
    ranked_at = terms.epoch if terms.epoch in epochs else "last"
    complete = averaged if status == "done" else []  # a mean over surviving seeds ranks nothing
    selection = [_selection(run, terms.select_on, ranked_at) for run in complete]
    rows = []
    for epoch in epochs:
        row: Row = {
            "recipe": own.id,
            "name": own.name,
            "parameters": own.parameters,
            "seeds": [run.seed for run in own.runs],
            "split": terms.split,
            "epoch": epoch,
            "status": status,
        }
        row["selection"], row["selection_std"] = _over_seeds(selection)
        for metric in METRICS:
            values = [_metric(run, terms.split, epoch, metric) for run in averaged]
            row[metric], row[f"{metric}_std"] = _over_seeds(values)
        rows.append(row)
    return rows


def _metric(run: Run, split: str, epoch: str, metric: str) -> float | None:
    """A metric of a run; where no epoch was selected, the last one counts as that.

    None where it was not measured, as the metrics that results of schema 1 lack.
    """
    at_last = run.metrics.get((split, "last"), {})
    return run.metrics.get((split, epoch), at_last).get(metric)


def _selection(run: Run, select_on: str, epoch: str) -> float | None:
    """What ranks a run: macro accuracy, on val before calibration, which was fitted to val."""
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
    diverged."""
    usual = _usual(row["name"], row["parameters"])
    told = [f"{k}={told_value(k, v)}" for k, v in row["parameters"].items() if usual.get(k) != v]
    return " ".join([*told, *([f"({row['status']})"] if row["status"] != "done" else [])])


def _usual(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The settings of a preset, and the defaults of parts that replace its own."""
    try:
        defaults = {k: s.default for k, s in settings_of(name, parameters).settings.items()}
        return {**defaults, **Recipe(name).parameters}
    except errors.ConfigError:  # stored by a version that knew other names
        return {}


def told_value(name: str, value: Any) -> str:
    """A setting's value as people read it."""
    if name == "view":
        return short_name(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mean_std(mean: float | None, std: float | None, metric: Metric) -> str:
    shown = [f"{value:.{metric.decimals}f}" for value in (mean, std) if value is not None]
    return " ± ".join(shown) or "–"


def _latex_row(cells: Sequence[str]) -> str:
    """Cells of a row; what opens like an argument of the row end before it is none."""
    row = " & ".join(map(in_latex, cells))
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _ordered(configurations: Iterable[list[Row]]) -> list[list[Row]]:
    """The rows of each configuration, in the order of what ranks; without it the stopped first.

    Of equal ones the uncalibrated stands first: a calibration is not what made it as good.
    """

    def name(rows: list[Row]) -> tuple[bool, bool, str]:
        first = rows[0]
        calibrated = first["parameters"].get("calibration", "none") != "none"
        return first["status"] != "stopped", calibrated, first["recipe"]

    return in_order(configurations, lambda rows: rows[0]["selection"], name)
