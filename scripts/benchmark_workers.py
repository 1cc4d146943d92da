"""Processes that share a sweep on one machine, against one process that has it alone.

Claim: ten processes on one results file, one thread each, train groups of about ten seconds at 0.85
of what the cores allow or more, start-up and storing included, and end with the same table. The
cores allow as many times the speed of one process as there are cores. docs/performance.md has the
figures.

    .venv/bin/python scripts/benchmark_workers.py [--workers 10] [--groups 24] [--configurations 64]

Random features (N = 10,847, D = 64, K = 100, 10,000 test rows); crt over learning rates, a group
for each seed. A product of two 2048 × 2048 matrices before and after tells how fast one core was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measuring import random_bank, seconds_of

from stage2.results.store import Store
from stage2.results.tasks import read_accounts


def main() -> None:
    """Print the time of one process and of many, and what share of the cores' speed they had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=160)
    options = parser.parse_args()
    cores = min(options.workers, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        random_bank(place / "bank.h5", {"test": 100})
        command = [
            *(sys.executable, "-m", "featbank", "sweep", "bank.h5", "--recipe", "crt"),
            *("--set", f"lr={','.join(map(str, np.geomspace(0.01, 1, options.configurations)))}"),
            *("--set", f"epochs={options.epochs}"),
            *("--seeds", ",".join(map(str, range(options.groups)))),
        ]
        rates = [_gigaflops()]
        alone = _seconds(command, place, "alone.sqlite", 1)
        rates.append(_gigaflops())
        shared = _seconds(command, place, "shared.sqlite", options.workers)
        rates.append(_gigaflops())
        tables = [_table(place / name) for name in ("alone.sqlite", "shared.sqlite")]
        with Store(place / "alone.sqlite") as store:
            fingerprint, _ = store.one_bank()
            accounts = store.file.read(lambda database: read_accounts(database, fingerprint))
    groups = median(account.seconds for account in accounts if account.seconds)
    print(f"a group: {groups:.1f} s; products at {', '.join(f'{r:.0f}' for r in rates)} GFLOP/s")
    print(f"1 process: {alone:.1f} s; {options.workers} processes: {shared:.1f} s")
    print(f"share of the speed of {cores} cores: {alone / shared / cores:.2f}")
    print(f"the same table: {tables[0] == tables[1]}")


def _gigaflops() -> float:
    """Floating-point operations per nanosecond in products of one core."""
    torch.set_num_threads(1)
    a = torch.ones(2048, 2048)
    return 2 * 2.048**3 / median(seconds_of(lambda: a @ a) for _ in range(9))


def _seconds(command: list[str], place: Path, results: str, workers: int) -> float:
    """Seconds until all of some processes with one specification have ended."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, "-o", results], cwd=place, env=environment, stdout=subprocess.DEVNULL
        )
        for _ in range(workers)
    ]
    if any(process.wait() for process in processes):
        sys.exit("a process failed")
    return time.perf_counter() - started


def _table(path: Path) -> str:
    """The leaderboard of a results file at full precision."""
    command = [sys.executable, "-m", "featbank", "leaderboard", str(path), "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
