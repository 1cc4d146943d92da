"""The engine against the usual loops and the hardware's limits, on the shapes of four benchmarks.

Claim (two AVX2 cores, medians of three, docs/performance.md): on the shape of CIFAR-100-LT, 256
configurations trained together take, per configuration, 12 times less time than a plain
single-thread PyTorch loop, 6 times less than a ModuleDict of 64 heads and 34 times less than a
DataLoader loop, at 52 % of the floor set by the machine's matrix-product rate; on the shape of
ImageNet-LT they reach 85 % of it.

    .venv/bin/python scripts/benchmark_engine.py [--shape imagenet-lt] [--repeats 3] [--help]

The same as `featbank benchmark`, with its options.
"""

from __future__ import annotations

import sys

from featbank.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
