"""The rounds of a sweep: what is planned, trained and recorded together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from featbank.bank import Bank
from stage2.engine.halving import Halving
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from stage2.executors import Executor, Trained
from stage2.features.folds import Folds
from stage2.features.planning import unfinished, work_on
from stage2.loggers import Loggers
from stage2.methods.recipe import Recipe
from stage2.results.claims import Claims
from stage2.results.recording import Recorder
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.search.finals import likely_finals, winners
from stage2.search.rounds import by_first_seed, others_left


@dataclass
class Record:
    """Stores groups as they are trained, and tells the claims, the loggers and the progress bar.

    Attributes
    ----------
    libraries
        Versions of further libraries that take part.
    keep
        Whether `outcomes` are kept.
    done, total
        Runs that this process and others have done, and will do.
    """

    recorder: Recorder
    claims: Claims
    fingerprint: str
    libraries: dict[str, str]
    loggers: Loggers
    progress: Callable[[int, int], None] | None
    keep: bool
    outcomes: list[Outcome] = field(default_factory=list)
    done: int = 0
    total: int = 0
    lock: Lock = field(default_factory=Lock)

    def run(self, groups: Iterable[Trained], *, quietly: bool = False) -> None:
        """Record groups as they are trained; `quietly`, without logging their figures."""
        for group in groups:
            made = {**group.origin, "versions": {**group.origin["versions"], **self.libraries}}
            place = f"{made['host']}: {made['device']}"
            report = partial(self._report, place=place, quietly=quietly)
            self.recorder.add(group.outcomes, made, report)
        self.recorder.wait()

    def expect(self, runs: int, later: int) -> None:
        """Announce the runs of the next round, and an estimate of those in later rounds."""
        self.total = self.done + runs + later

    def count(self, runs: int) -> None:
        """Note runs that are done, by this process or another."""
        with self.lock:
            self.done += runs
            if self.progress:
                self.progress(self.done, self.total)

    def _report(self, group: Sequence[Outcome], *, place: str, quietly: bool) -> None:
        self.claims.done(group, place)
        if not quietly:
            self.loggers.log(self.fingerprint, group)
        self.outcomes += group if self.keep else []
        self.count(len(group))


@dataclass
class Rounds:
    """The rounds of a sweep on a bank, each a plan of groups that an executor trains.

    Attributes
    ----------
    done
        Hashes of the recipes that had a result beforehand.
    """

    bank: Bank
    store: Store
    claims: Claims
    executor: Executor
    record: Record
    done: set[str]

    @property
    def _plan(self) -> Callable[..., list[FusedGroup]]:
        return partial(self.executor.site.plan, self.bank)

    def train(self, wanted: list[Recipe], halving: Halving | None = None, later: int = 0) -> None:
        """Train recipes on all rows; further rounds have an estimated number of runs."""
        self.record.expect(sum(recipe.hash not in self.done for recipe in wanted), later)
        groups = unfinished(partial(self._plan, whole=bool(halving)), wanted, self.done)
        self._run(groups, str(halving or "all rows"), halving=halving)

    def on_folds(
        self,
        wanted: list[Recipe],
        folds: Folds,
        done: set[str],
        select_by: str | None,
        *,
        finals: bool,
    ) -> None:
        """Train recipes on each fold but those `done`, and as `finals` the best of each on all
        rows."""
        waiting = [recipe for recipe in wanted if recipe.hash not in done]
        self.record.expect(len(waiting), len(likely_finals(waiting)) * finals)
        groups = unfinished(partial(self._plan, folds=folds.count), wanted, done)
        self._run(groups, folds.name, quietly=bool(self.bank.seen("train").any()))
        if not finals:
            return
        by_folds = Results(
            self.store, bank=self.bank.fingerprint, select_on=folds.name, select_by=select_by
        )
        self.train(winners(by_folds, wanted))

    def halved(self, wanted: list[Recipe], halving: Halving) -> list[Recipe]:
        """Train recipes with their first seed under halving, those left with the others too; the
        recipes that were left out."""
        first, others = by_first_seed(wanted)
        waiting = [recipe for recipe in others if recipe.hash not in self.done]
        self.train(first, halving, others_left(halving, self._plan(first, whole=True), waiting))
        statuses = self.store.statuses(self.bank.fingerprint)
        left = {recipe.id for recipe in first if statuses.get(recipe.hash) == "done"}
        self.train([recipe for recipe in others if recipe.id in left])
        return [recipe for recipe in others if recipe.id not in left]

    def _run(
        self,
        groups: list[FusedGroup],
        kind: str,
        *,
        halving: Halving | None = None,
        quietly: bool = False,
    ) -> None:
        """Train groups, but those that other processes train, and record them."""
        costs = list(map(work_on(self.bank), groups))
        mine = self._of_this_bank(self.claims.shared(groups, kind, costs, self.record.count))
        self.record.run(self.executor.run(mine, halving=halving), quietly=quietly)

    def _of_this_bank(self, groups: Iterable[FusedGroup]) -> Iterator[FusedGroup]:
        """Groups one by one; `Mismatch` once another bank has taken the place of this one."""
        for group in groups:
            self.bank.check_unchanged()
            yield group
