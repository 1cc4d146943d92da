"""Successive halving against the full sweep: how much sooner it ends, and what it finds.

Claim (two cores, no GPU): of 180 configurations with 3 seeds and 30 epochs each, halving by 3 takes
a ninth of the time of the full sweep, and the configuration that it puts first is within half a
point of the full sweep's first on val and on test. docs/sweeps.md has the figures; this
script measures them, both sweeps in one run and in turn:

    .venv/bin/python scripts/benchmark_search.py [BANK.h5] [--repeats 3]

Without a bank, Gaussian classes of the shape of CIFAR-100-LT (N = 10,847, D = 64, K = 100) take its
place. The bank must have a val split.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from featbank import Bank, write_bank
from stage2 import Recipe, sweep
from stage2.engine.halving import Halving
from stage2.methods.recipe import expand
from stage2.results.leaderboard import Leaderboard, Row

RATES = [float(f"{rate:.3g}") for rate in np.geomspace(0.003, 1, 15)]
GRID = {
    name: {"lr": RATES, "weight_decay": [0.0, 1e-4, 5e-4], "epochs": [30], "sampler": ["instance"]}
    for name in ("ce", "balanced_softmax", "logit_adjusted", "los")
}
SEEDS = (0, 1, 2)


def main() -> None:
    """Print both times, their ratio, and where halving's first stands in the full sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    recipes = expand(GRID, seeds=SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        path = options.bank or _gaussian_bank(Path(folder) / "bank.h5")
        with Bank(path) as bank:
            sweep(
                bank, recipes[:6], keep_outcomes=False
            )  # a first run pays for PyTorch's own start
            full, halved = [], []
            for _ in range(options.repeats):
                board, seconds = _timed(bank, recipes, None)
                full.append(seconds)
                found, seconds = _timed(bank, recipes, Halving())
                halved.append(seconds)
    ratios = [whole / part for whole, part in zip(full, halved, strict=True)]
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {options.repeats} runs")
    print(f"{len(recipes) // len(SEEDS)} configurations, {len(SEEDS)} seeds")
    print(
        f"full sweep: {_told(full)} s, halving: {_told(halved)} s, full / halving {_told(ratios)}"
    )
    ranked = _finished(board)
    names = [row["recipe"] for row in ranked]
    first = _finished(found)[0]
    rank = names.index(first["recipe"])
    print(f"halving's first is number {rank + 1} of the full sweep")
    for what in ("selection", "macro"):
        split = "val" if what == "selection" else "test"
        print(
            f"macro on {split}: {first[what]:.2f}, of the full sweep's first {ranked[0][what]:.2f}"
        )


def _timed(bank: Bank, recipes: list[Recipe], halving: Halving | None) -> tuple[Leaderboard, float]:
    begun = time.perf_counter()
    swept = sweep(bank, recipes, halving=halving, keep_outcomes=False)
    return swept.board, time.perf_counter() - begun


def _finished(board: Leaderboard) -> list[Row]:
    """The row that ranks of every configuration that was trained to the end, best first."""
    rows = [board.ranked(rows) for rows in board.configurations()]
    return [row for row in rows if row["selection"] is not None]


def _told(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f} ({min(values):.1f} … {max(values):.1f})"


def _gaussian_bank(path: Path) -> Path:
    rng = np.random.default_rng(0)
    counts = np.round(500 * 100 ** (-np.arange(100) / 99)).astype(int)
    means = rng.normal(0, 1, (100, 64))
    labels = {
        "train": np.repeat(np.arange(100), counts),
        "val": np.repeat(np.arange(100), 20),
        "test": np.repeat(np.arange(100), 80),
    }
    features = {
        split: {"instance": (means[y] + rng.normal(0, 2.5, (len(y), 64))).astype(np.float32)}
        for split, y in labels.items()
    }
    write_bank(path, features, labels, class_names=[str(k) for k in range(100)])
    return path


if __name__ == "__main__":
    main()
