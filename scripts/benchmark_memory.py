"""Peak memory of sweeps, per head and generator, beside what the plan promises.

Claim (docs/performance.md, no GPU): on float16 banks of the shapes of Places-LT, ImageNet-LT and
iNaturalist, heads and generators stay within the features and the group that `featbank plan`
promises; on that of CIFAR-100-LT, up to 25 MiB of the process itself.

    .venv/bin/python scripts/benchmark_memory.py [--shape 100000,1024,100] [--only NAME]
        [--budget 2] [--rates 16] [--test-rows 20]

Each case is a sweep in its own process within a budget of so many GiB: learning rates of a trained
head for 20 steps, of `ce` with a generator for 160, or one configuration of another head, with
evaluation on some rows per class of val and test. `--dtype float32` is the same without float16.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from featbank import Bank, BankWriter
from stage2 import Recipe, sweep
from stage2.benchmark import find_workload
from stage2.benchmark.timing import peak_memory, reset_peak_memory
from stage2.cost.estimate import estimate
from stage2.features.planning import plan_bank
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.presets import PRESETS

STEPS, GENERATED_STEPS, BLOCK = 20, 160, 8192


def main() -> None:
    """Print a row per case; with --case its peak alone, in bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="100000,1024,100", help="as of featbank benchmark")
    parser.add_argument("--dtype", default="float16", choices=("float16", "float32"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--only", help="one head or generator")
    parser.add_argument("--budget", type=float, default=2, help="GiB")
    parser.add_argument("--rates", type=int, default=16, help="learning rates")
    parser.add_argument("--test-rows", type=int, default=20, help="of each class, in val and test")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    name = f"memory-{options.shape.replace(',', '-')}-{options.test_rows}-{options.dtype}.h5"
    path, memory = options.folder / name, int(options.budget * 2**30)
    if options.case:
        print(_peak(path, _recipes(options.case, options.rates), memory))
        return
    if not path.exists():
        _write(path, options.shape, options.dtype, options.test_rows)
    print(
        "| | features, promised | group, promised | peak above the start |\n" + "| --- " * 4 + "|"
    )
    for case in [options.only] if options.only else [*HEADS, *GENERATORS]:
        with Bank(path) as bank:
            groups = plan_bank(bank, _recipes(case, options.rates), memory=memory)
            cost = estimate(bank, groups, memory=memory, budget=0)
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cells = (cost.features, cost.group, int(done.stdout.split()[-1]))
        texts = (f"{n / 2**20:,.0f} MiB" for n in cells)
        print(f"| `{case}` | " + " | ".join(texts) + " |", flush=True)


def _recipes(case: str, rates: int) -> list[Recipe]:
    """The sweep of a head, by its first preset, or of a generator."""
    if case in HEADS:
        (name, *_) = (n for n in PRESETS if Recipe(n).head == case and not Recipe(n).generator)
        settings = {"view": "instance"}
    else:
        name, settings = "ce", {"generator": case}
    if not Recipe(name).stepped:
        return [Recipe(name, **settings)]
    count = STEPS if case in HEADS else GENERATED_STEPS
    steps = {"epochs": 1, "steps_per_epoch": count, "schedule": "constant"}
    return [
        Recipe(name, **settings, **steps, lr=lr) for lr in np.geomspace(0.01, 0.1, rates).tolist()
    ]


def _peak(path: Path, recipes: Sequence[Recipe], memory: int) -> int:
    import faiss  # noqa: F401  # its memory is no part of a sweep's

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    with Bank(path) as bank:
        reset_peak_memory(cpu)
        before = peak_memory(cpu)
        sweep(bank, recipes, device="cpu", memory=memory, workers=1, keep_outcomes=False)
    return peak_memory(cpu) - before


def _write(path: Path, shape: str, dtype: str, test_rows: int) -> None:
    """A bank of Gaussian classes of a shape, with the class means as its stage-1 classifier."""
    workload, rng = find_workload(shape), np.random.default_rng(0)
    means = rng.normal(size=(workload.classes, workload.dim)).astype(np.float32)
    test = np.full(workload.classes, test_rows)
    names = [str(k) for k in range(workload.classes)]
    with BankWriter(path, names, dim=workload.dim, dtype=dtype) as writer:
        for split, counts in {"train": workload.counts, "val": test, "test": test}.items():
            labels = np.repeat(np.arange(workload.classes), counts)
            writer.split(split, labels)
            features = writer.features(split, "instance")
            for start in range(0, len(labels), BLOCK):
                y = labels[start : start + BLOCK]
                noise = rng.standard_normal((len(y), workload.dim), dtype=np.float32)
                features.append(means[y] + 2.5 * noise)
        writer.classifier("instance", means)


if __name__ == "__main__":
    main()
