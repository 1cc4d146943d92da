"""Tables as commands print them: on a terminal the columns that fit, and a line on the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from featbank.characters import visible, visible_lines
from featbank.cli.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

    from stage2.results.tables import Table

FOLDED = ("settings", "class", "bank", "what")
"""Columns whose cells go over several lines where there is no room; recipes, ids and figures never
do."""

NARROWEST = 8
"""The least width of such a column."""

SPREAD = "±"
"""The name among the columns that a table can spare of what follows a ± in its figures."""

_SPREAD = re.compile(r" ?± ?[0-9.]+")


def print_tables(
    tables: Iterable[Table], below: str = "", *, all_of_it: str = "A wider terminal shows all."
) -> None:
    """Print tables, a text below them, and what was left out of them for want of room.

    Where the output is not a terminal, nothing is left out and no cell folded.

    Parameters
    ----------
    tables
        Those that can spare columns lose them in that order until the others fit.
    below
        The text.
    all_of_it
        How to see what was left out.
    """
    from rich.markup import escape

    output = console()
    whole = not output.is_terminal
    left_out: dict[str, None] = {}
    for table in tables:
        if table.title:
            output.print(escape(visible(table.title)), soft_wrap=whole)
        cells = _cells(table)
        if not whole:
            names, cells = _fitting(cells, table.spare, output.width)
            left_out |= dict.fromkeys(names)
        _write(output, cells, output.width)
    if below:
        print_text(below)
    if left_out:
        print_text(f"Left out for want of room: {', '.join(left_out)}. {all_of_it}")


def print_text(text: str, *, bold: bool = False) -> None:
    """Print lines, on a terminal broken between words."""
    from rich.markup import escape

    output = console()
    shown = escape(visible_lines(text))
    output.print(f"[bold]{shown}[/bold]" if bold else shown, soft_wrap=not output.is_terminal)


def print_hanging(lead: str, text: str) -> None:
    """Print a text after what leads to it, on a terminal folded below its own beginning."""
    output = console()
    room = output.width - len(lead)
    lines = folded(text, room) if output.is_terminal and room >= NARROWEST else [text]
    for number, line in enumerate(lines):
        click.echo(f"{' ' * len(lead) if number else lead}{line}")


class _Column:
    """A column: its title, cells, whether they are texts, and the widths that they take."""

    def __init__(self, name: str, cells: Sequence[str], *, text: bool) -> None:
        self.name, self.text = name, text
        self.cells = [*map(visible, cells)]
        self.title = visible(name).split(" ")
        self.folds = text and name in FOLDED
        self.lengths = [*map(_length, self.cells)]
        self.least = max(map(_length, self.title))
        self.full = max(self.least, max(self.lengths, default=0))

    @property
    def need(self) -> int:
        """The width without which words or figures break."""
        if not self.folds:
            return self.full
        words = {word for cell in self.cells for word in cell.split(" ")}
        return max(self.least, max(map(_length, words), default=0))

    def without_spread(self) -> _Column:
        """The same with figures alone."""
        if self.text:
            return self
        return _Column(self.name, [_SPREAD.sub("", cell) for cell in self.cells], text=False)


def _cells(table: Table) -> list[_Column]:
    """The columns of a table."""
    by_column = zip(*table.lines, strict=True) if table.lines else [()] * len(table.header)
    return [
        _Column(name, cells, text=place < table.texts)
        for place, (name, cells) in enumerate(zip(table.header, by_column, strict=True))
    ]


def _fitting(
    columns: list[_Column], spare: Sequence[str], room: int
) -> tuple[list[str], list[_Column]]:
    """The parts that columns lose so that they fit a width, and the columns that are left."""
    left_out = []
    if sum(column.full + 2 for column in columns) > room:
        columns = [column for column in columns if not column.folds or any(column.cells)]
    needs = {id(column): column.need for column in columns}
    for name in spare:
        if sum(needs[id(column)] + 2 for column in columns) <= room:
            break
        if name == SPREAD:
            bare = [column.without_spread() for column in columns]
            if [column.full for column in bare] == [column.full for column in columns]:
                continue
            columns, needs = bare, {id(column): column.need for column in bare}
            left_out.append("± over seeds")
        elif any(column.name == name for column in columns):
            columns = [column for column in columns if column.name != name]
            left_out.append(name)
    return left_out, columns


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """The width of each column: those that fold share what the others leave."""
    left = room - sum(column.full + 2 for column in columns if not column.folds)
    widths = []
    folding = [column for column in columns if column.folds]
    for column in columns:
        if not column.folds:
            widths.append(column.full)
            continue
        folding = folding[1:]
        others = sum(min(each.need, NARROWEST) + 2 for each in folding)
        widths.append(max(column.least, NARROWEST, min(column.full, left - others - 2)))
        widths[-1] = min(widths[-1], column.full)
        left -= widths[-1] + 2
    return widths


def _write(output: Console, columns: Sequence[_Column], room: int) -> None:
    """Write a table with a rule below its titles and a blank line above and below it."""
    from rich.markup import escape

    terminal = output.is_terminal
    widths = _widths(columns, room) if terminal else [column.full for column in columns]
    total = sum(widths) + 2 * len(widths)
    texts = [column.text for column in columns]
    blank = " " * total + "\n"
    height = max(len(column.title) for column in columns)
    titles = [[""] * (height - len(column.title)) + column.title for column in columns]
    output.file.write(blank)
    for line in zip(*titles, strict=True):
        output.print(f"[bold]{escape(_joined(line, widths, texts))}[/bold]", soft_wrap=True)
    output.file.write(f" {'─' * (total - 2)} \n")
    output.file.writelines(_body(columns, widths, texts))
    output.file.write(blank)


def _body(
    columns: Sequence[_Column], widths: Sequence[int], texts: Sequence[bool]
) -> Iterator[str]:
    """The lines of a table below its titles."""
    folds = any(column.full > width for column, width in zip(columns, widths, strict=True))
    for number, line in enumerate(zip(*(column.cells for column in columns), strict=True)):
        if not folds:
            padded = [
                cell + " " * (width - column.lengths[number])
                if column.text
                else " " * (width - column.lengths[number]) + cell
                for cell, width, column in zip(line, widths, columns, strict=True)
            ]
            yield f" {'  '.join(padded)} \n"
            continue
        parts = [folded(cell, width) for cell, width in zip(line, widths, strict=True)]
        for each in zip_longest(*parts, fillvalue=""):
            yield _joined(each, widths, texts) + "\n"


def _joined(line: Sequence[str], widths: Sequence[int], texts: Sequence[bool]) -> str:
    """A line of a table, texts to the left and figures to the right."""
    cells = []
    for cell, width, text in zip(line, widths, texts, strict=True):
        blank = " " * (width - _length(cell))
        cells.append(cell + blank if text else blank + cell)
    return f" {'  '.join(cells)} "


def folded(text: str, width: int) -> list[str]:
    """A text as lines of at most a width, between words where they fit."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _length(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and _length(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _length(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.replace("±", "").isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
