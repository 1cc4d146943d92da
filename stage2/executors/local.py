"""Training in this process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch

from stage2.engine.halving import Halving
from stage2.engine.loop import run_folds, run_group
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from stage2.engine.watching import Watching
from stage2.executors import Site, Trained, origin
from stage2.features.views import Views


class Local:
    """Trains in this process, one group after another.

    A group that exceeds the GPU's memory is split in half, and so are later ones larger than that.

    Parameters
    ----------
    views
        The features.
    parameters
        Whether outcomes have parameters.
    watch
        Called at the end of every epoch of a group.
    """

    def __init__(
        self, views: Views, *, parameters: bool = True, watch: Watching | None = None
    ) -> None:
        self._views, self._parameters, self._watch = views, parameters, watch
        self.site = Site(views.device, views.memory, views.workers)
        self._largest: float = math.inf

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Trained]:
        """Train and evaluate groups in the given order."""
        made = origin(self.site.device)
        for whole in groups:
            waiting = [whole]
            while waiting:
                group = waiting.pop()
                if len(group.recipes) > self._largest:
                    waiting += reversed(group.halves())
                    continue
                try:
                    yield Trained(self._trained(group, halving), made)
                except torch.cuda.OutOfMemoryError:
                    if len(group.recipes) == 1:
                        raise
                    self._largest = math.ceil(len(group.recipes) / 2)
                    waiting.append(group)
                    torch.cuda.empty_cache()

    def _trained(self, group: FusedGroup, halving: Halving | None) -> Sequence[Outcome]:
        """The outcomes of a group, on folds or on all rows."""
        if group.folds:
            views_of = partial(self._views.of_fold, group)
            return run_folds(
                group,
                self._views.held_out(),
                views_of,
                workers=self.site.workers,
                watch=self._watch,
            )
        return run_group(
            group,
            *self._views.of(group),
            workers=self.site.workers,
            halving=halving,
            parameters=self._parameters,
            watch=self._watch,
        )
