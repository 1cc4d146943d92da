"""256 stage-2 configurations on CIFAR-100-LT-sized features: the command, and a plain loop.

Claim (two cores, no GPU): `featbank sweep` trains and evaluates 256 configurations of crt, lws,
mislas, disalign, los and balanced_softmax, 10 epochs each, in under 40 seconds and 2 GiB, start-up
included; and 256 learning rates of `crt-cifar`, evaluation included, take several times less per
configuration than a plain single-thread PyTorch loop of that one recipe without evaluation.
docs/performance.md has the figures; this script measures them:

    .venv/bin/python scripts/benchmark_sweep.py [FEATURES.npz] [--repeats 3]

Without FEATURES.npz (keys as `featbank import` reads them), random features of the same shape
(N = 10,847, D = 64, K = 100, 10,000 test rows) take its place; the time is the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from featbank import Bank, write_bank
from stage2 import sweep
from stage2.benchmark import find_workload
from stage2.benchmark.loops import plain_loop
from stage2.benchmark.workloads import Part
from stage2.methods.recipe import expand

GRID = (
    "--recipe crt --recipe lws --recipe mislas --recipe disalign --recipe los "
    "--recipe balanced_softmax --set lr=0.01,0.02,0.05,0.1,0.2,0.3,0.4,0.5 "
    "--set weight_decay=0,1e-4,2e-4,5e-4 --set smoothing=0.9,0.98 --set smooth_head=0.3,0.4 "
    "--set epochs=10 --seeds 0"
)
CONFIGURATIONS = 256


def main() -> None:
    """Print the command's time and memory, the plain loop's time, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bank = Path(folder) / "bank.h5"
        if options.features:
            subprocess.run([_featbank(), "import", options.features, "-o", bank], check=True)
        else:
            _random_bank(bank)
        _plain_loop(bank)  # a first run pays for PyTorch's own start
        command, peak, fused, plain = [], [], [], []
        for repeat in range(options.repeats):
            seconds, memory = _command(bank, Path(folder) / f"{repeat}.sqlite")
            command.append(seconds)
            peak.append(memory)
            fused.append(_fused(bank) / CONFIGURATIONS)
            plain.append(_plain_loop(bank))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {options.repeats} runs")
    print(f"command, {CONFIGURATIONS} mixed configurations: {_told(command)} s")
    print(f"  peak memory {max(peak):.2f} GiB")
    print(f"crt-cifar, each of {CONFIGURATIONS} fused: {_told([1e3 * t for t in fused])} ms")
    print(f"crt-cifar, plain loop: {_told([1e3 * t for t in plain])} ms")
    ratios = [alone / together for alone, together in zip(plain, fused, strict=True)]
    print(f"plain / fused: {_told(ratios)}")


def _told(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f} ({min(values):.1f} … {max(values):.1f})"


def _command(bank: Path, results: Path) -> tuple[float, float]:
    """Seconds and peak GiB of the command."""
    command = [_featbank(), "sweep", bank, *GRID.split(), "-o", results]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, told
    assert f"{CONFIGURATIONS} configurations, {CONFIGURATIONS} runs" in told, told
    return time.perf_counter() - begun, usage.ru_maxrss / 2**20


def _fused(bank: Path) -> float:
    """Seconds of a sweep over learning rates of `crt-cifar`, in this process."""
    recipes = expand({"crt-cifar": {"lr": np.geomspace(0.01, 1, CONFIGURATIONS)}})
    begun = time.perf_counter()
    sweep(bank, recipes, device="cpu", keep_outcomes=False)
    return time.perf_counter() - begun


def _plain_loop(bank: Path) -> float:
    """Seconds of one `crt-cifar`-sized configuration as it is usually written, on one thread."""
    with Bank(bank) as b:
        x, y = map(torch.from_numpy, b.load("train"))
    workload = find_workload("cifar100-lt")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    plain_loop(x, y, workload, Part(10, workload.epoch_steps))
    seconds = time.perf_counter() - begun
    torch.set_num_threads(before)
    return seconds


def _random_bank(path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = find_workload("cifar100-lt").counts
    labels = {"train": np.repeat(np.arange(100), counts), "test": np.repeat(np.arange(100), 100)}
    features = {
        split: {view: rng.normal(size=(len(y), 64)).astype(np.float16) for view in VIEWS}
        for split, y in labels.items()
    }
    weight = rng.normal(size=(100, 64)).astype(np.float32)
    write_bank(path, features, labels, classifier={"instance": (weight, None)})


VIEWS = ("instance", "balanced")


def _featbank() -> Path:
    return Path(sys.executable).with_name("featbank")


if __name__ == "__main__":
    main()
