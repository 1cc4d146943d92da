"""C configurations on 5 folds against as many heads without folds.

Claim: on features of the size of CIFAR-100-LT a sweep of C configurations with `folds=5`, probes
and the second round included, takes at most 1.15 times as long as an ordinary sweep of 5·C
configurations, which is as many heads. A fold trains on four fifths of the rows, so that less than
that is to be expected. docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_folds.py [--configurations 128] [--epochs 10] [--repeats 3]

Random features (N = 10,847, D = 64, K = 100, 10,000 test rows) without a classifier; crt, lws,
balanced_softmax and mislas over learning rates. Both sweeps run alternately in one process.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import alternate, random_bank, ratios, spread

from stage2 import Recipe, sweep

FOLDS = 5
NAMES = ("crt", "lws", "balanced_softmax", "mislas")


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
        seconds = alternate(
            {
                "folds": lambda: sweep(bank, recipes(count), folds=FOLDS, keep_outcomes=False),
                "heads": lambda: sweep(bank, recipes(FOLDS * count), keep_outcomes=False),
            },
            options.repeats,
        )
    print(f"{count} configurations on {FOLDS} folds: {spread(seconds['folds'])} s")
    print(f"{FOLDS * count} configurations on all rows: {spread(seconds['heads'])} s")
    print(f"folds / heads: {spread(ratios(seconds['folds'], seconds['heads']), 2)}")


if __name__ == "__main__":
    main()
