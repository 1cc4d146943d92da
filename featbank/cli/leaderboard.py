"""``featbank leaderboard``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.characters import visible, visible_lines
from featbank.cli.options import FILE, Integer, banks_option, format_option, selection_options
from featbank.cli.terminal import console, say
from featbank.errors import ConfigError
from featbank.memory import uncollected
from featbank.wording import number

if TYPE_CHECKING:
    from stage2.engine.metrics import Metric
    from stage2.results.joined import ByBank, Joined
    from stage2.results.leaderboard import Leaderboard
    from stage2.results.tables import Table
    from stage2.results.verdict import Verdict


@click.command()
@click.argument("results", type=FILE)
@format_option("json and csv carry every row and metric.")
@click.option("--split", help="Split whose metrics are shown. [default: test, or else val]")
@selection_options("the table")
@banks_option
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
    help="Order by a metric, or a class group as the bank calls it, best first. [default: as "
    "ranked by --select-on]",
)
@click.option(
    "--columns",
    metavar="METRIC[,METRIC…]",
    help="Metrics to show beside the usual columns, such as logit_magnitude,logit_deviation; json "
    "and csv have all.",
)
@click.option(
    "--by",
    type=click.Choice(["bank"]),
    help="A line for each recipe and a column for each bank: a metric of the recipe's best "
    "configuration there. [default: a line for each configuration]",
)
@click.option("--metric", help="Metric of --by bank, on the split shown. [default: macro]")
@click.option(
    "--top",
    type=Integer(1),
    help="Lines of table, md and latex, of each bank where there are several. [default: all]",
)
@click.option(
    "--nested",
    is_flag=True,
    help="Correct the best figure by nested folds of the rows that select, not by the bootstrap.",
)
@uncollected()
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
    columns: str | None,
    by: str | None,
    metric: str | None,
    top: int | None,
    nested: bool,
    **selection: Any,
) -> None:
    """Rank the recipes of a results file.

    Several banks are ranked each by its own val and stand below one another, or with --by bank
    side by side. Their classes must be the same.

    A condition compares metrics at the epoch that ranks. A configuration without a setting meets no
    comparison of it; `not lr<0.1` also keeps those that have no lr.

    \b
    featbank leaderboard results.sqlite --best
    featbank leaderboard results.sqlite --where "head=lws and lr<0.1" --sort ece
    featbank leaderboard results.sqlite --best-per loss
    featbank leaderboard results.sqlite --best --columns logit_magnitude,logit_deviation
    featbank leaderboard results.sqlite --format json > table.json
    featbank leaderboard results.sqlite --bank r32,r50 --by bank --metric few
    """
    from stage2.results import filters
    from stage2.results.banks import banks_of
    from stage2.results.joined import Joined, by_bank
    from stage2.results.store import Store
    from stage2.results.verdict import verdict

    if best and best_per:
        raise ConfigError("--best is --best-per name. Give one of the two.")
    if metric and not by:
        raise ConfigError("--metric is for --by bank. Order a leaderboard with --sort.")
    if best and by:
        raise ConfigError("--by bank has the best of each recipe already. Leave out --best.")
    if columns and (by or form in ("json", "csv")):
        instead = "--by bank shows one --metric" if by else f"{form} has every metric"
        raise ConfigError(f"{instead}. Leave out --columns.")
    with Store(results) as store:
        banks = banks_of(
            store, bank or ("all" if by else None), split=split, nested=nested, **selection
        )
        told = form == "table" and condition is None
        verdicts = {each.name: verdict(each) for each in banks} if told else {}
    joined = Joined.of(banks)
    if condition is not None:
        joined = joined.where(condition)
    if (best or best_per) and not by:
        joined = joined.each(lambda board: filters.best_per(board, best_per or "name"))
    if columns is not None:
        named = [name.strip() for name in columns.split(",")]
        joined = joined.each(lambda board: board.showing(named))
    if order is not None:
        joined = joined.each(lambda board: filters.sort(board, order))
    if by:
        _show_by_bank(by_bank(joined, metric or "macro", per=best_per or "name").first(top), form)
    elif len(banks) > 1:
        _show_joined(joined, form, top)
    else:
        show(joined.boards[banks[0].name], form, top=top)
    show_verdicts(verdicts)


def _show_joined(joined: Joined, form: str, top: int | None) -> None:
    """Print the leaderboards of several banks in one of `FORMATS`."""
    from stage2.results.joined import joined_table, render_joined

    if form != "table":
        click.echo(render_joined(joined, form, top=top))
        return
    longest = max(len(board.configurations()) for board in joined.boards.values())
    table = joined_table(joined.first(top))
    more = [name for board in joined.boards.values() for name in board.more]
    left_out, table = _fitting(_narrower(table, more, joined.metrics)) if more else ((), table)
    _show_table(table, joined, left_out)
    if top is not None and top < longest:
        say(f"The first {number(top, 'configuration')} of each bank.")


def _show_by_bank(grid: ByBank, form: str) -> None:
    """Print recipes by bank in one of `FORMATS`."""
    from stage2.results.joined import AGAINST, by_bank_table, render_by_bank

    if form != "table":
        click.echo(render_by_bank(grid, form))
        return
    tables = [
        (AGAINST[:dropped], by_bank_table(grid, AGAINST[dropped:]))
        for dropped in range(len(AGAINST) + 1)
    ]
    left_out, table = _fitting(tables)
    _show_table(table, grid.joined, left_out)


def _tight(table: Table) -> Table:
    """A table for the terminal: its numbers without spaces."""
    return table._replace(
        lines=[[text.replace(" ± ", "±") for text in line] for line in table.lines]
    )


def _width(table: Table) -> int:
    """Columns of a terminal that a table takes where it folds nothing but header and settings."""
    from rich.cells import cell_len

    columns = [*zip(*(line for line in table.lines), strict=True)] or [()] * len(table.header)
    widest = []
    for name, cells in zip(table.header, columns, strict=True):
        folded = [word for cell in cells for word in cell.split(" ")]
        texts = (*name.split(" "), *(folded if name == "settings" else cells))
        widest.append(max(map(cell_len, map(visible, texts))))
    return sum(widest) + 2 * len(widest)


def _narrower(
    table: Table, wanted: Sequence[str], metrics: Mapping[str, Metric]
) -> Iterator[tuple[Sequence[str], Table]]:
    """A leaderboard, and it without deviations over seeds and ever fewer of the usual columns, but
    with the `wanted` of its `metrics`; before each, what it lacks."""
    yield (), table
    lines = [[re.sub(" ± [0-9.]+", "", text) for text in line] for line in table.lines]
    table = table._replace(lines=lines)
    left_out = ["± over seeds"]
    yield (*left_out,), table
    kept = {metrics[name].label for name in wanted}
    medium, many, ece, few = (metrics[key].label for key in ("medium", "many", "ece", "few"))
    for name in ("top-1 last", medium, many, ece, few, "top-1 selected"):
        if name in table.header and name not in kept:
            place = table.header.index(name)
            table = table._replace(
                header=[*table.header[:place], *table.header[place + 1 :]],
                lines=[[*line[:place], *line[place + 1 :]] for line in table.lines],
            )
            left_out.append(name)
            yield (*left_out,), table


def _fitting(tables: Iterable[tuple[Sequence[str], Table]]) -> tuple[Sequence[str], Table]:
    """The first of ever narrower tables that fits the terminal, or the last."""
    width, every = console().width, [*tables]
    return next((each for each in every if _width(_tight(each[1])) <= width), every[-1])


def _say_left_out(names: Sequence[str]) -> None:
    if names:
        say(f"Left out for want of room: {', '.join(names)}. --format csv has all.")


def _show_table(table: Table, joined: Joined, left_out: Sequence[str] = ()) -> None:
    """Print a table of several banks, its protocol below, what was left out of it, and the advice
    of each bank."""
    print_tables([_tight(table)._replace(title="")], table.title)
    _say_left_out(left_out)
    for name, board in joined.boards.items():
        if board.select_on is not None and (advice := board.terms.advice):
            say(f"{name}: {advice}")


def show(board: Leaderboard, form: str, *, top: int | None = None) -> None:
    """Print a leaderboard in one of `FORMATS`."""
    from stage2.results.tables import pieces, table_of

    if form != "table":
        for piece in pieces(board, form, top=top):
            click.echo(piece, nl=False)
        click.echo()
        return
    total = len(board.configurations())
    board = board.first(top)
    table = table_of(board)
    metrics = board.terms.metrics
    left_out, table = _fitting(_narrower(table, board.more, metrics)) if board.more else ((), table)
    count = len(table.lines)
    shown = f"{count} of {total} configurations shown.\n" if count < total else ""
    print_tables([_tight(table)._replace(title="")], shown + table.title)
    _say_left_out(left_out)
    if board.select_on is not None and (advice := board.terms.advice):
        say(advice)


def show_verdicts(verdicts: Mapping[str, Verdict], *, next_: bool = True) -> None:
    """Print the verdicts on banks by their names, and the next command of each."""
    from rich.markup import escape

    output = console()
    whole = not output.is_terminal
    for name, verdict in verdicts.items():
        lead = f"{name}: " if len(verdicts) > 1 else ""
        text = "\n".join(visible(lead + line) for line in verdict.lines)
        output.print(f"\n[bold]{escape(text)}[/bold]", soft_wrap=whole)
        if next_:
            say(f"Next: {verdict.next_command}")


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
        shown = [[*map(visible, line)] for line in lines]
        lengths = [[*map(_length, line)] for line in shown]
        widths = _widths(header, lengths, output.width)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for place, name in enumerate(header):
            right = place >= texts
            table.add_column(
                escape(visible(name)).replace(" ", "\n"),
                justify="right" if right else "left",
                no_wrap=right,
                overflow="fold",
                min_width=widths[place] if widths else None,
            )
        if not widths:
            for line in shown:
                table.add_row(*map(escape, line))
        with output.capture() as frame:
            output.print(table)
        *above, bottom = frame.get().splitlines(keepends=True)
        body = map(partial(_padded, widths, texts), shown, lengths) if widths else ()
        output.file.writelines([*above, *body, bottom])
    output.print(escape(visible_lines(below)), soft_wrap=whole)


def _widths(header: Sequence[str], lengths: Sequence[Sequence[int]], room: int) -> list[int]:
    """The widths of the columns of a table whose cells have these lengths; none where it is wider
    than there is room, so that rich has to fold it, which takes a millisecond for each line."""
    words = [max(map(_length, visible(name).split(" "))) for name in header]
    columns = zip(*lengths, strict=True) if lengths else [()] * len(header)
    widest = [max(column, default=0) for column in columns]
    widths = [max(pair) for pair in zip(words, widest, strict=True)]
    return widths if sum(widths) + 2 * len(widths) <= room else []


def _padded(widths: Sequence[int], texts: int, line: Sequence[str], lengths: Sequence[int]) -> str:
    """A line of a table as rich prints it, the first `texts` of its cells to the left."""
    cells = []
    for place, cell in enumerate(line):
        blank = " " * (widths[place] - lengths[place])
        cells.append(cell + blank if place < texts else blank + cell)
    return f" {'  '.join(cells)} \n"


def _length(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return len(text) if text.replace("±", "").isascii() else cell_len(text)
