"""Leaderboards of several banks in one table: joined, or the best of each recipe by bank."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featbank import errors
from featbank.bank import GROUPS
from stage2.engine.metrics import METRICS, RANKING, Metric
from stage2.results import filters
from stage2.results.banks import between
from stage2.results.classes import metric_named, metrics_of
from stage2.results.leaderboard import Leaderboard, Row, differences, setting_text
from stage2.results.protocol import joined_line
from stage2.results.results import Results
from stage2.results.tables import (
    Table,
    csv_text,
    digits,
    first_cells,
    first_titles,
    json_rows,
    metric_columns,
    render_table,
    spare_columns,
)


@dataclass(frozen=True)
class Joined:
    """Leaderboards of several banks of the same classes; no rank mixes the vals of two banks.

    Attributes
    ----------
    boards
        By the name of the bank, each ranked by itself.
    banks
        Their results.
    """

    boards: dict[str, Leaderboard]
    banks: tuple[Results, ...]

    @classmethod
    def of(cls, banks: Sequence[Results]) -> Joined:
        """The leaderboards of banks (`stage2.results.banks.banks_of`)."""
        return cls({bank.name: bank.board for bank in banks}, (*banks,))

    def each(self, change: Callable[[Leaderboard], Leaderboard]) -> Joined:
        """The same with every leaderboard changed."""
        return Joined({name: change(board) for name, board in self.boards.items()}, self.banks)

    @property
    def metrics(self) -> dict[str, Metric]:
        """`METRICS` with the names that all banks have for class groups, and their rules where they
        are those of all."""
        groups = [bank.groups for bank in self.banks]
        if len({each.rules for each in groups}) == 1:
            return metrics_of(groups[0])
        return metrics_of(replace(groups[0], rules=("by the rule of each bank",) * len(GROUPS)))

    def where(self, condition: str) -> Joined:
        """The configurations that meet a condition (`stage2.results.filters.where`).

        A bank none of whose configurations meets it, or can, is left out with a warning.

        Raises
        ------
        ConfigError
            Where that holds of every bank, and for a text that is not a condition.
        """
        kept: dict[str, Leaderboard] = {}
        problems: dict[str, errors.ConfigError] = {}
        for name, board in self.boards.items():
            try:
                kept[name] = filters.where(board, condition)
            except errors.ConfigError as problem:
                problems[name] = problem
        if not kept:
            raise next(iter(problems.values()))
        for name, reason in problems.items():
            warnings.warn(f"{name} is left out: {reason}")
        return Joined(kept, self.banks)

    def first(self, top: int | None) -> Joined:
        """Only the first configurations of each bank, or all."""
        return self.each(lambda board: board.first(top))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of every bank, its name before them under ``bank``."""
        return [
            {"bank": name, **row.whole()}
            for name, board in self.boards.items()
            for row in board.rows
        ]

    @property
    def protocol(self) -> str:
        """One line: after each bank's name what holds of it alone, then what holds of all."""
        parts = {name: board.protocol_parts for name, board in self.boards.items()}
        shown = [bank for bank in self.banks if bank.name in self.boards]
        return joined_line(parts, between(shown)) + self._stars

    @property
    def _stars(self) -> str:
        ties = any(board.terms.ties for board in self.boards.values())
        return " · *: ties with the best of its bank" if ties else ""


def joined_table(joined: Joined) -> Table:
    """The leaderboards for people, one below the other: a line for each configuration.

    A column that a bank lacks, as another split selects there, is empty in its lines.
    """
    columns = {
        name: {column.label: column for column in metric_columns(board, "leaderboard")}
        for name, board in joined.boards.items()
    }
    labels = [*dict.fromkeys(label for by_label in columns.values() for label in by_label)]
    first = max((first_titles(board) for board in joined.boards.values()), key=len)
    lines = [
        [
            name,
            *_filled(first_cells(board, rows), len(first)),
            *(
                columns[name][label].text(board, rows) if label in columns[name] else "–"
                for label in labels
            ),
            digits(rows),
        ]
        for name, board in joined.boards.items()
        for rows in board.configurations()
    ]
    header = ["bank", *first]
    spare = dict.fromkeys(
        title for board in joined.boards.values() for title in spare_columns(board)
    )
    return Table(joined.protocol, [*header, *labels, "id"], lines, len(header), (*spare,))


def _filled(cells: list[str], count: int) -> list[str]:
    """Cells of a bank where nothing ranks beside banks with ranks."""
    return ["–"] * (count - len(cells)) + cells


def render_joined(joined: Joined, form: str, *, top: int | None = None) -> str:
    """The same as ``json``, ``csv``, ``md`` or ``latex``, as of `stage2.results.tables.render`;
    ``md`` and ``latex`` have the first `top` configurations of each bank."""
    rows = joined.rows
    if form == "json":
        return "".join(json_rows(rows))
    if form == "csv":
        header = [*dict.fromkeys(name for row in rows for name in row)]
        return csv_text(header, [[row.get(name) for name in header] for row in rows])
    return render_table(joined_table(joined.first(top)), form)


AGAINST = ("Δ", "×")
"""Columns beside each bank but the first: its figures minus those of the first, and divided by."""


@dataclass(frozen=True)
class ByBank:
    """A metric of the best configuration of each recipe, a line per recipe and a column per bank.

    Attributes
    ----------
    joined
        The leaderboards, of each recipe the best.
    metric
        Row of `stage2.engine.metrics.METRICS`.
    cells
        By recipe, or value of the setting whose best are shown, then by bank: the row at the epoch
        that ranks. A recipe is absent where a bank lacks it, or where nothing selects among
        several.
    """

    joined: Joined
    metric: str
    cells: dict[str, dict[str, Row]]

    def first(self, top: int | None) -> ByBank:
        """Only the first lines, or all."""
        return ByBank(self.joined, self.metric, dict([*self.cells.items()][:top]))

    @property
    def label(self) -> str:
        """The title of the lines: ``recipe``, or a setting."""
        per = [board.per[0] for board in self.joined.boards.values() if board.per]
        return per[0] if per else "recipe"

    @property
    def first_bank(self) -> str:
        """The bank that the others are set against."""
        return next(iter(self.joined.boards))

    def difference(self, line: str, bank: str) -> float | None:
        """The figure of a recipe on a bank minus that on the first; None where one is missing, and
        for the first itself."""
        first, own = self._pair(line, bank)
        return None if first is None or own is None else own - first

    def ratio(self, line: str, bank: str) -> float | None:
        """The figure of a recipe on a bank divided by that on the first; None where one is missing,
        for the first itself, and for a first figure of 0."""
        first, own = self._pair(line, bank)
        return None if own is None or not first else own / first

    def _pair(self, line: str, bank: str) -> tuple[float | None, float | None]:
        """The figures of a recipe on the first bank and on another."""
        rows = [self.cells[line].get(name) for name in (self.first_bank, bank)]
        first, own = (None if row is None else row[self.metric] for row in rows)
        return first, None if bank == self.first_bank else own

    def against_first(self, line: str, bank: str, kind: str) -> str:
        """One of `AGAINST` for people."""
        value = self.difference(line, bank) if kind == "Δ" else self.ratio(line, bank)
        if value is None:
            return "–"
        if kind == "×":
            return f"×{value:.2f}"
        return f"{value:+.{METRICS[self.metric].decimals}f}".replace("-", "−")

    def text(self, line: str, bank: str) -> str:
        """A cell for people; a star marks a tie with the best of the bank."""
        row = self.cells[line].get(bank)
        if row is None or row[self.metric] is None:
            return "–"
        numbers = [row[self.metric], row[f"{self.metric}_std"]]
        decimals = METRICS[self.metric].decimals
        star = "*" if row["tied"] and self.joined.boards[bank].terms.ties else ""
        return " ± ".join(f"{value:.{decimals}f}" for value in numbers if value is not None) + star


def by_bank(joined: Joined, metric: str = RANKING, *, per: str = "name") -> ByBank:
    """The best configuration of each recipe on each bank, chosen by that bank's own protocol.

    Parameters
    ----------
    joined
        Two banks or more; lines are in the order of the first.
    metric
        The key of a metric, or what a class group is called, on the split shown.
    per
        A setting for each of whose values the best is shown, in place of recipes.

    Raises
    ------
    ConfigError
        For a single bank, an unknown metric or setting.
    """
    if len(joined.boards) < 2:
        raise errors.ConfigError(
            f"--by bank puts banks side by side, got {', '.join(joined.boards)} alone. Name more "
            "with --bank A,B or --bank all."
        )
    metric = metric_named(metric, joined.banks[0].groups)
    best = joined.each(lambda board: filters.best_per(board, per))
    cells: dict[str, dict[str, Row]] = {}
    for name, board in best.boards.items():
        several: set[str] = set()
        for rows in board.configurations():
            line = _line(board, rows[0])
            if name in cells.setdefault(line, {}):
                several.add(line)
            cells[line][name] = board.ranked(rows)
        for line in several:
            del cells[line][name]
    return ByBank(best, metric, cells)


def by_bank_table(grid: ByBank) -> Table:
    """The grid for people, its protocol as the title; beside each bank but the first the columns
    `AGAINST` the first."""
    first, *others = grid.joined.boards
    split = next(iter(grid.joined.boards.values())).terms.split
    lines = [
        [
            line,
            grid.text(line, first),
            *(
                cell
                for bank in others
                for cell in (
                    grid.text(line, bank),
                    *(grid.against_first(line, bank, kind) for kind in AGAINST),
                )
            ),
        ]
        for line in grid.cells
    ]
    metric = grid.joined.metrics[grid.metric]
    meanings = {"Δ": f"Δ: minus {first}", "×": f"×: divided by {first}"}
    title = " · ".join(
        [f"{metric.label} on {split}", *(meanings[kind] for kind in AGAINST), grid.joined.protocol]
    )
    header = [grid.label, first, *(name for bank in others for name in (bank, *AGAINST))]
    return Table(title, header, lines, spare=(*AGAINST, "±", *others[::-1]))


def render_by_bank(grid: ByBank, form: str) -> str:
    """The grid as ``json``, ``csv``, ``md`` or ``latex``; the first two also name the
    configurations."""
    banks = [*grid.joined.boards]
    if form not in ("json", "csv"):
        return render_table(by_bank_table(grid), form)
    lines = {line: {bank: _cell(grid, line, bank) for bank in banks} for line in grid.cells}
    if form == "json":
        data = [
            {grid.label: line, "metric": grid.metric, "banks": by_name}
            for line, by_name in lines.items()
        ]
        return json.dumps(data, indent=1, allow_nan=False)
    keys = ("value", "std", "recipe", "difference", "ratio")
    ends = ("", *(f" {key}" for key in keys[1:]))
    header = [grid.label, *(f"{bank}{end}" for bank in banks for end in ends)]
    rows = [
        [line, *((cell or {}).get(key) for cell in by_name.values() for key in keys)]
        for line, by_name in lines.items()
    ]
    return csv_text(header, rows)


def _line(board: Leaderboard, row: Row) -> str:
    """The recipe of a row, or the value of the setting whose best are shown."""
    if not board.per:
        return row["name"]
    name, values = board.per
    value = values[row["recipe"]]
    return "–" if value is None else setting_text(name, value)


def _cell(grid: ByBank, line: str, bank: str) -> dict[str, Any] | None:
    """A cell for programs."""
    row, metric = grid.cells[line].get(bank), grid.metric
    if row is None:
        return None
    return {
        "id": row["recipe"],
        "recipe": row["recipe"],
        "settings": differences(row),
        "split": row["split"],
        "epoch": row["epoch"],
        "value": row[metric],
        "std": row[f"{metric}_std"],
        "tied": row["tied"],
        "difference": grid.difference(line, bank),
        "ratio": grid.ratio(line, bank),
    }
