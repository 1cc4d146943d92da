"""The engine beside the usual loops and the machine's own ceilings, on four benchmarks' shapes.

Claim (two AVX2 cores, medians of three, docs/performance.md): on the shape of CIFAR-100-LT, 256
configurations trained together take a configuration 12 times less than a plain single-thread
PyTorch loop, 6 times less than a ModuleDict of 64 heads and 34 times less than a DataLoader loop,
at 52 % of the floor that the machine's own product rate sets; on ImageNet-LT's, at 85 % of it.

    .venv/bin/python scripts/benchmark_engine.py [--shape imagenet-lt] [--repeats 3] [--help]

It is `featbank benchmark`, with its options.
"""

from __future__ import annotations

import sys

from featbank.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
