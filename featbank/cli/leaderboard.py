"""``featbank leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from stage2.results.tables import Leaderboard

FORMATS = ("table", "json", "csv", "md", "latex")


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="json and csv carry every row and metric.",
)
@click.option("--split", default="test", show_default=True, help="Split whose metrics are shown.")
@click.option(
    "--select-on",
    type=click.Choice(["val", "test"]),
    help="Split that ranks. Default: val where there is one, else test, and the table says so.",
)
@click.option("--bank", help="Beginning of a fingerprint, where the file holds several banks.")
@click.option("--best", is_flag=True, help="Only the best configuration of each recipe.")
@click.option("--top", type=click.IntRange(1), help="Lines of table, md and latex. Default: all.")
def leaderboard(
    *,
    results: Path,
    form: str,
    split: str,
    select_on: str | None,
    bank: str | None,
    best: bool,
    top: int | None,
) -> None:
    """Rank the recipes of a results file.

    \b
    featbank leaderboard results.sqlite --best
    featbank leaderboard results.sqlite --format json > table.json
    """
    from stage2.results.store import Store
    from stage2.results.tables import leaderboard as rank

    with Store(results) as store:
        board = rank(store, bank=bank, split=split, select_on=select_on)
    show(board.best() if best else board, form, top=top)


def show(board: Leaderboard, form: str, *, top: int | None = None) -> None:
    """Print a leaderboard in one of `FORMATS`."""
    from stage2.results.tables import columns, render

    if form != "table":
        click.echo(render(board, form, top=top))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    header, lines = columns(board, top=top)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, title in enumerate(header):
        right = place > 1
        table.add_column(
            title.replace(" ", "\n"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    for line in lines:
        table.add_row(*(text.replace(" ± ", "±") for text in line))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fold lines at
        console.width = 200
    console.print(table)
    total = len({row["recipe"] for row in board.rows})
    shown = f"{len(lines)} of {total} configurations shown.\n" if len(lines) < total else ""
    console.print(shown + board.protocol, highlight=False, soft_wrap=not console.is_terminal)
