"""``featbank merge-results``."""

from __future__ import annotations

from pathlib import Path

import click

from featbank.cli.options import FILE, output_option
from featbank.cli.terminal import say
from featbank.wording import number

_SHOWN = 5
"""Contradictions that are shown; more are counted."""


@click.command("merge-results")
@click.argument("inputs", metavar="RESULTS...", nargs=-1, required=True, type=FILE)
@output_option("Results file to write; what it has already is kept, and counts as the first.")
@click.option(
    "--prefer",
    type=click.Choice(["first", "last"]),
    help="Keep the figures of the first or the last file where two contradict each other; without "
    "it such a merge is refused.",
)
@click.option(
    "--any",
    "any_sweep",
    is_flag=True,
    help="Join shards of different sweeps on a bank too, which is refused otherwise.",
)
def merge_results(
    *, inputs: tuple[Path, ...], output: Path, prefer: str | None, any_sweep: bool
) -> None:
    """Join results files: the shards of a sweep, or sweeps of several machines.

    A run that several files have is kept once. Where its figures differ by more than rounding, the
    run, the files and the figures are shown.

    \b
    featbank merge-results results.shard-*-of-8.sqlite -o results.sqlite
    featbank merge-results monday.sqlite tuesday.sqlite -o week.sqlite --prefer last
    """
    from featbank.cli.progress import progress
    from stage2.results.merge_files import merge_files

    with progress("runs") as report:
        merged = merge_files(inputs, output, prefer=prefer, any_sweep=any_sweep, progress=report)
    say(f"Wrote {output}: {number(merged.runs, 'run')} of {number(len(inputs), 'file')}.")
    if merged.repeated:
        were = "was" if merged.repeated == 1 else "were"
        say(f"{number(merged.repeated, 'run')} {were} there before, and kept once.")
    for line in merged.contradictions[:_SHOWN]:
        say(f"{line}. Kept those of the {prefer}.")
    if (more := len(merged.contradictions) - _SHOWN) > 0:
        say(f"So {'has' if more == 1 else 'have'} {number(more, 'further run')}.")
    for line in merged.gaps:
        say(f"{line}. Sweep and merge what is left.")
    say(f"Next: featbank leaderboard {output}")
