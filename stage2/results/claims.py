"""Claims of the processes that sweep into one results file: who trains which group.

They share their groups. A process claims a group before it trains it, and claims
are rows of the file: other processes leave such a group alone, and wait for its results once
nothing else is left. A claim counts as long as its process lives: where that can be seen, while it
is there; in any case only while its beats grow, by the clock of whoever waits. No two clocks are
compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from featbank.errors import ConfigError, FeatbankError, first_line
from featbank.wording import number
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup
from stage2.results.processes import this_process
from stage2.results.store import Store
from stage2.results.tasks import Task, Watch, read_recipes, read_tasks, read_workers

BEAT = 2.0
"""Seconds between two beats of a worker."""

COMPARED = ("featbank", "torch")
"""Libraries whose versions processes that share a sweep must have in common."""

PATIENCE = 0.25
"""Seconds between two looks at what others train."""

_HERE: set[str] = set()
"""The names of the workers of this process that have not ended."""


class Claims:
    """The groups that this process and others on a results file train; a context manager.

    Parameters
    ----------
    store
        The results.
    fingerprint
        The bank's.
    origin
        ``device`` and ``versions`` of this process.
    any_version
        Share with processes that have another version of featbank or PyTorch, which rounds
        differently.
    notice
        Called with a line where this process begins to wait for others.

    Raises
    ------
    ConfigError
        Where one that lives has another version.
    """

    def __init__(
        self,
        store: Store,
        fingerprint: str,
        origin: Mapping[str, Any],
        *,
        any_version: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._file, self._bank, self._origin = store.file, fingerprint, origin
        self._any_version, self._notice = any_version, notice
        self._name, self._process = uuid.uuid4().hex, this_process()
        self._watch = Watch()
        self._fresh = True
        self._over: set[str] = set()  # workers that had ended before this one began
        self._claimed: dict[str, set[str]] = {}  # hashes that are still to be stored, by group
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def shared(
        self,
        groups: Sequence[FusedGroup],
        kind: str,
        costs: Sequence[float],
        elsewhere: Callable[[int], None],
    ) -> Iterator[FusedGroup]:
        """The groups that this process is to train, one at a time, as they are asked for.

        Parameters
        ----------
        groups
            The groups of a plan.
        kind
            What is trained of a recipe: groups of two kinds have nothing in common.
        costs
            Their floating-point operations, roughly.
        elsewhere
            Called with a number of recipes that others have trained.

        Yields
        ------
        Groups in their order, without those that others train, and without recipes that others
        have trained in groups of their own. The last ones come when what others train is done, or
        they are dead.
        """
        waiting = {_key(kind, group): group for group in groups}
        self._register(kind, waiting, costs)
        told = False
        while waiting:
            with self._file.write() as database:
                ended, key, trained = self._claim(database, kind, waiting)
            if done := sum(len(waiting.pop(each).recipes) for each in ended):
                elsewhere(done)
            if key:
                whole = waiting.pop(key)
                group = whole.without(trained)
                self._claimed[key] = {recipe.hash for recipe in group.recipes}
                if others := len(whole.recipes) - len(group.recipes):
                    elsewhere(others)
                yield group
            elif waiting:
                if not told:
                    self._say(f"Waiting for {number(len(waiting), 'group')} that others train.")
                told = True
                time.sleep(PATIENCE)

    def done(self, outcomes: Sequence[Outcome], place: str) -> None:
        """Note outcomes that are stored, and where they were trained."""
        for key, hashes in list(self._claimed.items()):
            stored = [outcome for outcome in outcomes if outcome.recipe.hash in hashes]
            if not stored:
                continue
            hashes -= {outcome.recipe.hash for outcome in stored}
            seconds = sum(outcome.seconds for outcome in stored)
            state = "running" if hashes else "done"
            with self._file.write() as database:
                database.execute(
                    "UPDATE task SET state = ?, place = ?, seconds = coalesce(seconds, 0) + ? "
                    "WHERE bank = ? AND key = ?",
                    (state, place, seconds, self._bank, key),
                )
            if not hashes:
                del self._claimed[key]

    @contextlib.contextmanager
    def alone(self, kind: str, key: str) -> Iterator[None]:
        """Do inside what no other process is to do meanwhile; wait until none does."""
        if not self._claim_alone(kind, key):
            self._say(f"Waiting for a {kind} that another process trains.")
            while not self._claim_alone(kind, key):
                time.sleep(PATIENCE)
        try:
            yield
        finally:
            with self._file.write() as database:
                database.execute("DELETE FROM task WHERE bank = ? AND key = ?", (self._bank, key))

    def __enter__(self) -> Claims:
        with self._file.write() as database:
            self._check_versions(database)
            self._over = read_workers(database).keys() - self._live(database)
            self._write_worker(database, 0)
        _HERE.add(self._name)
        if self._file.path is not None:
            self._beating.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        _HERE.discard(self._name)
        if self._beating.is_alive():
            self._beating.join()
        state, reason = "waiting", None
        if isinstance(error, Exception):
            state, reason = "failed", first_line(error)
        with contextlib.suppress(FeatbankError, OSError), self._file.write() as database:
            database.execute(
                "UPDATE task SET state = ?, error = ? WHERE worker = ? AND state = 'running'",
                (state, reason, self._name),
            )
            self._write_worker(database, -1)

    def _say(self, text: str) -> None:
        if self._notice:
            self._notice(text)

    # ---- rows

    def _register(
        self, kind: str, groups: Mapping[str, FusedGroup], costs: Sequence[float]
    ) -> None:
        """Add groups, but those that a living process trains, or that one has trained since this
        one began.

        The first time also remove the plans of sweeps that have ended.
        """
        with self._file.write() as database:
            live = self._live(database)
            if self._fresh and live == {self._name}:
                kept = [t.key for t in read_tasks(database, self._bank) if self._is_new(t)]
                places = ", ".join("?" * len(kept))
                database.execute(
                    f"DELETE FROM task WHERE bank = ? AND key NOT IN ({places})",
                    (self._bank, *kept),
                )
                database.execute(
                    "DELETE FROM worker WHERE worker <> ? AND worker NOT IN "
                    "(SELECT worker FROM task WHERE worker IS NOT NULL)",
                    (self._name,),
                )
            self._fresh = False
            known = {task.key: task for task in read_tasks(database, self._bank)}
            for (key, group), cost in zip(groups.items(), costs, strict=True):
                if key in known and (
                    known[key].worker in (*live, None) or self._is_new(known[key])
                ):
                    continue
                hashes = [recipe.hash for recipe in group.recipes]
                database.execute("DELETE FROM task WHERE bank = ? AND key = ?", (self._bank, key))
                self._put(database, key, kind, hashes, cost)

    def _claim(
        self, database: sqlite3.Connection, kind: str, waiting: Mapping[str, FusedGroup]
    ) -> tuple[list[str], str | None, set[str]]:
        """The groups that others have done; the one that is claimed, None where all that is left is
        with others; and the recipes that others have trained in groups of their own."""
        live = self._live(database)
        tasks = {task.key: task for task in read_tasks(database, self._bank)}
        others = [
            task
            for task in tasks.values()
            if task.kind == kind and task.key not in waiting and task.worker != self._name
            if task.worker in live or self._is_new(task)
        ]
        trained, training = set[str](), set[str]()
        for task in others:
            hashes = trained if task.state == "done" else training
            hashes.update(read_recipes(database, self._bank, task))
        ended = []
        for key, group in waiting.items():
            own, hashes = tasks.get(key), {recipe.hash for recipe in group.recipes}
            claimed = own is not None and own.state == "running" and own.worker in live
            if hashes <= trained or (own is not None and own.state == "done"):
                ended.append(key)
            elif not claimed and not hashes & training:
                self._put(database, key, kind, state="running", worker=self._name)
                return ended, key, hashes & trained
        return ended, None, set()

    def _is_new(self, task: Task) -> bool:
        """Whether a group was trained since this process looked at what the results have."""
        return task.state == "done" and task.worker not in self._over

    def _claim_alone(self, kind: str, key: str) -> bool:
        """Claim what has no recipes; whether no other process has it."""
        with self._file.write() as database:
            live = self._live(database)
            owners = {task.worker for task in read_tasks(database, self._bank) if task.key == key}
            if owners & (live - {self._name}):
                return False
            self._put(database, key, kind, state="running", worker=self._name)
            return True

    def _put(
        self,
        database: sqlite3.Connection,
        key: str,
        kind: str,
        recipes: Sequence[str] = (),
        cost: float = 0.0,
        *,
        state: str = "waiting",
        worker: str | None = None,
    ) -> None:
        """Add a group, or change whose one is that the file has."""
        database.execute(
            "INSERT INTO task (bank, key, kind, recipes, cost, state, worker) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bank, key) DO UPDATE SET "
            "state = excluded.state, worker = excluded.worker, error = NULL",
            (self._bank, key, kind, json.dumps(recipes), cost, state, worker),
        )

    def _live(self, database: sqlite3.Connection) -> set[str]:
        """The names of the workers that live, this one among them."""
        return {
            name
            for name, each in read_workers(database).items()
            # one of this process that could not write that it ends, on a full disk, is over
            if (name in _HERE or each.process != self._process) and self._watch.lives(name, each)
        }

    def _check_versions(self, database: sqlite3.Connection) -> None:
        """Raise where another process trains with other versions."""
        own = self._origin["versions"]
        for name, worker in read_workers(database).items():
            others = [
                f"{library} {worker.versions[library]} beside {own[library]}"
                for library in COMPARED
                if worker.versions.get(library, own[library]) != own[library]
            ]
            if others and not self._any_version and self._watch.lives(name, worker):
                raise ConfigError(
                    f"{self._file.path}: process {worker.process.pid} of {worker.process.host} "
                    f"trains into it with {' and '.join(others)} here. Wait for its end, or allow "
                    "it with --any-version."
                )

    def _write_worker(self, database: sqlite3.Connection, beats: int) -> None:
        database.execute(
            "INSERT INTO worker (worker, process, device, versions, beats) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (worker) DO UPDATE SET beats = excluded.beats",
            (
                self._name,
                json.dumps(asdict(self._process)),
                self._origin["device"],
                json.dumps(self._origin["versions"]),
                beats,
            ),
        )

    def _beat(self) -> None:
        """Show that this process lives, until it ends."""
        while not self._ended.wait(BEAT):
            with contextlib.suppress(FeatbankError, OSError), self._file.write() as database:
                self._write_worker(database, int(time.monotonic() - self._began))


def _key(kind: str, group: FusedGroup) -> str:
    """The name of a group: processes with one plan give it the same."""
    hashes = sorted(recipe.hash for recipe in group.recipes)
    return hashlib.sha256("\n".join((kind, *hashes)).encode()).hexdigest()
