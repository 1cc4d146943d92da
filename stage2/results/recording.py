"""Recording the groups of a sweep while the next ones train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stage2.engine.outcome import Outcome
from stage2.results.store import Store


class Recorder:
    """Stores finished groups, in order, in a thread; a context manager.

    The thread computes the outcomes of a group, stores them and reports them, one group at a time.
    What goes wrong is raised when the next group is added, or in `wait`. Leaving the context waits
    for the group in work: an interrupt loses none that was trained.

    Parameters
    ----------
    store, fingerprint
        The results, and the fingerprint of the bank.
    """

    def __init__(self, store: Store, fingerprint: str) -> None:
        self._store, self._fingerprint = store, fingerprint
        self._pool = ThreadPoolExecutor(1)
        self._working: Future[None] | None = None

    def add(
        self,
        group: Sequence[Outcome],
        origin: Mapping[str, Any],
        report: Callable[[Sequence[Outcome]], None],
    ) -> None:
        """Record the outcomes of a group with their origin, ``device`` and ``versions``, and call
        `report` with them once they are stored."""
        self.wait()
        self._working = self._pool.submit(self._add, group, origin, report)

    def wait(self) -> None:
        """Wait for the groups added so far."""
        working, self._working = self._working, None
        if working:
            working.result()

    def _add(
        self,
        group: Sequence[Outcome],
        origin: Mapping[str, Any],
        report: Callable[[Sequence[Outcome]], None],
    ) -> None:
        runs = ({**_stored(outcome), **origin} for outcome in group)
        self._store.add_runs(self._fingerprint, runs)
        report(group)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _stored(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the store takes it."""
    return {
        **{n: v for n, v in vars(outcome).items() if n not in ("parameters", "selected")},
        "curves": {
            curve: [value if math.isfinite(value) else None for value in values]
            for curve, values in outcome.curves.items()
        },
    }
