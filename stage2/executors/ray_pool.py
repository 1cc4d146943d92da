"""The workers of a Ray cluster, as many as it has room for; those that are lost are replaced.

A worker is an actor: it holds its GPU and CPUs for the whole sweep, so that features stay in their
memory. Ray restarts none by itself, as a restarted actor keeps its group while other workers idle:
the group of a lost worker goes to the next free one, and a new actor takes the place that is left.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import featbank
from featbank import errors
from featbank.wording import number
from stage2.engine.plan import BatchStream, FusedGroup
from stage2.executors.ray_worker import Place, Worker

TICK = 1.0
"""Seconds between two looks at the connection."""

SILENT = 20.0
"""Seconds without an answer of the head after which the cluster counts as lost; Ray itself ends the
process after 60."""

GATHERING = 15.0
"""Seconds that the first worker waits for the others, whose memory the plan depends on."""

CLOSING = 5.0
"""Seconds to wait for the end of workers; Ray ends them with the connection as well."""

STARTS = 3
"""Workers that may fail to start on a node."""


@dataclass(eq=False)
class Member:
    """A worker: its node, its actor and place once it has started, and the groups it has."""

    node: str
    actor: Any = None
    place: Place | None = None
    sent: list[FusedGroup] = field(default_factory=list)
    last: BatchStream | None = None

    def has_features(self, group: FusedGroup) -> bool:
        """Whether it holds the features of a group."""
        last, stream = self.last, group.stream
        return last is not None and (last.views, last.train_on) == (stream.views, stream.train_on)


class Pool:
    """The workers, and the events of everything that runs.

    Parameters
    ----------
    gpus, cpus
        What a worker takes.
    any_version
        Whether workers may have another version of featbank or PyTorch.

    Attributes
    ----------
    device
        The device of the workers.
    depth
        Groups that a worker may have at once; with two, one is measured while the next trains.
    members
        The workers that can train.

    Raises
    ------
    ConfigError
        Where no node has room for a worker.
    """

    def __init__(self, gpus: float, cpus: int, *, any_version: bool) -> None:
        self.gpus, self.cpus, self._any_version = gpus, cpus, any_version
        self.device = "cuda" if gpus else "cpu"
        self.depth = 2 if gpus else 1
        self.members: list[Member] = []
        self._starting: list[Member] = []
        self._refused: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._here = ray.get_runtime_context().get_node_id()
        self._heard = time.monotonic()
        self._nodes: dict[str, dict[str, Any]] = {}
        self._closed = threading.Event()
        self._see(ray.nodes())
        if not self.count:
            raise errors.ConfigError(self._too_large())
        for loop in (self._watch, self._serve):
            threading.Thread(target=loop, daemon=True).start()

    @property
    def count(self) -> int:
        """Workers that there is room for."""
        return sum(map(self._room, self._nodes))

    @property
    def room(self) -> int:
        """Groups that can be sent at once."""
        return sum(self.depth - len(member.sent) for member in self.members)

    def gather(self) -> None:
        """Wait for the first worker, and a moment for the others.

        Raises
        ------
        ConfigError
            Where no worker can be used.
        """
        until, told, any_yet = time.monotonic() + GATHERING, False, False
        while self._starting and not (self.members and time.monotonic() > until):
            self.turn()
            if self.members and not any_yet:
                any_yet, until = True, time.monotonic() + GATHERING
            if not told and not self.members and time.monotonic() > until:
                told = True
                warnings.warn(
                    f"No worker has started within {GATHERING:g} s, the cluster may be busy with "
                    "other jobs. Waiting."
                )

    def memory(self) -> int:
        """Bytes that a worker may take: the least of all workers."""
        places = [(member.node, member.place.memory) for member in self.members if member.place]
        if self.gpus:
            return int(min(memory for _, memory in places) * self.gpus)
        return min(memory // max(1, self._room(node)) for node, memory in places)

    def when(self, reference: Any, handle: Callable[[Any], None]) -> None:
        """Call `handle` with the future of a call once it is done, in `turn`."""
        reference.future().add_done_callback(lambda done: self.call(lambda: handle(done)))

    def call(self, handle: Callable[[], object]) -> None:
        """Call `handle` in `turn`, from any thread."""
        self._events.put(handle)

    def turn(self) -> None:
        """Handle the next event, or return after `TICK` without one.

        Raises
        ------
        ConnectionError
            Where the cluster is lost.
        """
        if self._silent:
            raise ConnectionError(
                f"the head of the Ray cluster does not answer for {SILENT:g} s. Start it again: "
                "the same command continues with what is stored."
            )
        try:
            handle = self._events.get(timeout=TICK)
        except queue.Empty:
            return
        handle()

    def free(self, group: FusedGroup) -> Member | None:
        """A worker to send a group to: the least busy, of these one that has its features."""
        free = [member for member in self.members if len(member.sent) < self.depth]
        return min(free, key=lambda m: (len(m.sent), not m.has_features(group)), default=None)

    def lost(self, member: Member) -> None:
        """Replace a worker."""
        if member in self.members:
            self.members.remove(member)
            self._end(member)
            self._grow()

    def drop_busy(self) -> None:
        """End the workers that still train something, and start others in their place."""
        for member in [member for member in self.members if member.sent]:
            self.lost(member)

    def close(self) -> None:
        """End all workers."""
        self._closed.set()
        for member in [*self.members, *self._starting]:
            self._end(member)
        ended = threading.Event()
        self._orders.put(ended.set)
        ended.wait(0 if self._silent else CLOSING)

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._heard > SILENT

    def _room(self, node: str) -> int:
        """Workers that a node has room for."""
        known = self._nodes[node]
        if not known["Alive"] or node in self._refused:
            return 0
        has = known["Resources"]
        by_cpus = int(has.get("CPU", 0) / self.cpus)
        return min(by_cpus, int(has.get("GPU", 0) / self.gpus + 1e-9)) if self.gpus else by_cpus

    def _too_large(self) -> str:
        has = ray.cluster_resources()
        return (
            f"No node of the Ray cluster has room for a group, which takes {self.gpus:g} GPU and "
            f"{number(self.cpus, 'CPU')}: its nodes have {has.get('GPU', 0):g} GPUs and "
            f"{has.get('CPU', 0):g} CPUs in all. Lower --gpus-per-group or --cpus-per-group."
        )

    def _grow(self) -> None:
        """Start workers, as many as there is room for."""
        present = Counter(member.node for member in (*self.members, *self._starting))
        for node in self._nodes:
            for _ in range(self._room(node) - present[node]):
                member = Member(node)
                self._starting.append(member)
                self._orders.put(partial(self._start, member))

    def _start(self, member: Member) -> None:
        """Start a worker, and have it prepare."""
        made = ray.remote(Worker).options(
            num_gpus=self.gpus,
            num_cpus=self.cpus,
            max_restarts=0,
            max_concurrency=self.depth,
            scheduling_strategy=NodeAffinitySchedulingStrategy(member.node, soft=False),
        )
        try:
            member.actor = made.remote()
            place = member.actor.place.remote(self.device, 1 if self.gpus else self.cpus)
            self.when(place, partial(self._joined, member))
        except Exception as error:
            failed: Future[Place] = Future()
            failed.set_exception(error)
            self.call(partial(self._joined, member, failed))

    def _joined(self, member: Member, future: Any) -> None:
        """Take a worker that has started, or refuse its node."""
        self._starting.remove(member)
        if error := future.exception():
            self._failures[member.node] += 1
            if self._failures[member.node] == STARTS:
                self._refuse(
                    member,
                    f"No worker starts on {self._host(member)} ({_last_line(error)}). Is "
                    f"featbank {featbank.__version__} installed there?",
                )
            self._grow()
        else:
            member.place = future.result()
            if problem := self._version_problem(member.place):
                self._end(member)
                self._refuse(member, problem)
            else:
                self._failures[member.node] = 0
                self.members.append(member)

    def _refuse(self, member: Member, problem: str) -> None:
        """Do without a node; raise where none is left."""
        known = member.node in self._refused
        self._refused[member.node] = problem
        if not self.count and not self.members:
            raise errors.ConfigError(problem)
        if not known:
            warnings.warn(f"{problem} The node is not used.")

    def _version_problem(self, place: Place) -> str | None:
        """The problem of a worker with other versions than this process."""
        import torch  # as loaded with the worker's module

        here = {"featbank": featbank.__version__, "torch": torch.__version__}
        there = place.origin["versions"]
        others = [
            f"{name} {there[name]}, not {version}"
            for name, version in here.items()
            if there[name] != version
        ]
        if self._any_version or not others:
            return None
        return (
            f"The worker on {place.origin['host']} has {' and '.join(others)}. Install one version "
            "everywhere, or give --any-version."
        )

    def _host(self, member: Member) -> str:
        return self._nodes[member.node]["NodeManagerHostname"]

    def _end(self, member: Member) -> None:
        self._orders.put(lambda: member.actor and ray.kill(member.actor, no_restart=True))

    def _serve(self) -> None:
        """Start and end workers, in a thread: a lost head lets it wait forever."""
        while True:
            order = self._orders.get()
            with contextlib.suppress(Exception):  # a worker that is not there is not to be ended
                order()

    def _watch(self) -> None:
        """Look at the nodes from time to time, in a thread as well."""
        while not self._closed.wait(TICK):
            try:
                nodes = ray.nodes()
            except Exception:  # as of a lost head
                continue
            self._heard = time.monotonic()
            self.call(partial(self._see, nodes))

    def _see(self, nodes: list[dict[str, Any]]) -> None:
        """Take note of nodes that have joined or left, and start workers where there is room."""
        before = self._nodes
        self._nodes = {node["NodeID"]: node for node in nodes}
        if not self._nodes.get(self._here, {}).get("Alive"):
            raise ConnectionError(
                "this machine has left the Ray cluster. Start Ray again: the same command "
                "continues with what is stored."
            )
        if before.keys() != self._nodes.keys() or any(
            before[node]["Alive"] != self._nodes[node]["Alive"] for node in before
        ):
            self._grow()


def _last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray has what the worker said."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
