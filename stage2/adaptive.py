"""Trials suggested by Optuna in batches, each of which is one fused sweep.

The results file is the memory: a search that is run again suggests the same trials, reads from the
store the values of those already in it, and trains only the others.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from featbank import errors
from featbank.bank import Bank
from featbank.devices import find_device
from stage2.executors import origin
from stage2.methods.recipe import Recipe
from stage2.results.leaderboard import Leaderboard
from stage2.results.probes import KeptProbes, rows_of_probes
from stage2.results.store import Run, Store
from stage2.search.methods import Sampling
from stage2.search.rounds import val_problem
from stage2.specification.space import Space
from stage2.sweep import sweep

if TYPE_CHECKING:
    import optuna


def search(
    bank: Bank,
    space: Space,
    sampling: Sampling,
    *,
    results: str | os.PathLike[str],
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Leaderboard:
    """Train the trials that Optuna suggests, and rank them.

    A trial's value is the macro accuracy on val at the selected epoch, or at the end of a recipe
    without epochs, averaged over the seeds. A trial with a seed that diverged is reported to Optuna
    as pruned, which counts as worse than any value.

    Parameters
    ----------
    bank
        An open bank with a val split.
    space
        The search space, from `stage2.specification.Specification.space`.
    sampling
        Number of trials, and how they are chosen.
    results
        The results file; trials in it are not trained again.
    force
        Train them again nevertheless, and once the probes that they start from.
    progress
        Called with (runs done, runs to do); runs already in the file count as done.
    **options
        Options of `stage2.sweep.sweep`: ``device``, ``memory``, ``workers``, ``select_on``, …

    Returns
    -------
    The leaderboard of the whole results file.

    Raises
    ------
    ConfigError
        Where Optuna is not installed; without a val split; as `stage2.sweep.sweep`.
    """
    if problem := val_problem(bank):
        raise errors.ConfigError(problem)
    # Tables mark runs that list Optuna as chosen by val; random trials are not.
    libraries = () if sampling.sampler == "random" else ("optuna",)
    made = origin(str(find_device(options.get("device", "auto"))), libraries)
    stale = None  # probes that are forced are trained once, not with every batch
    trained: set[str] = set()
    done = 0
    with asking(space, sampling) as (study, ask):
        for number, size in enumerate(sampling.batches):
            trials, asked = ask(size)
            batch = list(dict.fromkeys(recipe for recipes in asked for recipe in recipes))
            later = sum(sampling.batches[number + 1 :]) * max(map(len, asked))
            with Store(results, create=True) as store:
                stale = rows_of_probes(store, bank.fingerprint) if stale is None else stale
                kept = KeptProbes(store, bank.fingerprint, made, stale=stale) if force else None
                swept = sweep(
                    bank,
                    [recipe for recipe in batch if not (force and recipe.hash in trained)],
                    results=results,
                    force=force,
                    keep_outcomes=False,
                    libraries=libraries,
                    progress=_counted(progress, done, len(batch), later),
                    probes=kept,
                    **options,
                )
            trained |= {recipe.hash for recipe in batch}
            done += len(batch)
            with Store(results) as store:
                runs = {run.recipe: run for run in store.runs(bank.fingerprint)}
            for trial, recipes in zip(trials, asked, strict=True):
                _report(study, trial, [runs[recipe.hash] for recipe in recipes])
    assert swept.board  # which only a shard may lack
    return swept.board


@contextlib.contextmanager
def asking(space: Space, sampling: Sampling) -> Iterator[tuple[optuna.Study, Callable]]:
    """A study, and a function that asks it for a number of trials and their recipes.

    Raises
    ------
    ConfigError
        Where Optuna is not installed.
    """
    try:
        import optuna  # an extra
    except ImportError:
        raise errors.ConfigError(
            "Optuna is not installed. Run pip install 'featbank[optuna]'."
        ) from None
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line per study and trial otherwise
    samplers = {
        # Constant liar keeps the trials of a batch apart while their values are unknown.
        "tpe": lambda: optuna.samplers.TPESampler(seed=sampling.seed, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=sampling.seed),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[sampling.sampler]())

    def ask(count: int) -> tuple[list[optuna.Trial], list[list[Recipe]]]:
        trials, asked = [], []
        for _ in range(count):  # a trial gets its settings before the next one is asked for
            trials.append(study.ask())
            asked.append(space.recipes(trials[-1]))
        return trials, asked

    try:
        yield study, ask
    finally:
        optuna.logging.set_verbosity(verbosity)


def _report(study: optuna.Study, trial: optuna.Trial, runs: Sequence[Run]) -> None:
    """Report a trial's value to the study."""
    import optuna  # an extra

    values = [_value(run) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, statistics.fmean(known))


def _value(run: Run) -> float | None:
    """Macro accuracy on val at the selected epoch, or at the end where none is selected."""
    measured = run.metrics.get(("val", run.measured_at("val", "selected")), {})
    return measured.get("macro") if run.status == "done" else None


def _counted(
    progress: Callable[[int, int], None] | None, before: int, batch: int, later: int
) -> Callable[[int, int], None] | None:
    """The progress callback of one batch, which reports progress over all batches."""
    if progress is None:
        return None
    return lambda done, total: progress(before + batch - total + done, before + batch + later)
