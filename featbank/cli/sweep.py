"""``featbank sweep``."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from featbank.cli import completion
from featbank.cli.arguments import banks_and_specification, check_assignments
from featbank.cli.executing import best_precision_on, executor_options, training_on
from featbank.cli.leaderboard import show, show_verdicts
from featbank.cli.options import (
    Integer,
    device_option,
    memory_option,
    output_option,
    selection_options,
    setting_option,
    setting_options,
)
from featbank.cli.plan import Job, print_costs, print_plan
from featbank.cli.progress import progress
from featbank.cli.shards import next_line, shard_of, shard_option
from featbank.cli.terminal import say
from featbank.cli.watching import Watch
from featbank.errors import ConfigError
from featbank.wording import number
from stage2.methods.precisions import AUTO, PRECISION
from stage2.search import SEARCHES

if TYPE_CHECKING:
    from featbank.bank import Bank
    from stage2.executors import Site
    from stage2.results.leaderboard import Leaderboard
    from stage2.results.verdict import Verdict
    from stage2.specification import Specification

SEARCH_OPTIONS = {
    setting.name: (name, setting)
    for name, search in SEARCHES.items()
    for setting in search.settings
    if setting.name in ("eta", "trials")
}
"""Settings of searches that are options as well, and whose they are."""


@click.command()
@click.argument(
    "places",
    metavar="[BANK]... [SPECIFICATION]",
    nargs=-1,
    shell_complete=completion.places,
)
@click.option(
    "--recipe",
    "only",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.recipes,
    help="A recipe of `featbank methods`; repeat for more. [default: all that the bank allows, "
    "or that the specification names]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Try these values, in every combination, in every recipe that takes KEY; "
    "RECIPE:KEY=V1,V2 for one recipe alone.",
)
@click.option("--seeds", help="Seeds, such as 0,1,2 or 0-4. [default: 0,1,2]")
@selection_options("the table")
@device_option
@memory_option(
    "Budget, such as 2GiB, half for features and half for a fused group; features that do not "
    "fit are streamed from the bank. [default: half of RAM, or 80 % of the GPU's]"
)
@setting_option(
    PRECISION,
    type=click.Choice([*PRECISION.choices, AUTO]),
    help="Precision of the matrix products of every recipe that trains in steps; auto: tf32 on a "
    "GPU, bf16 on a CPU that multiplies it, else fp32. [default: that of the specification, else "
    f"tf32 on a GPU and {PRECISION.default} on a CPU]",
)
@click.option(
    "--search",
    type=click.Choice(["none", *SEARCHES]),
    help="halving: of every fused group only the better part continues after epochs 1, 3, 9, …; "
    "optuna: trials chosen by the results of earlier ones. Both by val. [default: that of "
    "the specification, else none]",
)
@setting_options(
    {name: setting for name, (_, setting) in SEARCH_OPTIONS.items()},
    {
        name: f"{setting.help} ({search}). [default: {setting.default}]"
        for name, (search, setting) in SEARCH_OPTIONS.items()
    },
)
@click.option(
    "--folds",
    type=Integer(2, 100),
    metavar="N",
    help="Rank by cross-validation on N folds of train, for a backbone that never saw it; the best "
    "of each recipe then trains on all rows. [default: that of the specification, else none]",
)
@click.option(
    "--screen",
    is_flag=True,
    help="Allow --folds on rows that stage 1 has seen: they give an order and no figures.",
)
@executor_options
@shard_option
@click.option(
    "--force",
    is_flag=True,
    help="Train again what the results hold already, the probes that runs start from included.",
)
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
@click.option("--best", is_flag=True, help="Only the best configuration of each recipe in it.")
@output_option(
    "Results file; what it holds is not trained again. [default: results.sqlite]", required=False
)
@click.option("--list", "listed", is_flag=True, help="List the ready specifications, and stop.")
def sweep(
    *,
    places: tuple[str, ...],
    listed: bool,
    device: str,
    memory: int | None,
    executor: str,
    any_version: bool,
    screen: bool,
    shard_text: str | None,
    force: bool,
    dry_run: bool,
    logs: tuple[str, ...],
    top: int,
    best: bool,
    select_by: str | None,
    select_epoch: str,
    **options: Any,
) -> str:
    """Train every recipe on a bank in fused groups, and rank them.

    A specification is a TOML file or the name of a ready one. Options override it, and --recipe
    keeps only some of its recipes. Several banks go into one results file.

    \b
    featbank sweep bank.h5 --recipe crt --recipe mislas --set lr=0.05,0.1,0.2 -o results.sqlite
    featbank sweep bank.h5 baseline --dry-run
    featbank sweep bank.h5 sweep.toml --seeds 0,1,2,3,4
    featbank sweep bank.h5 sweep.toml --search halving --eta 2
    featbank sweep clip.h5 --folds 5
    featbank sweep bank.h5 sweep.toml --executor ray
    featbank sweep bank.h5 sweep.toml --shard 2/8
    """
    if listed:
        _list_ready()
        return ""
    from featbank.bank import Bank

    check_assignments(options["overrides"], places)
    banks, name = banks_and_specification(places)
    for path in banks:  # before the seconds it takes to import PyTorch
        Bank(path).close()
    from stage2.loggers import open_logger

    with contextlib.ExitStack() as stack:
        make, site = stack.enter_context(
            training_on(executor, options, device, memory, any_version=any_version)
        )
        if auto := options["precision"] == AUTO:
            options["precision"] = best_precision_on(site)
        options |= {"screen": screen, "device": site.device}
        specification = _specification(banks, name, options)
        whole = specification.output or Path("results.sqlite")
        shard = shard_of(shard_text, specification)
        how = {
            "results": shard.of(whole) if shard else whole,
            "device": device,
            "memory": memory,
            "select_on": specification.select_on,
            "folds": specification.folds,
            "screen": screen,
            "select_by": select_by,
            "select_epoch": select_epoch,
            "force": force,
            "loggers": [open_logger(text) for text in logs],
            "executor": make,
            "any_version": any_version,
            **({"shard": shard} if shard else {}),
        }
        opened = [stack.enter_context(Bank(path)) for path in specification.banks]
        jobs = [Job.on(bank, specification, shard) for bank in opened]
        for job in jobs:
            _say_bank(job, jobs)
            print_plan(job, site)
            if dry_run:
                _print_costs(job, site, how)
        follows = next_line(shard, whole, specification.folds) if shard else ""
        if not dry_run:
            compiles = site.device == "cpu" and not auto
            verdicts = _train_all(jobs, how, top, best=best, compiles=compiles)
            say(f"Wrote {how['results']}. {follows or _next(jobs, whole, verdicts)}")
        return follows  # for featbank submit


def _print_costs(job: Job, site: Site, how: dict[str, Any]) -> None:
    """Print what a job costs beside what the results hold already."""
    output, force = how["results"], how["force"]
    statuses = {} if force else _statuses(job, output)
    print_costs(job, statuses, site, set() if force else _kept_probes(job, output))


def _train_all(
    jobs: Sequence[Job], how: dict[str, Any], top: int, *, best: bool, compiles: bool
) -> list[Verdict]:
    """Sweep all banks, print their tables and verdicts, and return the latter."""
    from stage2.results.verdict import verdict_of

    output = how["results"]
    for job in jobs[1:]:  # the features of the first are checked before anything is trained
        _check_features(job, {} if how["force"] else _statuses(job, output))
    if compiles:
        from stage2.engine.native.library import prepare

        prepare(say)
    boards = [_train(job, how) for job in jobs]
    verdicts = []
    for job, board in zip(jobs, boards, strict=True):
        if len(jobs) > 1:
            click.echo()
        _say_bank(job, jobs)
        if board:
            show(board.best() if best else board, "table", top=top)
            if "shard" not in how:
                verdicts.append(verdict_of(board, output))
                show_verdicts({"": verdicts[-1]}, next_=False)
    return verdicts


def _next(jobs: Sequence[Job], output: Path, verdicts: Sequence[Verdict]) -> str:
    """The next command: that of the verdict, of several banks the table of one."""
    if len(jobs) == 1:
        return f"Next: {verdicts[0].next_command}"
    return f"Next: featbank leaderboard {output}{_chosen(jobs[0].bank, output)} --format json"


def _specification(banks: list[Path], name: str | None, options: dict[str, Any]) -> Specification:
    """The specification that the arguments and options make."""
    from stage2.specification import read_specification

    search = {key: options.pop(key) for key in SEARCH_OPTIONS}
    specification = read_specification(
        name,
        banks=banks,
        search_settings={key: value for key, value in search.items() if value is not None},
        **options,
    )
    if not specification.banks:
        raise ConfigError(f"{name} names no bank. Write featbank sweep BANK {name}.")
    return specification


def _train(job: Job, how: dict[str, Any]) -> Leaderboard | None:
    """Sweep one bank, and return the leaderboard of everything the results hold of it; None for a
    shard without a group."""
    from stage2.adaptive import search
    from stage2.executors.local import Local
    from stage2.search import Halving, Sampling
    from stage2.sweep import sweep as run

    output = how["results"]
    try:
        with progress("runs") as display:
            known = {} if how["force"] else _statuses(job, output)
            display(0, sum(recipe.hash not in known for recipe in job.recipes))
            watch = Watch(display)
            how = how | {"notice": display.say, "loggers": [*how["loggers"], watch]}
            if how["executor"] is Local:
                how["executor"] = partial(Local, watch=watch)
            if job.space and isinstance(job.search, Sampling):
                return search(job.bank, job.space, job.search, progress=display, **how)
            halving = job.search if isinstance(job.search, Halving) else None
            results = run(
                job.bank, job.whole, halving=halving, keep_outcomes=False, progress=display, **how
            )
    except KeyboardInterrupt:
        _stop(job, output)
    if skipped := len(results.skipped):
        were, them = ("was", "it") if skipped == 1 else ("were", "them")
        say(f"{number(skipped, 'run')} {were} in {output} already (--force trains {them} again).")
    return results.board


def _say_bank(job: Job, jobs: Sequence[Job]) -> None:
    """Print the title of a bank where there are several."""
    if len(jobs) > 1:
        say(f"{job.bank.path}:")


def _check_features(job: Job, statuses: dict[str, str]) -> None:
    """Raise where a bank has a feature that is not finite and a run that is left is to see."""
    from stage2.features.experts import resolved
    from stage2.features.finite import check_features

    waiting = [each for each in resolved(job.bank, job.recipes) if each.hash not in statuses]
    check_features(job.bank, waiting)


def _statuses(job: Job, output: Path) -> dict[str, str]:
    """Statuses of the runs that the results hold, on folds if the job has them, by the hashes of
    their recipes."""
    from stage2.features.folds import fold_name
    from stage2.results.store import Store

    if not output.exists():
        return {}
    with Store(output) as store:
        folds = fold_name(job.folds) if job.folds else None
        return store.statuses(job.bank.fingerprint, folds)


def _chosen(bank: Bank, output: Path) -> str:
    """The option that chooses a bank of the results by its name."""
    from stage2.results.naming import bank_names
    from stage2.results.store import Store

    with Store(output) as store:
        return f" --bank {shlex.quote(bank_names(store.banks())[bank.fingerprint])}"


def _kept_probes(job: Job, output: Path) -> set[str]:
    """The hashes of the probes of the job's bank that the results hold."""
    from stage2.results.store import Store

    if not output.exists():
        return set()
    with Store(output) as store:
        return set(store.probes(job.bank.fingerprint))


def _list_ready() -> None:
    from stage2.specification import ready_specifications

    for name, description in ready_specifications().items():
        say(f"{name:<16} {description}")


def _stop(job: Job, output: Path) -> NoReturn:
    """Print how many runs the results hold, of how many where that is known; end."""
    from stage2.features.folds import fold_name
    from stage2.results.store import Store

    with Store(output, create=True) as store:
        folds = fold_name(job.folds) if job.folds else None
        finished = store.finished(job.bank.fingerprint, folds=folds)
    runs = f"{number(len(finished), 'run')} {'is' if len(finished) == 1 else 'are'}"
    if not job.search:
        done = sum(recipe.hash in finished for recipe in job.recipes)
        runs = f"{done} of {number(len(job.recipes), 'run')} are"
        runs += f" measured on {job.folds} folds" if job.folds else ""
    say(f"featbank: stopped. {runs} in {output}; the same command continues from there.", err=True)
    sys.exit(1)
