"""A cluster that trains the groups of a sweep, as a discrete simulation. It is no measurement.

The protocol is that of the executors: a group is a task, workers take the next one as they become
free, and one process, the driver, hands them out and stores what they return, a group at a time.
A worker trains when it has started and its node has the bank.
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
    """What happened.

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
        """What takes most of the time that is not training."""
        shares = {
            "start and bank": self.starting,
            "too few groups": self.idle,
            "driver": self.storing,
        }
        return max(shares, key=lambda name: shares[name])


def simulate(tasks: Iterable[Task], workers: int, driver: Driver, *, ready: float) -> Timeline:
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
    """
    tasks = list(tasks)
    free = [ready] * workers
    handed = 0.0  # when the driver has handed out the task before
    ended: list[tuple[float, int]] = []
    for task in tasks:
        handed = max(handed, heapq.heappop(free)) + driver.dispatch
        heapq.heappush(free, handed + task.seconds)
        ended.append((handed + task.seconds, task.runs))
    last = max(end for end, _ in ended)
    done, waiting, stored = 0.0, 0, deque[tuple[float, int]]()
    for end, runs in sorted(ended):
        done = max(done, end) + driver.store * runs
        stored.append((done, runs))
        while stored and stored[0][0] <= end:
            stored.popleft()
        waiting = max(waiting, sum(each for _, each in stored))
    busy = sum(task.seconds for task in tasks) / (workers * done)
    starting = ready / done
    return Timeline(
        seconds=done,
        training=busy,
        starting=starting,
        idle=max(0.0, last / done - starting - busy),
        storing=(done - last) / done,
        driver=sum(driver.dispatch + driver.store * task.runs for task in tasks) / done,
        waiting=waiting,
        longest=max(task.seconds for task in tasks),
    )
