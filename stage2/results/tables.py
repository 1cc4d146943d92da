"""Leaderboards and comparisons as tables for people, and in formats for programs and papers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

from featbank.characters import in_csv, in_latex, in_markdown, visible
from stage2.engine.metrics import METRICS, RANKING, Metric
from stage2.results.compare import Compared
from stage2.results.differences import Comparison, Measure
from stage2.results.leaderboard import Leaderboard, Row, differences, setting_text
from stage2.results.selection import NLL
from stage2.results.significance import LEVEL

ROWS = 256
"""Rows of a piece of JSON or CSV: all at once would be in memory several times when printed."""

_GAIN = "B\u00a0−\u00a0A"  # never broken over lines


class Table(NamedTuple):
    """A table with a title above it; its first `texts` columns are texts, the others numbers."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    texts: int = 1

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
    header = ["recipe", *([board.per[0]] if board.per else []), "settings"]
    lines = [
        [*first_cells(board, rows), *(column.text(board, rows) for column in numbers)]
        for rows in board.configurations()
    ]
    labels = [column.label for column in numbers]
    return Table(starred_protocol(board), header + labels, lines, len(header))


def first_cells(board: Leaderboard, rows: Sequence[Row]) -> list[str]:
    """The texts of a configuration: its recipe, the value of the setting whose best are shown, its
    settings."""
    cells = [rows[0]["name"]]
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
    return table.latex() if form == "latex" else _markdown(table.markdown(), table.title)


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


def comparison_tables(compared: Compared) -> list[Table]:
    """The tables of a comparison: measures, seeds and classes of a single pair; else one table with
    a line for each configuration."""
    if len(compared.comparisons) == 1:
        return _pair(compared, compared.comparisons[0])
    first = compared.comparisons[0]
    every = [each.measures for each in compared.comparisons]  # groups may differ between banks
    of_a = {name: m.a for measures in every[::-1] for name, m in measures.items()}
    names = [name for name in METRICS if name in of_a]
    lines = [[first.a, compared.settings[first.a], *(f"{of_a[n]:.1f}" for n in names), "", ""]]
    for each in compared.comparisons:
        known = [each.measures.get(name) for name in names]
        cells = [f"{_points(m.difference)} {_interval(m)}" if m else "–" for m in known]
        settings = compared.settings[each.b]
        lines.append([each.b, settings, *cells, _p(each.p), _p(each.p_holm)])
    title = (
        f"Against {_described(compared, first.a)}: its accuracies in %, then differences from them "
        f"in points [{LEVEL} % interval]."
    )
    labels = [compared.labels[name] for name in names]
    return [Table(title, ["recipe", "settings", *labels, "p", "p Holm"], lines, 2)]


def render_comparison(compared: Compared, form: str) -> str:
    """A comparison as ``json``, ``csv``, ``md`` or ``latex``; ``csv`` has a row per measure."""
    if form == "json":
        fields = asdict(compared)
        del fields["labels"]
        return json.dumps(fields, indent=1, allow_nan=False)
    if form == "csv":
        header = "a b measure accuracy_a accuracy_b difference low high std seeds p p_holm"
        return csv_text(header.split(), _measure_rows(compared))
    tables = comparison_tables(compared)
    if form == "latex":
        latex = [table.latex() for table in tables]
        return "\n\n".join([f"% {visible(compared.protocol)}", *latex])
    parts = [part for table in tables for part in (in_markdown(table.title), table.markdown())]
    return _markdown(*parts, compared.protocol)


def _pair(compared: Compared, pair: Comparison) -> list[Table]:
    """The tables of one configuration against another."""
    measures = [
        [
            compared.labels[name],
            f"{m.a:.1f}",
            f"{m.b:.1f}",
            _points(m.difference),
            _interval(m),
            "–" if m.std is None else f"{m.std:.2f}",
        ]
        for name, m in pair.measures.items()
    ]
    seeds = [[str(t.seed), str(t.only_a), str(t.only_b), _p(t.p)] for t in pair.seeds]
    if len(seeds) > 1:
        seeds.append(["all", "", "", _p(pair.p)])
    classes = [
        [
            " ".join(c.name.split()),
            str(c.trained_on),
            str(c.rows),
            f"{c.a:.1f}",
            f"{c.b:.1f}",
            _points(c.difference),
        ]
        for c in pair.classes
    ]
    tables = [
        Table(
            f"A: {_described(compared, pair.a)}. B: {_described(compared, pair.b)}.",
            ["%", "A", "B", _GAIN, f"{LEVEL}\u00a0% interval", "std over seeds"],
            measures,
        ),
        Table(
            "Rows that only one of the two classifies correctly, and p of their difference",
            ["seed", "A alone", "B alone", "p"],
            seeds,
        ),
        Table(
            "The classes with the largest differences"
            + (", samples and rows of A's bank" if "@" in pair.a else ""),
            ["class", "training samples", "rows", "A", "B", _GAIN],
            classes,
        ),
    ]
    shown = (True, pair.p is not None, bool(classes))
    return [table for table, is_shown in zip(tables, shown, strict=True) if is_shown]


def _measure_rows(compared: Compared) -> Iterable[Sequence[Any]]:
    for each in compared.comparisons:
        seeds = " ".join(str(test.seed) for test in each.seeds)
        for name, m in each.measures.items():
            numbers = [m.a, m.b, m.difference, m.low, m.high, m.std]
            yield [each.a, each.b, name, *numbers, seeds, each.p, each.p_holm]


def _markdown(*parts: str) -> str:
    """Parts in Markdown, the last of them plain text, with a blank line between them."""
    *written, text = parts
    return "\n\n".join([*written, in_markdown(text)])


def _latex_row(cells: Sequence[str]) -> str:
    """Cells of a row; one that opens like an argument of the row end before it is kept apart."""
    row = " & ".join(map(in_latex, cells))
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _described(compared: Compared, configuration: str) -> str:
    """A configuration with its settings, and the reason why it was taken."""
    parts = [compared.settings[configuration], compared.chosen.get(configuration)]
    text = ", ".join(part for part in parts if part)
    return f"{configuration} ({text})" if text else configuration


def _points(difference: float) -> str:
    return f"{difference:+.1f}".replace("-", "−")


def _interval(measure: Measure) -> str:
    return f"[{_points(measure.low)}, {_points(measure.high)}]"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}" if p > 1e-300 else "< 1e-300"
