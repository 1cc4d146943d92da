"""Trials that Optuna chooses, asked for in batches: each batch is one fused sweep.

The results are the memory. A search that is run again asks for the same trials, is told what the
store holds, and trains only what it does not.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from featbank import errors
from featbank.bank import Bank
from stage2.methods.recipe import Recipe
from stage2.results.leaderboard import Leaderboard
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
    """Try what Optuna asks for, and rank it.

    A trial's value is the macro accuracy on val of the selected epoch, averaged over the seeds; of
    a recipe without epochs, that of its end. A trial of which a seed diverged is told as pruned,
    which counts as worse than any value.

    Parameters
    ----------
    bank
        An open bank with a val split.
    space
        Where to look, from `stage2.specification.Specification.space`.
    sampling
        How many trials, and how they are chosen.
    results
        The results file; trials that it holds are not trained again.
    force
        Train them again all the same.
    progress
        Called with (runs done, runs to do), those the file holds among them.
    **options
        Of `stage2.sweep.sweep`: ``device``, ``memory``, ``workers``, ``select_on``, …

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
    trained: set[str] = set()
    done = 0
    with asking(space, sampling) as (study, ask):
        for number, size in enumerate(sampling.batches):
            trials, asked = ask(size)
            batch = list(dict.fromkeys(recipe for recipes in asked for recipe in recipes))
            later = sum(sampling.batches[number + 1 :]) * max(map(len, asked))
            swept = sweep(
                bank,
                [recipe for recipe in batch if not (force and recipe.hash in trained)],
                results=results,
                force=force,
                keep_outcomes=False,
                libraries=() if sampling.sampler == "random" else ("optuna",),  # the table tells
                progress=_counted(progress, done, len(batch), later),
                **options,
            )
            trained |= {recipe.hash for recipe in batch}
            done += len(batch)
            with Store(results) as store:
                runs = {run.recipe: run for run in store.runs(bank.fingerprint)}
            for trial, recipes in zip(trials, asked, strict=True):
                _tell(study, trial, [runs[recipe.hash] for recipe in recipes])
    return swept.board


@contextlib.contextmanager
def asking(space: Space, sampling: Sampling) -> Iterator[tuple[optuna.Study, Callable]]:
    """A study, and the function that asks it for so many trials and their recipes.

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
        # Its constant liar keeps the trials of a batch apart, whose values are not known yet.
        "tpe": lambda: optuna.samplers.TPESampler(seed=sampling.seed, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=sampling.seed),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[sampling.sampler]())

    def ask(count: int) -> tuple[list[optuna.Trial], list[list[Recipe]]]:
        trials, asked = [], []
        for _ in range(count):  # a trial has its values before the next one is asked for
            trials.append(study.ask())
            asked.append(space.recipes(trials[-1]))
        return trials, asked

    try:
        yield study, ask
    finally:
        optuna.logging.set_verbosity(verbosity)


def _tell(study: optuna.Study, trial: optuna.Trial, runs: Sequence[Run]) -> None:
    """Tell the mean over the seeds."""
    import optuna  # an extra

    values = [_value(run) for run in runs]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, statistics.fmean(known))


def _value(run: Run) -> float | None:
    """Macro accuracy on val of the selected epoch, or of the end of what has none."""
    measured = run.metrics.get(("val", "selected")) or run.metrics.get(("val", "last"), {})
    return measured.get("macro") if run.status == "done" else None


def _counted(
    progress: Callable[[int, int], None] | None, before: int, batch: int, later: int
) -> Callable[[int, int], None] | None:
    """Progress over all batches, from that of one."""
    if progress is None:
        return None
    return lambda done, total: progress(before + batch - total + done, before + batch + later)
