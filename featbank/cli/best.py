"""``featbank best``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.export import require_ending, say_exported
from featbank.cli.options import (
    FILE,
    bank_option,
    device_option,
    format_option,
    memory_option,
    output_option,
    selection_options,
)
from featbank.cli.tables import print_text
from featbank.cli.terminal import say
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage2.results.results import Results


@click.command()
@click.argument("results", type=FILE)
@click.option(
    "--for",
    "asked",
    metavar="PARTS",
    help="Metrics and conditions, separated by commas: of the configurations that meet the "
    "conditions the one with the best first metric, lower or higher as is better for it. "
    "[default: the choice of the leaderboard]",
)
@output_option("Export its head too, to this file, .safetensors.", required=False)
@format_option("json carries everything.", ("text", "json"))
@click.option("--split", help="Split whose figures are shown. [default: test, or else val]")
@bank_option
@selection_options("the line below")
@click.option("--features", type=FILE, help="The bank, where it has moved since.")
@device_option
@memory_option("Budget, such as 2GiB, as in a sweep that streamed its features.")
def best(
    *,
    results: Path,
    asked: str | None,
    output: Path | None,
    form: str,
    split: str | None,
    bank: str | None,
    features: Path | None,
    device: str,
    memory: int | None,
    **selection: Any,
) -> None:
    """Pick the best configuration of a results file, and export its head.

    It is picked on the split that selects, val or folds, never on test unless --select-on test asks
    for it. A condition is one of `featbank leaderboard --where`, on that split.

    \b
    featbank best results.sqlite
    featbank best results.sqlite --for ece
    featbank best results.sqlite --for "ece, top1>=45" -o head.safetensors
    featbank best results.sqlite --for "few, many>=60, head=linear" --format json
    """
    if output is not None:
        require_ending(output, ".safetensors")
    from stage2.results.results import Results
    from stage2.results.store import Store

    with Store(results) as store:
        read = Results(store, bank=bank, split=split, **selection)
        found, lines = _picked(read, asked) if asked is not None else _chosen(read)
    if form == "text":
        print_text("\n".join(lines), bold=True)
    if output is not None:
        from stage2.export.exporting import export_head

        selection |= {"bank": bank, "features": features, "device": device, "memory": memory}
        done = export_head(results, found["id"], output, **selection)
        if form == "text":
            say_exported(done, results, [output])
    elif form == "text":
        say(f"Next: {found['next_command']}")
    if form == "json":
        click.echo(json.dumps(found | {"output": output and str(output)}, indent=1))


def _picked(results: Results, asked: str) -> tuple[dict[str, Any], tuple[str, str]]:
    """The configuration under conditions, for programs and for people."""
    from stage2.results.picking import pick
    from stage2.results.verdict import export_command

    picked = pick(results, asked)
    fields = asdict(picked)
    del fields["labels"]
    return fields | {"next_command": export_command(results, picked.id)}, picked.lines


def _chosen(results: Results) -> tuple[dict[str, Any], tuple[str, str]]:
    """The choice of the leaderboard likewise."""
    from stage2.results.verdict import verdict

    found = verdict(results)
    if found.id is None:
        raise ConfigError(" ".join(found.lines))
    return asdict(found), found.lines
