"""``featbank plot``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli import completion
from featbank.cli.options import FILE, bank_option, select_on_option, width_option
from featbank.cli.terminal import say


class _Plot(click.Command):
    """The command whose help ends with the kinds, which only stage 2 knows."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from stage2.plots import KINDS

        with formatter.section("Kinds"):
            formatter.write_dl([(name, kind.description) for name, kind in KINDS.items()])


@click.command(cls=_Plot)
@click.argument("kind", shell_complete=completion.plots)
@click.argument("results", type=FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="The file, .pdf, .png or .svg; one that is there is replaced.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="A recipe, or the beginning of a configuration's id; repeat for more. Of a recipe the "
    "best configuration is drawn; all of them in heatmap, setting and beta. Default: all that have "
    "something to show.",
)
@click.option("--split", help="Split that is drawn. Default: test; of heatmap, the one that ranks.")
@select_on_option("the caption")
@click.option("--metric", help="Of heatmap (default: macro) and setting (default: the groups).")
@click.option(
    "--by",
    multiple=True,
    metavar="SETTING",
    help="The setting of setting; the two of heatmap, x and y. Default: those with most values.",
)
@bank_option
@width_option
def plot(
    *,
    kind: str,
    results: Path,
    output: Path,
    recipes: tuple[str, ...],
    split: str | None,
    select_on: str | None,
    metric: str | None,
    by: tuple[str, ...],
    bank: str | None,
    width: float,
) -> None:
    """Draw what a results file holds, for a paper.

    \b
    featbank plot groups results.sqlite -o groups.pdf
    featbank plot classes results.sqlite --recipe crt --recipe mislas --width 3.3 -o classes.pdf
    featbank plot heatmap grid.sqlite --by smooth_head --by smooth_tail -o heatmap.pdf
    featbank plot setting tau.sqlite --recipe tau_norm --by tau -o tau.pdf
    """
    from stage2.plots import plot as draw
    from stage2.results.store import Store

    with Store(results) as store:
        draw(
            kind,
            store,
            output,
            bank=bank,
            recipes=recipes,
            width=width,
            split=split,
            select_on=select_on,
            metric=metric,
            by=by,
        )
    say(f"Wrote {output}.")
