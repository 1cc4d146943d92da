"""``featbank plot``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import bank_option


class _Plot(click.Command):
    """The command whose help ends with the kinds, which only stage 2 knows."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from stage2.results.plots import KINDS

        with formatter.section("Kinds"):
            formatter.write_dl([(name, kind.description) for name, kind in KINDS.items()])


@click.command(cls=_Plot)
@click.argument("kind")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file, .pdf, .png or .svg; one that is there is replaced.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="A recipe, or the beginning of a configuration's id; repeat for more. Default: all that "
    "have something to show.",
)
@bank_option
@click.option(
    "--width",
    default=7.0,
    show_default=True,
    type=click.FloatRange(2, 40),
    help="Inches.",
)
def plot(
    *,
    kind: str,
    results: Path,
    output: Path,
    recipes: tuple[str, ...],
    bank: str | None,
    width: float,
) -> None:
    """Draw what a results file holds, for a paper.

    \b
    featbank plot beta results.sqlite -o beta.pdf
    featbank plot beta results.sqlite --recipe glag -o beta.svg
    """
    from stage2.results.plots import plot as draw
    from stage2.results.store import Store

    with Store(results) as store:
        draw(kind, store, output, bank=bank, recipes=recipes, width=width)
    click.echo(f"Wrote {output}.")
