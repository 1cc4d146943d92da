"""The progress of the sweeps on a results file, for those who watch."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stage2.results.store import Store
from stage2.results.tasks import STATES, Account, Watch, Worker, read_accounts, read_workers

PROBE = "probe"
"""The kind of a task that trains a probe, which is no group."""

_STORED = "SELECT recipe FROM run WHERE bank = ?"


@dataclass(frozen=True)
class Place:
    """A worker, or one of the places where it had groups trained.

    Attributes
    ----------
    worker
        Host and number of its process.
    place
        Host and device; that of the process before a group is done.
    lives
        Whether it still trains.
    groups, runs
        Numbers of groups by state, and of runs in those that are done.
    per_second
        Runs per second since it began; None before the first is done, or where it has ended.
    """

    worker: str
    place: str
    lives: bool
    groups: dict[str, int]
    runs: int
    per_second: float | None


@dataclass(frozen=True)
class Progress:
    """The progress of the sweeps on a bank.

    Attributes
    ----------
    runs, left
        Runs that are done, and those of groups that wait or are trained.
    groups
        Numbers of groups by state, of sweeps that run now or ran last.
    places
        The workers that train them, or have trained some.
    probing
        Whether a probe is trained, which groups wait for.
    per_second
        Runs per second of all living workers; None before the first is done.
    seconds_left
        By the work that each has done in its time; None where that is unknown.
    errors
        Why groups failed.
    """

    runs: int
    left: int
    groups: dict[str, int]
    places: list[Place]
    probing: bool
    per_second: float | None
    seconds_left: float | None
    errors: list[str]

    @property
    def total(self) -> int:
        """Runs that the results will hold."""
        return self.runs + self.left

    @property
    def lives(self) -> bool:
        """Whether a sweep runs."""
        return any(place.lives for place in self.places)

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "total": self.total, "lives": self.lives}


def progress_of(store: Store, fingerprint: str, watch: Watch) -> Progress:
    """The progress of the sweeps on a bank; `watch` has looked at the workers before, or has not.

    Times are those that workers count themselves, so that clocks need not agree.
    """

    def query(database: sqlite3.Connection) -> tuple[dict[str, Worker], list[Account], set[str]]:
        counted = {r for (r,) in database.execute(_STORED, (fingerprint,))}
        return read_workers(database), read_accounts(database, fingerprint), counted

    workers, accounts, stored = store.file.read(query)
    lives = {name: watch.lives(name, worker) for name, worker in workers.items()}
    accounts = [_without_the_dead(account, lives) for account in accounts]
    groups = [each for each in accounts if each.task.kind != PROBE]
    open_ones = [each for each in groups if each.task.state in ("waiting", "running")]
    speeds = [_speed(workers[name], _of(groups, name)) for name in workers if lives[name]]
    rate, flops = (sum(each) for each in zip(*speeds, strict=True)) if speeds else (0.0, 0.0)
    cost = sum(account.cost for account in open_ones)
    left = {recipe for account in open_ones for recipe in account.recipes}
    return Progress(
        runs=len(stored - left),
        left=len(left),
        groups=_by_state(groups),
        places=[
            place
            for name, worker in workers.items()
            for place in _places(worker, _of(groups, name), lives=lives[name])
        ],
        probing=any(a.task.kind == PROBE and lives.get(a.task.worker or "") for a in accounts),
        per_second=rate or None,
        seconds_left=cost / flops if flops else None,
        errors=[account.error for account in groups if account.error],
    )


def _without_the_dead(account: Account, lives: Mapping[str, bool]) -> Account:
    """A group that a dead worker has claimed waits for another."""
    task = account.task
    if task.state == "running" and not lives.get(task.worker or ""):
        return account._replace(task=task._replace(state="waiting", worker=None))
    return account


def _of(accounts: Iterable[Account], name: str) -> list[Account]:
    return [account for account in accounts if account.task.worker == name]


def _by_state(accounts: Iterable[Account]) -> dict[str, int]:
    counts = Counter(account.task.state for account in accounts)
    return {state: counts[state] for state in STATES}


def _speed(worker: Worker, accounts: Iterable[Account]) -> tuple[float, float]:
    """Runs and floating-point operations per second of a living worker since it began."""
    done = [account for account in accounts if account.task.state == "done"]
    seconds = max(worker.beats, 1)
    runs = sum(len(account.recipes) for account in done)
    return runs / seconds, sum(account.cost for account in done) / seconds


def _places(worker: Worker, accounts: list[Account], *, lives: bool) -> Iterable[Place]:
    """The lines of a worker, one for each place where it had groups trained."""
    process = worker.process
    own = f"{process.host}: {worker.device}"
    by_place: dict[str, list[Account]] = {}
    for account in accounts:
        by_place.setdefault(account.place or "", []).append(account)
    unplaced = by_place.pop("", [])
    if not by_place or (unplaced and len(by_place) > 1):
        by_place[own] = []
    first = next(iter(by_place)) if len(by_place) == 1 else own
    by_place[first] += unplaced
    for place, placed in by_place.items():
        rate, _ = _speed(worker, placed)
        yield Place(
            worker=f"{process.host}:{process.pid}",
            place=place,
            lives=lives,
            groups=_by_state(placed),
            runs=sum(len(each.recipes) for each in placed if each.task.state == "done"),
            per_second=(rate or None) if lives else None,
        )
