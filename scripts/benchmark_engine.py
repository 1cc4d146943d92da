"""The engine beside the usual loops and the machine's own ceilings, on four benchmarks' shapes.

Aims, measured in one process and in turn (docs/performance.md has what was reached): on two AVX-512
cores and the shape of CIFAR-100-LT, 256 configurations trained together take a configuration at
least 8 times less than a plain single-thread PyTorch loop, 4 times less than a ModuleDict of heads
and 15 times less than a DataLoader loop, at 50 % of the floor or more; on ImageNet-LT's, 75 % of
the matrix-product ceiling. On one H200: 256 CIFAR-100-LT configurations in less than 2 s.

    .venv/bin/python scripts/benchmark_engine.py [--shape imagenet-lt] [--repeats 3] [--help]

It is `featbank benchmark`, with its options.
"""

from __future__ import annotations

import sys

from featbank.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
