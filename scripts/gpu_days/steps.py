"""Phase 4: steps of every shape, head and precision, and the evaluation after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Any
from unittest import mock

import torch
from measuring_day import PRECISIONS, Day, Measurement

from stage2.benchmark import Workload
from stage2.benchmark.model import VAL_ROWS, swept
from stage2.engine.evaluation import TileEvaluation
from stage2.engine.model import ViewData
from stage2.engine.plan import BatchStream, Shape, Tile
from stage2.engine.rows import MemoryRows, Window
from stage2.engine.tile import TileRun
from stage2.methods.heads import HEADS, TextClassifier
from stage2.methods.optimisers import STEPPED
from stage2.methods.recipe import Recipe

STEPS = 40
"""Steps of a window, timed several times."""

WINDOWS = 5
GRAPHS = {False: "launched", True: "captured"}
PLAIN = {"head": "linear", "optimiser": "sgd"}
HEADS_OF = "imagenet-lt"
"""The shape on which all heads and optimisers are timed."""


def measurements(day: Day) -> Iterator[Measurement]:
    """The plain step of every shape and precision, alone and in company, with graphs and without;
    then heads."""
    for shape, (_, configs) in day.shapes.items():
        for number in (configs, max(1, configs // 8), 1):
            for name in PRECISIONS:
                yield _named(day, shape, number, name, PLAIN)
    for shape, (_, configs) in day.shapes.items():
        for number in (configs, 1):
            for captured in (False, True) if day.on_gpu else (False,):
                title, run = _named(day, shape, number, "tf32", PLAIN)
                yield f"{title}, {GRAPHS[captured]}", partial(_decided, captured, run)
    _, configs = day.shapes[HEADS_OF]
    for name in ("tf32", "bf16"):
        for head in (n for n, h in HEADS.items() if h.trained and not h.takes_tokens):
            for optimiser in STEPPED:
                settings = {"head": head, "optimiser": optimiser}
                if settings != PLAIN:
                    yield _named(day, HEADS_OF, configs, name, settings)


def _decided(captured: bool, run: Callable[[], Any]) -> Any:
    """A measurement with graphs, or without, whatever the engine would choose."""
    with mock.patch("stage2.engine.trainer.pays", return_value=captured):
        return run()


def _named(day: Day, shape: str, configs: int, name: str, settings: dict[str, Any]) -> Measurement:
    """A measurement and its name, by which the page finds it."""
    workload, _ = day.shapes[shape]
    title = f"{shape}, {configs}, {', '.join(settings.values())}, {name}"
    return title, partial(step, day, workload, configs, name, settings)


def step(
    day: Day, workload: Workload, configs: int, precision: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Milliseconds of a step, in all and of the host alone; memory; seconds of an evaluation."""
    data = view(day, workload)
    recipes = swept(workload, configs, precision, lambda **each: Recipe("ce", **settings, **each))
    stream = BatchStream.of(recipes[0], Shape.of(workload.counts, workload.dim))
    if day.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    run = TileRun(Tile(tuple(recipes)), stream, [data])
    assert isinstance(data.train, MemoryRows)
    draws = torch.randint(len(data.train.labels), (_steps(day), stream.batch_size))
    draws = draws.to(day.device)
    window = Window(data.train.x, draws, data.train.labels[draws])

    def train() -> None:
        run.begin_epoch(0)
        run.train(0, window, Event())

    train()  # compiles, captures
    host, both = [], []
    for _ in range(day.pick(WINDOWS, 1)):
        day.wait()
        host.append(_host_seconds(day, train, both))
    result = {
        "ms": 1e3 * sorted(both)[len(both) // 2] / len(draws),
        "host ms": 1e3 * sorted(host)[len(host) // 2] / len(draws),
        "steps": workload.steps,
        "evaluation s": day.seconds(lambda: evaluate(run)),
    }
    if day.on_gpu:
        result["peak GiB"] = (torch.cuda.max_memory_allocated() - held) / 2**30
    return result


def view(day: Day, workload: Workload, *, val: bool = False) -> ViewData:
    """Random features of a workload, with a test split, and `val` where the data set has one."""

    def split(rows: int) -> MemoryRows:
        labels = torch.randint(workload.classes, (rows,), device=day.device)
        return MemoryRows(day.random(rows, workload.dim), labels)

    y = torch.arange(workload.classes).repeat_interleave(torch.from_numpy(workload.counts))
    train = MemoryRows(day.random(workload.rows, workload.dim), y.to(day.device))
    evaluated = {"test": split(workload.test_rows)}
    if val and (rows := VAL_ROWS.get(workload.name, 0)):
        evaluated["val"] = split(day.pick(rows, 10))
    return ViewData(
        train=train,
        evaluated=evaluated,
        counts=workload.counts.astype(float),
        full_counts=workload.counts,
        weight0=day.random(workload.classes, workload.dim),
        bias0=torch.zeros(workload.classes, device=day.device),
        text=TextClassifier(day.random(workload.classes, workload.dim), 100.0),
    )


def evaluate(run: TileRun) -> None:
    """Measure the test rows, until all that statistics need is on the host."""
    run.end_epoch()
    evaluation = TileEvaluation(run)
    for x, _ in run.views[0].evaluated["test"].blocks():
        evaluation.evaluate("test", [x])
    evaluation.outcomes(parameters=False)


def _steps(day: Day) -> int:
    return day.pick(STEPS, 2)


def _host_seconds(day: Day, train: Any, both: list[float]) -> float:
    """Seconds until a window is issued; those until it is done are added to `both`."""
    started = time.perf_counter()
    train()
    issued = time.perf_counter() - started
    day.wait()
    both.append(time.perf_counter() - started)
    return issued
