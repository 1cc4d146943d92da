"""The tasks to compare: the engine at several numbers of configurations, and its opponents.

Every opponent is compared with the engine before it is timed, on a few steps of the same training.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from featbank.devices import torch_threads
from stage2.benchmark.opponents import OPPONENTS, Opponent
from stage2.benchmark.timing import Task
from stage2.benchmark.training import Heads, Training
from stage2.benchmark.workloads import MOMENTUM, RATES, WEIGHT_DECAY, TimedPart, Workload
from stage2.engine.loop import group_stream, run_group
from stage2.engine.model import Model, ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import BatchStream, Shape, plan
from stage2.engine.rows import MemoryRows
from stage2.methods.optimisers import learning_rates
from stage2.methods.precision import precision as products_at
from stage2.methods.recipe import Recipe

MANY = 16
"""Configurations from which opponents train a quarter of the engine's steps."""

CHECKED = TimedPart(2, 2)
"""The part of the recipe on which opponents are compared with the engine: two learning rates, and
steps with a velocity."""

BOUND = 1e-4
"""Largest difference of a parameter from the engine's, as a share of the largest change of one."""


@dataclass(frozen=True)
class Bench:
    """Common inputs of the trainings: features x [N, D], labels y [N], and the engine's options."""

    workload: Workload
    x: Tensor
    y: Tensor
    memory: int
    precision: str

    @property
    def view(self) -> ViewData:
        """The features as the engine takes them."""
        return ViewData(
            train=MemoryRows(self.x, self.y),
            evaluated={},
            counts=self.workload.counts.astype(float),
            full_counts=self.workload.counts,
        )

    @property
    def shape(self) -> Shape:
        """Their sizes."""
        return Shape.of(self.workload.counts, self.workload.dim)


def recipes(bench: Bench, configs: int, part: TimedPart) -> list[Recipe]:
    """`configs` recipes that differ in their learning rate."""
    return [
        Recipe(
            "ce",
            lr=lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            schedule="cosine",
            epochs=part.epochs,
            steps_per_epoch=part.steps,
            batch_size=bench.workload.batch_size,
            precision=bench.precision,
        )
        for lr in np.geomspace(*RATES, configs).tolist()
    ]


def fused(bench: Bench, configs: int, part: TimedPart, threads: int) -> Task:
    """The engine on `configs` learning rates, with an evaluation where the part has test rows."""
    made = functools.cache(functools.partial(recipes, bench, configs))
    made(part)  # cached: checking settings is not part of the engine
    tested = f", and {bench.workload.test_rows:,} test rows evaluated" if part.test_rows else ""
    return Task(
        "fused_evaluated" if part.test_rows else "fused",
        f"featbank{tested}",
        lambda part: _run(bench, made(part), threads, part.test_rows),
        configs,
        part,
        bench.workload.steps / part.all_steps,
        threads,
    )


def _run(bench: Bench, trained: list[Recipe], threads: int, test_rows: int = 0) -> list[Outcome]:
    rows = slice(test_rows)
    test = {"test": MemoryRows(bench.x[rows], bench.y[rows])} if test_rows else {}
    groups = plan(
        trained, bench.shape, memory=bench.memory, device=bench.x.device.type, workers=threads
    )
    view = replace(bench.view, evaluated=test)
    return [o for group in groups for o in run_group(group, view, workers=threads)]


def opposed(bench: Bench, name: str, configs: int, part: TimedPart, threads: int) -> Task:
    """An opponent on the same learning rates; on many of them a quarter of the part's steps."""
    if configs >= MANY:
        steps = max(1, min(part.all_steps // 4, bench.workload.epoch_steps))
        part = TimedPart(1, steps)
    opponent = OPPONENTS[name]
    made = functools.cache(functools.partial(training, bench, configs))
    made(part)  # as for the engine
    return Task(
        name,
        opponent.description,
        torch_threads(threads)(lambda part: _train(bench, opponent, made(part))),
        configs,
        part,
        1 if opponent.solver else bench.workload.steps / part.all_steps,
        threads,
    )


def _train(bench: Bench, opponent: Opponent, given: Training) -> Heads:
    """Train an opponent with products like the engine's, where PyTorch has them: in tf32."""
    with products_at("fp32" if bench.precision == "fp32" else "tf32"):
        return opponent.train(given)


def training(bench: Bench, configs: int, part: TimedPart) -> Training:
    """The engine's training as its opponents get it."""
    trained = recipes(bench, configs, part)
    stream = BatchStream.of(trained[0], bench.shape)
    start = Model(trained, bench.view).state["parameters"]
    rates = np.stack([learning_rates(r.settings, 1) for r in trained], axis=1)
    return Training(
        bench.x,
        bench.y,
        start["weight"],
        start["bias"],
        torch.from_numpy(rates).float().to(bench.x.device),
        functools.partial(group_stream, stream, bench.y),
        stream.batch_size,
    )


def checked(bench: Bench, configs: int) -> list[str]:
    """The opponents that train `configs` configurations together here, within the memory budget.

    Each has been compared with the engine at float32: one that takes the recipe's steps has its
    parameters, up to `BOUND` of their largest change, and the objective of a solver is no higher.

    Raises
    ------
    AssertionError
        Where it is not so.
    """
    workload = bench.workload
    # W, its start, its copy in the engine, velocity, gradient and one more; four tensors of logits.
    numbers = workload.classes * (6 * workload.dim + 4 * workload.batch_size)
    if 4 * configs * numbers > bench.memory:
        return []
    part = replace(CHECKED, steps=min(CHECKED.steps, workload.epoch_steps))
    bench = replace(bench, precision="fp32")
    given = training(bench, configs, part)
    outcomes = _run(bench, recipes(bench, configs, part), 1)
    engines = [torch.stack([o.parameters[name] for o in outcomes]) for name in ("weight", "bias")]
    names = []
    for name, opponent in OPPONENTS.items():
        together = configs <= (opponent.most or configs)
        if together and opponent.runs(workload, bench.x.device.type):
            _compare(name, opponent, given, engines)
            names.append(name)
    return names


def _compare(name: str, opponent: Opponent, given: Training, engines: list[Tensor]) -> None:
    got = opponent.train(given)
    if opponent.solver:
        own, engine = (_objective(given, heads) for heads in (got, engines))
        assert own <= engine, f"{name} ends at {own:.6g}, featbank at {engine:.6g}"
        return
    for g, e, start in zip(got, engines, (given.weight, given.bias), strict=True):
        change, off = (e - start).abs().max(), (g - e).abs().max()
        assert change > 0, "the engine trained nothing"
        assert off <= BOUND * change, f"{name} is {off:.2g} off, parameters change by {change:.2g}"


def _objective(given: Training, heads: Heads | list[Tensor]) -> float:
    """The mean cross-entropy over all rows and ½λ‖W‖² of one head."""
    weight, bias = (p[0] for p in heads)
    loss = cross_entropy(linear(given.x, weight, bias), given.y)
    return float(loss + WEIGHT_DECAY / 2 * weight.square().sum())
