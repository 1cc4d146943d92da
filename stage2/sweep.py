"""Stage 2 from end to end: recipes → probes → plan → executor → results."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from featbank import errors
from featbank.bank import Bank
from featbank.devices import find_device, threads_for
from stage2.engine.halving import Halving
from stage2.engine.outcome import Outcome
from stage2.executors import MakeExecutor, origin, versions_of
from stage2.executors.local import Local
from stage2.executors.shards import Shard, part_of
from stage2.features.experts import resolved, unrecorded
from stage2.features.folds import Folds, folds_of
from stage2.features.probe import Probe
from stage2.features.probes import Kept
from stage2.features.requirements import check_bank, folds_problem, selection_problem
from stage2.features.views import Views
from stage2.loggers import Logger, Loggers
from stage2.methods.recipe import Recipe, cautions
from stage2.results.claims import Claims
from stage2.results.leaderboard import Leaderboard
from stage2.results.marks import marked
from stage2.results.probes import KeptProbes, rows_of_probes
from stage2.results.recording import Recorder
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.rounds import Record, Rounds
from stage2.search.finals import NO_SEARCH
from stage2.search.rounds import val_problem
from stage2.specification import read_specification


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep.

    Attributes
    ----------
    outcomes
        Outcomes of the recipes trained by this call, parameters included; with folds first those of
        the folds, without parameters.
    skipped
        Recipes that already had a result.
    left_out
        Recipes with further seeds of configurations that halving stopped; they were not trained.
    board
        The leaderboard of the whole results file; None for a shard without a group.
    probes
        The probes, weight [K, D] and bias [K], that recipes started from because the bank has no
        such stage-1 classifier. Linear ones take features as the bank has them, cosine ones
        features of length 1, scaled as they say.
    """

    outcomes: list[Outcome]
    skipped: list[Recipe]
    left_out: list[Recipe]
    board: Leaderboard | None = field(repr=False)
    probes: dict[Probe, tuple[Tensor, Tensor]] = field(repr=False)

    def __repr__(self) -> str:
        counts: dict[str, Sequence[Any]] = {
            "trained": self.outcomes,
            "stored already": self.skipped,
            "left out": self.left_out,
        }
        runs = ", ".join(f"{len(each)} {what}" for what, each in counts.items() if each)
        return f"runs: {runs or 'none'}\n{self.board!r}"

    def _repr_html_(self) -> str:
        """The leaderboard of a notebook."""
        return self.board._repr_html_() if self.board else ""


def sweep(
    bank: Bank | str | os.PathLike[str],
    recipes: Iterable[Recipe | str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    results: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory: int | None = None,
    workers: int | None = None,
    select_on: str | None = None,
    select_by: str | None = None,
    select_epoch: str = "selected",
    halving: Halving | None = None,
    folds: int | None = None,
    screen: bool = False,
    force: bool = False,
    any_version: bool = False,
    keep_outcomes: bool = True,
    libraries: Sequence[str] = (),
    loggers: Iterable[Logger] = (),
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
    probes: Kept | None = None,
    executor: MakeExecutor = Local,
    shard: Shard | None = None,
) -> SweepResults:
    """Train and evaluate recipes on a bank, fused.

    A recipe that starts from the stage-1 classifier starts from a linear probe where the bank has
    none (`stage2.features.probe`); probes are trained before all groups, and kept with the results.
    Features are scaled as the recipe's ``feature_scale`` or else the bank says
    (`stage2.features.scale`).

    On a bank of experts a recipe on the view ``instance`` becomes one on the ``instance`` view of
    every expert, outputs averaged (`stage2.features.experts`); results belong to that recipe.

    A group that exceeds the GPU's memory is split in half, and so are later ones larger than that.
    Ctrl-C ends the sweep between two steps; finished groups are in the results.

    Parameters
    ----------
    bank
        An open bank or its path.
    recipes
        The recipes to compare: names, which stand for the presets as the command line sweeps them,
        or `Recipe`. By default all presets that the bank allows.
    seeds
        Seeds of every recipe that is trained in steps. By default 0, 1 and 2 of names, as on the
        command line, and of a `Recipe` its own.
    results
        The SQLite file to which each group's results are added when it is done; recipes with a
        result in it are not trained again. Without it, results are in memory only.
    device
        ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    memory
        Budget in bytes, half for features and half for a fused group, which on a GPU also gets
        what the features leave of theirs; by default half of main memory, or four fifths of the
        GPU's free memory. Features that do not fit are streamed from the bank in shuffled blocks.
    workers
        CPU threads; by default as many as PyTorch has been given.
    select_on, select_by, select_epoch
        What selects; see `stage2.results.results.Results`.
    halving
        Stop the worse configurations of each fused group early, by their macro accuracy on val with
        the first of their seeds; only those left at the end train with the other seeds, in full.
        Configurations that an earlier sweep stopped stay so; a sweep without halving trains them.
    folds
        Rank by cross-validation on this many folds of the train rows (`stage2.features.folds`), for
        backbones that never saw them. Every recipe trains on each fold; then the best configuration
        of every recipe trains on all rows and is measured as without folds.
    screen
        Allow `folds` on rows that stage 1 has seen. They order configurations, and no figure of
        theirs is shown.
    force
        Train recipes again that already have a result, and the probes that they start from.
    any_version
        Share the groups with processes on the results file that have another version of featbank or
        PyTorch.
    keep_outcomes
        Keep outcomes with their parameters in memory; a long sweep into a file may drop them.
    libraries
        Further libraries whose versions are stored beside those of torch and Python.
    loggers
        Called with each group of results once it is stored, and with the leaderboard at the end
        (`stage2.loggers`); a logger that fails causes a warning and ends nothing.
    progress
        Called with (configurations done, configurations to do), as loggers are in a thread that
        records groups while the next ones train.
    notice
        Called with a line on each probe that was trained: its passes, and how far from its optimum
        it ended; and where the sweep begins to wait for other processes.
    probes
        Probes of earlier sweeps of the bank; by default those that the results keep, none with
        `force`.
    executor
        Makes what trains the groups.
    shard
        Train the groups of one shard alone, of `folds` only the folds, and mark the results as its
        own, for `stage2.results.merge_files` (`stage2.executors.shards`).

    Returns
    -------
    SweepResults

    Raises
    ------
    ConfigError, DataError
        Before anything is trained, where the bank lacks something that a recipe needs.
    """
    with contextlib.ExitStack() as stack:
        if not isinstance(bank, Bank):
            bank = stack.enter_context(Bank(bank))
        wanted = resolved(bank, _asked_for(bank, recipes, seeds, device=device, folds=folds))
        _check(bank, wanted, select_on, halving, folds, screen=screen)
        place = str(find_device(device))
        workers = threads_for(place, workers)
        dealt = folds_of(bank, folds) if folds else None
        store = stack.enter_context(Store(results, create=True))
        store.add_bank(bank, dealt)
        part = part_of(bank, wanted, shard, halving=halving, folds=folds)
        stack.enter_context(marked(store.file, part.mark))
        made = origin(place, libraries)
        claims = stack.enter_context(
            Claims(store, bank.fingerprint, made, any_version=any_version, notice=notice)
        )
        done, on_folds = _stored(store, bank, dealt, bool(halving)) if not force else (set(), set())
        done, on_folds = done | part.elsewhere, on_folds | part.elsewhere
        stale = rows_of_probes(store, bank.fingerprint) if force else {}
        kept = probes or KeptProbes(store, bank.fingerprint, made, stale=stale, claims=claims)
        views = Views(bank, place, memory, workers, dealt, kept=kept, notice=notice)
        settled = done & on_folds if folds else done
        views.prepare([recipe for recipe in wanted if recipe.hash not in settled])
        listeners = Loggers(loggers)
        recorder = stack.enter_context(Recorder(store, bank.fingerprint))
        record = Record(
            recorder,
            claims,
            bank.fingerprint,
            versions_of(libraries),
            listeners,
            progress,
            keep_outcomes,
        )
        rounds = Rounds(
            bank, store, claims, executor(views, parameters=keep_outcomes), record, done
        )
        left_out: list[Recipe] = []
        if dealt:
            rounds.on_folds(wanted, dealt, on_folds, select_by, finals=shard is None)
        elif halving:
            left_out = [r for r in rounds.halved(wanted, halving) if r.hash not in part.elsewhere]
        else:
            rounds.train(wanted)
        board = None
        if part.recipes or shard is None:
            board = Results(
                store,
                bank=bank.fingerprint,
                select_on=select_on or (dealt.name if dealt else None),
                select_by=select_by,
                select_epoch=select_epoch,
            ).board
            listeners.end(bank.fingerprint, board)
        skipped = [r for r in part.recipes if r.hash in (on_folds if dealt else done)]
        return SweepResults(record.outcomes, skipped, left_out, board, views.probes)


def _asked_for(
    bank: Bank,
    recipes: Iterable[Recipe | str] | None,
    seeds: Sequence[int] | None,
    *,
    device: str,
    folds: int | None,
) -> list[Recipe]:
    """The recipes that are asked for by name and, with their seeds, as they are."""
    asked = [recipes] if isinstance(recipes, str) else list(recipes or ())
    names = [each for each in asked if isinstance(each, str)]
    made = [each for each in asked if isinstance(each, Recipe)]
    if seeds is not None:
        made = [recipe for each in made for recipe in _with_seeds(each, seeds)]
    if recipes is not None and not names:
        return made
    named = read_specification(only=names, seeds=seeds, device=device, folds=folds).on(bank)
    return [*named, *made]


def _with_seeds(recipe: Recipe, seeds: Sequence[int]) -> list[Recipe]:
    """A recipe with each seed, where it takes one."""
    if "seed" not in recipe.settings:
        return [recipe]
    return [Recipe(recipe.name, **{**recipe.settings, "seed": seed}) for seed in seeds]


def _check(
    bank: Bank,
    wanted: Sequence[Recipe],
    select_on: str | None,
    halving: Halving | None,
    folds: int | None,
    *,
    screen: bool,
) -> None:
    """Raise where a bank does not allow a sweep; warn of settings that may not be meant."""
    problems = [selection_problem(bank, select_on, folds)]
    if folds is not None:
        problems.insert(0, folds_problem(bank, folds, screen=screen))
        problems += [NO_SEARCH] if halving else []
    problems += [val_problem(bank)] if halving else []
    for problem in filter(None, problems):
        raise errors.ConfigError(problem)
    check_bank(bank, wanted, folds)
    for caution in (*cautions(wanted), unrecorded(bank, wanted)):
        if caution:
            warnings.warn(caution)


def _stored(
    store: Store, bank: Bank, folds: Folds | None, with_stopped: bool
) -> tuple[set[str], set[str]]:
    """Hashes of the recipes that have a result on all rows, and of those with one on folds."""
    on_folds = store.finished(bank.fingerprint, folds=folds.name) if folds else set[str]()
    return store.finished(bank.fingerprint, with_stopped=with_stopped), on_folds
