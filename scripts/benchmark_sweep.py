"""256 stage-2 configurations on features of the size of CIFAR-100-LT: the command and a plain loop.

Claim (two cores, no GPU): `featbank sweep` trains and evaluates 256 configurations of crt, lws,
mislas, disalign, los and balanced_softmax, 10 epochs each, in under 10 seconds and 2 GiB, including
start-up; and 256 learning rates of `crt-cifar`, including evaluation, take several times less time
per configuration than a plain single-thread PyTorch loop of that recipe without evaluation.
docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_sweep.py [FEATURES.npz] [--repeats 3]

Without FEATURES.npz (keys as for `featbank import`), random features of the same shape
(N = 10,847, D = 64, K = 100, 10,000 test rows) are used; the time is the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import random_bank, ratios, seconds_of, spread

from featbank import Bank
from stage2 import sweep
from stage2.benchmark import find_workload
from stage2.benchmark.contenders import Bench, opposed
from stage2.benchmark.workloads import EPOCHS, TimedPart
from stage2.methods.recipe import expand

GRID = (
    "--recipe crt --recipe lws --recipe mislas --recipe disalign --recipe los "
    "--recipe balanced_softmax --set lr=0.01,0.02,0.05,0.1,0.2,0.3,0.4,0.5 "
    "--set weight_decay=0,1e-4,2e-4,5e-4 --set smoothing=0.9,0.98 --set smooth_head=0.3,0.4 "
    "--set epochs=10 --seeds 0"
)
CONFIGURATIONS = 256
MEMORY = 1 << 31


def main() -> None:
    """Print time and memory of the command, the time of the plain loop, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank.h5"
        if options.features:
            subprocess.run([_featbank(), "import", options.features, "-o", bank], check=True)
        else:
            random_bank(bank, {"test": 100}, views=("instance", "balanced"))
        _plain_loop(bank)  # a first run pays for PyTorch's start
        command, peak, fused, plain = [], [], [], []
        for repeat in range(options.repeats):
            seconds, memory = _command(bank, Path(folder) / f"{repeat}.sqlite")
            command.append(seconds)
            peak.append(memory)
            fused.append(_fused(bank) / CONFIGURATIONS)
            plain.append(_plain_loop(bank))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {options.repeats} runs")
    print(f"command, {CONFIGURATIONS} mixed configurations: {spread(command)} s")
    print(f"  peak memory {max(peak):.2f} GiB")
    print(f"crt-cifar, each of {CONFIGURATIONS} fused: {spread([1e3 * t for t in fused])} ms")
    print(f"crt-cifar, plain loop: {spread([1e3 * t for t in plain])} ms")
    print(f"plain / fused: {spread(ratios(plain, fused))}")


def _command(bank: Path, results: Path) -> tuple[float, float]:
    """Seconds and peak GiB of the command."""
    command = [_featbank(), "sweep", bank, *GRID.split(), "-o", results]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, output
    assert f"{CONFIGURATIONS} configurations, {CONFIGURATIONS} runs" in output, output
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def _fused(bank: Path) -> float:
    """Seconds of a sweep over learning rates of `crt-cifar`, in this process."""
    recipes = expand({"crt-cifar": {"lr": np.geomspace(0.01, 1, CONFIGURATIONS)}})
    return seconds_of(lambda: sweep(bank, recipes, device="cpu", keep_outcomes=False))


def _plain_loop(path: Path) -> float:
    """Seconds of one `crt-cifar`-sized configuration as it is usually written, on one thread."""
    with Bank(path) as bank:
        x, y = map(torch.from_numpy, bank.load("train"))
    workload = find_workload("cifar100-lt")
    part = TimedPart(EPOCHS, workload.epoch_steps)
    loop = opposed(Bench(workload, x.float(), y, MEMORY, "fp32"), "plain_loop", 1, part, threads=1)
    return seconds_of(lambda: loop.run(part))


def _featbank() -> Path:
    return Path(sys.executable).with_name("featbank")


if __name__ == "__main__":
    main()
