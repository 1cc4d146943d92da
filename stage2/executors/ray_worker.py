"""Workers on the nodes of a Ray cluster.

This module does not import Ray at the top: it is also read where nothing is connected.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from featbank import errors
from featbank.bank import Bank
from featbank.delivery import PIECE, copy_of, fetched
from stage2.engine.halving import Halving
from stage2.engine.plan import FusedGroup, default_memory
from stage2.executors import Site, Trained, origin
from stage2.executors.local import Local
from stage2.features.descent import Fit
from stage2.features.folds import Folds
from stage2.features.probe import Classifier
from stage2.features.views import Views
from stage2.methods.recipe import settings_hash


@dataclass(frozen=True)
class Place:
    """The machine of a worker.

    Attributes
    ----------
    memory
        Default budget in bytes of all that trains on the device.
    origin
        As `stage2.executors.origin` tells it.
    """

    memory: int
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """All that workers need to know of a sweep, besides groups and probes.

    Attributes
    ----------
    path, address, fingerprint
        The bank's path on the machine that sweeps, its URL where it has one, and what identifies it
        wherever it is.
    size
        Bytes of its file.
    site
        Device, memory and threads of a worker.
    folds
        The folds of train, for groups that are trained on them.
    parameters
        Whether outcomes have parameters.
    """

    path: str
    address: str | None
    fingerprint: str
    size: int
    site: Site
    folds: Folds | None
    parameters: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for jobs that train on the same features in the same way."""
        folds = self.folds.name if self.folds else None
        return self.fingerprint, self.site, folds, self.parameters


@dataclass(frozen=True)
class Answer:
    """The outcomes that a worker made of a group, and the warnings it gave."""

    trained: list[Trained]
    warnings: list[str]


@dataclass
class SentProbes:
    """The probes that a sweep trained, as they arrive with groups; `Kept` for a worker's views."""

    classifiers: dict[str, Classifier] = field(default_factory=dict)

    def find(self, settings: Mapping[str, Any]) -> Classifier | None:
        """The probe with these settings."""
        return self.classifiers.get(settings_hash("probe", settings))

    def keep(self, settings: Mapping[str, Any], classifier: Classifier, fit: Fit) -> None:
        """Keep a probe for this worker's later groups."""
        self.classifiers[settings_hash("probe", settings)] = classifier

    def alone(self, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Nothing to wait for: probes that several workers need are trained before."""
        return nullcontext()


class Worker:
    """Trains one group at a time in a process of its own, and keeps the bank and its features.

    Two calls of `train` may overlap: one computes and sends its outcomes while the other trains.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._probes = SentProbes()
        self._bank: Bank | None = None
        self._views: Views | None = None
        self._local: Local | None = None

    def place(self, device: str, threads: int) -> Place:
        """Prepare to train on a device with a number of threads."""
        torch.set_num_threads(threads)
        return Place(default_memory(device), origin(device))

    def train(
        self,
        job: Job,
        group: FusedGroup,
        halving: Halving | None,
        probes: Mapping[str, Any],
        sender: Any,
    ) -> Answer:
        """Train and evaluate a group of a job.

        Parameters
        ----------
        job, group, halving
            The group, and how it is trained.
        probes
            References to the probes that the sweep trained so far, by the hash of their settings.
        sender
            The `Sender` that has the bank's file.
        """
        import ray  # of this process, which Ray started

        with self._turn, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if job.key != self._key:
                self._take(job, sender)
            for key in probes.keys() - self._probes.classifiers.keys():
                self._probes.classifiers[key] = ray.get(probes[key])
            assert self._views is not None
            assert self._local is not None
            self._views.prepare(group.recipes)
            trained = list(self._local.run([group], halving=halving))
        for each in trained:
            len(each.outcomes)  # computes them
        return Answer(trained, [str(each.message) for each in caught])

    def _take(self, job: Job, sender: Any) -> None:
        """Open the bank of a job, unless it is that of the last one."""
        if self._bank is None or self._bank.fingerprint != job.fingerprint:
            self._views = self._local = None  # free the features of the last bank first
            if self._bank is not None:
                self._bank.close()
            self._bank = Bank(bank_of(job, lambda: _pieces(sender, job.size)))
            self._probes = SentProbes()
        site = job.site
        self._views = Views(
            self._bank, site.device, site.memory, site.workers, job.folds, kept=self._probes
        )
        self._local = Local(self._views, parameters=job.parameters)
        self._key = job.key


def bank_of(job: Job, pieces: Callable[[], Iterable[bytes]]) -> Path:
    """The bank of a job on this machine: at its path where that is it, else a copy, fetched from
    its URL or made of `pieces`.

    Raises
    ------
    BankError, OSError
        Where what arrives is not the bank, or cannot be written.
    """
    path = Path(job.path)
    try:
        with Bank(path) as bank:
            if bank.fingerprint == job.fingerprint:
                return path
    except (errors.BankError, OSError):
        pass  # another machine's path
    if job.address and (copy := fetched(job.address)).parent.name == job.fingerprint:
        return copy

    def write(part: Path) -> None:
        with part.open("wb") as file:
            for piece in pieces():
                file.write(piece)

    return copy_of(job.fingerprint, job.path, write)


def _pieces(sender: Any, size: int) -> Iterable[bytes]:
    """The pieces of a file, of which the next is on its way while one is written."""
    import ray  # as above

    starts = range(0, size, PIECE)
    coming = [sender.piece.remote(start) for start in starts[:2]]
    for following in [*starts[2:], None, None][: len(starts)]:
        yield ray.get(coming.pop(0))
        if following is not None:
            coming.append(sender.piece.remote(following))
