"""The engine against its opponents and the hardware's limits, on the shapes of four benchmarks.

Claim (two busy AVX-512 cores, medians of three, docs/performance.md): on the shape of CIFAR-100-LT
256 configurations trained together take 2.6 times less time, each, than with the best fused
opponent on one thread and 2.9 times less on two; a single one takes 2.3 times less on one.

    .venv/bin/python scripts/benchmark_engine.py [--shape imagenet-lt] [--repeats 3] [--help]

The same as `featbank benchmark`, with its options.
"""

from __future__ import annotations

import sys

from featbank.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
