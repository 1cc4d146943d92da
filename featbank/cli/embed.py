"""``featbank embed``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import FILE, Finite, Integer, width_option
from featbank.cli.terminal import say


@click.command()
@click.argument("bank", type=FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="The file, .pdf, .png, .svg or .csv; one that is there is replaced.",
)
@click.option(
    "--classes",
    metavar="NAMES",
    help="Names, indices, or GROUP:N for N classes of many, medium or few, separated by commas. "
    "Default: three of each group.",
)
@click.option("--split", help="Default: test, or else val or train.")
@click.option("--view", help="Default: instance, or else the first view.")
@click.option(
    "--perplexity", type=Finite(), help="About how many neighbours a row has. Default: 30, or less."
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
    help="Of the draw of rows.",
)
@width_option
def embed(
    *,
    bank: Path,
    output: Path,
    classes: str | None,
    split: str | None,
    view: str | None,
    perplexity: float | None,
    per_class: int,
    seed: int,
    width: float,
) -> None:
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
        embedding = tsne(
            opened,
            classes=classes,
            split=split,
            view=view,
            perplexity=perplexity,
            per_class=per_class,
            seed=seed,
        )
        write_embedding(embedding, opened, output, width=width)
    say(f"Wrote {output}.")
