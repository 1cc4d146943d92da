"""Recipes on the simulated GPU and on the CPU, and what their steps launch."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
import torch

from stage2.engine import staging
from stage2.engine.generation import GeneratedRows
from stage2.engine.gpu import available
from stage2.engine.halving import Halving
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import plan
from stage2.engine.rows import MemoryRows
from stage2.engine.tile import TileRun
from stage2.methods import neighbors
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.simulated import CUDA, SimulatedDevice, simulated
from tests.stage2.synthetic import MEMORY, Problem

TRITON = find_spec("triton") is not None

SEARCHED = ("knn", "ncm")
"""Heads that search by faiss on a CPU; a machine with a GPU may be without."""


@contextlib.contextmanager
def gpu(*, triton: bool = TRITON) -> Iterator[SimulatedDevice]:
    """A simulated GPU on a machine without faiss, with or without Triton."""
    kernels: Mapping[str, Any] = {}
    if triton:
        from tests.stage2.cuda import twins

        kernels = twins.KERNELS
    cached = available.available, available.fuses, neighbors._gpu_faiss
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setitem(sys.modules, "faiss", None)  # importing it fails
        patch.setattr(staging, "STREAMS", {})
        for name, twin in kernels.items():
            patch.setattr(f"stage2.engine.gpu.{name}", twin)
        if not triton:
            patch.setattr(available, "find_spec", lambda name: None)
        for function in cached:
            function.cache_clear()
            stack.callback(function.cache_clear)
        if triton:
            _check_kernels()
            patch.setattr(available, "_usable", lambda device, *_: device.type == "cuda")
        yield stack.enter_context(simulated())


@functools.cache
def _check_kernels() -> None:
    """Run the checks of the kernels on a simulated GPU, once."""
    with simulated():
        assert available.fuses(CUDA)


def on_device(view: ViewData, device: str, dtype: torch.dtype = torch.float32) -> ViewData:
    """The view with copies of its tensors on a device, features in a type."""

    def moved(rows: Any) -> MemoryRows:
        return MemoryRows(rows.x.to(dtype, copy=True).to(device), rows.labels.clone().to(device))

    assert view.weight0 is not None
    assert view.bias0 is not None
    assert view.text is not None
    return replace(
        view,
        train=moved(view.train),
        evaluated={split: moved(rows) for split, rows in view.evaluated.items()},
        weight0=view.weight0.clone().to(device),
        bias0=view.bias0.clone().to(device),
        text=replace(view.text, weight=view.text.weight.clone().to(device)),
    )


def trained(
    recipes: Sequence[Recipe],
    made: Problem,
    device: str,
    *,
    halving: Halving | None = None,
    measured: bool = True,
    dtype: torch.dtype = torch.float32,
) -> dict[Recipe, Outcome]:
    """Plan and train on a device; outcomes by recipe, without val and test unless `measured`."""
    if device == "cpu" and any(recipe.head in SEARCHED for recipe in recipes):
        pytest.importorskip("faiss")
    outcomes: dict[Recipe, Outcome] = {}
    for group in plan(recipes, made.shape, memory=MEMORY, device=device):
        views = [on_device(made.view(view), device, dtype) for view in group.stream.views]
        if not measured:
            views = [replace(view, evaluated={}) for view in views]
        outcomes |= {o.recipe: o for o in run_group(group, *views, halving=halving)}
    return outcomes


def pair(name: str = "ce", **settings: Any) -> list[Recipe]:
    """Two recipes that share a tile where they can: with two learning rates, or weight decays."""
    known = Recipe(name).settings | settings
    recipes = [Recipe(name, **settings)]
    if not HEADS[known["head"]].trained:
        return recipes
    if known.get("optimiser") == "lbfgs":
        return [*recipes, Recipe(name, **{"weight_decay": 0.01, **settings})]
    short = {"epochs": 1, "batch_size": 16} | settings
    return [Recipe(name, **{"lr": lr, **short}) for lr in (0.05, 0.1)]


@dataclass
class Cost:
    """What windows of steps, and the making of generated windows, cost on the simulated GPU.

    Attributes
    ----------
    steps
        Steps taken.
    trained, made
        Launches, waits and copies of the steps and of the making.
    waits
        Waits of the steps, by operation and place.
    """

    steps: int = 0
    trained: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def costing(device: SimulatedDevice) -> Iterator[Cost]:
    """Count what steps and the making of windows cost."""
    cost, names = Cost(), ("launches", "waits", "copies")
    train, windows = TileRun.train, GeneratedRows.windows

    def since(before: tuple[int, int, int]) -> Counter[str]:
        now = device.counts()
        return Counter({n: b - a for n, a, b in zip(names, before, now, strict=True)})

    def counted(run: TileRun, view: int, window: Any, stopped: Any) -> None:
        before, waits = device.counts(), device.waits.copy()
        train(run, view, window, stopped)
        cost.trained += since(before)
        cost.waits += device.waits - waits
        cost.steps += len(window.rows)

    def generated(rows: GeneratedRows, *args: Any) -> Iterator[Any]:
        before = device.counts()
        for window in windows(rows, *args):
            cost.made += since(before)
            yield window
            before = device.counts()

    watched = mock.patch.object(TileRun, "train", counted)
    with watched, mock.patch.object(GeneratedRows, "windows", generated):
        yield cost


LENGTHS = 2, 5
"""Steps of the two runs whose difference is the cost of a step."""


def with_steps(recipes: Sequence[Recipe], steps: int) -> list[Recipe]:
    """The recipes with so many steps an epoch."""
    return [Recipe(r.name, **{**r.settings, "steps_per_epoch": steps}) for r in recipes]


def step_cost(
    device: SimulatedDevice, recipes: Sequence[Recipe], made: Problem
) -> tuple[Cost, dict[Recipe, Outcome]]:
    """The cost of a step, and the outcomes of the longer run.

    A window has costs of its own, which do not grow with its steps.
    """
    costs: list[Cost] = []
    for steps in LENGTHS:
        with costing(device) as cost:
            longer = with_steps(recipes, steps)
            outcomes = trained(longer, made, "cuda", measured=steps == max(LENGTHS))
        costs.append(cost)
    short, long = costs
    steps = long.steps - short.steps
    each = {name: (long.trained[name] - short.trained[name]) / steps for name in long.trained}
    assert all(value == int(value) for value in each.values()), f"steps differ: {each}"
    per_step = Counter({name: int(value) for name, value in each.items()})
    return Cost(1, per_step, long.made, long.waits - short.waits), outcomes


def assert_same(got: dict[Recipe, Outcome], expected: dict[Recipe, Outcome]) -> None:
    """Outcomes agree in status, metrics and parameters, up to the order of float32 sums.

    A GPU also evaluates at the precision of the recipe, which metrics of few rows show.
    """
    assert got.keys() == expected.keys()
    for recipe, outcome in got.items():
        other = expected[recipe]
        assert outcome.status == other.status, recipe
        for name, values in outcome.parameters.items():
            assert values.device.type == "cpu", f"{recipe}: {name} is on {values.device}"
            torch.testing.assert_close(
                values, other.parameters[name], rtol=2e-3, atol=2e-4, msg=f"{recipe}: {name}"
            )
        within = 1e-3 if recipe.settings.get("precision", "fp32") == "fp32" else 2e-2
        assert outcome.evaluations.keys() == other.evaluations.keys(), recipe
        for place, evaluation in outcome.evaluations.items():
            for metric, value in other.evaluations[place].metrics.items():
                found = evaluation.metrics[metric]
                assert (found is None) == (value is None), f"{recipe}: {place} {metric} {found}"
                if found is not None and value is not None:
                    error = abs(found - value)
                    assert error <= within * max(1, abs(value)), (
                        f"{recipe}: {place} {metric} is {found}, on the CPU {value}"
                    )
