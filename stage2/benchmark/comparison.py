"""The engine, its opponents and the machine's ceilings, side by side on one workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from featbank import errors
from featbank.devices import find_device, threads_for
from stage2.benchmark.ceilings import CEILINGS, cache_bytes, ceilings
from stage2.benchmark.contenders import MANY, Bench, checked, fused, opposed
from stage2.benchmark.opponents import OPPONENTS
from stage2.benchmark.timing import Task, Timing, interleaved
from stage2.benchmark.workloads import EPOCHS, TimedPart, Workload
from stage2.engine.native.library import description
from stage2.engine.plan import default_memory


def benchmark(
    workload: Workload,
    *,
    configurations: Sequence[int] = (1, 16, 64, 256),
    device: str = "auto",
    threads: Sequence[int] | None = None,
    repeats: int = 2,
    epochs: int | None = None,
    steps: int | None = None,
    precision: str = "fp32",
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the engine, its opponents and the machine on one workload.

    Parameters
    ----------
    workload
        From `find_workload`.
    configurations
        Numbers of configurations to train together.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    threads
        Numbers of CPU threads; by default one, and as many as PyTorch has been given. Beside a GPU
        it is one.
    repeats
        Number of measurements of everything.
    epochs, steps
        The part of the recipe to time, by one of the two; by default the workload's steps.
    precision
        That of the engine's products and of the ceilings, as in `stage2.methods.precision`;
        opponents stay at float32, on a GPU with products in tf32 where the engine has less.
    memory
        Budget in bytes, as for `stage2.sweep`.
    progress
        Called with (runs done, runs to do).

    Returns
    -------
    Plain data for JSON. Seconds are for the whole recipe of one configuration. Quantities measured
    in every repeat are mappings with ``median``, ``min`` and ``max``; ratios are taken within a
    repeat. ``comparisons`` has the best opponent for each number of threads and configurations.

    Raises
    ------
    ConfigError
        For a device that this machine lacks, or features that do not fit in memory.
    AssertionError
        Where an opponent does not train what the engine trains.
    """
    place = find_device(device)
    counts = sorted({threads_for(str(place), t) for t in threads or (1, None)})
    cache = cache_bytes(place)
    budget = memory or default_memory(place)
    part = workload.part(place.type, epochs, steps)
    x, y = _features(workload, place, budget)
    bench = Bench(workload, x, y, budget // 2, precision)
    evaluated = replace(part, test_rows=_test_rows(workload, part))
    tasks: list[Task] = []
    names = {c: checked(bench, c) for c in configurations}
    for t in counts:
        tasks += ceilings(workload, place, threads=t, precision=precision)
        for c in configurations:
            tasks += [fused(bench, c, timed, t) for timed in (part, evaluated)]
            tasks += [opposed(bench, name, c, part, t) for name in names[c]]
    timings = interleaved(tasks, repeats, place, progress)
    machine = [timing for timing in timings if timing.task.name in CEILINGS]
    trainings = [timing for timing in timings if timing.task.name not in CEILINGS]
    measurements = _measurements(workload, machine, trainings, cache)
    return {
        "shape": workload.name,
        "rows": len(x),
        "dim": workload.dim,
        "classes": workload.classes,
        "batch_size": workload.batch_size,
        "epochs": EPOCHS,
        "steps": workload.steps,
        "timed_steps": part.all_steps,
        "many": MANY,
        "repeats": repeats,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "threads": counts,
        "precision": precision,
        "trained_by": description() if str(place) == "cpu" else "PyTorch and Triton",
        "torch": torch.__version__,
        "budget_bytes": budget,
        "cache_bytes": cache,
        "ceilings": [
            {
                "name": timing.task.name,
                "description": timing.task.description,
                "threads": timing.task.threads,
                "per_second": _spread([1 / seconds for seconds in timing.seconds]),
            }
            for timing in machine
        ],
        "feature_bytes": x.nbytes + y.nbytes,
        "measurements": measurements,
        "comparisons": _comparisons(trainings),
    }


def _features(workload: Workload, device: torch.device, budget: int) -> tuple[Tensor, Tensor]:
    """Random features [N, D] of norm about 8, as from a backbone, and shuffled labels [N]."""
    rows, dim = workload.rows, workload.dim
    if 4 * rows * dim > budget // 2:
        raise errors.ConfigError(
            f"The features of {workload.name} take {4 * rows * dim / 2**30:.1f} GiB, half the "
            f"memory budget is {budget / 2**31:.1f} GiB. Choose a smaller shape."
        )
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, dim, device=device, generator=generator).mul_(8 / dim**0.5)
    y = torch.arange(workload.classes).repeat_interleave(torch.from_numpy(workload.counts))
    order = torch.randperm(rows, device=device, generator=generator)
    return x, y.to(device)[order]


def _test_rows(workload: Workload, part: TimedPart) -> int:
    """Test rows in proportion to the steps of `part`."""
    return max(1, round(workload.test_rows * part.all_steps / workload.steps))


def _measurements(
    workload: Workload, machine: Sequence[Timing], trainings: Sequence[Timing], cache: int
) -> list[dict[str, Any]]:
    """One row per training: its times, and their ratios to the floor or to the engine."""
    rows = []
    for timing in trainings:
        task, seconds = timing.task, timing.seconds
        floor = times_fused = None
        if task.name == "fused":
            floor = _floor(workload, _rates(machine, task.threads), timing, cache)
        elif task.name in OPPONENTS:
            times_fused = _ratio(timing, _engine(trainings, task))
        rows.append(
            {
                "name": task.name,
                "description": task.description,
                "configurations": int(task.amount),
                "threads": task.threads,
                "timed_steps": None if _solves(task) else task.part.all_steps,
                "test_rows": task.part.test_rows,
                "seconds": _spread(seconds),
                "configurations_per_second": _spread([1 / s for s in seconds]),
                "start_seconds": timing.start,
                "memory_bytes": timing.memory,
                "times_fused": times_fused,
                "floor": floor,
            }
        )
    return rows


def _comparisons(trainings: Sequence[Timing]) -> list[dict[str, Any]]:
    """The best opponent of each number of threads and configurations, and the engine's ratio to it.

    An opponent may use fewer threads and train fewer configurations together: it then trains them
    one part after the other. Solvers do other work and are none.
    """
    rows = []
    for engine in trainings:
        task = engine.task
        rivals = [
            other
            for other in trainings
            if other.task.name in OPPONENTS
            and not _solves(other.task)
            and other.task.amount <= task.amount
            and other.task.threads <= task.threads
        ]
        if task.name != "fused" or not rivals:
            continue
        best = min(rivals, key=lambda other: median(other.seconds))
        rows.append(
            {
                "threads": task.threads,
                "configurations": int(task.amount),
                "seconds": _spread(engine.seconds),
                "best": best.task.name,
                "best_threads": best.task.threads,
                "best_configurations": int(best.task.amount),
                "best_seconds": _spread(best.seconds),
                "ratio": _ratio(best, engine),
            }
        )
    return rows


def _solves(task: Task) -> bool:
    return task.name in OPPONENTS and OPPONENTS[task.name].solver


def _rates(machine: Sequence[Timing], threads: int) -> dict[str, Timing]:
    """The ceilings at a number of threads, by name."""
    return {t.task.name: t for t in machine if t.task.threads == threads}


def _engine(trainings: Sequence[Timing], task: Task) -> Timing:
    """The engine's timing at the threads and configurations of another task."""
    return next(
        t
        for t in trainings
        if t.task.name == "fused" and (t.task.threads, t.task.amount) == (task.threads, task.amount)
    )


def _ratio(timing: Timing, engine: Timing) -> dict[str, float]:
    """Times of the engine's time, within a repeat."""
    return _spread([s / e for s, e in zip(timing.seconds, engine.seconds, strict=True)])


def _floor(
    workload: Workload, rates: Mapping[str, Timing], timing: Timing, cache: int
) -> dict[str, Any]:
    """The floor of a configuration, and its share of a training's time.

    ``share_of_products`` replaces the rate of a large product by that of the engine's own shapes.
    """
    moved = workload.moved(int(timing.task.amount), cache)
    products = [workload.flops * s for s in rates["product"].seconds]
    own_products = [workload.flops * s for s in rates["own_products"].seconds]
    traffic = [moved * s for s in rates["copy"].seconds]
    floor = [max(pair) for pair in zip(products, traffic, strict=True)]
    return {
        "flops": workload.flops,
        "bytes": moved,
        "product_seconds": _spread(products),
        "own_products_seconds": _spread(own_products),
        "memory_seconds": _spread(traffic),
        "seconds": _spread(floor),
        "share": _spread([f / s for f, s in zip(floor, timing.seconds, strict=True)]),
        "share_of_products": _spread(
            [o / s for o, s in zip(own_products, timing.seconds, strict=True)]
        ),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}
