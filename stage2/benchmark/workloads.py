"""The shapes to measure, and the floor of their time.

The recipe is a linear head under cross-entropy, SGD with momentum 0.9 and weight decay 5e-4, a
cosine schedule over 10 epochs. The floor of a configuration is the larger of its FLOPs over the
rate of a large product and its bytes over the rate of a large copy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featbank import errors

EPOCHS = 10
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
RATES = (0.01, 0.1)
"""Smallest and largest learning rate of several configurations."""

SIDE_BY_SIDE = 16
"""Configurations that make one large product."""


@dataclass(frozen=True)
class TimedPart:
    """The timed part of the recipe: epochs, steps of each, and test rows evaluated, if any."""

    epochs: int
    steps: int
    test_rows: int = 0

    @property
    def all_steps(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps


@dataclass(frozen=True)
class Workload:
    """Sizes of the features and of the recipe.

    Attributes
    ----------
    name
        Name on the command line.
    counts
        Training counts [K].
    dim, batch_size, test_rows
        D, B, and the rows of an evaluation.
    cpu_steps, gpu_steps
        Steps timed by default; 0 where the shape is too large for a CPU. All of a small recipe:
        the time of a part is scaled, and with it that of its set-up.
    """

    name: str
    counts: np.ndarray
    dim: int
    batch_size: int
    test_rows: int
    cpu_steps: int
    gpu_steps: int

    @property
    def rows(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def epoch_steps(self) -> int:
        """⌊N/B⌋."""
        return self.rows // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole recipe."""
        return EPOCHS * self.epoch_steps

    @property
    def flops(self) -> int:
        """Floating-point operations of one configuration, 4·B·D·K a step: two products, as frozen
        features need no gradient."""
        return 4 * self.steps * self.batch_size * self.dim * self.classes

    def moved(self, configs: int, cache: int) -> float:
        """Bytes that each of `configs` configurations must move past a cache of `cache` bytes.

        This is a minimum over all orders of the work. Parameters and velocity are read and written
        in every step where those of `SIDE_BY_SIDE` configurations exceed the cache; otherwise the
        result is written once. Features are read in every epoch where they exceed it, otherwise
        once, for all configurations together.
        """
        n, d, k = self.rows, self.dim, self.classes
        rows_read = self.steps * self.batch_size if 4 * n * d > cache else n
        state = 8 * k * d * min(configs, SIDE_BY_SIDE)
        written = 16 * k * d * self.steps if state > cache else 4 * k * d
        return 4 * d * rows_read / configs + written

    def part(self, device: str, epochs: int | None = None, steps: int | None = None) -> TimedPart:
        """The part of the recipe to time on ``cpu`` or ``cuda``.

        Raises
        ------
        ConfigError
            Where both `epochs` and `steps` are given, or neither and the shape is for GPUs only.
        """
        if epochs and steps:
            raise errors.ConfigError("Both epochs and steps are given. Leave one of them out.")
        default = self.gpu_steps if device == "cuda" else self.cpu_steps
        wanted = min(epochs * self.epoch_steps if epochs else steps or default, self.steps)
        if not wanted:
            raise errors.ConfigError(
                f"Shape {self.name} is measured on a GPU. Choose another shape, or give steps."
            )
        if wanted < self.epoch_steps:
            return TimedPart(1, wanted)
        return TimedPart(wanted // self.epoch_steps, self.epoch_steps)


def long_tail(largest: int, smallest: int, classes: int, bend: float = 1.0) -> np.ndarray:
    """Class counts n_k = ⌊n_max·(n_min/n_max)^(t^bend)⌋, t = k/(K−1); exponential at bend 1."""
    t = np.linspace(0, 1, classes) ** bend
    return np.floor(largest * (smallest / largest) ** t + 1e-9).astype(np.int64)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("cifar100-lt", long_tail(500, 5, 100), 64, 128, 10_000, 840, 840),
        Workload("imagenet-lt", long_tail(1280, 5, 1000, 0.622656), 2048, 512, 50_000, 4, 226),
        Workload("places-lt", long_tail(4980, 5, 365, 0.4465), 2048, 512, 36_500, 8, 122),
        Workload("inaturalist2018", long_tail(1000, 2, 8142, 0.5163655), 2048, 512, 24_426, 0, 85),
    )
}
"""Workloads by name; with these bends, N, n_max and n_min are those of the data sets."""


def find_workload(name: str) -> Workload:
    """The workload called `name`, or one of sizes ``N,D,K`` or ``N,D,K,B`` and equal classes.

    Raises
    ------
    ConfigError
        For another name, or sizes that leave nothing to train.
    """
    if name in WORKLOADS:
        return WORKLOADS[name]
    try:
        rows, dim, classes, batch_size = (*map(int, name.split(",")), 128)[:4]
    except ValueError:
        raise errors.ConfigError(
            f"Unknown shape {name!r}. Write N,D,K or N,D,K,B, or choose from: "
            f"{', '.join(WORKLOADS)}."
        ) from None
    if min(dim, batch_size) < 1 or not 2 <= classes <= rows:
        raise errors.ConfigError(
            f"Shape {name} leaves nothing to train. Write N,D,K with 2 ≤ K ≤ N and D ≥ 1."
        )
    counts = np.full(classes, rows // classes)
    counts[: rows % classes] += 1
    return Workload(name, counts, dim, min(batch_size, rows), rows, 200, 200)


def with_counts(workload: Workload, path: Path) -> Workload:
    """The workload with the class counts of a JSON file, a list of K integers.

    Raises
    ------
    ConfigError
        For anything else in the file.
    """
    try:
        counts = np.array(json.loads(path.read_text()), dtype=np.int64)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise errors.ConfigError(
            f"{path} is not a list of class counts ({errors.first_line(error)}). Write a JSON list "
            f"of {workload.classes} integers."
        ) from None
    if counts.shape != (workload.classes,) or counts.min() < 1:
        raise errors.ConfigError(
            f"{path} has {counts.size} numbers, shape {workload.name} has {workload.classes} "
            "classes. Write one count of at least 1 for each class."
        )
    rows = int(counts.sum())
    return replace(workload, counts=counts, batch_size=min(workload.batch_size, rows))
