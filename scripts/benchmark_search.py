"""Successive halving against the full sweep: the time it saves, and the rank of its winner.

Claim (two cores, no GPU): with 180 configurations of 3 seeds and 30 epochs each, halving by 3 takes
a ninth of the time of the full sweep, and its winner is within half a point of the full sweep's
winner on val and on test. docs/sweeps.md has the figures. The two sweeps alternate in one process:

    .venv/bin/python scripts/benchmark_search.py [BANK.h5] [--repeats 3]

The bank needs a val split. Without one, Gaussian classes of the shape of CIFAR-100-LT (N = 10,847,
D = 64, K = 100) are used.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import random_bank, ratios, spread

from featbank import Bank
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
    """Print both times, their ratio, and the rank of halving's winner in the full sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    recipes = expand(GRID, seeds=SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        path = options.bank or Path(folder) / "bank.h5"
        if not options.bank:
            random_bank(path, {"val": 20, "test": 80})
        with Bank(path) as bank:
            sweep(bank, recipes[:6], keep_outcomes=False)  # a first run pays for PyTorch's start
            full, halved = [], []
            for _ in range(options.repeats):
                full_board, seconds = _timed(bank, recipes, None)
                full.append(seconds)
                halved_board, seconds = _timed(bank, recipes, Halving())
                halved.append(seconds)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {options.repeats} runs")
    print(f"{len(recipes) // len(SEEDS)} configurations, {len(SEEDS)} seeds")
    print(f"full sweep: {spread(full)} s, halving: {spread(halved)} s")
    print(f"full / halving: {spread(ratios(full, halved))}")
    ranked, winner = _finished(full_board), _finished(halved_board)[0]
    rank = [row["recipe"] for row in ranked].index(winner["recipe"]) + 1
    print(f"halving's winner ranks {rank} in the full sweep")
    for metric, split in (("selection", "val"), ("macro", "test")):
        best = ranked[0][metric]
        print(f"macro on {split}: {winner[metric]:.2f}, the full sweep's winner {best:.2f}")


def _timed(bank: Bank, recipes: list[Recipe], halving: Halving | None) -> tuple[Leaderboard, float]:
    start = time.perf_counter()
    results = sweep(bank, recipes, halving=halving, keep_outcomes=False)
    return results.board, time.perf_counter() - start


def _finished(board: Leaderboard) -> list[Row]:
    """Ranking rows of the configurations that were trained to the end, best first."""
    rows = [board.ranked(rows) for rows in board.configurations()]
    return [row for row in rows if row["selection"] is not None]


if __name__ == "__main__":
    main()
