"""``featbank ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featbank.cli.export import require_ending
from featbank.cli.options import (
    FILE,
    Integer,
    bank_option,
    device_option,
    memory_option,
    output_option,
)
from featbank.cli.tables import print_tables
from featbank.cli.terminal import say
from featbank.wording import listed


@click.command()
@click.argument("results", type=FILE)
@click.option(
    "--members",
    type=Integer(2),
    default=30,
    show_default=True,
    help="How many configurations the members are chosen from: those with the lowest NLL on val, "
    "each at its own temperature.",
)
@output_option("Write the head too, to this file, .safetensors.", required=False)
@bank_option
@click.option("--features", type=FILE, help="The bank, where it has moved since.")
@device_option
@memory_option("Budget, such as 2GiB, as in a sweep that streamed its features.")
def ensemble(*, results: Path, output: Path | None, bank: str | None, **options: Any) -> None:
    """Choose an ensemble of the configurations of a results file, and store it there.

    Heads are added one by one, one may be several times, as long as the NLL on val falls; their
    logits are averaged, each divided by a temperature. What comes out is one head, linear in the
    features. Figures on val are cross-fitted: each row is classified by an ensemble that other rows
    chose. The file then has a run named ensemble; one that is there is replaced.

    \b
    featbank ensemble results.sqlite
    featbank compare results.sqlite ensemble crt
    featbank export results.sqlite ensemble -o head.safetensors
    """
    if output is not None:
        require_ending(output, ".safetensors")
    from stage2.ensemble.building import build_ensemble
    from stage2.ensemble.tables import ensemble_tables
    from stage2.export.exporting import export_head
    from stage2.results.results import Results
    from stage2.results.store import Store

    built = build_ensemble(results, bank=bank, **options)
    with Store(results) as store:
        tables, protocol = ensemble_tables(Results(store, bank=bank), built.recipe)
    print_tables(tables, protocol)
    for reason, ids in built.left_out.items():
        say(f"Left out: {listed(ids, 4)} ({reason}).")
    next_ = f"featbank export {results} ensemble -o head.safetensors"
    if output is not None:
        options.pop("members")
        export_head(results, "ensemble", output, bank=bank, **options)
        next_ = f"featbank predict {output} BANK -o predictions.npz"
    say(f"Stored {built.recipe.id} in {results}. Next: {next_}")
