"""A cluster that trains the groups of a sweep, as a discrete simulation. It is no measurement.

The protocol is that of `stage2.executors`: a group is a task, and one process, the driver, hands
them out in their order, to the worker that has fewest. It stores what they return a group at a
time in a thread, and hands out nothing more while a second group waits for that. A worker trains
when it has started and its node has the bank.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A number that the simulation starts from.

    Attributes
    ----------
    value, unit
        The number, and its unit.
    label
        For people.
    origin
        Where it is from: ``measured``, ``model`` or ``assumed``.
    source
        The command that measures it, or why it is assumed.
    """

    value: float
    unit: str
    label: str
    origin: str
    source: str


@dataclass(frozen=True)
class Task:
    """A group: seconds on a worker, its number of runs, the bytes that it reads of the bank, and
    what an epoch takes longest for."""

    seconds: float
    runs: int
    read: float = 0.0
    longest: str = "training"


@dataclass(frozen=True)
class Driver:
    """The process that hands out tasks and stores results.

    Attributes
    ----------
    dispatch
        Seconds to hand out a task.
    store
        Seconds to store a run.
    """

    dispatch: float
    store: float


@dataclass(frozen=True)
class Timeline:
    """The course of a simulated sweep.

    Attributes
    ----------
    seconds
        Until the last result is stored.
    training, starting, idle, storing
        Shares of the workers' time in which they train, start and wait for the bank, have no
        group, and have ended while the driver stores; their sum is 1.
    driver
        Share of the time in which the driver is busy.
    waiting
        Most runs that waited for the driver to store them.
    longest
        Seconds of the longest task.
    """

    seconds: float
    training: float
    starting: float
    idle: float
    storing: float
    driver: float
    waiting: int
    longest: float

    @property
    def limit(self) -> str:
        """The part that takes most of the time that is not training."""
        shares = {
            "start and bank": self.starting,
            "too few groups": self.idle,
            "driver": self.storing,
        }
        return max(shares, key=lambda name: shares[name])


def simulate(
    tasks: Iterable[Task], workers: int, driver: Driver, *, ready: float, depth: int = 1
) -> Timeline:
    """Train tasks in the order in which they are given.

    Parameters
    ----------
    tasks
        At least one.
    workers
        How many there are.
    driver
        The driver.
    ready
        Seconds after which a worker has started and its node has the bank.
    depth
        Tasks that a worker has at once, of which it trains one.
    """
    tasks = deque(tasks)
    work, longest = sum(t.seconds for t in tasks), max(t.seconds for t in tasks)
    busy = sum(driver.dispatch + driver.store * task.runs for task in tasks)
    free = [ready] * workers
    # When a worker has room for a task, how many it has then, and the runs that it returns.
    rooms = [(ready, load, worker, 0) for load in range(depth) for worker in range(workers)]
    now = last = stored = 0.0  # stored: when the thread ends with all that it was given
    waiting, unstored = 0, deque[tuple[float, int]]()
    while rooms:
        at, _, worker, runs = heapq.heappop(rooms)
        now = max(now, at)
        if runs:
            last = at
            now = max(now, stored)
            stored = now + driver.store * runs
            unstored.append((stored, runs))
            while unstored and unstored[0][0] <= at:
                unstored.popleft()
            waiting = max(waiting, sum(each for _, each in unstored))
        if tasks:
            task = tasks.popleft()
            now += driver.dispatch
            free[worker] = max(now, free[worker]) + task.seconds
            heapq.heappush(rooms, (free[worker], depth - 1, worker, task.runs))
    seconds = max(stored, last)
    training, starting = work / (workers * seconds), ready / seconds
    return Timeline(
        seconds=seconds,
        training=training,
        starting=starting,
        idle=max(0.0, last / seconds - starting - training),
        storing=(seconds - last) / seconds,
        driver=busy / seconds,
        waiting=waiting,
        longest=longest,
    )
