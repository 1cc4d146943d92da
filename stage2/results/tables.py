"""Leaderboards as tables for people, and in formats for programs and papers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from featbank.bank import GROUPS
from featbank.characters import in_csv, in_latex, in_markdown, visible
from stage2.engine.metrics import METRICS, RANKING, Metric
from stage2.results.leaderboard import Leaderboard, Row, differences, setting_text
from stage2.results.selection import NLL

ROWS = 256
"""Rows of a piece of JSON or CSV: all at once would be in memory several times when printed."""


class Table(NamedTuple):
    """A table with a title above it; its first `texts` columns are texts, the others numbers.

    Where there is no room for all, it can spare columns of the titles `spare`, in this order; ``±``
    stands for the deviations beside figures.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    texts: int = 1
    spare: Sequence[str] = ()

    def markdown(self) -> str:
        """The table in Markdown, without its title."""
        names, *rows = [list(map(in_markdown, line)) for line in (self.header, *self.lines)]
        rule = ["---"] * len(self.header)
        return "\n".join(f"| {' | '.join(line)} |" for line in (names, rule, *rows))

    def latex(self) -> str:
        """The table as a ``tabular`` with rules of booktabs, its title in a comment above it."""
        names, *body = [_latex_row(line) for line in (self.header, *self.lines)]
        rows = " \\\\\n".join(body)
        alignment = "l" * self.texts + "r" * (len(self.header) - self.texts)
        return (
            f"% {visible(self.title)}\n"
            f"\\begin{{tabular}}{{{alignment}}}\n\\toprule\n"
            f"{names} \\\\\n\\midrule\n{rows} \\\\\n\\bottomrule\n"
            "\\end{tabular}"
        )


@dataclass(frozen=True)
class Column:
    """A column of numbers on the leaderboard: a metric at an epoch, or the figure that ranks.

    Attributes
    ----------
    key
        The metric, with the epoch where it is shown at each, or ``selection``.
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
        """Mean and standard deviation over seeds, from the rows of a configuration; a rank where no
        more is to be shown of what ranks."""
        if self.name == "rank":
            return board.ranked(rows)["rank"], None
        if self.epoch is None:
            row = board.ranked(rows)
        else:  # where no epoch was selected, the last one counts as that
            row = next((row for row in rows if row["epoch"] == self.epoch), rows[0])
        if self.name in METRICS:
            return row[self.name], row[f"{self.name}_std"]
        return row[self.name], row.get(f"{self.name}_std")

    def text(self, board: Leaderboard, rows: Sequence[Row]) -> str:
        """The same for people; a star at the figure that ranks marks a tie with the best."""
        numbers = [value for value in self.value(board, rows) if value is not None]
        star = "*" if self.key == "selection" and rows[0]["tied"] and board.terms.ties else ""
        decimals = 0 if self.name == "rank" else self.metric.decimals
        return (" ± ".join(f"{value:.{decimals}f}" for value in numbers) or "–") + star


def metric_columns(board: Leaderboard, table: str) -> list[Column]:
    """The numbers that a table, ``leaderboard`` or ``report``, shows of each configuration: metrics
    of each epoch, the figure that ranks, and the other metrics."""
    by_epoch, others = [], []
    for name, metric in board.terms.metrics.items():
        shown = metric.is_in(table, board.terms.about)
        if shown and metric.each_epoch:
            by_epoch += [
                Column(f"{name}_{epoch}", f"{metric.label} {epoch}", metric, name, epoch)
                for epoch in board.epochs
            ]
        elif shown or name in board.more:
            others.append(Column(name, metric.label, metric, name))
    return [*by_epoch, *_selecting(board), *others]


def _selecting(board: Leaderboard) -> list[Column]:
    """The figures that select: of macro accuracy, and of NLL,T under rules that use it; the rank
    alone of a screen. Where nothing selects, macro accuracy on the split shown."""
    metric = METRICS[RANKING]
    if board.select_on is None:
        return [Column(RANKING, f"{board.terms.split} {metric.label}", metric, RANKING)]
    if board.terms.is_screen:
        return [Column("selection", f"{board.select_on} rank", metric, "rank")]
    used = {"selection": RANKING} | ({} if board.terms.rule == "macro" else {"selection_nll": NLL})
    return [
        Column(key, f"{board.select_on} {METRICS[metric].label}", METRICS[metric], key)
        for key, metric in used.items()
    ]


def table_of(board: Leaderboard) -> Table:
    """The leaderboard for people, its protocol as the title: a line for each configuration."""
    numbers = metric_columns(board, "leaderboard")
    header = first_titles(board)
    lines = [
        [*first_cells(board, rows), *(column.text(board, rows) for column in numbers), digits(rows)]
        for rows in board.configurations()
    ]
    labels = [column.label for column in numbers]
    title = starred_protocol(board)
    return Table(title, [*header, *labels, "id"], lines, len(header), spare_columns(board))


def digits(rows: Sequence[Row]) -> str:
    """The end of a configuration's id, which commands take for all of it."""
    return str(rows[0]["recipe"]).rpartition("-")[2]


def spare_columns(board: Leaderboard) -> tuple[str, ...]:
    """The titles of the columns that a leaderboard can spare, the first of them first: not the
    recipe, what ranks, and what was asked for."""
    metrics = board.terms.metrics
    labels = {name: metric.label for name, metric in metrics.items() if name not in board.more}
    last, selected = (f"{labels.get('top1')} {epoch}" for epoch in ("last", "selected"))
    of_groups = [labels.get(f"{metric}_{g}") for metric in ("ece", "miou") for g in GROUPS]
    nll = f"{board.select_on} {METRICS[NLL].label}" if board.terms.rule != "nll" else None
    groups = [labels.get(name) for name in ("medium", "many")]
    others = [nll, *groups, labels.get("ece"), labels.get("miou"), labels.get("few"), selected]
    titles = ["±", last, *of_groups, "id", *others, *([board.per[0]] if board.per else [])]
    return tuple(title for title in titles if title)


def first_titles(board: Leaderboard) -> list[str]:
    """The titles of `first_cells`."""
    return [
        *(["#"] if _has_ranks(board) else []),
        "recipe",
        *([board.per[0]] if board.per else []),
        "settings",
    ]


def _has_ranks(board: Leaderboard) -> bool:
    """Whether lines have a number: not where nothing selects, nor where ranks are the figures."""
    return board.select_on is not None and not board.terms.is_screen


def first_cells(board: Leaderboard, rows: Sequence[Row]) -> list[str]:
    """The texts of a configuration: its rank, its recipe, the value of the setting whose best are
    shown, its settings."""
    rank = rows[0].get("rank")
    cells = ["–" if rank is None else str(rank)] if _has_ranks(board) else []
    cells.append(rows[0]["name"])
    if board.per:
        name, values = board.per
        value = values[rows[0]["recipe"]]
        cells.append("–" if value is None else setting_text(name, value))
    return [*cells, differences(rows[0])]


def starred_protocol(board: Leaderboard) -> str:
    """The protocol line below a table of `Column` texts: it explains their star."""
    return board.protocol + (" · *: ties with the best" if board.terms.ties else "")


def render(board: Leaderboard, form: str, *, top: int | None = None) -> str:
    """A leaderboard as ``json``, ``csv``, ``md`` or ``latex``: `pieces` together."""
    return "".join(pieces(board, form, top=top))


def pieces(board: Leaderboard, form: str, *, top: int | None = None) -> Iterator[str]:
    """The pieces of a leaderboard as ``json``, ``csv``, ``md`` or ``latex``, one after the other.

    ``json`` and ``csv`` have every row and metric; ``md`` and ``latex`` the columns of the table,
    its first `top` configurations.
    """
    rows = (row.whole() for row in board.rows)
    if form == "json":
        yield from json_rows(rows)
    elif form == "csv":
        yield from csv_lines(list(board.rows[0]), (row.values() for row in rows))
    else:
        yield render_table(table_of(board.first(top)), form)


def render_table(table: Table, form: str) -> str:
    """A table as ``md``, its title below it, or as ``latex``."""
    return table.latex() if form == "latex" else markdown_of(table.markdown(), table.title)


_WITHIN, _DEEPER = (
    json.JSONEncoder(allow_nan=False, separators=(",\n" + " " * deep, ": ")) for deep in (2, 3)
)
"""Encoders of the values of a row and of one level below. Those of Python with an indent are ten
times slower."""


def json_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows as JSON in pieces, each level indented by a space."""
    texts = map(_json_row, rows)
    if (first := next(texts, None)) is None:
        yield "[]"
        return
    yield f"[\n {first}"
    while some := ",\n ".join(islice(texts, ROWS)):
        yield f",\n {some}"
    yield "\n]"


def _json_row(row: Mapping[str, Any]) -> str:
    """A row as JSON: mappings and lists of one level over several lines, like itself."""
    parts: list[str] = []
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, (dict, list)) and value:
            parts += [_WITHIN.encode(plain)[1:-1]] if plain else []
            text = _DEEPER.encode(value)
            parts.append(f"{json.dumps(name)}: {text[0]}\n   {text[1:-1]}\n  {text[-1]}")
            plain = {}
        else:
            plain[name] = value
    parts += [_WITHIN.encode(plain)[1:-1]] if plain else []
    return "{\n  " + ",\n  ".join(parts) + "\n }"


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV; mappings and lists as JSON."""
    return "".join(csv_lines(header, rows))


def csv_lines(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """The same in pieces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="")
    writer.writerow(map(in_csv, header))
    for number, row in enumerate(rows, 1):
        out.write("\n")
        writer.writerow([json.dumps(v) if isinstance(v, (dict, list)) else in_csv(v) for v in row])
        if number % ROWS == 0:
            yield out.getvalue()
            out.seek(0)
            out.truncate()
    yield out.getvalue()


def markdown_of(*parts: str) -> str:
    """Parts in Markdown, the last of them plain text, with a blank line between them."""
    *written, text = parts
    return "\n\n".join([*written, in_markdown(text)])


def _latex_row(cells: Sequence[str]) -> str:
    """Cells of a row; one that opens like an argument of the row end before it is kept apart."""
    row = " & ".join(map(in_latex, cells))
    return f"{{}}{row}" if row.startswith(("[", "*")) else row
