"""The clock: tasks in turn, repeat after repeat, with their peak memory."""

from __future__ import annotations

import contextlib
import gc
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from stage2.benchmark.workloads import TimedPart


@dataclass(frozen=True)
class Task:
    """A task to time.

    Attributes
    ----------
    name, description
        For the table.
    run
        Runs it once, for the given part.
    amount
        Configurations that it trains, floating-point operations or bytes moved.
    part
        The part of the recipe to train.
    scale
        Factor from its seconds to those of the recipe: the recipe's steps over the part's.
    threads
        CPU threads that it has.
    """

    name: str
    description: str
    run: Callable[[TimedPart], object]
    amount: float
    part: TimedPart = field(default=TimedPart(1, 1))
    scale: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class Timing:
    """Time and memory of a task.

    Attributes
    ----------
    task
        The task.
    seconds
        By repeat, scaled, per unit of the task's amount.
    start
        Seconds by which the first step exceeded the average one: compiling, tuning, set-up.
    memory
        Peak bytes above those held before; 0 where the system does not report them.
    """

    task: Task
    seconds: list[float]
    start: float
    memory: int


def interleaved(
    tasks: Sequence[Task],
    repeats: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time tasks in turn, `repeats` times, after a first step of each that is timed separately."""
    peaks: list[list[int]] = [[] for _ in tasks]
    first = [_seconds(task, replace(task.part, epochs=1, steps=1), device) for task in tasks]
    later: list[list[float]] = [[] for _ in tasks]
    gc.collect()
    gc.freeze()  # objects that exist now need no search before every task
    try:
        for repeat in range(repeats):
            for i, task in enumerate(tasks):
                gc.collect()  # so that garbage of other tasks is not freed in this one's time
                reset_peak_memory(device)
                held = peak_memory(device)
                later[i].append(_seconds(task, task.part, device))
                peaks[i].append(peak_memory(device) - held)
                if progress:
                    progress(repeat * len(tasks) + i + 1, repeats * len(tasks))
    finally:
        gc.unfreeze()
    return [
        Timing(
            task=task,
            seconds=[task.scale * s / task.amount for s in seconds],
            start=max(0.0, started - statistics.median(seconds) / task.part.all_steps),
            memory=max(0, *memory),
        )
        for task, started, seconds, memory in zip(tasks, first, later, peaks, strict=True)
    ]


def _seconds(task: Task, part: TimedPart, device: torch.device) -> float:
    _synchronise(device)
    started = time.perf_counter()
    task.run(part)
    _synchronise(device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak to the present size


def peak_memory(device: torch.device) -> int:
    """Bytes allocated on a GPU, or resident in this process; 0 where the system reports none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        if peak := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return 1024 * int(peak[1])
    return 0
