"""Shared by the benchmark scripts: alternating runs, printed spreads, a random bank."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from featbank import write_bank
from stage2.benchmark import find_workload


def seconds_of(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a call, by default of the wall clock."""
    start = clock()
    run()
    return clock() - start


def alternate(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in each repeat; all take turns, after one untimed call that warms up."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, clock))
    return seconds


def ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Ratios within a repeat."""
    return [a / b for a, b in zip(seconds, reference, strict=True)]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range, as in ``median 1.2 (1.1 … 1.4)``."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"median {middle:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def random_bank(
    path: Path,
    test_rows: Mapping[str, int],
    views: Sequence[str] = ("instance",),
    *,
    classifier: bool = True,
) -> None:
    """Write Gaussian classes of the shape of CIFAR-100-LT (N = 10,847, D = 64, K = 100).

    `test_rows` are the rows of a class in splits such as val and test; the class means are the
    stage-1 classifier, if there is to be one.
    """
    rng = np.random.default_rng(0)
    workload = find_workload("cifar100-lt")
    means = rng.normal(size=(workload.classes, workload.dim)).astype(np.float32)
    rows = {"train": workload.counts, **test_rows}
    labels = {split: np.repeat(np.arange(workload.classes), count) for split, count in rows.items()}
    features = {}
    for split, y in labels.items():
        noise = 2.5 * rng.normal(size=(len(views), len(y), workload.dim))
        features[split] = dict(zip(views, (means[y] + noise).astype(np.float32), strict=True))
    start = {"instance": (means, None)} if classifier else None
    write_bank(path, features, labels, classifier=start)
