"""The engine, the usual loops and the machine's ceilings, side by side on one workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from featbank import errors
from featbank.devices import find_device, threads_for
from stage2.benchmark.ceilings import cache_bytes, ceilings
from stage2.benchmark.contenders import Bench, fused, usual_loops
from stage2.benchmark.timing import Timing, interleaved
from stage2.benchmark.workloads import EPOCHS, TimedPart, Workload
from stage2.engine.plan import default_memory


def benchmark(
    workload: Workload,
    *,
    configurations: Sequence[int] = (1, 16, 64, 256),
    device: str = "auto",
    threads: int | None = None,
    repeats: int = 2,
    epochs: int | None = None,
    steps: int | None = None,
    precision: str = "fp32",
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the engine, the usual loops and the machine on one workload.

    Parameters
    ----------
    workload
        From `find_workload`.
    configurations
        Numbers of configurations to train together.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    threads
        CPU threads; by default as many as PyTorch has been given.
    repeats
        Number of measurements of everything.
    epochs, steps
        The part of the recipe to time, by one of the two; by default the workload's steps.
    precision
        That of the engine's products and of the ceilings, as in `stage2.methods.precision`; the
        loops stay at float32.
    memory
        Budget in bytes, as for `stage2.sweep`.
    progress
        Called with (runs done, runs to do).

    Returns
    -------
    Plain data for JSON. Seconds are for the whole recipe of one configuration. Quantities measured
    in every repeat are mappings with ``median``, ``min`` and ``max``; ratios are taken within a
    repeat.

    Raises
    ------
    ConfigError
        For a device that this machine lacks, or features that do not fit in memory.
    """
    place = find_device(device)
    threads = threads_for(str(place), threads)
    cache = cache_bytes(place)
    budget = memory or default_memory(place.type)
    part = workload.part(place.type, epochs, steps)
    x, y = _features(workload, place, budget)
    machine = ceilings(workload, place, threads=threads, precision=precision)
    bench = Bench(workload, x, y, threads, budget // 2, precision)
    evaluated = replace(part, test_rows=_test_rows(workload, part))
    trainings = [fused(bench, c, timed) for c in configurations for timed in (part, evaluated)]
    trainings += usual_loops(bench, part)
    timings = interleaved([*machine, *trainings], repeats, place, progress)
    rates = {timing.task.name: timing for timing in timings[: len(machine)]}
    return {
        "shape": workload.name,
        "rows": len(x),
        "dim": workload.dim,
        "classes": workload.classes,
        "batch_size": workload.batch_size,
        "epochs": EPOCHS,
        "steps": workload.steps,
        "timed_steps": part.all_steps,
        "repeats": repeats,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "threads": threads,
        "precision": precision,
        "torch": torch.__version__,
        "budget_bytes": budget,
        "cache_bytes": cache,
        "ceilings": {
            name: {
                "description": timing.task.description,
                "per_second": _spread([1 / seconds for seconds in timing.seconds]),
            }
            for name, timing in rates.items()
        },
        "feature_bytes": x.nbytes + y.nbytes,
        "measurements": _measurements(workload, rates, timings[len(machine) :], cache),
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
    workload: Workload,
    rates: Mapping[str, Timing],
    trainings: Sequence[Timing],
    cache: int,
) -> list[dict[str, Any]]:
    """One row per training: its times, and their ratios to the floor and to the engine."""
    best = max((t for t in trainings if t.task.name == "fused"), key=lambda t: t.task.amount)
    rows = []
    for timing in trainings:
        task, seconds = timing.task, timing.seconds
        row = {
            "name": task.name,
            "description": task.description,
            "configurations": int(task.amount),
            "timed_steps": None if task.name == "scikit_learn" else task.part.all_steps,
            "test_rows": task.part.test_rows,
            "seconds": _spread(seconds),
            "configurations_per_second": _spread([1 / s for s in seconds]),
            "start_seconds": timing.start,
            "memory_bytes": timing.memory,
            "times_fused": None,
            "floor": None,
        }
        if task.name == "fused":
            row["floor"] = _floor(workload, rates, timing, cache)
        elif task.name != "fused_evaluated":
            row["times_fused"] = _spread(
                [s / f for s, f in zip(seconds, best.seconds, strict=True)]
            )
        rows.append(row)
    return rows


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
        "memory_seconds": _spread(traffic),
        "seconds": _spread(floor),
        "share": _spread([f / s for f, s in zip(floor, timing.seconds, strict=True)]),
        "share_of_products": _spread(
            [o / s for o, s in zip(own_products, timing.seconds, strict=True)]
        ),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}
