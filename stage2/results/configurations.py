"""A stored configuration: one recipe's settings, all its seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from featbank import errors
from stage2.results.ensembles import ENSEMBLE
from stage2.results.store import Run

SAMPLER = "optuna"
"""The library whose version is stored with the runs that it chose."""

FEWEST = 4
"""Fewest digits of an id that stand for it without its recipe."""

_ENDS = {"diverged": "diverged", "stopped": "was stopped by halving"}


@dataclass(frozen=True)
class Configuration:
    """A configuration on one bank; `runs` has one run or more, in the order of their seeds."""

    runs: tuple[Run, ...]

    @property
    def id(self) -> str:
        """Such as ``crt-1a2b3c4d``."""
        return self.runs[0].id

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.runs[0].name

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting but the seed."""
        return self.runs[0].parameters

    @property
    def is_ensemble(self) -> bool:
        """Whether it is made of others, and so is none of those that were tried."""
        return self.name == ENSEMBLE

    @property
    def done(self) -> list[Run]:
        """The runs that are done."""
        return [run for run in self.runs if run.status == "done"]

    @property
    def status(self) -> str:
        """``done`` where all runs are, else ``stopped`` or ``diverged``."""
        statuses = {run.status for run in self.runs}
        return next(s for s in ("stopped", "diverged", "done") if s in statuses)

    @property
    def unfinished(self) -> str:
        """The reasons why seeds are not done, in words; empty where all are."""
        parts = []
        for status, words in _ENDS.items():
            if seeds := [str(run.seed) for run in self.runs if run.status == status]:
                parts.append(f"{words} with seed {', '.join(seeds)}")
        return " and ".join(parts)

    def measured_on(self, split: str) -> bool:
        """Whether every seed was measured on a split; those on folds alone were on no other."""
        return all(run.has(split, "last") for run in self.runs)


def search_note(configurations: Collection[Configuration]) -> str:
    """The end of "n configurations tried": how many of them halving stopped, and how many were
    chosen by the results of others; empty without a search."""
    stopped = sum(each.status == "stopped" for each in configurations)
    chosen = sum(any(SAMPLER in run.versions for run in each.runs) for each in configurations)
    note = f", {stopped} stopped early by halving" if stopped else ""
    if chosen:
        share = "all" if chosen == len(configurations) else str(chosen)
        note += f", {share} chosen adaptively by Optuna"
    return note


def matching(wanted: str, names: Mapping[str, str], lacking: str) -> list[str]:
    """Ids of the recipe `wanted`, or else those that begin so, or whose digits do; `names` are
    recipes by id.

    Raises
    ------
    ConfigError
        Where there are none: `lacking`, the fact, and a suggestion.
    """
    ids = [id_ for id_, name in names.items() if name == wanted]  # crt, without crt-cifar
    ids = ids or [id_ for id_ in names if id_.startswith(wanted)]
    if not ids and len(wanted) >= FEWEST:
        ids = [id_ for id_ in names if id_.rpartition("-")[2].startswith(wanted)]
    if not ids:
        known = names if "-" in wanted else set(names.values())
        raise errors.ConfigError(f"{lacking} {errors.closest(wanted, sorted(known))}")
    return ids
