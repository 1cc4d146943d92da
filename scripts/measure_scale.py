"""Rates of this machine that `scripts/simulate_scale` starts from.

Claim (docs/scale.md, "measured" in the table of assumptions): making, hashing and planning 10⁵
recipes takes seconds; a driver stores some hundred runs a second, of 2 MB each with 21,841 classes;
an epoch of a streamed bank is planned in a fraction of a microsecond and 50 bytes a draw.

    .venv/bin/python scripts/measure_scale.py [--only planner] [--small]

Each part runs in this process, on one thread; seconds are those of the processor, but those of the
start and of reading. `--small` is a hundredth of each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from featbank import Bank, BankWriter
from stage2 import Recipe
from stage2.benchmark.scale import BANKS, configurations, cut, planned
from stage2.benchmark.timing import peak_memory, reset_peak_memory
from stage2.engine.layout import Layout
from stage2.engine.loop import run_group
from stage2.engine.streamed import StreamedRows
from stage2.executors import origin
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.methods.samplers import index_stream
from stage2.methods.seeding import seeded
from stage2.results.recording import Recorder
from stage2.results.store import Store

STORED, EPOCHS = 64, 10
"""Runs of a group that is stored, and their epochs."""


def main() -> None:
    """Print what each part takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--small", action="store_true", help="a hundredth of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [options.only] if options.only else PARTS:
        PARTS[name](100 if options.small else 1)


def planner(part: int) -> None:
    """Recipes, their hashes, and the plan."""
    for bank in BANKS.values():
        started = time.process_time()
        recipes = configurations(bank, 100_000 // part)
        made = time.process_time()
        hashes = {recipe.hash for recipe in recipes}
        hashed = time.process_time()
        groups = cut(bank, planned(bank, recipes), 1000)
        ended = time.process_time()
        print(
            f"{bank.name}: {len(hashes):,} recipes made in {made - started:.1f} s, hashed in "
            f"{hashed - made:.1f} s, planned in {ended - hashed:.1f} s: {len(groups):,} groups",
            flush=True,
        )


def store(part: int) -> None:
    """Statistics of a group's outcomes, and storing them, for the classes and rows of each bank."""
    for bank in BANKS.values():
        with tempfile.TemporaryDirectory() as name:
            _store(Path(name), bank.name, bank.num_classes, bank.rows["test"] // part)


def _store(folder: Path, name: str, classes: int, rows: int) -> None:
    classes = min(classes, rows)
    labels = np.arange(max(rows, classes)) % classes
    rng = np.random.default_rng(0)
    with BankWriter(folder / "bank.h5", [str(k) for k in range(classes)], dim=4) as writer:
        for split in ("train", "val", "test"):
            writer.split(split, labels)
            writer.features(split, "instance").append(
                rng.standard_normal((len(labels), 4), dtype=np.float32)
            )
    settings = {"epochs": EPOCHS, "steps_per_epoch": 1, "batch_size": 64}
    recipe = Recipe("balanced_softmax", **settings)
    with Bank(folder / "bank.h5") as bank, Store(folder / "r.sqlite", create=True) as results:
        results.add_bank(bank)
        (group,) = plan_bank(bank, [recipe])
        outcomes = run_group(group, load_view(bank, "instance"), parameters=False)
        started = time.process_time()
        (outcome,) = outcomes
        computed = time.process_time() - started
        many = [
            replace(outcome, recipe=Recipe("balanced_softmax", **settings, lr=lr))
            for lr in np.geomspace(0.01, 0.1, STORED).tolist()
        ]
        before = (folder / "r.sqlite").stat().st_size
        started = time.process_time()
        with Recorder(results, bank.fingerprint) as recorder:
            recorder.add(many, origin("cpu"), lambda group: None)
            recorder.wait()
        seconds = (time.process_time() - started) / STORED
    size = (sum(f.stat().st_size for f in folder.glob("r.sqlite*")) - before) / STORED
    print(
        f"{name}: statistics {1e3 * computed:.1f} ms a run, stored in {1e3 * seconds:.2f} ms a run "
        f"of {size / 1e3:.0f} kB",
        flush=True,
    )


def start(part: int) -> None:
    """Start of a process that opens a bank and could train."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bank.h5"
        _features(path, 1000, 64)
        program = "import sys; from featbank import Bank; import stage2.sweep; Bank(sys.argv[1])"
        seconds = []
        for _ in range(1 if part > 1 else 5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program, str(path)], check=True)
            seconds.append(time.perf_counter() - started)
    print(f"start of a worker: {statistics.median(seconds):.1f} s", flush=True)


def read(part: int) -> None:
    """Reading blocks of a float16 bank in shuffled order, from the page cache."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bank.h5"
        rows = _features(path, 300_000 // part, 2048)
        with Bank(path) as bank:
            size = bank.chunk_rows("train", "instance")
            starts = np.random.default_rng(0).permutation(np.arange(0, rows, size)).tolist()
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                for first in starts:
                    bank.read("train", "instance", first, min(first + size, rows))
                seconds.append(time.perf_counter() - started)
    rate = rows * 2048 * 2 / statistics.median(seconds)
    print(f"reading with checksums: {rate / 1e9:.2f} GB/s on a thread", flush=True)


def epoch(part: int) -> None:
    """Drawing an epoch and planning its windows, for rows that are streamed."""
    rows, dim, cpu = 10_000_000 // part, 768, torch.device("cpu")
    labels = torch.arange(rows) % 1000
    stream = StreamedRows(_NoFeatures((1, rows, dim)), labels, budget=3 * 4 * dim * (rows // 40))
    for sampler in ("instance", "class_aware"):
        started = time.process_time()
        (draws,) = index_stream(
            sampler, labels, epochs=1, steps=rows // 500, batch_size=500, seed=0
        )
        drawn = time.process_time() - started
        reset_peak_memory(cpu)
        before, started = peak_memory(cpu), time.process_time()
        layout = Layout(500, len(stream._kept), stream._buffer_rows)
        stream._plan(draws, layout, seeded(0, "windows"))
        planned, peak = time.process_time() - started, peak_memory(cpu) - before
        print(
            f"{sampler}: drawn in {1e9 * drawn / rows:.0f} ns a draw, its windows planned in "
            f"{1e9 * planned / rows:.0f} ns and {peak / rows:.0f} bytes a draw",
            flush=True,
        )


class _NoFeatures:
    """A source of which nothing is read."""

    chunk_rows, dtype = 170, "float16"

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Nothing is read."""
        raise NotImplementedError


def _features(path: Path, rows: int, dim: int) -> int:
    """Write a bank of random features, val and test of it small; its rows."""
    rng = np.random.default_rng(0)
    with BankWriter(path, ["a", "b"], dim=dim, dtype="float16") as writer:
        for split, size in {"train": rows, "val": 10, "test": 10}.items():
            writer.split(split, np.arange(size) % 2)
            features = writer.features(split, "instance")
            for first in range(0, size, 8192):
                shape = min(8192, size - first), dim
                features.append(rng.standard_normal(shape, dtype=np.float32))
    return rows


PARTS: dict[str, Callable[[int], None]] = {
    "planner": planner,
    "store": store,
    "start": start,
    "read": read,
    "epoch": epoch,
}


if __name__ == "__main__":
    main()
