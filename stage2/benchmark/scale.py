"""Sweeps over banks too large for one machine: their plan, and the time of its groups by a model.

The planner plans real recipes for the shape of a bank that is not there. A group on a GPU takes
what `stage2.benchmark.model` says of its tiles, on a node of CPUs its operations at a measured
rate. A bank that does not fit is streamed in every epoch of every group: an epoch takes its
training, the reading of its bytes (`stage2.benchmark.streaming`), or the planning of the next
epoch's windows, whichever is longest, for these go on side by side.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.bank.schema import chunk_rows
from stage2.benchmark.cluster import Quantity, Task
from stage2.benchmark.gpus import find_gpu
from stage2.benchmark.model import PLANNED, tile_work
from stage2.benchmark.streaming import Streamed
from stage2.benchmark.workloads import Workload, long_tail
from stage2.engine.plan import FusedGroup, Shape, Tile, plan
from stage2.engine.work import group_work, spread
from stage2.features.budgets import group_memory, view_budget
from stage2.methods.recipe import Recipe

ITEM = 2
"""Bytes of a feature in the file: float16."""

MEASURE = "scripts/measure_scale.py --only "
BENCHMARK = "featbank benchmark --shape imagenet-lt --configurations 4 --threads 2"

QUANTITIES = {
    "cpu": Quantity(182e9, "FLOP/s", "training on a core", "measured", BENCHMARK),
    "read": Quantity(2.4e9, "B/s", "reading blocks, a thread", "measured", MEASURE + "read"),
    "plan": Quantity(3.7e-7, "s", "windows of an epoch, a draw", "measured", MEASURE + "epoch"),
    "draw": Quantity(7e-8, "s", "drawing an epoch, a draw", "measured", MEASURE + "epoch"),
    "plan_bytes": Quantity(49, "B", "memory of that, a draw", "measured", MEASURE + "epoch"),
    "held_bytes": Quantity(24, "B", "of the epochs in work, a draw", "assumed", "three numbers"),
    "start": Quantity(2.7, "s", "start of a worker process", "measured", MEASURE + "start"),
    "context": Quantity(30, "s", "GPU context, kernels compiled", "assumed", "no GPU was here"),
    "dispatch": Quantity(0.01, "s", "handing out a group", "assumed", ""),
    "network": Quantity(3.1e9, "B/s", "network of a node", "assumed", "25 Gbit/s"),
    "storage": Quantity(50e9, "B/s", "shared storage, to all nodes", "assumed", ""),
    "disk": Quantity(6e9, "B/s", "disk of a node", "assumed", "two NVMe disks"),
    "ram": Quantity(2 << 40, "B", "main memory of a GPU node", "assumed", "as of a DGX H200"),
    "cpu_ram": Quantity(512 << 30, "B", "main memory of a CPU node", "assumed", ""),
    "cores": Quantity(64, "", "cores of a CPU node", "assumed", "used by one worker"),
    "node_gpus": Quantity(8, "", "GPUs of a node, a worker each", "assumed", ""),
}
"""Everything that the simulation starts from, besides the model of a GPU and what `ShapedBank` has
of its own."""


def quantity(name: str) -> float:
    """The value of a row of `QUANTITIES`."""
    return QUANTITIES[name].value


@dataclass(frozen=True)
class ShapedBank:
    """A bank that is not there: sizes, as far as the planner asks for them.

    Attributes
    ----------
    name, label
        On the command line, and for people.
    counts
        Rows of each class in train [K].
    dim
        D.
    rows
        Rows of val and test.
    epochs, batch_size
        Of its recipes.
    store
        Seconds in which the driver stores a run.
    statistics
        Seconds in which a worker computes the statistics of a run.
    run_bytes
        Bytes of a stored run.
    """

    name: str
    label: str
    counts: np.ndarray
    dim: int
    rows: dict[str, int]
    epochs: int
    batch_size: int
    store: float
    statistics: float
    run_bytes: float

    dtype = "float16"

    @property
    def evaluated(self) -> list[str]:
        """Splits that are measured."""
        return list(self.rows)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def train_rows(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def size(self) -> int:
        """Bytes of the file's features."""
        return ITEM * self.dim * (self.train_rows + sum(self.rows.values()))

    def shape(self, split: str, view: str) -> tuple[int, int, int]:
        """(1, N, D) of a split."""
        return 1, self.rows.get(split, self.train_rows), self.dim

    def dim_of(self, view: str) -> int:
        """D of its view."""
        return self.dim

    def dtype_of(self, view: str) -> str:
        """Type of its features."""
        return self.dtype

    def as_bank(self) -> Bank:
        """The same for what takes a bank and asks for no more than sizes."""
        return cast(Bank, self)


BANKS = {
    bank.name: bank
    for bank in (
        ShapedBank(
            "imagenet-21k",
            "ImageNet-21k",
            long_tail(2500, 1, 21_841, 1.65),
            2048,
            {"val": 43_682, "test": 43_682},
            10,
            1024,
            store=0.008,
            statistics=0.0133,
            run_bytes=1.975e6,
        ),
        ShapedBank(
            "laion-400m",
            "LAION-400M",
            long_tail(1_860_000, 18_600, 1000),
            768,
            {"val": 50_000, "test": 50_000},
            2,
            4096,
            store=0.0016,
            statistics=0.0027,
            run_bytes=0.332e6,
        ),
    )
}
"""The banks of the simulation by name."""

PRESETS = "balanced_softmax", "logit_adjusted", "ldam", "crt"
SEEDS, DECAYS, RATES = range(5), (0.0, 1e-5, 1e-4, 5e-4), (1e-3, 1.0)


def configurations(bank: ShapedBank, count: int, precision: str = "tf32") -> list[Recipe]:
    """`count` recipes of `PRESETS`: learning rates, weight decays and seeds."""
    others = list(itertools.product(PRESETS, SEEDS, DECAYS))
    rates = np.geomspace(*RATES, -(-count // len(others))).tolist()
    return [
        Recipe(
            name,
            lr=rate,
            seed=seed,
            weight_decay=decay,
            epochs=bank.epochs,
            batch_size=bank.batch_size,
            precision=precision,
        )
        for rate, (name, seed, decay) in itertools.islice(itertools.product(rates, others), count)
    ]


@dataclass(frozen=True)
class Machine:
    """The device of a worker.

    Attributes
    ----------
    device
        ``cuda`` or ``cpu``.
    memory
        Budget of a group and its features, as ``--memory``.
    gpu
        The name of the GPU, where it is one.
    """

    device: str
    memory: int
    gpu: str = ""

    @property
    def per_node(self) -> int:
        """Workers of a node."""
        return int(quantity("node_gpus")) if self.gpu else 1

    @property
    def depth(self) -> int:
        """Groups that a worker has at once, as of `stage2.executors`."""
        return 2 if self.gpu else 1

    @property
    def ram(self) -> float:
        """Bytes of a node's main memory."""
        return quantity("ram" if self.gpu else "cpu_ram")


def gpu_machine(name: str = "h200", memory: int | None = None) -> Machine:
    """A GPU of `stage2.benchmark.gpus`, with its default budget."""
    return Machine("cuda", memory or int(PLANNED * find_gpu(name).memory), name)


def cpu_machine(memory: int | None = None) -> Machine:
    """A node of CPUs with the default budget, half of its memory."""
    return Machine("cpu", memory or int(quantity("cpu_ram")) // 2)


def planned(
    bank: ShapedBank, recipes: Sequence[Recipe], machine: Machine | None = None
) -> list[FusedGroup]:
    """The plan of a sweep on a machine, as `stage2.features.planning.plan_bank` makes it."""
    machine = machine or gpu_machine()
    return plan(
        recipes,
        Shape.of(bank.counts, bank.dim),
        memory=group_memory(bank.as_bank(), recipes, machine.device, machine.memory, "train"),
        whole=machine.memory,
        device=machine.device,
        workers=1 if machine.gpu else int(quantity("cores")),
    )


def cut(bank: ShapedBank, groups: Sequence[FusedGroup], count: int) -> list[FusedGroup]:
    """The groups as the planner cuts them for `count` workers: by whole tiles."""
    shape, evaluated = Shape.of(bank.counts, bank.dim), sum(bank.rows.values())
    return spread(groups, count, lambda group: group_work(group, shape, evaluated))


def budgets(
    bank: ShapedBank, recipes: Sequence[Recipe], machine: Machine, most: int
) -> Iterator[tuple[Machine, list[FusedGroup]]]:
    """The plans of a sweep with the machine's budget, half of it and so on, until there are `most`
    groups: a group on a GPU has as many configurations as fit its memory."""
    groups: list[FusedGroup] = []
    while len(groups) < most:
        try:
            groups = planned(bank, recipes, machine)
            Costs(bank, machine)
        except errors.ConfigError:
            return
        yield machine, groups
        machine = replace(machine, memory=machine.memory // 2)


class Costs:
    """Seconds and bytes of the groups of a sweep on a machine."""

    def __init__(self, bank: ShapedBank, machine: Machine) -> None:
        self.bank, self.machine = bank, machine
        budget = view_budget(
            bank.as_bank(), "instance", device=machine.device, memory=machine.memory
        )["train"]
        self.streamed = None
        if budget is not None:
            rows = chunk_rows(bank.train_rows, ITEM * bank.dim)
            if budget // (3 * 4 * bank.dim) < rows:
                raise errors.ConfigError(f"{bank.name} cannot be streamed. Raise the budget.")
            self.streamed = Streamed(bank.counts, bank.dim, ITEM, rows, budget)
        self._epoch_bytes = functools.cache(self._bytes_of)

    @property
    def host_bytes(self) -> float:
        """Main memory of a worker for the windows of an epoch that is streamed."""
        each = quantity("plan_bytes") + quantity("held_bytes")
        return each * self.bank.train_rows if self.streamed else 0.0

    @property
    def cached(self) -> bool:
        """Whether the page cache of a node holds the bank beside its workers."""
        taken = self.machine.per_node * self.host_bytes
        taken += 0 if self.machine.gpu else self.machine.memory
        return taken + self.bank.size < 0.9 * self.machine.ram

    @property
    def start_bytes(self) -> float:
        """Bytes that a worker reads before its first group."""
        splits = ITEM * self.bank.dim * sum(self.bank.rows.values())
        return splits + (self.streamed.start_bytes() if self.streamed else self.bank.size - splits)

    @property
    def read_rate(self) -> float:
        """Bytes a second that a worker reads when all of a node's do."""
        shared = quantity("disk") / self.machine.per_node
        return quantity("read") if self.cached else min(quantity("read"), shared)

    def ready(self, nodes: int) -> float:
        """Seconds until a worker has started, its node has fetched the bank, and it has read what
        it reads before it trains."""
        fetch = self.bank.size / min(quantity("network"), quantity("storage") / nodes)
        started = quantity("start") + (quantity("context") if self.machine.gpu else 0)
        return max(started, fetch) + self.start_bytes / self.read_rate

    def task(self, group: FusedGroup) -> Task:
        """The group as a task."""
        stream = group.stream
        read, parts, ends = self._epoch(group)
        runs = len(group.recipes)
        longest = max(parts, key=lambda name: parts[name])
        seconds = parts["planning"] + stream.epochs * parts[longest] + ends
        seconds += runs * self.bank.statistics
        return Task(seconds, runs, stream.epochs * read, longest)

    def _epoch(self, group: FusedGroup) -> tuple[float, dict[str, float], float]:
        """Bytes that an epoch of a group reads, seconds of what goes on side by side in it, and
        those of the evaluation at the end."""
        stream = group.stream
        draws = stream.steps * stream.batch_size
        assert stream.sampler is not None
        read = self._epoch_bytes(stream.sampler, draws)
        training, ends = self._seconds(group)
        windows = draws * (quantity("plan") + quantity("draw")) if self.streamed else 0.0
        parts = {"training": training, "reading": read / self.read_rate, "planning": windows}
        return read, parts, ends

    def _bytes_of(self, sampler: str, draws: int) -> float:
        return self.streamed.epoch_bytes(sampler, draws) if self.streamed else 0.0

    def _seconds(self, group: FusedGroup) -> tuple[float, float]:
        """Seconds of an epoch's training, and of the evaluation at the end."""
        if not self.machine.gpu:
            shape = Shape.of(self.bank.counts, self.bank.dim)
            work = group_work(group, shape, sum(self.bank.rows.values()))
            return work / (quantity("cpu") * quantity("cores")) / group.stream.epochs, 0.0
        epoch = ends = 0.0
        for tile in group.tiles:
            configs = len(tile.recipes)
            digits = 10 ** max(0, len(str(configs)) - 2)
            size = max(1, configs // digits * digits)
            parts = _tile_seconds(self.bank.name, self.machine.gpu, _key(tile), size)
            epoch += parts[0] * configs / size
            ends += parts[1] * configs / size
        return epoch, ends


def _key(tile: Tile) -> Recipe:
    """A recipe that stands for those of a tile, with few steps."""
    recipe = tile.recipes[0]
    short = {"epochs": 2, "steps_per_epoch": 4, "lr": 0.1, "weight_decay": 1e-4, "seed": 0}
    return Recipe(recipe.name, **{**recipe.settings, **short})


@functools.cache
def _tile_seconds(name: str, gpu_name: str, recipe: Recipe, size: int) -> tuple[float, float]:
    """Seconds of an epoch, and of the evaluation at the end, of a tile of so many configurations:
    by the model of a GPU."""
    bank, gpu = BANKS[name], find_gpu(gpu_name)
    test = bank.rows["test"]
    workload = Workload(bank.name, bank.counts, bank.dim, bank.batch_size, test, 0, 4)
    work = tile_work(Tile((recipe,) * size), workload)
    steps = bank.train_rows // bank.batch_size
    epoch = steps * work.step.seconds(gpu) + work.epoch.seconds(gpu)
    return epoch, work.evaluation.seconds(gpu)
