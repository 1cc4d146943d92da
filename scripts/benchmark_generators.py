"""Feature generators against the released Distribution Calibration, and against training.

Claim: rows of the tail samples of CIFAR-100-LT (D = 64) are drawn 50 times as fast as by the
released code, which calibrates each sample and calls `numpy.random.multivariate_normal` for it,
and hundreds of times as fast with D = 512. On the shape of ImageNet-LT, 1.28 million rows per
epoch, the AFG needs less than 1 GiB besides the features, and less time than a linear classifier
needs to train on its rows. docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_generators.py [FEATURES.npz] [--counts COUNTS.json]
        [--dim 64] [--repeats 5] [--windows 4] [--threads 2]

Without FEATURES.npz (x_train_instance [N, D], y_train [N]), random features of the same shape
(N = 10,847, K = 100) are used. COUNTS.json is a list of ImageNet-LT's 1,000 class counts; without
it, a curve with the same sum, largest and smallest count is used.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import torch
from measuring import ratios, seconds_of, spread
from threadpoolctl import threadpool_limits
from torch import Tensor

from featbank.devices import torch_threads
from stage2.benchmark import Workload, find_workload, with_counts
from stage2.benchmark.timing import peak_memory, reset_peak_memory
from stage2.engine.blend import finished
from stage2.engine.generation import generating
from stage2.engine.loop import group_stream
from stage2.engine.model import ViewData
from stage2.engine.plan import Shape, plan
from stage2.engine.rows import MemoryRows, Window
from stage2.engine.tile import TileRun
from stage2.methods.generators import GENERATORS, Features
from stage2.methods.recipe import Recipe
from stage2.methods.seeding import seeded

CPU = torch.device("cpu")
BETA = 0.6
EPOCHS = 10
"""Timed together for a generator, so that a measurement takes at least a tenth of the release's."""
TAIL = 20
"""Classes with fewer samples are calibrated."""


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--dim", type=int, default=64, help="of random features")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="of ImageNet-LT; 0 for none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(f"{options.threads} threads, torch {torch.__version__}, NumPy {np.__version__}")
    with torch_threads(options.threads), threadpool_limits(options.threads):
        against_numpy(_cifar(options.features, options.dim), options.repeats)
        imagenet = find_workload("imagenet-lt")
        if options.counts:
            imagenet = with_counts(imagenet, options.counts)
        if options.windows:
            against_training(imagenet, options.windows)


def _cifar(path: Path | None, dim: int) -> Features:
    if path:
        with np.load(path) as arrays:
            x, y = arrays["x_train_instance"], arrays["y_train"]
        counts = np.bincount(y)
        return Features(torch.from_numpy(x).float(), torch.from_numpy(y), 1, counts.astype(float))
    return _random(replace(find_workload("cifar100-lt"), dim=dim))


def _random(workload: Workload) -> Features:
    """Signed features around class means."""
    random = torch.Generator().manual_seed(0)
    counts = torch.from_numpy(workload.counts)
    y = torch.arange(workload.classes).repeat_interleave(counts)
    x = torch.randn(workload.rows, workload.dim, generator=random)
    means = torch.randn(workload.classes, workload.dim, generator=random)
    for rows, labels in zip(x.split(4096), y.split(4096), strict=True):
        rows.add_(means[labels])
    return Features(x, y, 1, workload.counts.astype(float))


def against_numpy(features: Features, repeats: int) -> None:
    """Time an epoch's rows of all tail samples, alternating between the generators (ten epochs at a
    time), the released Distribution Calibration, and its `multivariate_normal` calls alone."""
    ours = {name: _generator(name, features) for name in ("dc", "afg")}
    rows = _rows_of_sources(features)
    samples = _Samples.of(features, rows)
    others = {"released": samples.released, "multivariate_normal": samples.calls_alone()}
    times: dict[str, list[float]] = {name: [] for name in (*ours, *others)}
    for draw in (*ours.values(), *others.values()):
        draw()  # a first call pays for loading libraries
    for _ in range(repeats):
        for name, draw in ours.items():
            times[name].append(1000 * _seconds(draw, EPOCHS))
        for name, draw in others.items():
            times[name].append(1000 * _seconds(draw, 1))
    print(f"CIFAR-100-LT shape, {rows.sum()} rows of {len(rows)} tail samples, {repeats} runs, ms")
    for name, milliseconds in times.items():
        print(f"  {name:<20} {spread(milliseconds)}")
    for name in ours:
        for other in others:
            print(f"  {other} / {name}: {spread(ratios(times[other], times[name]))}")


def _generator(name: str, features: Features) -> Callable[[], None]:
    """Drawing of all tail rows and applying β, with class statistics and support sets prepared."""
    settings = {setting.name: setting.default for setting in GENERATORS[name].settings}
    generation = GENERATORS[name].prepare(settings, features)
    tail = torch.from_numpy(features.counts < TAIL)
    generated = torch.arange(len(generation.labels)) >= len(features.labels)
    draws = (generated & tail[generation.labels]).nonzero().view(1, -1)
    random = torch.Generator().manual_seed(0)

    def draw() -> None:
        blend = generation.make(draws, 0, random).blend
        if blend is None:
            return
        with torch_threads(1):  # as a tile of this size is trained
            torch.add(blend.base, blend.direction, alpha=settings["beta"])

    return draw


def _rows_of_sources(features: Features) -> np.ndarray:
    """Number of rows of an epoch made from each tail sample, in the order of the training rows."""
    y, counts = features.labels.numpy(), features.counts.astype(int)
    rare = np.flatnonzero(counts[y] < TAIL)
    share, more = np.divmod(counts.max() - counts, np.maximum(counts, 1))
    nth = np.array([(y[:i] == y[i]).sum() for i in rare])
    return share[y[rare]] + (nth < more[y[rare]])


@dataclass(frozen=True)
class _Samples:
    """Tail samples x̂ [n, D], rows to draw of each [n], and the means and covariances of the other
    classes as lists of arrays."""

    points: np.ndarray
    rows: np.ndarray
    means: list[np.ndarray]
    covariances: list[np.ndarray]

    @staticmethod
    def of(features: Features, rows: np.ndarray) -> _Samples:
        """Samples and statistics in float64."""
        x, y = features.x.numpy().astype(np.float64), features.labels.numpy()
        base = np.flatnonzero(features.counts >= TAIL)
        means = [x[y == k].mean(0) for k in base]
        covariances = [np.cov(x[y == k].T) for k in base]
        points = x[features.counts[y] < TAIL]
        return _Samples(np.sign(points) * np.sqrt(np.abs(points)), rows, means, covariances)

    def _each(self) -> Iterator[tuple[np.ndarray, int]]:
        return zip(self.points, self.rows, strict=True)

    def calibrated(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of a sample, step by step as its authors released it."""
        distance = [np.linalg.norm(point - mean) for mean in self.means]
        near = np.argpartition(distance, 2)[:2]
        mean = np.mean(np.concatenate([np.array(self.means)[near], point[None]]), axis=0)
        return mean, np.mean(np.array(self.covariances)[near], axis=0) + 0.21

    def released(self) -> None:
        """Calibrate each sample, draw its rows in one call, and concatenate them."""
        drawn = []
        for point, rows in self._each():
            drawn.append(np.random.multivariate_normal(*self.calibrated(point), rows))
        np.concatenate(drawn)

    def calls_alone(self) -> Callable[[], None]:
        """The same `multivariate_normal` calls, with means and covariances computed beforehand."""
        calls = [(*self.calibrated(point), rows) for point, rows in self._each()]

        def draw() -> None:
            for mean, covariance, rows in calls:
                np.random.multivariate_normal(mean, covariance, rows)

        return draw


def against_training(workload: Workload, windows: int) -> None:
    """Time generating windows of an epoch and training on them, and extrapolate to the epoch."""
    features = _random(workload)
    recipe = Recipe(
        "crt",
        generator="afg",
        beta_step=0.0,
        sampler="instance",
        batch_size=workload.batch_size,
        epochs=1,
    )
    shape = Shape.of(workload.counts, workload.dim)
    [group] = plan([recipe], shape, memory=4 << 30)
    rows = MemoryRows(features.x, features.labels)
    bank = ViewData(rows, {}, features.counts, workload.counts)

    reset_peak_memory(CPU)
    held = peak_memory(CPU)
    start = time.perf_counter()
    view = generating(bank, group.stream)
    preparation = time.perf_counter() - start
    beta = torch.where(torch.from_numpy(features.counts < TAIL), BETA, 0.0)
    [draws] = group_stream(group.stream, view.train.labels)
    for _, _window in zip(range(2), _windows(view, draws, beta), strict=False):
        pass  # the second is generated while the first is held, as in training
    memory = peak_memory(CPU) - held

    run = TileRun(group.tiles[0], group.stream, (view,))
    run.begin_epoch(0)
    generation, training = [], []
    epoch = _windows(view, draws, beta)
    for _ in range(windows):
        start = time.perf_counter()
        window = next(epoch)
        middle = time.perf_counter()
        run.train(0, window, Event())
        scale = draws.numel() / window.y.numel()
        generation.append((middle - start) * scale)
        training.append((time.perf_counter() - middle) * scale)
    print(f"ImageNet-LT shape, {draws.numel()} rows an epoch, {windows} of {scale:.0f} windows")
    print(f"  statistics and support sets, once: {preparation:.1f} s")
    print(f"  generating the rows of an epoch: {spread(generation)} s")
    print(f"  training a linear classifier on them: {spread(training)} s")
    print(f"  training / generating: {spread(ratios(training, generation))}")
    print(f"  peak memory besides the features: {memory / 2**30:.2f} GiB")


def _windows(view: ViewData, draws: Tensor, beta: Tensor) -> Iterator[Window]:
    """An epoch's windows as the classifier sees them."""
    for window in view.train.windows(draws, seeded(0, "windows"), 0):
        yield finished(window, beta)


def _seconds(run: Callable[[], None], calls: int) -> float:
    """Seconds per call."""
    time.sleep(0.1)  # threads of the run before keep spinning for a while
    return seconds_of(lambda: [run() for _ in range(calls)]) / calls


if __name__ == "__main__":
    main()
