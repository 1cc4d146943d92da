"""Drawing features: the AFG beside NumPy's multivariate_normal, and beside training on its rows.

Claim: on the shape of CIFAR-100-LT the AFG draws rows of tail samples several times as fast as one
call of `numpy.random.multivariate_normal` per sample, the way Distribution Calibration was
released; on the shape of ImageNet-LT, 1.28 million rows an epoch, it takes less than 1 GiB beside
the features, and less time than the linear classifier takes to train on those rows.
docs/performance.md has the figures; this script measures them:

    .venv/bin/python scripts/benchmark_generators.py [FEATURES.npz] [--counts COUNTS.json]
        [--repeats 5] [--windows 4] [--threads 2]

Without FEATURES.npz (x_train_instance [N, D], y_train [N]) random features of the same shape
(N = 10,847, D = 64, K = 100) take its place. COUNTS.json is a list of ImageNet-LT's 1,000 class
counts; without it a curve of the same sum, largest and smallest count does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from stage2.benchmark import Workload, find_workload, with_counts
from stage2.benchmark.timing import peak_memory, reset_peak_memory, torch_threads
from stage2.engine.blend import finished
from stage2.engine.generation import generating
from stage2.engine.loop import group_stream
from stage2.engine.model import ViewData
from stage2.engine.plan import Shape, plan
from stage2.engine.stream import MemoryRows, Window
from stage2.engine.tile import TileRun
from stage2.methods.generators import GENERATORS, Features
from stage2.methods.neighbors import supports
from stage2.methods.recipe import Recipe
from stage2.methods.seeding import seeded

CPU = torch.device("cpu")
SETTINGS = {setting.name: setting.default for setting in GENERATORS["afg"].settings}
TAIL = 20
"""Classes with fewer samples are calibrated."""


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="of an ImageNet-LT epoch")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(f"{options.threads} threads, torch {torch.__version__}, NumPy {np.__version__}")
    with torch_threads(options.threads), threadpool_limits(options.threads):
        against_numpy(_cifar(options.features), options.repeats)
        imagenet = find_workload("imagenet-lt")
        if options.counts:
            imagenet = with_counts(imagenet, options.counts)
        against_training(imagenet, options.windows)


def _cifar(path: Path | None) -> Features:
    if path:
        with np.load(path) as arrays:
            x, y = arrays["x_train_instance"], arrays["y_train"]
        counts = np.bincount(y)
        return Features(torch.from_numpy(x).float(), torch.from_numpy(y), 1, counts.astype(float))
    return _random(find_workload("cifar100-lt"))


def _random(workload: Workload) -> Features:
    """Signed features around a mean of each class."""
    random = torch.Generator().manual_seed(0)
    counts = torch.from_numpy(workload.counts)
    y = torch.arange(workload.classes).repeat_interleave(counts)
    x = torch.randn(workload.rows, workload.dim, generator=random)
    means = torch.randn(workload.classes, workload.dim, generator=random)
    for rows, labels in zip(x.split(4096), y.split(4096), strict=True):
        rows.add_(means[labels])
    return Features(x, y, 1, workload.counts.astype(float))


def against_numpy(features: Features, repeats: int) -> None:
    """Time an epoch's rows of all tail samples by both, in turn; class statistics and support sets
    are there before."""
    generation = GENERATORS["afg"].prepare(SETTINGS, features)
    tail = torch.from_numpy(features.counts < TAIL)
    made = (torch.arange(len(generation.labels)) >= len(features.labels)) & tail[generation.labels]
    draws = made.nonzero().view(1, -1)
    random = torch.Generator().manual_seed(0)

    def ours() -> None:
        blend = generation.make(draws, 0, random).blend
        assert blend is not None
        blend.finish(torch.add(blend.base, blend.direction, alpha=SETTINGS["beta"]))

    released = _released(features, draws.numel())
    ratios, rates = [], []
    _seconds(ours)  # a first call pays for PyTorch's own start
    for _ in range(repeats):
        times = _seconds(released), _seconds(ours)
        rates.append([draws.numel() / 1000 / t for t in times])
        ratios.append(times[0] / times[1])
    theirs, own = zip(*rates, strict=True)
    print(f"CIFAR-100-LT shape, {draws.numel()} rows of tail samples, {repeats} runs")
    print(f"  multivariate_normal per sample: {_told(theirs)} thousand rows a second")
    print(f"  afg: {_told(own)} thousand rows a second")
    print(f"  afg / multivariate_normal: {_told(ratios)}")


@dataclass(frozen=True)
class _Source:
    """A tail sample: its class, x̂ [D], support classes, their weights, and rows to draw."""

    label: int
    point: np.ndarray
    support: np.ndarray
    weight: np.ndarray
    rows: int


def _released(features: Features, rows: int) -> Callable[[], None]:
    """One call per sample with its calibrated mean and covariance, in float64, `rows` in all."""
    x, y = features.x.numpy().astype(np.float64), features.labels.numpy()
    counts = features.counts.astype(int)
    filled = np.flatnonzero(counts)
    means = np.zeros((len(counts), x.shape[1]))
    covariances: dict[int, np.ndarray] = {}
    for k in filled:
        means[k] = x[y == k].mean(0)
        away = x[y == k] - means[k]
        covariances[k] = away.T @ away / max(1, counts[k] - 1)
    rare = np.flatnonzero(counts[y] < TAIL)
    points = np.sign(x[rare]) * np.sqrt(np.abs(x[rare]))
    distance, support = supports(
        *(torch.from_numpy(a) for a in (points.astype(np.float32), y[rare])),
        torch.from_numpy(means).float(),
        torch.from_numpy(features.counts),
        SETTINGS["support"],
    )
    weight = counts[support.numpy()] / distance.numpy()
    weight /= weight.sum(1, keepdims=True)
    share, more = np.divmod(counts.max() - counts, np.maximum(counts, 1))
    nth = [int((y[:i] == y[i]).sum()) for i in rare]
    sources = [
        _Source(k, point, s, w, int(share[k] + (n < more[k])))
        for k, point, s, w, n in zip(y[rare], points, support.numpy(), weight, nth, strict=True)
    ]
    assert sum(source.rows for source in sources) == rows
    beta, noise = SETTINGS["beta"], SETTINGS["gamma"] * np.eye(x.shape[1])

    def draw() -> None:
        for source in sources:
            lent = source.weight @ means[source.support]
            covariance = (1 - beta) ** 2 * covariances[source.label] + noise
            for j, weight in zip(source.support, source.weight, strict=True):
                covariance = covariance + beta**2 * weight * covariances[j]
            mean = (1 - beta) * source.point + beta * lent
            drawn = np.random.multivariate_normal(mean, covariance, source.rows)
            _ = drawn * np.abs(drawn)

    return draw


def against_training(workload: Workload, windows: int) -> None:
    """Time some windows of an epoch, made and trained on in turn, and scale them to the epoch."""
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
    begun = time.perf_counter()
    view = generating(bank, group.stream)
    prepared = time.perf_counter() - begun
    beta = torch.where(torch.from_numpy(features.counts < TAIL), SETTINGS["beta"], 0.0)
    [draws] = group_stream(group.stream, view.train.labels)
    for _, _window in zip(range(2), _made(view, draws, beta), strict=False):
        pass  # the second is made while the first is held, as in training
    memory = peak_memory(CPU) - held

    run = TileRun(group.tiles[0], group.stream, (view,))
    run.begin_epoch(0)
    making, training = [], []
    epoch = _made(view, draws, beta)
    for _ in range(windows):
        begun = time.perf_counter()
        window = next(epoch)
        middle = time.perf_counter()
        run.train(0, window, Event())
        each = draws.numel() / window.y.numel()
        making.append((middle - begun) * each)
        training.append((time.perf_counter() - middle) * each)
    ratios = [t / m for t, m in zip(training, making, strict=True)]
    print(f"ImageNet-LT shape, {draws.numel()} rows an epoch, from {windows} of {each:.0f} windows")
    print(f"  statistics and support sets, once: {prepared:.1f} s")
    print(f"  making the rows of an epoch: {_told(making)} s")
    print(f"  training a linear classifier on them: {_told(training)} s")
    print(f"  training / making: {_told(ratios)}")
    print(f"  peak memory beside the features: {memory / 2**30:.2f} GiB")


def _made(view: ViewData, draws: Tensor, beta: Tensor) -> Iterator[Window]:
    """An epoch's windows as the classifier sees them."""
    for window in view.train.windows(draws, seeded(0, "windows"), 0):
        yield finished(window, beta)


def _seconds(run: Callable[[], None]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _told(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.1f} ({min(values):.1f} … {max(values):.1f})"


if __name__ == "__main__":
    main()
