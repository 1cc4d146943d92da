"""``featbank leaderboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.characters import visible
from featbank.cli.options import FILE, Integer, banks_option, format_option, selection_options
from featbank.cli.tables import print_tables, print_text
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.memory import uncollected
from featbank.wording import number

if TYPE_CHECKING:
    from stage2.results.joined import ByBank, Joined
    from stage2.results.leaderboard import Leaderboard
    from stage2.results.tables import Table
    from stage2.results.verdict import Verdict

ALL_OF_IT = "A wider terminal or --format csv shows all."
"""How to see the columns of a leaderboard that have no room."""


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
    _show_table(table, joined)
    if top is not None and top < longest:
        say(f"The first {number(top, 'configuration')} of each bank.")


def _show_by_bank(grid: ByBank, form: str) -> None:
    """Print recipes by bank in one of `FORMATS`."""
    from stage2.results.joined import by_bank_table, render_by_bank

    if form != "table":
        click.echo(render_by_bank(grid, form))
        return
    _show_table(by_bank_table(grid), grid.joined)


def _tight(table: Table) -> Table:
    """A table for the terminal: its numbers without spaces."""
    return table._replace(
        lines=[[text.replace(" ± ", "±") for text in line] for line in table.lines]
    )


def _show_table(table: Table, joined: Joined) -> None:
    """Print a table of several banks, its protocol below, and the advice of each bank."""
    print_tables([_tight(table)._replace(title="")], table.title, all_of_it=ALL_OF_IT)
    for name, board in joined.boards.items():
        if board.select_on is not None and (advice := board.terms.advice):
            print_text(f"{name}: {advice}")


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
    count = len(table.lines)
    shown = f"{count} of {total} configurations shown.\n" if count < total else ""
    print_tables([_tight(table)._replace(title="")], shown + table.title, all_of_it=ALL_OF_IT)
    if board.select_on is not None and (advice := board.terms.advice):
        print_text(advice)


def show_verdicts(verdicts: Mapping[str, Verdict], *, next_: bool = True) -> None:
    """Print the verdicts on banks by their names, and the next command of each."""
    for name, verdict in verdicts.items():
        lead = f"{name}: " if len(verdicts) > 1 else ""
        click.echo()
        print_text("\n".join(visible(lead + line) for line in verdict.lines), bold=True)
        if next_:
            say(f"Next: {verdict.next_command}")
