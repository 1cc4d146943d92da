"""The cost of choosing among 2,000 configurations on 50,000 rows, with 200 resamples.

Claim: a correction and the tied set take less than 2 s on two cores, whatever the rule.
docs/performance.md has the figures.

    python scripts/benchmark_choice.py [--configurations 2000] [--rows 50000] [--repeats 3]

Random correctness and losses of 1,000 classes. Rules take turns with the product of two float32
matrices, [2000, 2000] each, the probe of a noisy machine.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from measuring import alternate, spread

from stage2.results.optimism import optimism
from stage2.results.selection import RULES

CLASSES = 1000


def main() -> None:
    """Print the time of every rule and of the probe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configurations", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    shape = options.configurations, options.rows
    labels = np.arange(options.rows) % CLASSES
    correct = (random.random(shape) < 0.5).astype(np.uint8)
    losses = random.exponential(2, shape).astype(np.float16)
    nll = losses.mean(1, dtype=np.float64)
    square = random.random((2000, 2000)).astype(np.float32)
    runs = {
        rule: partial(optimism, correct, labels, rule=rule, nll=nll, losses=losses)
        for rule in RULES
    }
    for name, seconds in alternate(
        {**runs, "probe": lambda: square @ square}, options.repeats
    ).items():
        print(f"{name:<5}  {spread(seconds, 2)} s")


if __name__ == "__main__":
    main()
