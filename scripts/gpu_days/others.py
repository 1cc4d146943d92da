"""Phase 6: features that are streamed, generators, and heads that are trained without steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from measuring_day import Day, Measurement
from steps import view
from sweeps import MEMORY, bank

from stage2 import Recipe, sweep
from stage2.benchmark import Workload
from stage2.engine.loop import run_group
from stage2.engine.plan import Shape, plan
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS

STREAMED = "imagenet-lt"
CONFIGS = 16


def measurements(day: Day) -> Iterator[Measurement]:
    """On the shape of ImageNet-LT; heads without steps on that of iNaturalist as well."""
    workload, _ = day.shapes[STREAMED]
    yield "streaming", lambda: streaming(day, workload)
    for name in (None, *GENERATORS):
        yield f"generator {name}", partial(generated, day, workload, name)
    for shape in ("imagenet-lt", "inaturalist2018"):
        for head in (name for name, head in HEADS.items() if not head.trained):
            yield f"{head}, {shape}", partial(untrained, day, day.shapes[shape][0], head)


def streaming(day: Day, workload: Workload) -> dict[str, Any]:
    """Seconds of a sweep with all features in memory, and with a third of them."""
    recipes = [
        Recipe("ce", lr=0.01 * (1 + i), epochs=2, batch_size=workload.batch_size)
        for i in range(day.pick(CONFIGS, 2))
    ]
    whole = 4 * workload.rows * workload.dim
    with tempfile.TemporaryDirectory() as folder:
        path = bank(Path(folder) / "bank.h5", workload)
        run = partial(sweep, path, recipes, device=str(day.device), keep_outcomes=False)
        memory = max(2 * whole // 3, day.pick(0, 1 << 20))
        return {
            "in memory s": day.seconds(run),
            "streamed s": day.seconds(partial(run, memory=memory)),
            "budget": memory,
            "features": whole,
        }


def generated(day: Day, workload: Workload, name: str | None) -> dict[str, Any]:
    """Seconds of two epochs of a few configurations on the rows of a generator."""
    settings = {} if name is None else {"generator": name}
    recipes = [
        Recipe("ce", lr=0.01 * (1 + i), epochs=2, batch_size=workload.batch_size, **settings)
        for i in range(day.pick(CONFIGS, 2))
    ]
    return {"seconds": _seconds(day, workload, recipes)}


def untrained(day: Day, workload: Workload, head: str) -> dict[str, Any]:
    """Seconds of a head that is trained without steps, and of its evaluation."""
    return {"seconds": _seconds(day, workload, [Recipe("ce", head=head)])}


def _seconds(day: Day, workload: Workload, recipes: list[Recipe]) -> float:
    data, shape = view(day, workload), Shape.of(workload.counts, workload.dim)
    groups = plan(recipes, shape, memory=MEMORY, device=day.device.type)
    return day.seconds(lambda: [run_group(group, data) for group in groups])
