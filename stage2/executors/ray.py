"""Training on the nodes of a Ray cluster.

This process plans, trains the probes, sends groups to workers and stores what they return; a group
is sent when a worker is free. The bank reaches a node once (`featbank.delivery`), a probe too. The
group of a worker that is lost is sent to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.delivery import Sender, address_of
from stage2.engine.halving import Halving
from stage2.engine.plan import FusedGroup
from stage2.executors import Site, Trained
from stage2.executors.ray_worker import Answer, Job
from stage2.features.views import Views

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from stage2.executors.ray_pool import Member, Pool
except ImportError:
    raise errors.ConfigError(
        "Sweeping on Ray needs the package ray. Run pip install 'featbank[ray]'."
    ) from None

TRIES = 4
"""Workers that may be lost with one group."""

CONNECTING = 3.0
"""Seconds that the head has to take a connection."""


class Ray:
    """Workers of a Ray cluster; a context manager, which makes executors of sweeps.

    Workers start with the first sweep, and keep the bank and its features until the context is
    left.

    Parameters
    ----------
    address
        ``HOST:PORT`` of the head, ``auto`` for the cluster that this machine is a node of, or
        ``local`` for one that starts here and ends with the context.
    gpus_per_group, cpus_per_group
        What a group takes; None for one GPU where the cluster has any, and one CPU beside a GPU or
        else as many as every node has.
    any_version
        Take workers with another version of featbank or PyTorch too.

    Raises
    ------
    ConfigError
        Where nobody answers, or no worker can be used.
    ConnectionError
        Where the cluster is lost later.
    """

    def __init__(
        self,
        address: str = "auto",
        gpus_per_group: float | None = None,
        cpus_per_group: int | None = None,
        any_version: bool = False,
    ) -> None:
        self._address, self._gpus, self._cpus = address, gpus_per_group, cpus_per_group
        self._any_version = any_version
        self._stack = contextlib.ExitStack()
        self._pool: Pool | None = None
        self._memory = 0
        self._senders: dict[str, Any] = {}

    def __enter__(self) -> Ray:
        self._stack.enter_context(_connected(self._address))
        return self

    def __exit__(self, *_: object) -> None:
        self._senders.clear()
        self._stack.close()
        self._pool = None

    def __call__(self, views: Views, *, parameters: bool = True) -> OnRay:
        """The executor of a sweep on the views of a bank."""
        pool, site = self._workers(), self.site(views.given)
        return OnRay(pool, views, site, self._sender_of(views.bank), parameters=parameters)

    def site(self, memory: int | None = None) -> Site:
        """The place of each worker, and how many there are; `memory` is the budget, None for what a
        worker has."""
        pool = self._workers()
        threads = 1 if pool.gpus else pool.cpus
        return Site(pool.device, memory or self._memory, threads, pool.count)

    def _sender_of(self, bank: Bank) -> Any:
        """The actor that sends a bank's file from this machine, one for all sweeps of the bank."""
        if bank.fingerprint not in self._senders:
            node = ray.get_runtime_context().get_node_id()
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            make = ray.remote(Sender).options(num_cpus=0, scheduling_strategy=here)
            self._senders[bank.fingerprint] = make.remote(str(bank.path.resolve()))
        return self._senders[bank.fingerprint]

    def _workers(self) -> Pool:
        if self._pool is None:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpus = self._gpus
            if gpus is None:
                gpus = float(any(node.get("GPU") for node in nodes))
            least = min((int(node["CPU"]) for node in nodes if node.get("CPU")), default=1)
            cpus = self._cpus or (1 if gpus else least)
            self._pool = Pool(gpus, cpus, any_version=self._any_version)
            self._stack.callback(self._pool.close)
            self._pool.gather()
            self._memory = self._pool.memory()
        return self._pool


class OnRay:
    """The executor of one sweep on the workers of a cluster.

    Parameters
    ----------
    pool
        The workers.
    views
        The views of the process that sweeps, for the bank and its probes.
    site
        What a worker has.
    sender
        The `Sender` of the bank's file.
    parameters
        Whether outcomes have parameters.
    """

    def __init__(
        self, pool: Pool, views: Views, site: Site, sender: Any, *, parameters: bool
    ) -> None:
        self.site = site
        self._pool, self._views = pool, views
        bank = views.bank
        path = bank.path.resolve()
        job = Job(
            str(path),
            address_of(path),
            bank.fingerprint,
            path.stat().st_size,
            site,
            views.folds,
            parameters,
        )
        self._job = ray.put(job)
        self._sender = sender
        self._probes: dict[str, Any] = {}

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Trained]:
        """Train and evaluate groups side by side; their outcomes come as they are done."""
        pool, work = self._pool, _Work()
        pulled = _Pulled(groups, self._views, pool, work)
        try:
            while not work.done:
                while work.waiting and (member := pool.free(work.waiting[0].group)):
                    self._send(member, work.waiting.popleft(), halving, work)
                pulled.ask(max(1, pool.room) - len(work.waiting))
                pool.turn()
                while work.answers:
                    answer = work.answers.popleft()
                    for text in answer.warnings:
                        warnings.warn(text)
                    yield from answer.trained
        finally:
            work.over = True
            pulled.stop()
            pool.drop_busy()

    def _send(self, member: Member, task: _Task, halving: Halving | None, work: _Work) -> None:
        """Send a group to a worker, and arrange for its answer."""
        group = task.group
        member.sent.append(group)
        member.last = group.stream
        work.running += 1
        reference = member.actor.train.remote(
            self._job, group, halving, self._references(), self._sender
        )

        def answered(future: Any) -> None:
            member.sent.remove(group)
            work.running -= 1
            error = future.exception()
            if work.over:
                return
            if error is None:
                work.answers.append(future.result())
            elif isinstance(error, RayTaskError):
                raise _told(error) from None
            else:
                self._pool.lost(member)
                work.again(task, error)

        self._pool.when(reference, answered)

    def _references(self) -> Mapping[str, Any]:
        """References to all probes so far, each of which is put into Ray's store once."""
        for key, (weight, bias) in list(self._views.made.items()):
            if key not in self._probes:
                self._probes[key] = ray.put((weight.cpu(), bias.cpu()))
        return dict(self._probes)


@dataclass(frozen=True)
class _Task:
    """A group, and how many workers were lost with it."""

    group: FusedGroup
    lost: int = 0


class _Work:
    """The groups of a run: those waiting for a worker, the number running, and answers to yield."""

    def __init__(self) -> None:
        self.waiting: deque[_Task] = deque()
        self.answers: deque[Answer] = deque()
        self.running = 0
        self.all_pulled = self.over = False

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.all_pulled and not (self.waiting or self.answers or self.running)

    def again(self, task: _Task, error: BaseException) -> None:
        """Let a group run again whose worker was lost."""
        if task.lost + 1 == TRIES:
            raise ChildProcessError(
                f"{TRIES} workers were lost while they trained the same group of "
                f"{len(task.group.recipes)} ({errors.first_line(error)}). If main memory ran out, "
                "give a lower --memory or more --cpus-per-group; the same command continues"
            )
        self.waiting.appendleft(_Task(task.group, task.lost + 1))


class _Pulled:
    """Takes groups from an iterable that may wait, one at a time in a thread, as they are asked
    for; and trains the probes of their folds."""

    def __init__(self, groups: Iterable[FusedGroup], views: Views, pool: Pool, work: _Work) -> None:
        self._groups, self._views, self._pool, self._work = iter(groups), views, pool, work
        self._asked, self._permits = 0, threading.Semaphore(0)
        self._stopped = False
        threading.Thread(target=self._pull, daemon=True).start()

    def ask(self, count: int) -> None:
        """Ask for groups until `count` are on their way."""
        while self._asked < count and not self._work.all_pulled:
            self._asked += 1
            self._permits.release()

    def stop(self) -> None:
        """Take no further group."""
        self._stopped = True
        self._permits.release()

    def _pull(self) -> None:
        while True:
            self._permits.acquire()
            if self._stopped:
                return
            error: BaseException | None = None
            group: FusedGroup | None = None
            try:
                group = next(self._groups, None)
                if group is not None:
                    self._views.prepare_folds(group)
            except BaseException as raised:
                error = raised
            self._pool.call(partial(self._came, group, error))
            if group is None or error:
                return

    def _came(self, group: FusedGroup | None, error: BaseException | None) -> None:
        if self._stopped:
            return
        if error:
            raise error
        self._asked -= 1
        if group is None:
            self._work.all_pulled = True
        else:
            self._work.waiting.append(_Task(group))


def _told(error: RayTaskError) -> BaseException:
    """The error that a worker raised, where the command line tells it in one line."""
    import torch  # as loaded by the views

    told = errors.FeatbankError, OSError, MemoryError, torch.cuda.OutOfMemoryError
    return error.cause if isinstance(error.cause, told) else error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to a Ray cluster, which ends with the context unless there was one before."""
    if ray.is_initialized():
        yield
        return
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError:
        raise errors.ConfigError(
            "No Ray cluster runs on this machine. Start one with ray start --head, join one with "
            "ray start --address=HOST:PORT, or give --address local."
        ) from None
    except (RayError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise errors.ConfigError(
            f"The Ray cluster at {address} cannot be used ({reason}). Run this on one of its nodes."
        ) from None
    finally:
        if main:  # Ray has one of its own for SIGTERM, and the command line too
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise at once where nobody answers; Ray itself would wait a minute."""
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if named in ("", "auto", "local"):
        return
    host, _, port = named.rpartition(":")
    try:
        if not host or not 0 < int(port) < 2**16:
            raise ValueError
    except ValueError:
        raise errors.ConfigError(
            f"The address {named!r} is not that of a Ray cluster. Write HOST:PORT, auto or local."
        ) from None
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTING).close()
    except OSError as error:
        raise errors.ConfigError(
            f"No Ray cluster answers at {named} ({error.strerror or error}). Start one with ray "
            "start --head, or give the --address of one."
        ) from None
