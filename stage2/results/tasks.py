"""The rows of workers and of their groups, as the file has them.

No figure depends on these rows, which change all the time, and so they have no digest. One that is
damaged counts as one that is not there.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stage2.results import content
from stage2.results.processes import Process
from stage2.results.schema import schema_of, tables_of

SILENCE = 60.0
"""Seconds without a beat after which a worker counts as dead: a suspended one, or one that cannot
be seen from here."""

STATES = ("waiting", "running", "done", "failed")


@dataclass(frozen=True)
class Worker:
    """A process that trains groups on a device, with versions of libraries, and its last beat:
    seconds since it began, −1 once it has ended."""

    process: Process
    device: str
    versions: Mapping[str, str]
    beats: int


class Task(NamedTuple):
    """A group: what is trained of its recipes, and whose it is."""

    key: str
    kind: str
    state: str
    worker: str | None


class Account(NamedTuple):
    """A group for those who watch: its recipes, its cost in floating-point operations, roughly,
    where it was trained, for how many seconds, and why it failed."""

    task: Task
    recipes: list[str]
    cost: float
    place: str | None
    seconds: float | None
    error: str | None


class Watch:
    """Tells which workers live, by looking at them again and again."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def lives(self, name: str, worker: Worker) -> bool:
        """Whether a worker still trains."""
        if worker.beats < 0 or worker.process.is_gone():
            return False
        now = time.monotonic()
        beats, since = self._seen.get(name, (-1, now))
        if worker.beats != beats:
            self._seen[name] = (worker.beats, now)
            return True
        return now - since < SILENCE


def read_workers(database: sqlite3.Connection) -> dict[str, Worker]:
    """The workers of a results file by name."""
    query = "SELECT worker, process, device, versions, beats FROM worker"
    return dict(_readable(database, query, _worker))


def read_tasks(database: sqlite3.Connection, bank: str) -> list[Task]:
    """The groups of a bank, in the order of their plan."""
    query = "SELECT key, kind, state, worker FROM task WHERE bank = ? ORDER BY rowid"
    return list(_readable(database, query, _task, bank))


def read_accounts(database: sqlite3.Connection, bank: str) -> list[Account]:
    """The groups of a bank for those who watch."""
    query = (
        "SELECT key, kind, state, worker, recipes, cost, place, seconds, error FROM task "
        "WHERE bank = ? ORDER BY rowid"
    )
    return list(_readable(database, query, _account, bank))


def read_recipes(database: sqlite3.Connection, bank: str, task: Task) -> list[str]:
    """The hashes of the recipes of a group."""
    query = "SELECT recipes FROM task WHERE bank = ? AND key = ?"
    found = _readable(database, query, _hashes, bank, task.key)
    return [recipe for hashes in found for recipe in hashes]


def open_runs(database: sqlite3.Connection, bank: str) -> set[str]:
    """The hashes of the recipes of groups that wait or are trained."""
    query = "SELECT recipes FROM task WHERE bank = ? AND state IN ('waiting', 'running')"
    return {recipe for hashes in _readable(database, query, _hashes, bank) for recipe in hashes}


def _readable(
    database: sqlite3.Connection, query: str, decode: Callable[..., Any], *values: str
) -> Iterator[Any]:
    """The rows of a query that are not damaged; none under schemas without such tables."""
    if "task" not in tables_of(schema_of(database)):
        return
    for row in database.execute(query, values):
        with contextlib.suppress(
            content.Unexpected, ValueError, TypeError, LookupError, RecursionError
        ):
            yield decode(*row)


def _worker(name: Any, process: Any, device: Any, versions: Any, beats: Any) -> tuple[str, Worker]:
    found = json.loads(process)
    of = Process(
        content.text(found["host"]), found["pid"], content.text(found["realm"]), found["started"]
    )
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (of.pid, of.started)) or not of.pid:
        raise ValueError
    worker = Worker(of, content.text(device), content.versions(versions), int(beats))
    return content.text(name), worker


def _task(key: Any, kind: Any, state: Any, worker: Any) -> Task:
    state = content.one_of(state, STATES)
    return Task(content.digits(key), content.text(kind), state, worker and content.text(worker))


def _account(key: Any, kind: Any, state: Any, worker: Any, *rest: Any) -> Account:
    recipes, cost, place, seconds, error = rest
    return Account(
        _task(key, kind, state, worker),
        _hashes(recipes),
        content.number(cost),
        place and content.text(place),
        seconds and content.number(seconds),
        error and content.text(error),
    )


def _hashes(text: Any) -> list[str]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError
    return [content.digits(each) for each in found]
