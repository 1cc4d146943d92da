"""The front door: click commands that parse, call the library and print.

Heavy imports stand inside the commands, so that ``featbank --help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from featbank import __version__
from featbank.cli.bank import info, merge, split, verify
from featbank.cli.benchmark import benchmark
from featbank.cli.cite import cite
from featbank.cli.compare import compare
from featbank.cli.datasets import datasets
from featbank.cli.demo import demo
from featbank.cli.embed import embed
from featbank.cli.export import export
from featbank.cli.exporting import export_features
from featbank.cli.extract import extract
from featbank.cli.importing import import_
from featbank.cli.leaderboard import leaderboard
from featbank.cli.methods import methods
from featbank.cli.plot import plot
from featbank.cli.predict import predict
from featbank.cli.report import report
from featbank.cli.sweep import sweep
from featbank.cli.train import train
from featbank.errors import FeatbankError


class _Group(click.Group):
    """A group that turns the library's errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the road, not of the alphabet

    def invoke(self, ctx: click.Context) -> Any:
        warnings.formatwarning = lambda message, *_: f"featbank: {message}\n"
        try:
            return super().invoke(ctx)
        except FeatbankError as error:
            click.echo(f"featbank: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("featbank: stopped.", err=True)
            sys.exit(1)
        except (OSError, MemoryError) as error:
            click.echo(f"featbank: the work failed: {error or type(error).__name__}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featbank")
def main() -> None:
    """Bank frozen features once, compare every long-tail classifier on them.

    The road: train → extract (or import) → sweep → leaderboard, report.
    """


for _command in (
    train,
    extract,
    import_,
    export_features,
    info,
    verify,
    merge,
    split,
    sweep,
    leaderboard,
    report,
    compare,
    plot,
    embed,
    export,
    predict,
    methods,
    cite,
    datasets,
    demo,
    benchmark,
):
    main.add_command(_command)
