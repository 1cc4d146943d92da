"""Shards on the command line: the option, and the command that joins their results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage2.executors.shards import Shard
    from stage2.specification import Specification

shard_option = click.option(
    "--shard",
    "shard_text",
    metavar="I/N",
    help="Train the I-th of N shards of the sweep alone, into a results file of its own: "
    "results.shard-I-of-N.sqlite for results.sqlite. Join them with featbank merge-results.",
)


def shard_of(text: str | None, specification: Specification) -> Shard | None:
    """The shard of a specification that an option names; None without one."""
    if text is None:
        return None
    from stage2.executors.shards import Shard
    from stage2.search import Sampling

    shard = Shard.parse(text)
    if isinstance(specification.search, Sampling):
        raise ConfigError(
            "Optuna chooses trials by the results of all earlier ones, so they cannot be dealt to "
            "shards. Leave out --shard, or search with halving."
        )
    return shard


def merging(results: Path, count: int) -> str:
    """The command that joins the results of all shards."""
    stem, suffix = shlex.quote(f"{results.with_suffix('')}.shard-"), shlex.quote(results.suffix)
    pattern = f"{stem}*-of-{count}{suffix}" if results.suffix else f"{stem}*-of-{count}"
    return f"featbank merge-results {pattern} -o {shlex.quote(str(results))}"


def next_line(shard: Shard, results: Path, folds: int | None) -> str:
    """A line on what follows once a shard is swept."""
    line = f"When all {shard.count} shards are there: {merging(results, shard.count)}"
    if folds:
        line += "; then the same sweep without --shard trains the best of each recipe on all rows"
    return line
