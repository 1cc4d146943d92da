"""Who trains the planned groups of a sweep.

The unit is the fused group, never a single recipe. Another executor is another class with `run`:
it gets groups, and gives the outcomes of each as it is done, in any order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from stage2.engine.halving import Halving
from stage2.engine.loop import run_group
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from stage2.features.views import Views


class Executor(Protocol):
    """Trains groups."""

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[list[Outcome]]:
        """Train and evaluate groups; with `halving` the worse configurations of each stop early."""


class Local:
    """This process, one group after another.

    A group for which a GPU's memory does not suffice is halved, and larger ones after it.

    Parameters
    ----------
    views
        Where features come from.
    workers
        CPU threads.
    """

    def __init__(self, views: Views, workers: int) -> None:
        self._views, self._workers = views, workers

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[list[Outcome]]:
        """Train and evaluate groups in their order."""
        waiting = deque(groups)
        largest: float = math.inf
        while waiting:
            group = waiting.popleft()
            if len(group.recipes) > largest:
                waiting.extendleft(reversed(group.halves()))
                continue
            try:
                yield run_group(
                    group, *self._views.of(group), workers=self._workers, halving=halving
                )
            except torch.cuda.OutOfMemoryError:
                if len(group.recipes) == 1:
                    raise
                largest = math.ceil(len(group.recipes) / 2)
                waiting.appendleft(group)
                torch.cuda.empty_cache()
