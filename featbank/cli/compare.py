"""``featbank compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featbank.cli.options import FILE, Integer, epoch_option, format_option, selection_options
from featbank.cli.tables import print_tables
from featbank.memory import uncollected


@click.command()
@click.argument("results", type=FILE)
@click.argument("names", nargs=-1, metavar="[A B…]")
@click.option("--split", help="Split whose rows are compared. [default: test, or else val]")
@selection_options("the line below")
@epoch_option("selected with val and last without")
@format_option("json carries everything, csv a row per measure.")
@click.option(
    "--bank",
    metavar="FILE|BANK[,BANK…]|all",
    help="The bank's file, or banks as of `featbank leaderboard`, where the file holds several.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Without names, compare every recipe, not only those that tie with the best.",
)
@click.option(
    "--resamples",
    type=Integer(100, 1_000_000),
    default=2_000,
    show_default=True,
    help="Resamples of the bootstrap.",
)
@click.option("--seed", type=Integer(0), default=0, show_default=True, help="Seed of resampling.")
@click.option(
    "--classes",
    type=Integer(0),
    default=10,
    show_default=True,
    help="How many of the classes that differ most are shown.",
)
@uncollected()
def compare(
    *,
    results: Path,
    names: tuple[str, ...],
    split: str | None,
    form: str,
    bank: str | None,
    **options: Any,
) -> None:
    """Test whether configurations differ on the same rows, and by how much.

    A configuration is a rank of the leaderboard, an id such as crt-1a2b3c4d, the beginning of one
    or of its digits, or a recipe's name: its best configuration. Several are compared with the
    first, with p values corrected after Holm. One alone is compared with the best; without any,
    those that tie with the best are, of each recipe its best configuration.

    Of several banks each name is looked up on each, and the first name on the first bank is A;
    without names, the best of each bank. A test is of pairs, so that there is one only where the
    rows are the same on both banks, by source and index; the line below says so otherwise.

    Over several seeds the rows are the units of one exact test, which with one seed is McNemar's.
    Intervals come from a bootstrap over rows. In a bank with source groups, such as images, these
    are the units of both.

    \b
    featbank compare results.sqlite
    featbank compare results.sqlite crt
    featbank compare results.sqlite 1 2
    featbank compare results.sqlite crt mislas
    featbank compare results.sqlite --format md > compared.md
    featbank compare results.sqlite crt --bank r32,r50
    """
    from stage2.results.banks import banks_of
    from stage2.results.compare import bank_of
    from stage2.results.compare import compare as compared_with
    from stage2.results.comparison_tables import comparison_tables, render_comparison
    from stage2.results.store import Store

    selection = {key: options.pop(key) for key in ("select_on", "select_by", "select_epoch")}
    with Store(results) as store:
        wanted, file = bank_of(store, bank)
        banks = banks_of(store, wanted, split=split, **selection)
        compared = compared_with(banks, names, file=file, **options)
    if form != "table":
        click.echo(render_comparison(compared, form))
        return
    print_tables(
        comparison_tables(compared),
        compared.protocol,
        all_of_it="A wider terminal or --format csv shows all.",
    )
