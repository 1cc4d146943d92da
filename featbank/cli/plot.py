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
from featbank.errors import ConfigError, closest

_OF_RESULTS = ("split", "select_on", "select_by", "select_epoch", "metric", "by", "bank")
_OF_BANK = ("overrides", "view", "head")
_FLAGS = {"overrides": "set"}
"""Options of the plots of results and of those of a bank alone; names of flags that differ."""


class _Plot(click.Command):
    """The command whose help ends with the kinds, which only stage 2 knows."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from stage2.plots import BANK_KINDS, KINDS

        for title, kinds in (("Kinds", KINDS), ("Kinds of a bank alone", BANK_KINDS)):
            with formatter.section(title):
                formatter.write_dl([(name, kind.description) for name, kind in kinds.items()])


@click.command(cls=_Plot)
@click.argument("kind", shell_complete=completion.plots)
@click.argument("file", metavar="RESULTS|BANK", type=FILE)
@output_option(
    "The file, .pdf, .png or .svg; an existing one is replaced. [default: FILE-KIND.pdf]",
    required=False,
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.recipes,
    help="A recipe, or the beginning of a configuration's id; repeat for more. Of a recipe the "
    "best configuration is drawn; all of them in heatmap, setting and beta. [default: all that "
    "have something to show; loss needs one]",
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
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=V1,V2",
    help="loss: values of a setting, as of `featbank sweep`.",
)
@click.option(
    "--view", help="batchnorm: the view that is compared with instance. [default: balanced]"
)
@click.option("--head", type=FILE, help="maps: the exported head that predicts.")
@width_option
def plot(*, kind: str, file: Path, output: Path | None, **options: Any) -> None:
    """Draw what a results file holds, or a bank alone, for a paper.

    \b
    featbank plot groups results.sqlite
    featbank plot groups results.sqlite -o groups.pdf
    featbank plot classes results.sqlite --recipe crt --recipe mislas --width 3.3 -o classes.pdf
    featbank plot heatmap grid.sqlite --by smooth_head --by smooth_tail -o heatmap.pdf
    featbank plot setting tau.sqlite --recipe tau_norm --by tau -o tau.pdf
    featbank plot reliability results.sqlite --recipe crt --bank r32,r50 -o reliability.pdf
    featbank plot loss bank.h5 --recipe disalign --set rho=0.5,1,1.5 -o weights.pdf
    featbank plot maps dense.h5 --head head.safetensors -o maps.png
    """
    from stage2.plots import BANK_KINDS, KINDS, plot_bank
    from stage2.plots import plot as draw

    if kind not in {**KINDS, **BANK_KINDS}:
        raise ConfigError(f"Unknown plot {kind!r}. {closest(kind, [*KINDS, *BANK_KINDS])}")
    output = output or file.with_name(f"{file.stem}-{kind}.pdf")
    of_bank = kind in BANK_KINDS
    for name in _OF_RESULTS if of_bank else _OF_BANK:
        if options.pop(name) not in (None, (), "selected"):
            what = "a bank" if of_bank else "results"
            flag = _FLAGS.get(name, name.replace("_", "-"))
            raise ConfigError(f"The plot {kind!r} is of {what} and takes no --{flag}.")
    if of_bank:
        from featbank.bank import Bank

        with Bank(file) as bank:
            plot_bank(kind, bank, output, **options)
    else:
        from stage2.results.store import Store

        with Store(file) as store:
            draw(kind, store, output, **options)
    say(f"Wrote {output}.")
