"""A model of the engine's speed on a GPU that is not here. It is no measurement.

The engine trains and evaluates on the absent GPU of `stage2.benchmark.absent`, at full size. The
model's time of a kernel is the larger of its bytes over the rate of a large copy and its FLOPs over
the rate of a large product (`stage2.benchmark.gpus`), and no less than `SHORTEST`. A step takes
the sum over its kernels, or the time in which the host calls them, whichever is longer.

Not in it: shapes of products at which a library is slower, temperatures fitted to val, and what the
host does meanwhile or after: drawing the index stream, statistics, reading a bank, storing, and
copying the parameters of outcomes that a caller keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import torch

from featbank import errors
from featbank.memory import size_text
from stage2.benchmark.absent import CUDA, Counting, absent_gpu
from stage2.benchmark.gpus import CALL, SHORTEST, TO_HOST, Gpu, find_gpu
from stage2.benchmark.operations import PARTS, Operation
from stage2.benchmark.workloads import EPOCHS, MOMENTUM, RATES, WEIGHT_DECAY, Workload
from stage2.engine.evaluation import TileEvaluation
from stage2.engine.gpu.graph import pays, piece_steps
from stage2.engine.model import ViewData
from stage2.engine.plan import BatchStream, FusedGroup, Shape, Tile, plan
from stage2.engine.rows import MemoryRows, Window, block_rows
from stage2.engine.tile import TileRun
from stage2.methods.heads import TextClassifier
from stage2.methods.recipe import Recipe

COUNTED_STEPS = 1, 3
"""Steps of the two windows whose difference is twice the cost of a step."""

VAL_ROWS = {
    "imagenet-lt": 20_000,
    "places-lt": 7_300,
    "imagenet-21k": 43_682,
    "laion-400m": 50_000,
}
"""Rows of val where the data set has one: all are measured after each epoch, and the epoch with the
best accuracy on them is evaluated beside the last."""

SHAPES = {"cifar100-lt": (256,), "imagenet-lt": (300, 1000), "inaturalist2018": (32,)}
"""Shapes, and numbers of configurations, that a table has unless it is asked for others."""

PLANNED = 0.8
"""Share of a GPU's memory that a sweep plans with, as of `stage2.engine.plan.default_memory`."""


@dataclass(frozen=True)
class Work:
    """Kernels, by operation and number."""

    operations: Counter[Operation] = field(default_factory=Counter)

    @property
    def launches(self) -> float:
        """Number of kernels."""
        return sum(self.operations.values())

    @property
    def moved(self) -> float:
        """Bytes read and written."""
        return sum(each.moved * number for each, number in self.operations.items())

    def flops(self) -> dict[str, float]:
        """Floating-point operations of products by precision."""
        sums: Counter[str] = Counter()
        for each, number in self.operations.items():
            if each.flops:
                sums[each.precision] += each.flops * number
        return dict(sums)

    def parts(self, gpu: Gpu) -> dict[str, float]:
        """Seconds of the device by part."""
        sums = dict.fromkeys(PARTS, 0.0)
        for each, number in self.operations.items():
            sums[each.part] += gpu.seconds(each) * number
        return sums

    def seconds(self, gpu: Gpu, calls: float | None = None) -> float:
        """Seconds of the device, or of the host for so many calls, one for each kernel unless told
        otherwise; whichever is longer."""
        calls = self.launches if calls is None else calls
        return max(sum(self.parts(gpu).values()), CALL * calls)


@dataclass(frozen=True)
class TileWork:
    """The work of a tile on the absent GPU.

    Attributes
    ----------
    step
        Work of a step.
    epoch
        That of an epoch beside its steps, val included.
    evaluation
        That of the evaluation at the end, on val and test.
    to_host
        Bytes of parameters copied to the host.
    peak
        Most bytes of the GPU's memory in training, besides features and stage-1 logits of training
        rows.
    waits
        Times that the host waits for the device in steps.
    """

    step: Work
    epoch: Work
    evaluation: Work
    to_host: int
    peak: int
    waits: int


def model(
    workload: Workload,
    *,
    gpu: str = "h200",
    configurations: int = 1,
    precision: str = "fp32",
    recipe: Callable[..., Recipe] | None = None,
) -> dict[str, Any]:
    """Model a sweep of `configurations` linear heads, or of other recipes, on a GPU.

    Parameters
    ----------
    workload
        From `stage2.benchmark.find_workload`.
    gpu
        A name of `stage2.benchmark.gpus.GPUS`.
    configurations
        How many recipes; they differ in their learning rate.
    precision
        Of their products.
    recipe
        Makes a recipe from its settings; cross-entropy on a linear head by default.

    Returns
    -------
    Plain data for JSON, in seconds and bytes. A step is one of the first of ``groups`` groups, the
    larger ones.

    Raises
    ------
    ConfigError
        For an unknown GPU, a machine without Triton, or features or configurations that do not fit.
    """
    device = find_gpu(gpu)
    recipes = swept(workload, configurations, precision, recipe or _cross_entropy)
    groups = _groups(workload, recipes, device)
    tiles = [tile for group in groups for tile in group.tiles]
    sizes = [len(tile.recipes) for tile in tiles]
    by_size = dict(zip(sizes, tiles, strict=True))
    works = {size: tile_work(tile, workload) for size, tile in by_size.items()}
    steps = groups[0].stream.steps
    calls = {n: _calls(works[n].step, workload, n, steps) for n in by_size}
    training = sum(
        EPOCHS * (steps * works[n].step.seconds(device, calls[n]) + works[n].epoch.seconds(device))
        for n in sizes
    )
    evaluation = sum(works[n].evaluation.seconds(device) for n in sizes)
    to_host = sum(works[n].to_host for n in sizes) / TO_HOST
    first = works[sizes[0]]
    return {
        "model": True,
        "gpu": gpu,
        "gpu_label": device.label,
        "rates": {
            **{name: device.rate(name) for name in device.sheet},
            "shortest": SHORTEST,
            "call": CALL,
            "to_host": TO_HOST,
        },
        "shape": workload.name,
        "rows": workload.rows,
        "dim": workload.dim,
        "classes": workload.classes,
        "batch_size": workload.batch_size,
        "test_rows": workload.test_rows,
        "val_rows": VAL_ROWS.get(workload.name, 0),
        "configurations": configurations,
        "precision": precision,
        "groups": len(groups),
        "epochs": EPOCHS,
        "steps": EPOCHS * steps,
        "launches_step": first.step.launches,
        "bytes_step": first.step.moved,
        "flops_step": first.step.flops(),
        "step_seconds": first.step.seconds(device, calls[sizes[0]]),
        "step_device_seconds": first.step.parts(device),
        "step_host_seconds": CALL * calls[sizes[0]],
        "peak_bytes": first.peak + _feature_bytes(workload),
        "training_seconds": training,
        "evaluation_seconds": evaluation,
        "to_host_seconds": to_host,  # of parameters, where a caller keeps outcomes
        "seconds": training + evaluation,
    }


def _calls(step: Work, workload: Workload, configs: int, steps: int) -> float:
    """Calls of the host per step: of each kernel, or of three copies and a graph for each piece.

    The first piece of a training is launched kernel by kernel, and the second as it is captured.
    """
    shape = configs, workload.classes, workload.dim
    if not pays(CUDA, shape, workload.batch_size, EPOCHS * steps):
        return step.launches
    size = piece_steps(steps)
    first = 2 * size * step.launches / (EPOCHS * steps)
    return first + 4 / size


def swept(
    workload: Workload, configurations: int, precision: str, recipe: Callable[..., Recipe]
) -> list[Recipe]:
    """Recipes on a range of learning rates."""
    return [
        recipe(
            lr=lr,
            epochs=EPOCHS,
            steps_per_epoch=workload.epoch_steps,
            batch_size=workload.batch_size,
            precision=precision,
        )
        for lr in np.geomspace(*RATES, configurations).tolist()
    ]


def _cross_entropy(**settings: Any) -> Recipe:
    return Recipe("ce", momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, schedule="cosine", **settings)


def _feature_bytes(workload: Workload) -> int:
    return 4 * (workload.rows + workload.test_rows) * workload.dim


def _groups(workload: Workload, recipes: Sequence[Recipe], gpu: Gpu) -> list[FusedGroup]:
    """The sweep as it is planned: groups get what features and stage-1 logits leave."""
    whole, features = int(PLANNED * gpu.memory), _feature_bytes(workload)
    if features > whole:
        raise errors.ConfigError(
            f"The features of {workload.name} take {size_text(features)}, a sweep on {gpu.label} "
            f"plans with {size_text(whole)}. Choose a smaller shape."
        )
    left = whole - features - 4 * workload.rows * workload.classes
    return plan(
        recipes,
        Shape.of(workload.counts, workload.dim),
        memory=max(whole // 2, left),
        whole=whole,
        device="cuda",
    )


def tile_work(tile: Tile, workload: Workload, *, evaluated: bool = True) -> TileWork:
    """Train a tile for a few steps on the absent GPU, and evaluate it on a few blocks of rows."""
    stream = BatchStream.of(tile.recipes[0], Shape.of(workload.counts, workload.dim))
    with absent_gpu() as counting:
        data = ViewData(
            train=_rows(workload.rows, workload.dim),
            evaluated={"test": _rows(0, workload.dim)},
            counts=workload.counts.astype(float),
            full_counts=workload.counts,
            weight0=torch.empty(workload.classes, workload.dim, device="cuda"),
            bias0=torch.empty(workload.classes, device="cuda"),
            text=TextClassifier(
                torch.empty(workload.classes, workload.dim, device="cuda"), logit_scale=1.0
            ),
        )
        before = counting.now
        run = TileRun(tile, stream, [data])
        if (z0 := vars(data).get("train_z0")) is not None:
            before += z0.nbytes
        epoch = counting.of(partial(run.begin_epoch, 0))
        parameters = run.models[0].state["parameters"]
        # As where val selects an epoch.
        run.models[0].state["best"].update({n: value.clone() for n, value in parameters.items()})
        windows = [_window(run, steps) for steps in COUNTED_STEPS]
        counting.most, waits = counting.now, counting.waits
        few, many = (counting.of(partial(run.train, 0, each, Event())) for each in windows)
        waits, peak = counting.waits - waits, counting.most - before
        epoch += counting.of(run.end_epoch)
        evaluation = Counter[Operation]()
        if evaluated:
            val = VAL_ROWS.get(workload.name, 0)
            if val:
                epoch += _on_rows(counting, run, val, _watch)
            else:
                run.models[0].state["best"].clear()
            evaluation = _on_rows(counting, run, workload.test_rows + val, _evaluate)
    step = _scaled(_grown(few, many), 1 / (COUNTED_STEPS[1] - COUNTED_STEPS[0]))
    epoch += few - step  # what a window has beside its steps
    results = len(run.epochs()) * sum(value.nbytes for value in parameters.values())
    return TileWork(Work(step), Work(epoch), Work(evaluation), results, peak, waits)


def _grown(few: Counter[Operation], many: Counter[Operation]) -> Counter[Operation]:
    """The operations that a longer window has beyond a shorter one; what both launch as often is
    the window's own, though on more numbers."""
    kinds: Counter[tuple[str, str]] = Counter()
    for window, sign in ((many, 1), (few, -1)):
        for each, number in window.items():
            kinds[each.name, each.precision] += sign * number
    return Counter({k: n for k, n in (many - few).items() if kinds[k.name, k.precision]})


def _rows(rows: int, dim: int) -> MemoryRows:
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    return MemoryRows(torch.empty(rows, dim, device="cuda"), labels)


def _window(run: TileRun, steps: int) -> Window:
    rows = run.views[0].train
    assert isinstance(rows, MemoryRows)
    draws = torch.zeros(steps, run.stream.batch_size, dtype=torch.int64, device="cuda")
    return Window(rows.x, draws, rows.labels[draws])


def _on_rows(
    counting: Counting, run: TileRun, number: int, measure: Callable[[TileRun, MemoryRows], None]
) -> Counter[Operation]:
    """The operations of measuring a number of rows: those of one block of them, and as often as
    there are others what three blocks have beyond it."""

    def of(rows: int) -> Counter[Operation]:
        split = _rows(rows, run.views[0].train.dim)
        return counting.of(partial(measure, run, split))

    block = block_rows(len(run.tile.recipes) * run.classes, CUDA)
    if 3 * block >= number:
        return of(number)
    few, many = of(block), of(3 * block)
    each = _scaled(many - few, (number / block - 1) / 2)
    return Counter({key: few[key] + each[key] for key in (*few, *each)})


def _evaluate(run: TileRun, rows: MemoryRows) -> None:
    """Measure test rows as `stage2.engine.loop` does, but for statistics on the host."""
    (view,) = run.views
    run.views = [replace(view, evaluated={"test": rows})]
    evaluation = TileEvaluation(run)
    evaluation.fit()
    for x, _ in rows.blocks():
        evaluation.evaluate("test", [x])
    run.views = [view]


def _watch(run: TileRun, rows: MemoryRows) -> None:
    """Measure val rows as after each epoch."""
    for x, y in rows.blocks():
        run.watch([x], y)


def _scaled(operations: Counter[Operation], factor: float) -> Counter[Operation]:
    return Counter({each: number * factor for each, number in operations.items()})
