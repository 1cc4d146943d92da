"""Commands on a results file of 20,000 runs: their time and their peak memory.

Claim: no table, comparison or report takes more than 300 MB or imports PyTorch, and none takes
longer than 8 s of a processor that others share. docs/performance.md has the figures.

    python scripts/benchmark_results.py [--runs 20000] [--seeds 2] [--file runs.sqlite] [NAME …]

The runs are copies of a few that are trained on a random bank of the shape of CIFAR-100-LT with
5 val rows per class; each copy has a learning rate, a weight decay and a seed of its own, and
figures that are lower by up to 0.1 %. Each command runs in a process of its own, in turns with the
probe of a noisy machine, a product of two float32 matrices.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measuring import random_bank, seconds_of, spread

from featbank import Bank
from stage2.engine.metrics import Evaluation
from stage2.engine.outcome import Outcome
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from stage2.sweep import origin, sweep

RECIPES = (
    *("balanced_softmax", "ce", "crt", "disalign", "focal", "ldam", "logit_adjusted", "los", "lws"),
    *("weighted", "cb_focal", "max_norm"),
)
"""Recipes that are trained; copies take turns."""

BLOCK = 500
"""Runs of a transaction."""

COMMANDS = {
    "empty": "leaderboard {few}",
    "leaderboard": "leaderboard {file}",
    "top": "leaderboard {file} --top 20",
    "best": "leaderboard {file} --best",
    "best-per": "leaderboard {file} --best-per recipe",
    "where": "leaderboard {file} --where lr<0.1",
    "sort": "leaderboard {file} --sort ece",
    "json": "leaderboard {file} --format json",
    "csv": "leaderboard {file} --format csv",
    "compare": "compare {file}",
    "report": "report {file} -o {folder}/report.html",
    "groups": "plot groups {file} -o {folder}/groups.png",
    "heatmap": "plot heatmap {file} -o {folder}/heatmap.png",
    "sweep": "sweep {bank} --recipe ce --set epochs=2 -o {file}",
    "export": "export {file} {ce} -o {folder}/ce.safetensors --features {bank}",
    "cite": "cite {file}",
}
"""Arguments of `featbank` by name."""


def main() -> None:
    """Print the time and the peak memory of every command beside the probe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMMANDS)}; by default all")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=2, help="of each configuration")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--file", type=Path, help="results to use, or to make and keep")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "runs.sqlite"
        bank = file.with_suffix(".h5")
        if not file.exists():
            seconds = seconds_of(lambda: make(file, bank, options.runs, options.seeds))
            print(f"made {file.stat().st_size / 1e6:.0f} MB in {seconds:.0f} s")
        few = Path(folder) / "few.sqlite"
        sweep(bank, [Recipe(name, epochs=2) for name in RECIPES], results=few)
        trained = Recipe("ce", epochs=2).id
        square = np.random.default_rng(0).random((2000, 2000)).astype(np.float32)
        for name in options.names or COMMANDS:
            words = COMMANDS[name].format(file=file, few=few, bank=bank, folder=folder, ce=trained)
            wall, processor, peak = zip(
                *(measured(words.split()) for _ in range(options.repeats)), strict=True
            )
            probe = seconds_of(lambda: square @ square)
            print(
                f"{name:<12} {spread(wall)} s, of the processor {spread(processor)} s, peak "
                f"{max(peak):.0f} MB; probe {probe:.2f} s",
                flush=True,
            )


def measured(words: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MB of a command, in a process of its own."""
    run = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)\n"
        "sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", run, sys.executable, "-m", "featbank", *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    processor, peak = map(float, done.stdout.split())
    return seconds, processor, peak


def make(file: Path, bank: Path, runs: int, seeds: int) -> None:
    """Write a results file of so many runs, and its bank."""
    random_bank(bank, {"val": 5, "test": 95})
    random = np.random.default_rng(0)
    with Bank(bank) as opened:
        swept = sweep(opened, [Recipe(name, epochs=2) for name in RECIPES], results=file)
        fingerprint = opened.fingerprint
    made = origin("cpu")
    with Store(file, create=True) as store:
        copies = itertools.islice(_copies(swept.outcomes, seeds, random), runs)
        while block := list(itertools.islice(copies, BLOCK)):
            store.add_runs(fingerprint, ({**each, **made} for each in block))


def _copies(
    outcomes: list[Outcome], seeds: int, random: np.random.Generator
) -> Iterator[Mapping[str, Any]]:
    """Runs as `Store.add_runs` takes them, without end."""
    while True:
        for outcome in outcomes:
            lr, decay = (float(10 ** random.uniform(*bounds)) for bounds in ((-2, 0), (-5, -3)))
            settings = {**outcome.recipe.parameters, "lr": lr, "weight_decay": decay}
            for seed in range(seeds):
                yield {
                    "recipe": Recipe(outcome.recipe.name, **settings, seed=seed),
                    "status": outcome.status,
                    "selected_epoch": outcome.selected_epoch,
                    "seconds": outcome.seconds,
                    "curves": outcome.curves,
                    "traces": outcome.traces,
                    "evaluations": {
                        place: _changed(each, random) for place, each in outcome.evaluations.items()
                    },
                }


def _changed(evaluation: Evaluation, random: np.random.Generator) -> Evaluation:
    """An evaluation whose figures are lower by a share of up to 0.1 %."""
    metrics = {
        name: None if value is None else value * (1 - 1e-3 * random.random())
        for name, value in evaluation.metrics.items()
    }
    return dataclasses.replace(evaluation, metrics=metrics)


if __name__ == "__main__":
    main()
