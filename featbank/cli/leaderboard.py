"""``featbank leaderboard``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.characters import visible, visible_lines
from featbank.cli.options import FILE, Integer, bank_option, format_option, selection_options
from featbank.cli.terminal import console, say
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage2.results.leaderboard import Leaderboard


@click.command()
@click.argument("results", type=FILE)
@format_option("json and csv carry every row and metric.")
@click.option("--split", help="Split whose metrics are shown. [default: test, or else val]")
@selection_options("the table")
@bank_option
@click.option(
    "--where",
    "condition",
    metavar="CONDITION",
    help="Only configurations that meet it: comparisons (= != < <= > >=) of settings, name, seeds "
    "(how many) and metrics, joined by and, or, not and parentheses.",
)
@click.option("--best", is_flag=True, help="Only the best configuration of each recipe.")
@click.option(
    "--best-per", metavar="SETTING", help="Only the best for each head, loss, sampler, view, …"
)
@click.option(
    "--sort",
    "order",
    metavar="METRIC[:asc|:desc]",
    help="Order by a metric, best first. [default: as ranked by --select-on]",
)
@click.option("--top", type=Integer(1), help="Lines of table, md and latex. [default: all]")
@click.option(
    "--nested",
    is_flag=True,
    help="Correct the best figure by nested folds of the rows that select, not by the bootstrap.",
)
def leaderboard(
    *,
    results: Path,
    form: str,
    split: str | None,
    bank: str | None,
    condition: str | None,
    best: bool,
    best_per: str | None,
    order: str | None,
    top: int | None,
    nested: bool,
    **selection: Any,
) -> None:
    """Rank the recipes of a results file.

    A condition compares metrics at the epoch that ranks. A configuration without a setting meets no
    comparison of it; `not lr<0.1` also keeps those that have no lr.

    \b
    featbank leaderboard results.sqlite --best
    featbank leaderboard results.sqlite --where "head=lws and lr<0.1" --sort ece
    featbank leaderboard results.sqlite --best-per loss
    featbank leaderboard results.sqlite --format json > table.json
    """
    from stage2.results import filters
    from stage2.results.results import Results
    from stage2.results.store import Store

    if best and best_per:
        raise ConfigError("--best is --best-per name. Give one of the two.")
    with Store(results) as store:
        board = Results(store, bank=bank, split=split, nested=nested, **selection).board
    if condition is not None:
        board = filters.where(board, condition)
    if best or best_per:
        board = filters.best_per(board, best_per or "name")
    if order is not None:
        board = filters.sort(board, order)
    show(board, form, top=top)


def show(board: Leaderboard, form: str, *, top: int | None = None) -> None:
    """Print a leaderboard in one of `FORMATS`."""
    from stage2.results.tables import render, table_of

    if form != "table":
        click.echo(render(board, form, top=top))
        return
    total = len(board.configurations())
    board = board.first(top)
    table = table_of(board)
    lines = [[text.replace(" ± ", "±") for text in line] for line in table.lines]
    shown = f"{len(lines)} of {total} configurations shown.\n" if len(lines) < total else ""
    print_tables([table._replace(title="", lines=lines)], shown + table.title)
    if advice := board.terms.advice:
        say(advice)


def print_tables(
    tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[str]], int]], below: str
) -> None:
    """Print tables and a text below them.

    Parameters
    ----------
    tables
        Title, header, lines, and how many columns, from the left, are texts.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    output = console()
    whole = not output.is_terminal
    for title, header, lines, texts in tables:
        if title:
            output.print(escape(visible(title)), soft_wrap=whole)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for place, name in enumerate(header):
            right = place >= texts
            table.add_column(
                escape(visible(name)).replace(" ", "\n"),
                justify="right" if right else "left",
                no_wrap=right,
                overflow="fold",
            )
        for line in lines:
            table.add_row(*(escape(visible(cell)) for cell in line))
        output.print(table)
    output.print(escape(visible_lines(below)), soft_wrap=whole)
