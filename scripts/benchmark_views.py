"""Views joined from two against one view of their size.

Claim: a sweep on ``view=a|b`` takes at most a tenth longer than one on a view that is stored
joined, in memory and streamed from a file. docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_views.py [--repeats 5]

Random features (N = 20,000, two views of D = 256, K = 100), 4 configurations of crt and as many of
balanced_softmax. Both sweeps run alternately in one process, with the same options.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import alternate, ratios, spread

from featbank import write_bank
from stage2 import Recipe, sweep

ROWS, DIM, CLASSES = 200, 256, 100
STREAMED = 30 << 20


def main() -> None:
    """Print the seconds of each sweep, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        apart, joined = Path(folder) / "apart.h5", Path(folder) / "joined.h5"
        _write(apart, joined)
        for memory in (None, STREAMED):
            runs = {
                "a|b": lambda memory=memory: _sweep(apart, "a|b", memory),
                "joined": lambda memory=memory: _sweep(joined, "ab", memory),
            }
            seconds = alternate(runs, options.repeats)
            where = "in memory" if memory is None else "streamed"
            for name, values in seconds.items():
                print(f"{where}, {name}: {spread(values, 2)} s")
            print(f"{where}, a|b / joined: {spread(ratios(seconds['a|b'], seconds['joined']), 2)}")


def _write(apart: Path, joined: Path) -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES, 2 * DIM))
    counts = {"train": ROWS, "test": 20}
    labels = {split: np.repeat(np.arange(CLASSES), count) for split, count in counts.items()}
    x = {
        split: (means[y] + 2 * rng.normal(size=(len(y), 2 * DIM))).astype(np.float32)
        for split, y in labels.items()
    }
    views = {split: {"a": rows[:, :DIM], "b": rows[:, DIM:]} for split, rows in x.items()}
    write_bank(apart, views, labels)
    write_bank(joined, {split: {"ab": rows} for split, rows in x.items()}, labels)


def _sweep(bank: Path, view: str, memory: int | None) -> None:
    recipes = [
        Recipe(name, view=view, lr=float(lr), epochs=2, batch_size=128)
        for name in ("crt", "balanced_softmax")
        for lr in np.geomspace(0.01, 1, 4)
    ]
    sweep(bank, recipes, memory=memory, keep_outcomes=False)


if __name__ == "__main__":
    main()
