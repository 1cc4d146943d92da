"""C configurations on 5 folds against as many heads without folds.

Claim: on features of the size of CIFAR-100-LT a sweep of C configurations with `folds=5`, the
second round included, takes at most 1.15 times as long as an ordinary sweep of 5·C
configurations, which is as many heads. A fold trains on four fifths of the rows, so that less than
that is to be expected. docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_folds.py [--configurations 128] [--epochs 10] [--repeats 3]

Random features (N = 10,847, D = 64, K = 100, 10,000 test rows) without a classifier; crt and
balanced_softmax over learning rates. Both sweeps run alternately in one process. Times are those of
the processor, which other programs on the machine hardly lengthen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measuring import random_bank, ratios, spread

from stage2 import Recipe, sweep

FOLDS = 5
NAMES = ("crt", "balanced_softmax")


def main() -> None:
    """Print the time of both sweeps and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    count = options.configurations

    def recipes(number: int) -> list[Recipe]:
        rates = np.geomspace(0.01, 1.0, number // len(NAMES))
        return [
            Recipe(name, lr=float(lr), epochs=options.epochs, view="instance", seed=0)
            for name in NAMES
            for lr in rates
        ]

    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank.h5"
        random_bank(bank, {"test": 100}, classifier=False)
        few = recipes(len(NAMES))
        _seconds(bank, few, folds=FOLDS)  # warms up
        seconds: dict[str, list[float]] = {"folds": [], "heads": []}
        for _ in range(options.repeats):
            seconds["folds"].append(_seconds(bank, recipes(count), folds=FOLDS))
            seconds["heads"].append(_seconds(bank, recipes(FOLDS * count)))
    print(f"{count} configurations on {FOLDS} folds: {spread(seconds['folds'])} s")
    print(f"{FOLDS * count} configurations on all rows: {spread(seconds['heads'])} s")
    print(f"folds / heads: {spread(ratios(seconds['folds'], seconds['heads']), 2)}")


def _seconds(bank: Path, recipes: Sequence[Recipe], folds: int | None = None) -> float:
    """Processor seconds of a sweep."""
    start = time.process_time()
    sweep(bank, recipes, folds=folds, keep_outcomes=False, workers=1)
    return time.process_time() - start


if __name__ == "__main__":
    main()
