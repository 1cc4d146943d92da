"""``featbank sweep``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from featbank.cli import completion
from featbank.cli.leaderboard import show
from featbank.cli.options import FILE, PRECISIONS, Integer, device_option, parse_bytes
from featbank.cli.planning import (
    banks_and_specification,
    parse_seeds,
    parse_setting,
    tell_costs,
    tell_plan,
)
from featbank.cli.progress import progress
from featbank.cli.searching import (
    asked_search,
    check_options,
    known_recipes,
    search_options,
    tell_halving,
    tell_other_batches,
    tell_search,
    what_to_sweep,
)
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from featbank.bank import Bank
    from stage2.loggers import Logger
    from stage2.methods.recipe import Recipe
    from stage2.results.leaderboard import Leaderboard
    from stage2.search import Search
    from stage2.specification import Specification
    from stage2.specification.space import Space


@click.command()
@click.argument(
    "places",
    metavar="[BANK]... [SPECIFICATION]",
    nargs=-1,
    shell_complete=completion.places,
)
@click.option(
    "--recipe",
    "names",
    multiple=True,
    metavar="NAME",
    help="A recipe of `featbank methods`; repeat for more. Default: all that the bank allows, or "
    "that the specification names.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Try these values, in every combination, in every recipe that takes KEY; "
    "RECIPE:KEY=V1,V2 for one recipe alone.",
)
@click.option("--seeds", help="Seeds, separated by commas. Default: 0,1,2.")
@click.option(
    "--select-on",
    type=click.Choice(["val", "test"]),
    help="Split that ranks. Default: val where the bank has it, else test, and the table says so.",
)
@device_option
@click.option(
    "--memory",
    help="Budget, such as 2GiB, half for features and half for a fused group; features that do not "
    "fit are streamed from the bank. Default: half of RAM, or 80 % of the GPU's.",
)
@click.option(
    "--precision",
    type=PRECISIONS,
    help="Of the matrix products of every recipe that trains in steps. Default: each recipe's own, "
    "fp32.",
)
@search_options
@click.option("--force", is_flag=True, help="Train again what the results hold already.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print the plan, its memory and time; train nothing.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="LOGGER:PLACE",
    help="Log every run: tensorboard:FOLDER, wandb:PROJECT or mlflow:EXPERIMENT; repeat for more.",
)
@click.option(
    "--top",
    default=20,
    show_default=True,
    type=Integer(1),
    help="Lines of the table at the end.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Results file; what it holds is not trained again. Default: results.sqlite.",
)
@click.option("--list", "listed", is_flag=True, help="List the ready specifications, and stop.")
def sweep(
    *,
    places: tuple[str, ...],
    names: tuple[str, ...],
    settings: tuple[str, ...],
    seeds: str | None,
    select_on: str | None,
    device: str,
    memory: str | None,
    precision: str | None,
    search: str | None,
    eta: int | None,
    trials: int | None,
    force: bool,
    dry_run: bool,
    logs: tuple[str, ...],
    top: int,
    output: Path | None,
    listed: bool,
) -> None:
    """Train every recipe on a bank in fused groups, and rank them.

    A specification is a TOML file or the name of a ready one; options take the place of what it
    says, --recipe keeps only some of its recipes. Several banks go into one results file.

    \b
    featbank sweep bank.h5 --recipe crt --recipe mislas --set lr=0.05,0.1,0.2 -o results.sqlite
    featbank sweep bank.h5 baseline --dry-run
    featbank sweep bank.h5 sweep.toml --seeds 0,1,2,3,4
    featbank sweep bank.h5 sweep.toml --search halving --eta 2
    """
    if listed:
        _list_ready()
        return
    from featbank.bank import Bank

    banks, name = banks_and_specification(places)
    if not places:
        raise ConfigError("Name a bank, or a specification. featbank sweep --help tells more.")
    with contextlib.ExitStack() as stack:
        for bank in banks:  # before the seconds it takes to import PyTorch
            Bank(bank).close()
        own = {k: v for k, v in (("eta", eta), ("trials", trials)) if v is not None}
        specification = _specification(
            name,
            banks,
            only=names,
            settings=settings,
            seeds=seeds,
            precision=precision,
            search=search,
            search_settings=own,
        )
        chosen = specification.search if specification else asked_search(search, own)
        if specification:
            banks = list(specification.banks)
            select_on = select_on or specification.select_on
            output = output or specification.output
        opened = [stack.enter_context(Bank(bank)) for bank in banks]
        given = parse_seeds("0,1,2" if seeds is None else seeds)
        settings += (f"precision={precision}",) if precision else ()
        swept = [
            (
                bank,
                what_to_sweep(
                    bank, specification, chosen, names=names, settings=settings, seeds=given
                ),
            )
            for bank in opened
        ]
        _sweep_all(
            swept,
            search=chosen,
            device=device,
            memory=parse_bytes(memory),
            select_on=select_on,
            force=force,
            dry_run=dry_run,
            logs=logs,
            top=top,
            output=output or Path("results.sqlite"),
        )


def _specification(
    name: str | None,
    banks: Sequence[Path],
    *,
    only: Sequence[str],
    settings: Sequence[str],
    seeds: str | None,
    precision: str | None,
    search: str | None,
    search_settings: dict[str, int],
) -> Specification | None:
    """The specification that is asked for, as options change it."""
    if name is None:
        return None
    from stage2.specification import read_specification

    overrides = {}
    for text in settings:
        target, key, values = parse_setting(text)
        overrides[f"{target}:{key}" if target else key] = values
    if precision:
        overrides["precision"] = [precision]
    found = read_specification(
        name,
        banks=banks,
        only=only,
        overrides=overrides,
        seeds=parse_seeds(seeds) if seeds is not None else None,
        search=search,
        search_settings=search_settings,
    )
    if not found.search:
        check_options(None, search_settings)
    if not found.banks:
        raise ConfigError(f"{name} names no bank. Write featbank sweep BANK {name}.")
    return found


def _sweep_all(
    swept: Sequence[tuple[Bank, list[Recipe] | Space]],
    *,
    search: Search | None,
    device: str,
    memory: int | None,
    select_on: str | None,
    force: bool,
    dry_run: bool,
    logs: Sequence[str],
    top: int,
    output: Path,
) -> None:
    """Plan and check every bank, then sweep one after another and print a table of each."""
    import torch

    from featbank.devices import find_device
    from stage2.features.requirements import check_bank
    from stage2.loggers import open_logger
    from stage2.search import Halving
    from stage2.sweep import plan_bank

    loggers = [open_logger(text) for text in logs]
    place = str(find_device(device))
    workers = 1 if place.startswith("cuda") else torch.get_num_threads()
    for bank, what in swept:
        recipes = known_recipes(bank, what, search)
        check_bank(bank, recipes)
        groups = plan_bank(bank, recipes, device=place, memory=memory, workers=workers)
        if len(swept) > 1:
            say(f"{bank.path}:")
        tell_search(what, search)
        tell_plan(bank, recipes, groups, device=place, memory=memory)
        if dry_run:
            statuses = {} if force else _statuses(bank, output)
            machine: dict[str, Any] = {"device": place, "memory": memory, "workers": workers}
            if isinstance(search, Halving):
                tell_halving(bank, recipes, search, statuses, **machine)
            else:
                finished = {recipe for recipe, status in statuses.items() if status != "stopped"}
                tell_costs(bank, recipes, finished, **machine)
                tell_other_batches(search)
    if dry_run:
        return
    for bank, what in swept[1:]:  # the first is read before anything is trained
        _check_features(
            bank, known_recipes(bank, what, search), {} if force else _statuses(bank, output)
        )
    boards = [
        (
            bank,
            _sweep(
                bank,
                what,
                search=search,
                output=output,
                device=place,
                memory=memory,
                select_on=select_on,
                force=force,
                loggers=loggers,
            ),
        )
        for bank, what in swept
    ]
    for bank, board in boards:
        if len(swept) > 1:
            click.echo()
            say(f"{bank.path}:")
        show(board, "table", top=top)
    chosen = f" --bank {swept[0][0].fingerprint[:12]}" if len(swept) > 1 else ""
    say(f"Wrote {output}. Next: featbank leaderboard {output}{chosen} --format json")


def _sweep(
    bank: Bank,
    what: list[Recipe] | Space,
    *,
    search: Search | None,
    output: Path,
    device: str,
    memory: int | None,
    select_on: str | None,
    force: bool,
    loggers: Sequence[Logger],
) -> Leaderboard:
    from stage2.adaptive import search as library_search
    from stage2.search import Sampling
    from stage2.sweep import sweep as library_sweep

    options: dict[str, Any] = {
        "device": device,
        "memory": memory,
        "select_on": select_on,
        "force": force,
        "loggers": loggers,
    }
    recipes = what if isinstance(what, list) else None
    try:
        with progress("runs") as report:
            if not isinstance(what, list):
                assert isinstance(search, Sampling)
                return library_search(
                    bank, what, search, results=output, progress=report, **options
                )
            assert not isinstance(search, Sampling)
            results = library_sweep(
                bank,
                what,
                results=output,
                halving=search,
                keep_outcomes=False,
                progress=report,
                **options,
            )
    except KeyboardInterrupt:
        _stopped(bank, None if search else recipes, output)
    if results.skipped:
        skipped = len(results.skipped)
        were, them = ("was", "it") if skipped == 1 else ("were", "them")
        say(f"{number(skipped, 'run')} {were} in {output} already (--force trains {them} again).")
    return results.board


def _check_features(bank: Bank, recipes: Sequence[Recipe], held: Container[str]) -> None:
    """Raise where a bank has a feature that is not finite and a run is to see; `held` are done."""
    from stage2.features.experts import resolved
    from stage2.features.views import check_features

    check_features(bank, [each for each in resolved(bank, recipes) if each.hash not in held])


def _statuses(bank: Bank, output: Path) -> dict[str, str]:
    """Statuses of the runs that the results hold, by the hashes of their recipes."""
    from stage2.results.store import Store

    if not output.exists():
        return {}
    with Store(output) as store:
        return store.statuses(bank.fingerprint)


def _list_ready() -> None:
    from stage2.specification import ready_specifications

    for name, description in ready_specifications().items():
        say(f"{name:<16} {description}")


def _stopped(bank: Bank, recipes: Sequence[Recipe] | None, output: Path) -> NoReturn:
    """Say what the results hold, of `recipes` where it is known which are to be trained; end."""
    from stage2.results.store import Store

    with Store(output, create=True) as store:
        finished = store.finished(bank.fingerprint)
    told = f"{number(len(finished), 'run')} {'is' if len(finished) == 1 else 'are'}"
    if recipes is not None:
        done = sum(recipe.hash in finished for recipe in recipes)
        told = f"{done} of {number(len(recipes), 'run')} are"
    say(
        f"featbank: stopped. {told} in {output}; the same command goes on from there.",
        err=True,
    )
    sys.exit(1)
