"""``featbank report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featbank.cli.options import FILE, Integer, banks_option, output_option, selection_options
from featbank.cli.terminal import say
from featbank.memory import uncollected


@click.command()
@click.argument("results", type=FILE)
@output_option(
    "The page, .html; an existing one is replaced. [default: RESULTS with .html]", required=False
)
@selection_options("the page")
@banks_option
@click.option(
    "--where",
    "condition",
    metavar="CONDITION",
    help="Only configurations that meet it, as of `featbank leaderboard`.",
)
@click.option(
    "--top",
    default=12,
    show_default=True,
    type=Integer(1, 200),
    help="Configurations whose details the page carries: the best of each recipe, then the next "
    "best. The leaderboard has all. Of each bank where there are several.",
)
@click.option("--title", help="Title of the page. [default: the name of the results file]")
@click.option(
    "--head",
    "heads",
    type=FILE,
    multiple=True,
    help="A head that `featbank export` wrote from these results, for figures that need a head; "
    "give it again for another, four at most.",
)
@click.option("--features", type=FILE, help="The bank, where it has moved since; for --head.")
@uncollected()
def report(
    *,
    results: Path,
    output: Path | None,
    bank: str | None,
    condition: str | None,
    top: int,
    title: str | None,
    heads: tuple[Path, ...],
    features: Path | None,
    **selection: Any,
) -> None:
    """Write what a results file holds as one HTML page, which needs no network.

    A page of several banks begins with the best of each recipe by bank, and shows one bank at a
    time below.

    \b
    featbank report results.sqlite
    featbank report results.sqlite -o report.html
    featbank report results.sqlite --where "head=lws" --top 30 -o lws.html
    featbank report results.sqlite --bank all -o banks.html
    featbank report results.sqlite --head crt.safetensors -o report.html
    """
    from stage2.report.page import report as write
    from stage2.results.banks import banks_of
    from stage2.results.store import Store

    output = output or results.with_suffix(".html")
    with Store(results) as store:
        size = write(
            banks_of(store, bank, **selection),
            output,
            condition=condition,
            top=top,
            title=title,
            heads=heads,
            features=features,
        )
    say(f"Wrote {output}, {size / 1e6:.1f} MB.")
