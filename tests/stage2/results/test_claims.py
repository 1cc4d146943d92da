"""Processes that share the groups of a sweep on one results file."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from featbank import Bank, errors
from stage2 import Recipe, sweep
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup, Shape, plan
from stage2.executors import origin
from stage2.results import claims, processes, tasks
from stage2.results.claims import Claims
from stage2.results.processes import Process, this_process
from stage2.results.store import Store
from stage2.results.tasks import Watch, Worker, read_accounts, read_tasks, read_workers

RECIPES = [Recipe("crt", lr=lr, epochs=2, seed=s) for s in (0, 1, 2) for lr in (0.1, 0.2)]
GROUPS = plan(RECIPES, Shape(1000, 8, 4), memory=1 << 30)
"""A group for each seed."""


@pytest.fixture
def path(bank: Bank, tmp_path: Path) -> Path:
    """A results file that knows the bank."""
    path = tmp_path / "results.sqlite"
    with Store(path, create=True) as store:
        store.add_bank(bank)
    return path


class Sharer:
    """One of several sweeps on a file, as a process would be."""

    def __init__(self, path: Path, bank: Bank) -> None:
        self.store = Store(path, create=True)
        self.told: list[str] = []
        self.claims = Claims(
            self.store, bank.fingerprint, origin("cpu"), notice=self.told.append
        ).__enter__()
        self.elsewhere = 0

    def groups(self, groups: list[FusedGroup], kind: str = "all rows") -> Iterator[FusedGroup]:
        """Those that it is to train."""
        return self.claims.shared(groups, kind, [1.0] * len(groups), self._count)

    def _count(self, runs: int) -> None:
        self.elsewhere += runs

    def finish(self, group: FusedGroup) -> None:
        """Say that a group is stored."""
        outcomes = [
            Outcome(recipe, "done", {}, None, {}, {}, seconds=1.0) for recipe in group.recipes
        ]
        self.claims.done(outcomes, "here: cpu")

    def end(self, error: BaseException | None = None) -> None:
        """End as a sweep does, or as one that raised."""
        self.claims.__exit__(type(error) if error else None, error, None)
        self.store.close()


@pytest.fixture
def two(path: Path, bank: Bank) -> Iterator[tuple[Sharer, Sharer]]:
    """Two sweeps on one file."""
    both = Sharer(path, bank), Sharer(path, bank)
    yield both
    for each in both:
        each.end()


def test_each_group_is_trained_once(two: tuple[Sharer, Sharer]) -> None:
    """Reference: the plan. Whoever asks gets the next one that nobody has; at the end both know
    that all is done."""
    a, b = two
    of_a, of_b = a.groups(GROUPS), b.groups(GROUPS)
    assert next(of_a) is GROUPS[0]
    assert next(of_b) is GROUPS[1]
    a.finish(GROUPS[0])
    assert next(of_a) is GROUPS[2]
    b.finish(GROUPS[1])
    late = Thread(target=lambda: (time.sleep(0.1), a.finish(GROUPS[2])))
    late.start()
    assert list(of_b) == [], "waits for the last one, and does not train it"
    assert list(of_a) == []
    late.join()
    assert (a.elsewhere, b.elsewhere) == (2, 4)
    assert (a.told, b.told) == ([], ["Waiting for 1 group that others train."])


def test_a_sweep_that_could_not_write_that_it_ends(
    path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the next sweep of the same process, which lives, takes its group at once."""
    first = Sharer(path, bank)
    assert next(first.groups(GROUPS)) is GROUPS[0]
    first.store.close()  # as where the disk is full
    first.end(OSError("the disk is full"))
    with Store(path) as store:
        (worker,) = store.file.read(read_workers).values()
    assert worker.beats >= 0
    monkeypatch.setattr(claims, "PATIENCE", 1e9)
    second = Sharer(path, bank)
    of_second = second.groups(GROUPS)
    for group in GROUPS:
        assert next(of_second) is group
    second.end()


def test_what_a_sweep_trains_that_ends_before_another_begins_to_train(
    path: Path, bank: Bank
) -> None:
    """Reference: the plan. One that waited for a probe, say, has looked at the results before; it
    takes what the other has trained since, also of groups that were cut otherwise, and no more."""
    earlier = Sharer(path, bank)
    earlier.finish(next(earlier.groups(GROUPS)))
    earlier.end()
    a, b = Sharer(path, bank), Sharer(path, bank)
    of_a = a.groups(GROUPS[1:])
    a.finish(next(of_a))
    a.finish(next(of_a))
    a.end()
    (part,) = plan(RECIPES[2:3], Shape(1000, 8, 4), memory=1 << 30)
    assert list(b.groups([GROUPS[0], part, GROUPS[2]])) == [GROUPS[0]]
    assert b.elsewhere == 3
    b.end()


def test_no_recipe_is_trained_twice_at_once(two: tuple[Sharer, Sharer]) -> None:
    """Two specifications that overlap: a group is left alone while another one trains part of it,
    and then has only the rest. Another kind of training has nothing to do with it."""
    a, b = two
    (whole,) = plan(RECIPES[:2], Shape(1000, 8, 4), memory=1 << 30)
    (part,) = plan(RECIPES[:1], Shape(1000, 8, 4), memory=1 << 30)
    of_a, of_b = a.groups([part]), b.groups([whole, GROUPS[1]])
    assert next(of_a) is part
    assert next(of_b) is GROUPS[1], "the first is not free"
    assert next(b.groups([whole], "5-fold")) is whole
    a.finish(part)
    assert next(of_b).recipes == RECIPES[1:2]
    assert b.elsewhere == 1
    b.finish(GROUPS[1])
    b.finish(plan(RECIPES[1:2], Shape(1000, 8, 4), memory=1 << 30)[0])
    assert list(of_b) == []


def test_what_the_dead_have_claimed_is_taken_over(path: Path, bank: Bank) -> None:
    """A process killed with a group in hand; what it had done stays done."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        dying = Sharer(path, bank)
        groups = dying.groups(GROUPS)
        dying.finish(next(groups))
        next(groups)
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(1)
    os.read(reader, 1)
    heir = Sharer(path, bank)
    of_heir = heir.groups(GROUPS)
    assert next(of_heir) is GROUPS[2], "the others are with a living process"
    heir.finish(GROUPS[2])
    assert heir.elsewhere == 2
    os.kill(child, signal.SIGKILL)  # a zombie from here on: it still has its number
    assert next(of_heir) is GROUPS[1]
    os.waitpid(child, 0)
    heir.finish(GROUPS[1])
    assert list(of_heir) == []
    heir.end()


def test_a_process_that_is_not_to_be_seen_lives_by_its_beats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reference: the clock of whoever looks. What a beat says is not compared with any clock, nor
    is a clock of another machine."""
    now = [1000.0]
    monkeypatch.setattr("stage2.results.tasks.time.monotonic", lambda: now[0])
    elsewhere = Process("other", 1, "another boot", 5)
    watch = Watch()
    for beats in (7, 8, 3):  # also where it began again
        assert watch.lives("w", Worker(elsewhere, "cpu", {}, beats))
        now[0] += tasks.SILENCE - 1
        assert watch.lives("w", Worker(elsewhere, "cpu", {}, beats))
    now[0] += 2
    assert not watch.lives("w", Worker(elsewhere, "cpu", {}, 3))
    assert not Watch().lives("w", Worker(elsewhere, "cpu", {}, -1)), "it has ended"
    for module in (claims, tasks, processes):
        assert "time.time" not in Path(str(module.__file__)).read_text()


def test_a_number_that_was_given_again_is_another_process() -> None:
    """Reference: this process, and one that had its number before."""
    here = this_process()
    assert not here.is_gone()
    assert replace(here, started=here.started - 1).is_gone()
    assert not replace(here, realm="another boot", started=1).is_gone(), "not seen from here"
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert replace(here, pid=ended.pid).is_gone()


def test_groups_of_a_sweep_that_failed_say_why(path: Path, bank: Bank) -> None:
    """An interrupted one waits again. The next sweep forgets the plan of those before."""
    for error, state in ((KeyboardInterrupt(), "waiting"), (OSError("no\nmore"), "failed")):
        ending = Sharer(path, bank)
        next(ending.groups(GROUPS))
        ending.end(error)
        with Store(path) as store:
            accounts = store.file.read(lambda db: read_accounts(db, bank.fingerprint))
        assert [account.task.state for account in accounts] == [state, "waiting", "waiting"]
        assert accounts[0].error == ("no" if state == "failed" else None)
    later = Sharer(path, bank)
    assert next(later.groups(GROUPS[1:])) is GROUPS[1]
    assert len(later.store.file.read(lambda db: read_tasks(db, bank.fingerprint))) == 2
    later.end()


@pytest.mark.parametrize("text", ["", "5", "{}", '{"host": 1, "pid": 0}', "[" * 100_000, "\x00"])
def test_damaged_rows_count_as_none(path: Path, bank: Bank, text: str) -> None:
    """They hold no figures: a sweep goes on, and whoever watches sees what is left."""
    first = Sharer(path, bank)
    next(first.groups(GROUPS))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE worker SET process = ?", (text,))
        db.execute("UPDATE task SET recipes = ?, kind = ?", (text, text))
    db.close()
    with Store(path) as store:
        assert store.file.read(read_workers) == {}
        assert store.file.read(lambda db: read_accounts(db, bank.fingerprint)) == []
    second = Sharer(path, bank)
    assert next(second.groups(GROUPS)) is GROUPS[0]
    first.end()
    second.end()


@pytest.mark.parametrize("library", ["featbank", "torch"])
def test_a_process_with_another_version_is_refused(path: Path, bank: Bank, library: str) -> None:
    """Unless it is allowed, or the other one has ended."""
    first = Sharer(path, bank)
    made = origin("cpu")
    other = {**made, "versions": {**made["versions"], library: "0.0.1"}}
    with Store(path, create=True) as store:
        message = rf"process {os.getpid()} of .* with {library} .* beside 0\.0\.1 here\. Wait"
        with pytest.raises(errors.ConfigError, match=message):
            Claims(store, bank.fingerprint, other).__enter__()
        with Claims(store, bank.fingerprint, other, any_version=True):
            pass
        first.end()
        with Claims(store, bank.fingerprint, other):
            pass


def test_a_probe_is_trained_by_one(two: tuple[Sharer, Sharer]) -> None:
    """Reference: the order of events."""
    a, b = two
    key, order = "0" * 64, list[str]()

    def second() -> None:
        with b.claims.alone("probe", key):
            order.append("b")

    with a.claims.alone("probe", key):
        thread = Thread(target=second)
        thread.start()
        time.sleep(3 * claims.PATIENCE)
        order.append("a")
    thread.join()
    assert order == ["a", "b"]
    assert b.told == ["Waiting for a probe that another process trains."]


SWEEP = """
import sys, time
from stage2 import Recipe, sweep
from stage2.executors import local
real = local.run_group
def slow(*arguments, **options):
    print("group", flush=True)
    time.sleep(0.2)
    return real(*arguments, **options)
local.run_group = slow
recipes = [Recipe("crt", lr=lr, epochs=2, seed=s) for s in range(6) for lr in (0.1, 0.2)]
board = sweep(sys.argv[1], recipes, results=sys.argv[2]).board
"""


def test_processes_share_a_sweep_and_survive_each_other(bank: Bank, tmp_path: Path) -> None:
    """Three processes with one specification, of which one is killed in mid-group. Reference: one
    process alone; every group is trained once, but the one that was lost."""
    recipes = [Recipe("crt", lr=lr, epochs=2, seed=s) for s in range(6) for lr in (0.1, 0.2)]
    expected = sweep(bank, recipes).board
    path = tmp_path / "results.sqlite"
    command = [sys.executable, "-c", SWEEP, str(bank.path), str(path)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(3)
    ]
    assert started[0].stdout
    started[0].stdout.readline()
    started[0].kill()
    groups = [process.communicate(timeout=120)[0].count("group") for process in started]
    assert [process.returncode for process in started[1:]] == [0, 0]
    assert sum(groups[1:]) in (5, 6), f"got {groups}, where the killed one ended at most one"
    again = sweep(bank, recipes, results=path)
    assert again.board == expected
    assert not again.outcomes
