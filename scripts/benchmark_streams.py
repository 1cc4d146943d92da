"""Peak memory and time of the index streams of a long training, one process per sampler.

Claim (docs/performance.md): the stream of iNaturalist 2018 (437,513 rows) over 90 epochs takes 19
to 35 MiB, that of class_aware 130, where all of its draws are 300.

    .venv/bin/python scripts/benchmark_streams.py [--shape inaturalist2018] [--epochs 90]
        [--sampler class_aware] [--rows 400000000]

An epoch has as many draws as there are rows, in batches of 512, and is dropped before the next. The
peak is that above labels and libraries. With --rows the class counts are multiplied to about so
many rows.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time

import numpy as np
import torch

from stage2.benchmark import find_workload
from stage2.benchmark.timing import peak_memory, reset_peak_memory
from stage2.methods.samplers import SAMPLERS, index_stream

BATCH = 512


def main() -> None:
    """Print a row per sampler; with --case that of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="inaturalist2018", help="as of featbank benchmark")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--rows", type=int, help="scale the class counts to so many rows")
    parser.add_argument("--sampler", choices=SAMPLERS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(_case(options))
        return
    print("| sampler | peak, MiB | s | digest of the draws |\n" + "| --- " * 4 + "|")
    for sampler in [options.sampler] if options.sampler else SAMPLERS:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", sampler]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(done.stdout.strip(), flush=True)


def _case(options: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    counts, cpu = find_workload(options.shape).counts, torch.device("cpu")
    if options.rows:
        counts = np.maximum(1, counts * (options.rows / counts.sum())).astype(np.int64)
    labels = torch.arange(len(counts)).repeat_interleave(torch.from_numpy(counts))
    digest = hashlib.sha256()
    reset_peak_memory(cpu)
    before, started = peak_memory(cpu), time.perf_counter()
    steps = max(1, len(labels) // BATCH)
    for epoch in index_stream(
        options.case, labels, epochs=options.epochs, steps=steps, batch_size=BATCH, seed=0
    ):
        digest.update(epoch.numpy())
    seconds, peak = time.perf_counter() - started, peak_memory(cpu) - before
    name = digest.hexdigest()[:12]
    return f"| `{options.case}` | {peak / 2**20:,.0f} | {seconds:.1f} | {name} |"


if __name__ == "__main__":
    main()
