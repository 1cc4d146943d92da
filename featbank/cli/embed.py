"""``featbank embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featbank.cli.options import FILE, Finite, Integer, output_option, width_option
from featbank.cli.terminal import say


@click.command()
@click.argument("bank", type=FILE)
@output_option("The file, .pdf, .png, .svg or .csv; an existing one is replaced.")
@click.option(
    "--classes",
    metavar="NAMES",
    help="Names, indices, or GROUP:N for N classes of many, medium or few, or of a group as the "
    "bank calls it, separated by commas. "
    "[default: three of each group]",
)
@click.option("--split", help="[default: test, or else val or train]")
@click.option(
    "--view",
    help="Of experts instance is the mean of their features, expert0/instance one of them. "
    "[default: instance, or else the first view]",
)
@click.option(
    "--perplexity",
    type=Finite(),
    help="About how many neighbours a row has. [default: 30, or less]",
)
@click.option(
    "--per-class",
    default=200,
    show_default=True,
    type=Integer(1),
    help="Rows of a class at most, drawn at random.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=Integer(0, 2**32 - 1),
    help="Seed of that draw.",
)
@width_option
def embed(*, bank: Path, output: Path, width: float, **options: Any) -> None:
    """Draw features of chosen classes in the plane, by t-SNE.

    \b
    featbank embed bank.h5 -o tsne.pdf
    featbank embed bank.h5 --classes many:2,few:4 --split train -o tsne.png
    featbank embed bank.h5 --classes whale,dolphin,shark -o tsne.csv
    """
    from featbank.bank import Bank
    from stage2.plots.embedding import EMBEDDED, write_embedding
    from stage2.plots.embedding import embed as tsne
    from stage2.plots.figure import form_of

    form_of(output, EMBEDDED)  # before the minutes that t-SNE may take
    with Bank(bank) as opened:
        write_embedding(tsne(opened, **options), opened, output, width=width)
    say(f"Wrote {output}.")
