"""``featbank plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featbank.cli import completion
from featbank.cli.options import (
    FILE,
    banks_option,
    output_option,
    selection_options,
    width_option,
)
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
@output_option("The file, .pdf, .png or .svg; an existing one is replaced.")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="A recipe, or the beginning of a configuration's id; repeat for more. Of a recipe the "
    "best configuration is drawn; all of them in heatmap, setting and beta. [default: all that "
    "have something to show]",
)
@click.option("--split", help="Split to draw. [default: test; heatmap: the one that ranks]")
@selection_options("the caption")
@click.option(
    "--metric",
    help="Metric of heatmap, setting and scatter. [default: heatmap macro; setting: groups; "
    "scatter: ece]",
)
@click.option(
    "--by",
    multiple=True,
    metavar="SETTING",
    help="Setting on the axis of setting, or the two on x and y of heatmap. [default: those with "
    "most values]",
)
@banks_option
@width_option
def plot(*, kind: str, results: Path, output: Path, **options: Any) -> None:
    """Draw what a results file holds, for a paper.

    \b
    featbank plot groups results.sqlite -o groups.pdf
    featbank plot classes results.sqlite --recipe crt --recipe mislas --width 3.3 -o classes.pdf
    featbank plot heatmap grid.sqlite --by smooth_head --by smooth_tail -o heatmap.pdf
    featbank plot setting tau.sqlite --recipe tau_norm --by tau -o tau.pdf
    featbank plot reliability results.sqlite --recipe crt --bank r32,r50 -o reliability.pdf
    """
    from stage2.plots import plot as draw
    from stage2.results.store import Store

    with Store(results) as store:
        draw(kind, store, output, **options)
    say(f"Wrote {output}.")
