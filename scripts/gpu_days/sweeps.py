"""Phase 5: whole sweeps, the engine beside its opponents, and accuracy by precision."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring_day import PRECISIONS, Day, Measurement, output_of
from steps import view

from featbank import write_bank
from stage2 import Recipe, sweep
from stage2.benchmark import Workload
from stage2.benchmark.model import swept
from stage2.engine.loop import run_group
from stage2.engine.plan import Shape, default_memory, plan

PRESETS = ("crt-cifar", "lws-cifar", "mislas", "balanced_softmax", "los", "disalign", "ldam", "tde")
"""Presets whose accuracy is compared by precision, on features of CIFAR-100-LT."""

METRICS = ("top1", "ece", "nll")
SEEDS = 5
MEMORY = 1 << 34


def measurements(day: Day) -> Iterator[Measurement]:
    """The engine on every shape, sweeps of a bank into a results file, opponents, accuracy."""
    for shape, (workload, configs) in day.shapes.items():
        for name in PRECISIONS[1:]:
            title = f"group {shape}, {configs}, {name}"
            yield title, partial(grouped, day, workload, configs, name)
    workload, many = day.shapes["imagenet-lt"][0], day.pick(1000, 4)
    yield f"group imagenet-lt, {many}, bf16", partial(grouped, day, workload, many, "bf16")
    yield "accuracy", lambda: accuracy(day)
    for shape in ("cifar100-lt", "imagenet-lt"):
        yield f"sweep {shape}, tf32", partial(swept_bank, day, *day.shapes[shape])
    for shape, numbers in (("cifar100-lt", "1,16,256"), ("imagenet-lt", "1,30")):
        name = day.pick(shape, "120,8,5,16")
        yield f"benchmark {shape}", partial(benchmark, day, name, day.pick(numbers, "1,3"))


def grouped(day: Day, workload: Workload, configs: int, name: str) -> dict[str, Any]:
    """Seconds of training and measuring all configurations, whose features are on the device, and
    of the statistics that the host computes while the next group trains."""
    data = view(day, workload)
    recipes = swept(workload, configs, name, lambda **each: Recipe("ce", schedule="cosine", **each))
    memory = default_memory(day.device) if day.on_gpu else MEMORY
    shape = Shape.of(workload.counts, workload.dim)
    groups = plan(recipes, shape, memory=memory, device=day.device.type)
    trained: list[Any] = []

    def train() -> None:
        trained.extend(run_group(group, data, parameters=False) for group in groups)

    return {
        "groups": len(groups),
        "seconds": day.seconds(train),
        "statistics s": day.seconds(lambda: [list(outcomes) for outcomes in trained]),
        "steps": groups[0].stream.steps,
    }


def swept_bank(day: Day, workload: Workload, configs: int) -> dict[str, Any]:
    """Seconds of a sweep of a bank, from the file to a results file."""
    recipes = swept(workload, configs, "tf32", lambda **each: Recipe("ce", **each))
    with tempfile.TemporaryDirectory() as folder:
        path = bank(Path(folder) / "bank.h5", workload)
        results = Path(folder) / "results.sqlite"
        run = partial(sweep, path, recipes, results=results, device=str(day.device))
        return {"seconds": day.seconds(run), "results bytes": results.stat().st_size}


def bank(path: Path, workload: Workload) -> Path:
    """A bank of Gaussian classes in the shape of a workload, with val and test."""
    rng, classes = np.random.default_rng(0), workload.classes
    each = max(1, workload.test_rows // classes)
    rows = {"train": workload.counts, "val": max(1, each * 2 // 5), "test": each}
    labels = {split: np.repeat(np.arange(classes), count) for split, count in rows.items()}
    means = rng.standard_normal((classes, workload.dim), dtype=np.float32)
    features = {
        split: {
            "instance": means[y]
            + 2.5 * rng.standard_normal((len(y), workload.dim), dtype=np.float32)
        }
        for split, y in labels.items()
    }
    write_bank(path, features, labels, classifier={"instance": (means, None)})
    return path


def accuracy(day: Day) -> dict[str, Any]:
    """Mean over seeds of each preset's metrics on test in fp32, their deviation, and the mean
    differences of the other precisions from the same seeds."""
    seeds = range(day.pick(SEEDS, 1))
    presets = day.pick(PRESETS, PRESETS[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.h5"
        if day.features:
            command = [sys.executable, "-m", "featbank", "import", str(day.features.resolve())]
            done = output_of(
                [*command, "-o", str(path)], seconds=min(120, day.left), environment=os.environ
            )
            assert done.code == 0, done.err
        else:
            bank(path, day.shapes["cifar100-lt"][0])
        found = {
            name: _metrics(day, path, presets, seeds, name)
            for name in day.pick(PRECISIONS, PRECISIONS[:2])
        }
    full = found.pop("fp32")
    return {
        preset: {
            metric: {
                "fp32": statistics.mean(full[preset][metric]),
                "deviation": statistics.stdev(full[preset][metric]) if len(seeds) > 1 else None,
                **{
                    name: statistics.mean(
                        a - b
                        for a, b in zip(values[preset][metric], full[preset][metric], strict=True)
                    )
                    for name, values in found.items()
                },
            }
            for metric in METRICS
        }
        for preset in presets
    }


def _metrics(
    day: Day, path: Path, presets: tuple[str, ...], seeds: range, name: str
) -> dict[str, dict[str, list[float]]]:
    """Metrics by preset and name, of all seeds."""
    short = day.pick({}, {"epochs": 1})
    recipes = {
        preset: [Recipe(preset, seed=seed, precision=name, **short) for seed in seeds]
        for preset in presets
    }
    every = [recipe for of_preset in recipes.values() for recipe in of_preset]
    done = {o.recipe.hash: o for o in sweep(path, every, device=str(day.device)).outcomes}
    return {
        preset: {
            metric: [
                float(done[recipe.hash].evaluations["test", "last"].metrics[metric] or 0)
                for recipe in of_preset
            ]
            for metric in METRICS
        }
        for preset, of_preset in recipes.items()
    }


def benchmark(day: Day, shape: str, numbers: str) -> Any:
    """What ``featbank benchmark`` reports, in a process of its own."""
    command = [sys.executable, "-m", "featbank", "benchmark", "--device", str(day.device)]
    command += ["--shape", shape, "--configurations", numbers, "--precision", "tf32"]
    command += ["--threads", "1", "--repeats", "1", "--format", "json"]
    command += ["--steps", str(day.pick(84, 4))]
    done = output_of(command, seconds=min(240, day.left), environment=os.environ)
    if done.code != 0:
        raise RuntimeError(f"ended with {done.code}: {done.err.strip()[-2000:]}")
    return json.loads(done.out)[0]
