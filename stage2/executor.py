"""Executors, which train the planned groups of a sweep.

The unit of work is the fused group, never a single recipe. An executor is a class with `run`: it
takes groups and yields the outcomes of each as it completes, in any order. A group is plain data,
its recipes and their batch stream, and so are its outcomes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch

from stage2.engine.halving import Halving
from stage2.engine.loop import run_folds, run_group
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from stage2.features.views import Views


class Executor(Protocol):
    """Trains groups."""

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Sequence[Outcome]]:
        """Train and evaluate groups, those with `folds` on each fold; `halving` stops the worse
        configurations of the others early.

        The outcomes of a group are read by another thread while the next group trains.
        """


class Local:
    """Trains in this process, one group after another.

    A group that exceeds the GPU's memory is split in half, and so are later ones larger than that.

    Parameters
    ----------
    views
        The features.
    workers
        CPU threads.
    parameters
        Whether outcomes have parameters.
    """

    def __init__(self, views: Views, workers: int, *, parameters: bool = True) -> None:
        self._views, self._workers, self._parameters = views, workers, parameters

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Sequence[Outcome]]:
        """Train and evaluate groups in the given order."""
        waiting = deque(groups)
        largest: float = math.inf
        while waiting:
            group = waiting.popleft()
            if len(group.recipes) > largest:
                waiting.extendleft(reversed(group.halves()))
                continue
            try:
                yield self._trained(group, halving)
            except torch.cuda.OutOfMemoryError:
                if len(group.recipes) == 1:
                    raise
                largest = math.ceil(len(group.recipes) / 2)
                waiting.appendleft(group)
                torch.cuda.empty_cache()

    def _trained(self, group: FusedGroup, halving: Halving | None) -> Sequence[Outcome]:
        """The outcomes of a group, on folds or on all rows."""
        if group.folds:
            views_of = partial(self._views.of_fold, group)
            return run_folds(group, self._views.held_out(), views_of, workers=self._workers)
        return run_group(
            group,
            *self._views.of(group),
            workers=self._workers,
            halving=halving,
            parameters=self._parameters,
        )
