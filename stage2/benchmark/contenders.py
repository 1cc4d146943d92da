"""The tasks to compare: the engine at several numbers of configurations, and the usual loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from featbank.devices import torch_threads
from stage2.benchmark import loops
from stage2.benchmark.timing import Task
from stage2.benchmark.workloads import MOMENTUM, WEIGHT_DECAY, TimedPart, Workload
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.plan import Shape, plan
from stage2.engine.rows import MemoryRows
from stage2.methods.recipe import Recipe

MODULE_HEADS = (16, 64)
"""Heads of the ModuleDict, which trains a quarter of the others' steps."""

SMALL_STEP = 10**9
"""Floating-point operations per step up to which a usual loop gets one thread, because more would
slow it down."""

SCIKIT_LEARN_LIMIT = 10**9
"""N·D·K above which scikit-learn is skipped."""


@dataclass(frozen=True)
class Bench:
    """Common inputs of the trainings: features x [N, D], labels y [N], and the engine's options."""

    workload: Workload
    x: Tensor
    y: Tensor
    threads: int
    memory: int
    precision: str


def fused(bench: Bench, configs: int, part: TimedPart) -> Task:
    """The engine on `configs` learning rates, with an evaluation where the part has test rows."""
    workload, x, y = bench.workload, bench.x, bench.y
    view = ViewData(
        train=MemoryRows(x, y),
        evaluated={},
        counts=workload.counts.astype(float),
        full_counts=workload.counts,
    )

    @functools.cache
    def recipes(part: TimedPart) -> list[Recipe]:
        return [
            Recipe(
                "ce",
                lr=lr,
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                schedule="cosine",
                epochs=part.epochs,
                steps_per_epoch=part.steps,
                batch_size=workload.batch_size,
                precision=bench.precision,
            )
            for lr in loops.learning_rates(configs)
        ]

    def run(part: TimedPart) -> None:
        rows = slice(part.test_rows)
        test = {"test": MemoryRows(x[rows], y[rows])} if part.test_rows else {}
        groups = plan(
            recipes(part),
            Shape.of(workload.counts, workload.dim),
            memory=bench.memory,
            device=x.device.type,
            workers=bench.threads,
        )
        for group in groups:
            run_group(group, replace(view, evaluated=test), workers=bench.threads)

    recipes(part)  # cached: checking settings is not part of the engine
    tested = f", and {workload.test_rows:,} test rows evaluated" if part.test_rows else ""
    description = f"featbank, {configs} together{tested}"
    name = "fused_evaluated" if part.test_rows else "fused"
    return Task(name, description, run, configs, part, workload.steps / part.all_steps)


def usual_loops(bench: Bench, part: TimedPart) -> list[Task]:
    """The loops of `stage2.benchmark.loops` as tasks."""
    workload, data = bench.workload, (bench.x, bench.y, bench.workload)
    host = bench.x.cpu(), bench.y.cpu()
    step = 4 * workload.batch_size * workload.dim * workload.classes
    threads = 1 if step <= SMALL_STEP else bench.threads
    on_threads = f"{threads} thread{'s' * (threads > 1)}"
    fewer = TimedPart(1, max(1, min(part.all_steps // 4, workload.epoch_steps)))

    def task(name: str, text: str, run: Callable, part: TimedPart, *, heads: int = 1) -> Task:
        scale = workload.steps / part.all_steps
        return Task(name, text, torch_threads(threads)(run), heads, part, scale)

    plain = torch_threads(1)(functools.partial(loops.plain_loop, *data))
    loader = functools.partial(loops.loader_loop, *host, workload, bench.x.device)
    tasks = [
        task("plain_loop", "a plain PyTorch loop, tensors in memory, 1 thread", plain, part),
        task("data_loader", f"a DataLoader loop, num_workers=0, {on_threads}", loader, part),
    ]
    for heads in MODULE_HEADS:
        text = f"a ModuleDict of {heads} heads over one batch, {on_threads}"
        run = functools.partial(loops.module_dict, *data, heads)
        tasks.append(task("module_dict", text, run, fewer, heads=heads))
    if workload.rows * workload.dim * workload.classes <= SCIKIT_LEARN_LIMIT:
        text = f"scikit-learn's LogisticRegression, lbfgs to its end, {bench.threads} threads"
        fit = functools.partial(loops.logistic_regression, *host, bench.threads)
        tasks.append(Task("scikit_learn", text, lambda _: fit(), 1))
    return tasks
