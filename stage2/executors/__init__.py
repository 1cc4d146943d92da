"""Executors, which train the planned groups of a sweep.

The unit of work is the fused group, never a single recipe. An executor is a class with a `Site` and
`run`: it takes groups and yields what was trained of each as it completes, in any order. A group is
plain data, its recipes and their batch stream, and so are its outcomes.
"""

from __future__ import annotations

import contextlib
import platform
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Protocol

import featbank
from featbank.settings import Setting, resolved

if TYPE_CHECKING:
    from featbank.bank import Bank
    from stage2.engine.halving import Halving
    from stage2.engine.outcome import Outcome
    from stage2.engine.plan import FusedGroup
    from stage2.features.views import Views
    from stage2.methods.recipe import Recipe


@dataclass(frozen=True)
class Site:
    """A place to train, for which groups are planned.

    Attributes
    ----------
    device
        A name of PyTorch's.
    memory
        Budget of a group and its features in bytes; None for the default of the device.
    workers
        CPU threads of a group.
    count
        Groups that train at once.
    """

    device: str
    memory: int | None
    workers: int
    count: int = 1

    @staticmethod
    def here(device: str, memory: int | None) -> Site:
        """This process, on a device as options name it."""
        from featbank.devices import find_device, threads_for

        place = str(find_device(device))
        return Site(place, memory, threads_for(place))

    def __str__(self) -> str:
        return self.device if self.count == 1 else f"{self.count} workers with {self.device}"

    def plan(
        self,
        bank: Bank,
        recipes: Sequence[Recipe],
        folds: int | None = None,
        *,
        whole: bool = False,
    ) -> list[FusedGroup]:
        """The fused groups of recipes, on all rows or on folds; `whole` leaves them uncut, for
        halving compares within one."""
        from stage2.features.planning import plan_bank

        return plan_bank(
            bank,
            recipes,
            device=self.device,
            memory=self.memory,
            workers=self.workers,
            folds=folds,
            count=1 if whole else self.count,
        )


@dataclass(frozen=True)
class Trained:
    """A group that an executor has trained, or a part of one.

    Attributes
    ----------
    outcomes
        The outcomes of its recipes; another thread reads them while the next group trains.
    origin
        ``device``, ``host`` and ``versions`` where they were trained, as `origin` tells them.
    """

    outcomes: Sequence[Outcome]
    origin: Mapping[str, Any]


class Executor(Protocol):
    """Trains groups."""

    @property
    def site(self) -> Site:
        """The place where it trains."""

    def run(
        self, groups: Iterable[FusedGroup], *, halving: Halving | None = None
    ) -> Iterator[Trained]:
        """Train and evaluate groups, those with `folds` on each fold; `halving` stops the worse
        configurations of the others early.

        Groups are taken as workers become free: an iterator may wait for what others train.
        """


class MakeExecutor(Protocol):
    """A class of executors."""

    def __call__(self, views: Views, *, parameters: bool) -> Executor:
        """An executor that trains on the views of a bank, whose outcomes have parameters or not."""


class Cluster(MakeExecutor, Protocol):
    """A maker of executors that knows where they train before there is a sweep."""

    def site(self, memory: int | None) -> Site:
        """The place where they train; `memory` is the budget in bytes, None for what there is."""


@dataclass(frozen=True)
class Kind:
    """An executor that sweeps may name.

    Attributes
    ----------
    help
        Where it trains.
    place
        Module and name of its class.
    settings
        What it takes. With settings the class is a context manager and a `Cluster`, and takes
        `any_version` too.
    """

    help: str
    place: tuple[str, str]
    settings: tuple[Setting, ...] = ()


EXECUTORS: dict[str, Kind] = {
    "local": Kind("in this process", ("stage2.executors.local", "Local")),
    "ray": Kind(
        "on the nodes of a Ray cluster",
        ("stage2.executors.ray", "Ray"),
        (
            Setting(
                "address",
                "auto",
                "Ray cluster: HOST:PORT; auto for the one of this machine; local starts one here",
            ),
            Setting(
                "gpus_per_group",
                None,
                "GPU of a group, or the share of one",
                low=0,
                high=1,
                kind=float,
                default_help="1 where the cluster has any",
            ),
            Setting(
                "cpus_per_group",
                None,
                "CPUs of a group",
                low=1,
                kind=int,
                default_help="1 beside a GPU, else those of a node",
            ),
        ),
    ),
}
"""Every executor by name; one is imported when it is opened."""


@contextlib.contextmanager
def open_executor(
    name: str, settings: Mapping[str, Any], *, any_version: bool = False
) -> Iterator[MakeExecutor]:
    """An executor by its name, with the settings that differ from the defaults; `any_version` takes
    workers with another version of featbank or PyTorch.

    Raises
    ------
    ConfigError
        For a wrong value, where its package is not installed, or where nobody answers.
    """
    kind = EXECUTORS[name]
    module, made = kind.place
    executor = getattr(import_module(module), made)
    if not kind.settings:
        yield executor
        return
    given = resolved(kind.settings, settings, f"executor {name!r}")
    with executor(**given, any_version=any_version) as opened:
        yield opened


def origin(device: str, libraries: Sequence[str] = ()) -> dict[str, Any]:
    """The origin of a run: the `device`, a name of PyTorch's, the host, and the versions of
    featbank, torch, Python and further `libraries`."""
    import torch  # here, so that the names of executors load quickly

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "device": f"{device} ({name})",
        "host": socket.gethostname(),
        "versions": {
            "featbank": featbank.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **versions_of(libraries),
        },
    }


def versions_of(libraries: Sequence[str]) -> dict[str, str]:
    """The installed versions of libraries."""
    return {library: metadata.version(library) for library in libraries}
