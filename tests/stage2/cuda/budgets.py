"""What a step moves, computes and allocates on a GPU at full size, by the parts that it is made of.

    python -m tests.stage2.cuda.budgets

writes it to `budgets.json` beside this file. `test_budgets.py` fails where a number has grown by
more than a few per cent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage2.benchmark.model import TileWork, swept, tile_work
from stage2.benchmark.workloads import WORKLOADS
from stage2.engine.gpu.fused import HEADS as FUSED
from stage2.engine.plan import Tile
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import STEPPED
from stage2.methods.precisions import PRECISIONS
from stage2.methods.recipe import Recipe

TABLE = Path(__file__).with_suffix(".json")
WORKLOAD, CONFIGS = WORKLOADS["imagenet-lt"], 40
"""N = 115,846, D = 2,048, K = 1,000, B = 512, and the configurations of a tile."""

TRAINED = [name for name, head in HEADS.items() if head.trained]


def _precisions(head: str) -> list[str]:
    """Those that a head's step is counted in: all of a fused step, else that of the products."""
    return list(PRECISIONS) if type(HEADS[head]) in FUSED else ["tf32"]


CASES: dict[str, dict[str, str]] = {
    f"head {head}, {optimiser}, {precision}": {
        "head": head,
        "optimiser": optimiser,
        "precision": precision,
    }
    for head in TRAINED
    for optimiser in STEPPED
    for precision in _precisions(head)
}
CASES |= {
    f"loss {name}, tf32": {"loss": name, "head": loss.head or "linear", "precision": "tf32"}
    for name, loss in LOSSES.items()
}


def work_of(case: Mapping[str, str]) -> TileWork:
    """What a tile of recipes with these settings does."""
    settings = dict(case)
    precision = settings.pop("precision", "fp32")
    recipes = swept(
        WORKLOAD, CONFIGS, precision, lambda **others: Recipe("ce", **settings, **others)
    )
    return tile_work(Tile(tuple(recipes)), WORKLOAD, evaluated=False)


def row(case: Mapping[str, str]) -> dict[str, Any]:
    """Its row of the table: of a step megabytes moved, gigaflops by precision and launches, and the
    most megabytes allocated."""
    work = work_of(case)
    flops = {name: round(number / 1e9, 1) for name, number in sorted(work.step.flops().items())}
    return {
        "moved_mb": round(work.step.moved / 1e6, 1),
        "gflop": flops,
        "launches": int(work.step.launches),
        "peak_mb": round(work.peak / 1e6, 1),
    }


if __name__ == "__main__":
    rows = (f' "{name}": {json.dumps(row(case))}' for name, case in CASES.items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
